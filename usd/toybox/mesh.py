"""The surface of a toy as a mesh: marching cubes of its distance, vertices moved onto it, colors as rendered."""

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.types import Mesh
from usd.math.isosurface import marching_cubes, sample_grid
from usd.toybox.distance import signed_distance
from usd.toybox.render import Light, lit_colors
from usd.toybox.scene import RADIUS, Toy

NEWTON_STEPS = 3
SHARP_ROUNDS = 3
FLAT = (
    0.03  # directions in which the planes around a vertex say less than this share of the most do not count
)


def toy_mesh(toy: Toy, resolution: int = 160, light: Light | None = None) -> Mesh:
    """Return a closed mesh, vertices on the surface (to about 1e-4), in the lit color of the pictures."""
    like = torch.zeros(1)
    values = sample_grid(lambda x: -signed_distance(toy, x)[0], resolution, RADIUS * 1.05, like)
    vertices, faces = marching_cubes(values, 0.0, RADIUS * 1.05)
    return _colored(toy, Mesh(on_surface(toy, vertices), faces), light)


def sharp_toy_mesh(toy: Toy, resolution: int = 160, light: Light | None = None) -> Mesh:
    """Return ``toy_mesh`` with edges and corners, which marching cubes cuts off: vertices moved into them.

    Each vertex goes where the planes that touch the surface at the middles of its faces meet, which is in an edge where
    one is near (Ohtake and Belyaev 2002, "Dual/primal mesh optimization for polygonized implicit surfaces").
    """
    mesh = toy_mesh(toy, resolution, light)
    vertices = mesh.vertices
    reach = float((vertices[mesh.faces[:, 0]] - vertices[mesh.faces[:, 1]]).norm(dim=-1).mean())
    for _ in range(SHARP_ROUNDS):
        middles = on_surface(toy, vertices[mesh.faces].mean(1))
        vertices = meeting_points(mesh.faces, middles, surface_normals(toy, middles), reach)
    return _colored(toy, Mesh(on_surface(toy, vertices), mesh.faces), light)


def _colored(toy: Toy, mesh: Mesh, light: Light | None) -> Mesh:
    normals = surface_normals(toy, mesh.vertices)
    return Mesh(mesh.vertices, mesh.faces, lit_colors(toy, mesh.vertices, normals, light or Light()))


def on_surface(toy: Toy, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Move points near the surface onto it, by Newton's method."""
    for _ in range(NEWTON_STEPS):
        points = points - signed_distance(toy, points)[0][:, None] * surface_normals(toy, points)
    return points


def meeting_points(
    faces: torch.Tensor, middles: Float[Tensor, "F 3"], normals: Float[Tensor, "F 3"], reach: float
) -> Float[Tensor, "V 3"]:
    """Return for each vertex the point nearest to its faces' planes, at most ``reach`` from their middles' mean.

    In directions that the planes leave open the mean decides: along a flat surface, along an edge.
    """
    n = int(faces.max()) + 1
    corner, owner = faces.flatten(), torch.arange(len(faces)).repeat_interleave(3)
    count = torch.bincount(corner, minlength=n).clamp_min(1)[:, None]
    mean = torch.zeros(n, 3).index_add(0, corner, middles[owner]) / count
    height = ((middles[owner] - mean[corner]) * normals[owner]).sum(-1, keepdim=True)
    wanted = torch.zeros(n, 3).index_add(0, corner, height * normals[owner])
    outer = (normals[:, :, None] * normals[:, None, :]).flatten(1)
    planes = torch.zeros(n, 9).index_add(0, corner, outer[owner]).view(n, 3, 3)
    step = _least_squares(planes.double(), wanted.double()).float()
    return mean + step * (reach / step.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)


def _least_squares(matrix: Float[Tensor, "V 3 3"], right: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
    """Solve symmetric systems without the directions in which a matrix is flat."""
    size, axes = torch.linalg.eigh(matrix)
    inverse = torch.where(size > FLAT * size[:, -1:], 1 / size.clamp_min(1e-12), 0.0)
    return (axes * inverse[:, None, :] @ axes.mT @ right[:, :, None])[..., 0]


def surface_normals(toy: Toy, points: torch.Tensor, step: float = 5e-4) -> torch.Tensor:
    """Return unit gradients (N, 3) of the distance by central differences."""
    offsets = step * torch.eye(3, device=points.device)
    ahead = [signed_distance(toy, points + o)[0] - signed_distance(toy, points - o)[0] for o in offsets]
    return torch.nn.functional.normalize(torch.stack(ahead, -1), dim=-1)
