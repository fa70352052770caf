"""The surface of a toy as a mesh: marching cubes of its distance, vertices moved onto it, colours as rendered."""

import torch

from usd.core.types import Mesh
from usd.math.isosurface import marching_cubes, sample_grid
from usd.toybox.distance import signed_distance
from usd.toybox.render import Light, lit_colors
from usd.toybox.scene import RADIUS, Toy

NEWTON_STEPS = 3


def toy_mesh(toy: Toy, resolution: int = 160, light: Light | None = None) -> Mesh:
    """A closed mesh whose vertices lie on the surface (to about 1e-4) and carry the lit colour of the pictures."""
    like = torch.zeros(1)
    values = sample_grid(lambda x: -signed_distance(toy, x)[0], resolution, RADIUS * 1.05, like)
    vertices, faces = marching_cubes(values, 0.0, RADIUS * 1.05)
    for _ in range(NEWTON_STEPS):
        distance, _ = signed_distance(toy, vertices)
        vertices = vertices - distance[:, None] * surface_normals(toy, vertices)
    return Mesh(vertices, faces, lit_colors(toy, vertices, surface_normals(toy, vertices), light or Light()))


def surface_normals(toy: Toy, points: torch.Tensor, step: float = 5e-4) -> torch.Tensor:
    """Unit gradients (N, 3) of the distance by central differences."""
    offsets = step * torch.eye(3, device=points.device)
    ahead = [signed_distance(toy, points + o)[0] - signed_distance(toy, points - o)[0] for o in offsets]
    return torch.nn.functional.normalize(torch.stack(ahead, -1), dim=-1)
