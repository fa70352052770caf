"""A user's mesh file as a shape to start from: +z up, in the object's cube, closed where it can be, facing outside.

Axes: ``up`` and ``front`` name the file's axes that become +z and +x. Left null they are what the exporter writes:
+y up and +x for GLB, glTF and OBJ (so that an exported file comes back as it was), +z up for others.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.core.types import Mesh
from usd.math.mesh import is_closed
from usd.mesh_io.axes import Axis, default_up, rotation_to_z_up
from usd.mesh_io.colored_mesh import ColoredMesh
from usd.mesh_io.read import read_mesh
from usd.mesh_io.repair import drop_strays, face_outward, first_of_groups, weld

log = logging.getLogger(__name__)

WELD = 1e-6
"""Vertices closer than this share of the radius become one."""
COLOR_EDGE = 1 / 48
"""Colors of a texture are taken at points so far apart, in radii."""
COLOR_FACES = 300_000
COLOR_STEPS = 256


@dataclass(frozen=True)
class MeshPlacement:
    """Axes and size of a file's mesh. ``size`` is the largest coordinate after centering; None: as they are."""

    up: Axis | None = None
    front: Axis | None = None
    size: float | None = None


@dataclass(frozen=True)
class InitialShape:
    """The surface of a file, its vertices merged, and the same surface with vertex colors as displayed.

    The colored one has vertices of its own wherever two colors meet; None where the file has no colors.
    """

    surface: Mesh
    colored: Mesh | None


def read_initial_shape(
    path: Path, placement: MeshPlacement, radius: float, closed: bool = False
) -> InitialShape:
    """Return the mesh of a file in the cube [-radius, radius]^3.

    Raises ``UserError`` for what is no readable mesh or does not fit, and for one with holes where it has to be
    ``closed``. What was assumed is logged.
    """
    mesh = face_outward(weld(placed_mesh(path, placement, radius), WELD * radius))
    if len(mesh.faces) == 0:
        raise UserError(f"{path}: all its faces have collapsed; expected a mesh with an area")
    is_open = not is_closed(mesh.faces)
    if closed and is_open:
        raise UserError(f"{path}: has holes, so it has no inside; expected a closed mesh")
    for note in mesh.notes:
        log.warning("note: %s: %s", path, note)
    if mesh.has_cutouts:
        log.warning("note: %s: alpha cuts holes into it; the start shape is solid there", path)
    if is_open:
        log.warning("note: %s is not watertight; its inside is where most of it lies around", path)
    surface = Mesh(mesh.vertices.float(), mesh.faces)
    return InitialShape(surface, color_vertices(mesh, COLOR_EDGE * radius) if mesh.has_colors else None)


def placed_mesh(path: Path, placement: MeshPlacement, radius: float) -> ColoredMesh:
    """Return the mesh of a file in the cube [-radius, radius]^3, with its own faces, coordinates and materials.

    Raises ``UserError`` for what is no readable mesh or does not fit.
    """
    raw = drop_strays(read_mesh(path, "z"))
    turned = raw.move(raw.vertices @ file_rotation(placement, path).T)
    return turned.move(_fit_to_cube(path, turned.vertices, placement.size, radius))


def file_rotation(placement: MeshPlacement, path: Path) -> Float[Tensor, "3 3"]:
    """Return the rotation from a file's axes to ours. Raises ``UserError`` where up and front are one line."""
    up, front = placement.up or default_up(path), placement.front or "+x"
    try:
        return rotation_to_z_up(up, front)
    except ValueError:
        raise UserError(
            f"shape_init_mesh_front: '{front}' is along shape_init_mesh_up '{up}'; expected another axis"
        ) from None


def _fit_to_cube(
    path: Path, vertices: Float[Tensor, "V 3"], size: float | None, radius: float
) -> Float[Tensor, "V 3"]:
    """Return vertices centered by their bounding box and scaled, where a size is given; else as they are.

    Raises ``UserError`` where they do not fit into the cube.
    """
    low, high = vertices.amin(0), vertices.amax(0)
    extent = float((high - low).max())
    if extent == 0:
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
            f" to center and scale it pass system.geometry.shape_init_params={0.75 * radius:g}"
        )
    return vertices


def color_vertices(mesh: ColoredMesh, edge: float) -> Mesh:
    """Return the mesh with vertex colors as displayed. Vertices of one place and different colors stay apart.

    Faces with a texture are cut into smaller ones, until most of their edges are at most ``edge`` long.
    """
    parts = 1
    if any(color.texture is not None for color in mesh.colors):
        corners = mesh.vertices[mesh.faces]
        typical = float((corners - corners.roll(1, 1)).norm(dim=-1).mean())
        parts = max(1, min(round(typical / edge), int((COLOR_FACES / len(mesh.faces)) ** 0.5)))
    weights, small = triangle_lattice(parts)
    face = torch.arange(len(mesh.faces)).repeat_interleave(len(weights))
    share = weights.repeat(len(mesh.faces), 1)
    x = (mesh.vertices[mesh.faces[face]] * share[..., None]).sum(1)
    # Textures are read a little inside the face: on its very rim a repeated one mixes in its other end.
    inset = (
        0.02 * torch.tensor([color.texture is not None for color in mesh.colors])[mesh.color_of_face[face]]
    )
    color = mesh.display_colors(face, ((1 - inset[:, None]) * share + inset[:, None] / 3).float())
    key = torch.cat([(x / (WELD * edge)).round(), (color * COLOR_STEPS).round()], 1).long()
    label = torch.unique(key, dim=0, return_inverse=True)[1]
    first = first_of_groups(label)
    faces = label.view(len(mesh.faces), -1)[:, small].reshape(-1, 3)
    return Mesh(x[first].float(), faces, color[first])


def triangle_lattice(parts: int) -> tuple[Float[Tensor, "N 3"], Tensor]:
    """Return the weights (float64) of points that cut a triangle's edges into equal parts, and the small triangles."""
    rows = [(i, j) for i in range(parts + 1) for j in range(parts + 1 - i)]
    number = {row: index for index, row in enumerate(rows)}
    up = [(number[i, j], number[i + 1, j], number[i, j + 1]) for i, j in rows if i + j < parts]
    down = [(number[i + 1, j], number[i + 1, j + 1], number[i, j + 1]) for i, j in rows if i + j < parts - 1]
    place = torch.tensor(rows, dtype=torch.float64) / parts
    return torch.cat([1 - place.sum(1, keepdim=True), place], 1), torch.tensor(up + down)
