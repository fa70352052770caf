"""Exporters: from a trained geometry and material to files."""

from abc import abstractmethod
from pathlib import Path

from usd.core.module import Component
from usd.geometry import Geometry
from usd.material import Material


class Exporter(Component):
    """Writes an object to files that other programs open. Needs no diffusion model and no renderer."""

    @abstractmethod
    def export(self, geometry: Geometry, material: Material, folder: Path) -> list[Path]:
        """The files written, the most useful one first. Raises ``UserError`` where there is nothing to write."""
