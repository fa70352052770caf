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
    """How many training views, of how many pixels a side, an exporter wants to see its file compared in."""

    views: int
    size: int


class Exporter(Component[C]):
    """Writes an object to files that other programs open. Needs no diffusion model and no renderer."""

    @abstractmethod
    def export(self, geometry: Geometry, material: Material, folder: Path) -> list[Path]:
        """The files written, the most useful one first. Raises ``UserError`` where there is nothing to write."""

    @property
    def comparison(self) -> Comparison | None:
        """What ``compare`` wants; None where it is not to be called."""
        return None

    def compare(self, files: Sequence[Path], cameras: Cameras, truth: Float[Tensor, "B 3 H W"]) -> str:
        """Reads files of ``export`` back, renders them over white, and says in a line how near ``truth`` is."""
        return ""
