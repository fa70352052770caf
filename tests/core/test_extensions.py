"""Folders of custom/ that are packages: components of any of their modules, and those written for threestudio."""

import re
from pathlib import Path

import pytest

from usd.core import registry
from usd.core.errors import UserError, listing

BACKGROUND = '''"""A background of an extension."""

from usd.background.solid_color import SolidColor
from usd.core.registry import register

from .colors import SHADE


@register("{name}")
class Shaded(SolidColor):
    """One shade."""

    shade = SHADE
'''
THEIRS = """import threestudio
from threestudio.models.background.base import BaseBackground


@threestudio.register("gaussian-sky-background")
class Sky(BaseBackground):
    pass
"""


@pytest.fixture
def custom(tmp_path, monkeypatch):
    monkeypatch.setenv("USD_CUSTOM", str(tmp_path))
    return tmp_path


def package(folder, **files):
    folder.mkdir()
    for name, text in {"__init__": "", **files}.items():
        (folder / f"{name}.py").write_text(text)


def test_a_component_of_a_package_is_found_listed_and_built_with_what_its_module_imports(custom):
    package(
        custom / "shades", colors="SHADE = 0.25\n", backgrounds=BACKGROUND.format(name="shaded-background")
    )
    assert registry.names("background")["shaded-background"] == custom / "shades" / "backgrounds.py"
    assert "shaded-background" not in registry.names("material")
    cls = registry.find("background", "shaded-background")
    assert cls.__module__ == "custom.shades.backgrounds" and cls.shade == 0.25


def test_a_package_that_is_never_asked_for_is_not_imported(custom):
    package(custom / "broken", wrong=BACKGROUND.format(name="other-background").replace("SHADE", "NOTHING"))
    (custom / "broken" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    assert "other-background" in registry.names("background")


def test_an_extension_of_threestudio_is_one_line_that_names_the_page(custom):
    package(custom / "threestudio-sky", background=THEIRS)
    assert "gaussian-sky-background" not in registry.names("background")
    with pytest.raises(
        UserError, match=r"is written for threestudio \(.*background.py imports it\); docs/porting-ext"
    ):
        registry.find("background", "gaussian-sky-background")


def test_a_single_file_of_threestudio_is_told_alike(custom):
    (custom / "background").mkdir()
    (custom / "background" / "gaussian_sky.py").write_text(THEIRS)
    with pytest.raises(UserError, match=r"docs/porting-extensions\.md"):
        registry.find("background", "gaussian-sky-background")


def test_a_list_of_names_is_never_cut_before_the_nearest():
    names = [f"name-{index:02d}" for index in range(40)] + ["zebra"]
    assert "zebra" in listing(names, near="zebro") and "(41 in all)" in listing(names, near="zebro")
    assert "zebra" not in listing(names)


PAGE = (Path(__file__).parents[2] / "docs" / "porting-extensions.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["guidance", "material", "background", "geometry", "exporter"])
def test_the_page_about_porting_shows_components_that_work(kind, custom):
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if f'"ported-{kind}"' in block
    ]
    package(custom / f"page_{kind}", component=code)
    cls = registry.find(kind, f"ported-{kind}")
    assert not [name for name in dir(cls) if getattr(getattr(cls, name), "__isabstractmethod__", False)]
    assert registry.names(kind)[f"ported-{kind}"].name == "component.py"
