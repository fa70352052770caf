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
from usd.geometry import Geometry, Level, Volumetric
from usd.material import Material
from usd.math.mesh import vertex_normals
from usd.math.volume import alpha_from_density, alpha_weights

Format = Literal["glb", "obj", "ply"]
RAY_STEPS = 16


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
        chunk: int = option(1 << 18, "points evaluated at once for colours", ge=1)

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
    """Colours that a camera close by sees at the vertices, looking along the surface's normal.

    In a volume colour lies a little below the surface: rays of ``RAY_STEPS`` edge lengths are composited there.
    """
    normals = vertex_normals(mesh.vertices, mesh.faces)
    edges = mesh.vertices[mesh.faces[:, 0]] - mesh.vertices[mesh.faces[:, 1]]
    steps = (
        torch.arange(RAY_STEPS, device=edges.device) - 2.0
        if isinstance(geometry, Volumetric)
        else edges.new_zeros(1)
    )
    t = steps * edges.norm(dim=-1).mean()
    rows = max(1, chunk // len(t))
    parts = zip(mesh.vertices.split(rows), normals.split(rows))
    return torch.cat([_seen_colors(x, normal, t, geometry, material) for x, normal in parts])


def _seen_colors(
    x: Tensor, normal: Tensor, t: Tensor, geometry: Geometry, material: Material
) -> Float[Tensor, "V 3"]:
    """Composited colours along rays against the normals, ``t`` being distances below the surface."""
    points = (x[:, None] - t[:, None] * normal[:, None]).clamp(-geometry.radius, geometry.radius).view(-1, 3)
    outward = normal.repeat_interleave(len(t), 0)
    field = geometry.query(points, frozenset({"features"}))
    assert field.features is not None
    color = material.color(field.features, points, -outward, outward).view(len(x), len(t), 3)
    if len(t) == 1:
        return color[:, 0]
    alpha = alpha_from_density(field.density, t[1] - t[0]).view(len(x), len(t))
    weight = alpha_weights(alpha) + 1e-6
    return (weight[..., None] * color).sum(1) / weight.sum(1, keepdim=True)


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
