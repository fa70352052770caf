"""Figures of an exported mesh: one line to print and a JSON file beside the mesh."""

import math
from dataclasses import asdict, dataclass

from usd.core.types import Mesh
from usd.math import mesh as meshes
from usd.mesh_io.atlas import Atlas, density


@dataclass(frozen=True)
class TextureReport:
    """``method``: xatlas or boxes. Densities in texels per unit of the file; ``used`` is a share of the texture."""

    size: int
    method: str
    charts: int
    texels_per_unit: float
    low_texels_per_unit: float
    used: float


@dataclass(frozen=True)
class MeshReport:
    """Measures of the mesh in a file. ``genus`` is summed over components; None where the mesh is not closed."""

    faces: int
    vertices: int
    faces_before: int
    components: int
    watertight: bool
    genus: int | None
    area: float
    extent: tuple[float, ...]
    texture: TextureReport | None
    seconds: float

    def line(self) -> str:
        """Return one line for people."""
        fewer = f" (of {self.faces_before})" if self.faces_before != self.faces else ""
        closed = f"watertight, genus {self.genus}" if self.watertight else "not watertight"
        parts = [f"{self.faces} faces{fewer}", f"{self.components} component(s)", closed]
        if self.texture is not None:
            t = self.texture
            parts.append(
                f"texture {t.size} x {t.size}, {t.texels_per_unit:.0f} texels per unit, {t.used:.0%} used, "
                f"{t.charts} charts by {t.method}"
            )
        return ", ".join([*parts, f"{self.seconds:.0f} s"])

    def as_json(self) -> dict[str, object]:
        """Return the figures as a JSON object."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


def measure_export(
    mesh: Mesh, faces_before: int, atlas: Atlas | None, size: int, seconds: float
) -> MeshReport:
    """Return the report of a mesh as it is written (scaled, before vertices are doubled at seams)."""
    closed = meshes.is_closed(mesh.faces)
    components = int(meshes.components(mesh.faces, len(mesh.vertices)).max()) + 1
    # Euler: V - E + F = 2 (components - genus), for closed surfaces only.
    genus = (2 * components - meshes.euler_number(mesh.faces)) // 2 if closed else None
    extent = (mesh.vertices.amax(0) - mesh.vertices.amin(0)).tolist()
    return MeshReport(
        faces=len(mesh.faces),
        vertices=len(mesh.vertices),
        faces_before=faces_before,
        components=components,
        watertight=closed,
        genus=genus,
        area=_significant(float(meshes.area(mesh.vertices, mesh.faces))),
        extent=tuple(_significant(side) for side in extent),
        texture=None if atlas is None else _texture(mesh, atlas, size),
        seconds=round(seconds, 2),
    )


def _texture(mesh: Mesh, atlas: Atlas, size: int) -> TextureReport:
    """Return the figures of an atlas on its mesh."""
    # The sheet is measured where it lies: on the CPU, wherever the training was.
    found = density(atlas, mesh.vertices.cpu(), mesh.faces.cpu(), size)
    figures = (_significant(value) for value in (found.mean, found.low, found.used))
    return TextureReport(size, atlas.method, atlas.charts, *figures)


def _significant(value: float, digits: int = 5) -> float:
    """Return the value rounded to significant digits, so that reports stay short at every scale."""
    return round(value, digits - 1 - math.floor(math.log10(abs(value)))) if value else value
