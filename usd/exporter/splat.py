"""Gaussian splats as files that viewers open."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from typing_extensions import override

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.exporter import Exporter
from usd.exporter.mesh import write_files
from usd.geometry import Geometry, SplatCloud
from usd.material import Material
from usd.math.splats import ColoredSplats
from usd.mesh_io.splats import write_splats

log = logging.getLogger(__name__)
Format = Literal["ply", "glb", "spz"]


@register("splat-exporter")
class SplatExporter(Exporter["SplatExporter.Config"]):
    """Writes the Gaussians themselves. For a surface made of them name mesh-exporter."""

    @dataclass(frozen=True)
    class Config:
        fmt: Format | tuple[Format, ...] = option(
            "ply", "file format of splats, or several; glb: KHR_gaussian_splatting; spz: a tenth of the size"
        )
        save_name: str = option("splats", "file name without its ending")
        least_opacity: float = option(
            1 / 255, "opacity below which Gaussians are left out of the file", ge=0, lt=1
        )

    @torch.no_grad()
    @override
    def export(self, geometry: Geometry, material: Material, folder: Path) -> list[Path]:
        """Write a file for each format. Raises ``UserError`` for a geometry that is no splats, or has none to write."""
        if not isinstance(geometry, SplatCloud):
            raise UserError(
                f"exporter_type: splat-exporter writes Gaussians, and {type(geometry).__name__} has none; expected "
                "mesh-exporter"
            )
        found = geometry.splats()
        # One step of a display: what is fainter cannot be seen by itself, and viewers pay for each.
        keep = (found.opacities >= self.config.least_opacity).nonzero()[:, 0]
        if len(keep) == 0:
            raise UserError(
                f"exporter.least_opacity: none of {len(found)} Gaussians reach {self.config.least_opacity:g}; nothing "
                "was written"
            )
        parts = [values[keep].cpu() for values in (*vars(found).values(), geometry.harmonics())]
        splats = ColoredSplats(*parts)
        log.info("%d Gaussians, %d left out as too faint", len(keep), len(found) - len(keep))
        fmt = self.config.fmt
        names = {
            name: f"{self.config.save_name}.{name}" for name in ((fmt,) if isinstance(fmt, str) else fmt)
        }
        return write_files(folder, [(file, write_splats(splats, name)) for name, file in names.items()])
