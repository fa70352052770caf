"""What pyproject.toml cannot say: the resources of the repository's root are data of the installed package."""

from setuptools import find_namespace_packages, setup

RESOURCES = ("configs", "load")

setup(
    packages=[
        *find_namespace_packages(include=["usd", "usd.*"], exclude=["*.__pycache__"]),
        *(f"usd.{name}" for name in RESOURCES),
    ],
    package_dir={f"usd.{name}": name for name in RESOURCES},
    package_data={
        "": ["py.typed", "*.h", "*.cuh", "*.cu", "*.cpp"],
        "usd.serve": ["page/*", "blender/*"],
        "usd.report": ["templates/*.html", "vendor/*"],
        **{f"usd.{name}": ["**/*"] for name in RESOURCES},
    },
    include_package_data=False,
)
