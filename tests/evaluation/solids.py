"""Meshes with known answers: spheres, boxes, and parts of them."""

import math

import torch
import trimesh

from usd.core.types import Mesh
from usd.math.mesh import vertex_normals
from usd.mesh_io import write as mesh_file
from usd.mesh_io.axes import y_up_from_z_up


def sphere(radius=1.0, at=(0.0, 0.0, 0.0), level=4, color=None) -> Mesh:
    """Vertices on the sphere; at level 4 (5120 faces) faces sink below it by a thousandth of the radius."""
    made = trimesh.creation.icosphere(subdivisions=level, radius=radius)
    vertices = torch.tensor(made.vertices, dtype=torch.float32) + torch.tensor(at)
    colors = None if color is None else torch.tensor(color).expand(len(vertices), 3)
    return Mesh(vertices, torch.tensor(made.faces, dtype=torch.long), colors)


def box(sides=(1.0, 1.0, 1.0), at=(0.0, 0.0, 0.0)) -> Mesh:
    made = trimesh.creation.box(sides)
    return Mesh(
        torch.tensor(made.vertices, dtype=torch.float32) + torch.tensor(at),
        torch.tensor(made.faces, dtype=torch.long),
    )


def inside_out(mesh: Mesh) -> Mesh:
    return Mesh(mesh.vertices, mesh.faces.flip(1), mesh.color)


def cup(mesh: Mesh) -> Mesh:
    """Without the faces that lie wholly in the uppermost fiftieth."""
    z = mesh.vertices[:, 2]
    top = z >= z.max() - 0.02 * (z.max() - z.min())
    return Mesh(mesh.vertices, mesh.faces[~top[mesh.faces].all(1)])


def both(a: Mesh, b: Mesh) -> Mesh:
    return Mesh(torch.cat([a.vertices, b.vertices]), torch.cat([a.faces, b.faces + len(a.vertices)]))


def empty() -> Mesh:
    return Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long))


def turn(degrees: float, axis=(0.0, 0.0, 1.0)) -> torch.Tensor:
    matrix = trimesh.transformations.rotation_matrix(math.radians(degrees), axis)[:3, :3]
    return torch.tensor(matrix, dtype=torch.float32)


def arrow() -> Mesh:
    """Three boxes of different lengths along the axes: no turn but none maps it onto itself."""
    parts = both(box((1.0, 0.1, 0.1), (0.5, 0, 0)), box((0.1, 0.6, 0.1), (0, 0.3, 0)))
    return both(parts, box((0.12, 0.12, 0.35), (0, 0, 0.17)))


def file_bytes(mesh: Mesh, ending: str) -> bytes:
    """The mesh as our exporter writes it, in the axes of the format."""
    turned = y_up_from_z_up(mesh.vertices) if ending in ("glb", "obj") else mesh.vertices
    shell = Mesh(turned, mesh.faces, mesh.color)
    surface = mesh_file.ExportMesh(shell, vertex_normals(shell.vertices, shell.faces))
    write = {"glb": mesh_file.glb_bytes, "obj": mesh_file.obj_bytes, "ply": mesh_file.ply_bytes}[ending]
    return write(surface)
