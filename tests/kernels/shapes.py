"""Small meshes in closed form for tests of the rasterizer."""

import torch
from torch import Tensor

from usd.math.camera import Cameras, orbit_cameras_deg


def octahedron() -> tuple[Tensor, Tensor]:
    vertices = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    faces = [[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]
    return vertices, torch.tensor(faces)


def sphere(level: int, radius: float = 0.5, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """An octahedron divided ``level`` times: 8 * 4^level faces, counter-clockwise seen from outside."""
    vertices, faces = octahedron()
    for _ in range(level):
        ends = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(1).values
        edges, which = torch.unique(ends, dim=0, return_inverse=True)
        middle = vertices[edges].mean(1)
        ab, bc, ca = (which + len(vertices)).view(3, -1)
        a, b, c = faces.unbind(1)
        faces = torch.stack([a, ab, ca, ab, b, bc, ca, bc, c, ab, bc, ca], 1).view(-1, 3)
        vertices = torch.nn.functional.normalize(torch.cat([vertices, middle]), dim=-1)
    return (radius * vertices).to(dtype), faces


def square(x: float, half: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A square in the plane of this x, facing +x."""
    corners = [[x, -half, -half], [x, half, -half], [x, half, half], [x, -half, half]]
    return torch.tensor(corners, dtype=dtype), torch.tensor([[0, 1, 2], [0, 2, 3]])


def views(
    size: int = 32, count: int = 1, width: int | None = None, dtype: torch.dtype = torch.float32
) -> Cameras:
    made = orbit_cameras_deg([10.0, -35.0, 70.0][:count], [20.0, 100.0, 250.0][:count], 1.5, 45.0, size)
    return Cameras(made.c2w.to(dtype), made.fov_y.to(dtype), size, width or size)


def ahead(size: int = 32, distance: float = 2.0, dtype: torch.dtype = torch.float64) -> Cameras:
    """One camera on the x axis: y is to its right, z is up."""
    made = orbit_cameras_deg(0.0, 0.0, distance, 45.0, size)
    return Cameras(made.c2w.to(dtype), made.fov_y.to(dtype), size, size)
