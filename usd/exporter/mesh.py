"""The surface of an object as a mesh file with vertex colours."""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.core.types import Mesh
from usd.exporter import Exporter
from usd.exporter.mesh_file import glb_bytes, obj_bytes, ply_bytes
from usd.geometry import Geometry, Level
from usd.material import Material
from usd.math.mesh import vertex_normals

Format = Literal["glb", "obj", "ply"]


@register("mesh-exporter")
class MeshExporter(Exporter):
    """Vertex colours are the material's, seen straight on. Axes and colour space: see ``mesh_file``."""

    @dataclass(frozen=True)
    class Config:
        fmt: Format | tuple[Format, ...] = option("glb", "file format, or several")
        save_name: str = option("model", "file name without its ending")
        resolution: int | None = option(
            None, "lattice points a side; null: the geometry's own", ge=4, le=1024
        )
        threshold: Level | None = option(None, "density of the surface; null: the geometry's own", gt=0)
        save_color: bool = option(True, "store vertex colours")
        unlit: bool = option(False, "glb: viewers show the colours without their own lights")
        chunk: int = option(1 << 18, "vertices coloured at once", ge=1)

    config: Config

    @torch.no_grad()
    def export(self, geometry: Geometry, material: Material, folder: Path) -> list[Path]:
        """One file for each format, in the order of ``fmt``."""
        config = self.config
        mesh = geometry.export_mesh(config.resolution, config.threshold)
        if config.save_color:
            mesh = replace(mesh, color=vertex_colors(mesh, geometry, material, config.chunk))
        formats = (config.fmt,) if isinstance(config.fmt, str) else config.fmt
        return [_write(folder / f"{config.save_name}.{fmt}", self._bytes(mesh, fmt)) for fmt in formats]

    def _bytes(self, mesh: Mesh, fmt: Format) -> bytes:
        if fmt == "glb":
            return glb_bytes(mesh, self.config.unlit)
        return obj_bytes(mesh) if fmt == "obj" else ply_bytes(mesh)


def vertex_colors(
    mesh: Mesh, geometry: Geometry, material: Material, chunk: int = 1 << 18
) -> Float[Tensor, "V 3"]:
    """The material's colours at the vertices, from a camera that looks along the surface's normal."""
    normals = vertex_normals(mesh.vertices, mesh.faces)
    parts = zip(mesh.vertices.split(chunk), normals.split(chunk))
    return torch.cat([_colors(x, normal, geometry, material) for x, normal in parts])


def _colors(x: Tensor, normal: Tensor, geometry: Geometry, material: Material) -> Tensor:
    features = geometry.query(x, frozenset({"features"})).features
    assert features is not None
    return material.color(features, x, -normal, normal)


def _write(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    return path
