"""Packages that some have installed and that do what our kernels do: what each serves, and why it cannot be used here.

None is a dependency. Each is imported on first use, behind the signature of the kernel that it takes the place of, and
held to the same tests (``tests/kernels/test_accelerators.py``) wherever it is installed.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import torch


@dataclass(frozen=True)
class Accelerator:
    """A package: the module to import, the kernels it serves, how one gets it, and on which device it computes."""

    name: str
    module: str
    serves: tuple[str, ...]
    install: str
    device: Literal["cuda", "cpu"] = "cuda"

    def obstacle(self) -> str:
        """Return why it cannot be used here; empty where it can."""
        # Looked for without importing it: some of these packages take seconds.
        if importlib.util.find_spec(self.module.partition(".")[0]) is None:
            return f"the package {self.name} is not installed ({self.install})"
        if self.device == "cuda" and not torch.cuda.is_available():
            return f"{self.name} needs CUDA, and no GPU is visible"
        try:
            load_accelerator(self.name)
        except Exception as error:  # noqa: BLE001 - packages that compile themselves fail in many ways
            return (
                f"the package {self.name} cannot be imported ({(str(error) or repr(error)).splitlines()[0]})"
            )
        return ""

    def version(self) -> str:
        """Return the version that is installed; empty where none is."""
        try:
            return importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            return ""


ACCELERATORS = {
    one.name: one
    for one in (
        Accelerator(
            "tinycudann",
            "tinycudann",
            ("hash_grid", "mlp"),
            "pip install git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch",
        ),
        Accelerator("nerfacc", "nerfacc", ("march", "composite"), "pip install nerfacc"),
        Accelerator("gsplat", "gsplat", ("splats",), "pip install gsplat"),
        Accelerator(
            "nvdiffrast",
            "nvdiffrast.torch",
            ("rasterize",),
            "pip install git+https://github.com/NVlabs/nvdiffrast; its license allows research only",
        ),
        Accelerator("embreex", "embreex.rtcore_scene", ("cast",), "pip install embreex", device="cpu"),
    )
}


@functools.cache
def load_accelerator(name: str) -> ModuleType:
    """Import the package and return its module. Raises whatever importing it raises."""
    return importlib.import_module(ACCELERATORS[name].module)


def server_of(kernel: str, names: Iterable[str]) -> str | None:
    """Return which of the accelerators called ``names`` serves a kernel: the first, or None."""
    return next(
        (name for name in names if name in ACCELERATORS and kernel in ACCELERATORS[name].serves), None
    )
