"""A user's mesh file, made ours: +z up, one triangle mesh, coincident vertices joined, colors as displayed.

Axes: ``up`` and ``front`` name the file's axes that become +z and +x. Left null they are what the exporter writes:
+y up and +x for GLB, glTF and OBJ (so that an exported file comes back as it was), +z up for others.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.core.types import Mesh
from usd.geometry.mesh_colors import part_colors
from usd.math.mesh import coincident, is_closed, without_collapsed

log = logging.getLogger(__name__)

Axis = Literal["+x", "+y", "+z", "-x", "-y", "-z"]
Y_UP = (".glb", ".gltf", ".obj")
READABLE = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
JOINED = 1e-6  # vertices closer than this share of the radius are one


@dataclass(frozen=True)
class Placement:
    """How a file's coordinates become ours. ``size`` is the largest coordinate after centering; None: as they are."""

    up: Axis | None = None
    front: Axis | None = None
    size: float | None = None


def read_mesh(path: Path, placement: Placement, radius: float) -> Mesh:
    """The mesh of a file in the cube [-radius, radius]^3, with vertex colors where it has any.

    Raises ``UserError`` for what is no readable mesh, has no faces or values that are not finite, or does not fit.
    """
    raw = _load(path)
    vertices = raw.vertices
    if not bool(vertices.isfinite().all()):
        raise UserError(f"{path}: some vertices are not numbers; expected finite coordinates")
    vertices = _placed(path, vertices @ turn(placement, path).double().T, placement.size, radius)
    mesh = _joined(Mesh(vertices.float(), raw.faces, raw.color), JOINED * radius)
    if mesh.empty:
        raise UserError(f"{path}: all its faces have collapsed; expected a mesh with an area")
    if not is_closed(mesh.faces):
        log.warning("note: %s is not watertight; its inside is where most of it lies around", path)
    return mesh


def _load(path: Path) -> Mesh:
    """All parts of a file as one mesh, in its own axes and units, in double precision."""
    if not path.is_file():
        raise UserError(f"{path}: no such mesh file")
    if path.suffix.lower() not in READABLE:
        raise UserError(f"{path}: not a mesh file; expected {', '.join(READABLE)}")
    try:
        scene = trimesh.load_scene(path, process=False)
        placed = [scene.graph[node] for node in scene.graph.nodes_geometry]
        found = [(scene.geometry[name], np.asarray(matrix)) for matrix, name in placed]
        gltf = path.suffix.lower() in (".glb", ".gltf")
        parts = [_part(part, to, gltf) for part, to in found if isinstance(part, trimesh.Trimesh)]
    except Exception as error:  # every reader of trimesh fails in its own way
        raise UserError(
            f"{path}: cannot be read as a mesh ({str(error).splitlines()[0] if str(error) else 'broken'})"
        ) from error
    if not any(len(part.faces) for part in parts):
        raise UserError(f"{path}: has no faces; expected a triangle mesh")
    return _one(parts)


def _part(part: trimesh.Trimesh, place: np.ndarray, gltf: bool) -> Mesh:
    """A part where its file puts it. Faces of a mirrored one turn the other way round, so that they face outside."""
    vertices = np.asarray(part.vertices, np.float64) @ place[:3, :3].T + place[:3, 3]
    faces = torch.from_numpy(np.array(part.faces, np.int64))
    mirrored = np.linalg.det(place[:3, :3]) < 0
    color = part_colors(part, gltf)
    return Mesh(torch.from_numpy(vertices), faces.flip(1) if mirrored else faces, color)


def _one(parts: list[Mesh]) -> Mesh:
    """All parts as one mesh; if some have colors, those without are white."""
    start = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    faces = torch.cat([part.faces + int(first) for part, first in zip(parts, start)])
    colors = [torch.ones(len(part.vertices), 3) if part.color is None else part.color for part in parts]
    colored = any(part.color is not None for part in parts)
    return Mesh(torch.cat([p.vertices for p in parts]), faces, torch.cat(colors) if colored else None)


def turn(placement: Placement, path: Path) -> Float[Tensor, "3 3"]:
    """The rotation from a file's axes to ours. Raises ``UserError`` where up and front are one line."""
    up = placement.up or ("+y" if path.suffix.lower() in Y_UP else "+z")
    front = placement.front or "+x"
    if up[1] == front[1]:
        raise UserError(
            f"shape_init_mesh_front: '{front}' is along shape_init_mesh_up '{up}'; expected another axis"
        )
    z, x = _direction(up), _direction(front)
    return torch.stack([x, torch.linalg.cross(z, x), z])


def _direction(axis: Axis) -> Float[Tensor, "3"]:
    return torch.eye(3)["xyz".index(axis[1])] * (1.0 if axis[0] == "+" else -1.0)


def _placed(
    path: Path, vertices: Float[Tensor, "V 3"], size: float | None, radius: float
) -> Float[Tensor, "V 3"]:
    """Centered by its bounding box and scaled, where a size is given; else as it is, if that fits."""
    low, high = vertices.amin(0), vertices.amax(0)
    extent = float((high - low).max())
    if extent == 0 or not np.isfinite(extent):
        raise UserError(f"{path}: its extent is {extent:g}; expected a mesh of finite size")
    if size is not None and size > radius:
        raise UserError(
            f"system.geometry.shape_init_params: {size:g} is beyond the object's cube; expected at most {radius:g}"
        )
    if size is not None:
        return (vertices - (low + high) / 2) * (2 * size / extent)
    reach = float(vertices.abs().max())
    if reach > radius or extent < 0.02 * radius:
        raise UserError(
            f"{path}: is {extent:.4g} large and reaches to {reach:.4g}, but the object's cube to {radius:g};"
            f" to centre and scale it pass system.geometry.shape_init_params={0.75 * radius:g}"
        )
    return vertices


def _joined(mesh: Mesh, tolerance: float) -> Mesh:
    """Vertices that seams of a texture doubled become one, with the color of one of them."""
    label = coincident(mesh.vertices, tolerance)
    first = torch.zeros(int(label.max()) + 1, dtype=torch.long).index_copy(0, label, torch.arange(len(label)))
    faces = without_collapsed(label[mesh.faces])
    return Mesh(mesh.vertices[first], faces, None if mesh.color is None else mesh.color[first])
