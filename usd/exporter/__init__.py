"""Exporters: from a trained geometry and material to files."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from usd.core.module import C, Component
from usd.geometry import Geometry
from usd.material import Material
from usd.math.camera import Cameras


@dataclass(frozen=True)
class Comparison:
    """Training views, and pixels a side, in which an exporter's file is to be compared with the object."""

    views: int
    size: int


class Exporter(Component[C]):
    """Writes an object to files that other programs open. Needs no diffusion model and no renderer."""

    @abstractmethod
    def export(self, geometry: Geometry, material: Material, folder: Path) -> list[Path]:
        """Write the object below ``folder``; return the files, the most useful one first.

        Raises ``UserError`` where there is nothing to write.
        """

    @property
    def comparison(self) -> Comparison | None:
        """Views that ``compare`` needs; None where it is not to be called."""
        return None

    def compare(self, files: Sequence[Path], cameras: Cameras, truth: Float[Tensor, "B 3 H W"]) -> str:  # noqa: ARG002 - for overrides
        """Read files of ``export`` back, render them over white, and return a line that says how near ``truth`` is."""
        return ""
