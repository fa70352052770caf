"""The visual hull of a ball is nearly the ball, as points and as a surface, and knows which way is out."""

import torch

from usd.math.camera import Cameras, Spherical, orbit_cameras, sphere_angles
from usd.math.mesh import euler_number, is_closed, volume
from usd.math.silhouette_hull import hull_points, hull_surface

RADIUS = 0.3


def ball_views(count: int = 24, size: int = 48) -> tuple[torch.Tensor, Cameras]:
    """A red ball about the origin, seen from all around: rays that pass nearer than its radius hit it."""
    elevation, azimuth = sphere_angles(count)
    cameras = orbit_cameras(Spherical(elevation, azimuth, torch.full_like(elevation, 2.0)), 0.5, size, size)
    origins, directions = cameras.rays()
    alpha = (torch.linalg.cross(origins, directions).norm(dim=-1) < RADIUS).float()[:, None]
    red = torch.tensor([0.9, 0.2, 0.1]).view(1, 3, 1, 1).expand(count, 3, size, size)
    return torch.cat([red, alpha], 1), cameras


def test_points_lie_on_the_surface_and_their_normals_point_outward() -> None:
    rgba, cameras = ball_views()
    found = hull_points(rgba, cameras, 0.5, 400, torch.Generator().manual_seed(0))
    assert len(found) == 400 and found.normals is not None
    away = found.points.norm(dim=1)
    assert float((away - RADIUS).abs().mean()) < 1 / 95  # a cell of the lattice
    along = (found.normals * found.points).sum(1) / away
    assert float(along.mean()) > 0.97 and float(along.min()) > 0.7
    assert torch.allclose(found.colors, torch.tensor([0.9, 0.2, 0.1]).expand(400, 3), atol=1e-5)


def test_there_is_none_where_no_silhouette_has_anything() -> None:
    rgba, cameras = ball_views(6, 16)
    rgba[:, 3] = 0
    found = hull_points(rgba, cameras, 0.5, 10, torch.Generator())
    assert len(found) == 0
    _, faces = hull_surface(rgba[:, 3], cameras, 0.5)
    assert len(faces) == 0


def test_the_surface_is_closed_faces_outward_and_lies_on_the_ball() -> None:
    rgba, cameras = ball_views()
    vertices, faces = hull_surface(rgba[:, 3], cameras, 0.5)
    assert is_closed(faces) and euler_number(faces) == 2 and float(volume(vertices, faces)) > 0
    away = vertices.norm(dim=1) - RADIUS
    assert float(away.abs().mean()) < 1 / 95 and float(away.abs().max()) < 0.05
