"""The hull of silhouettes: a ball's is the ball, a cube's bounds it, and what no view allows is nothing."""

import torch

from usd.math.camera import Cameras, orbit_cameras_deg
from usd.math.mesh import euler_number, is_closed, volume
from usd.math.silhouette_hull import hull_surface


def discs(cameras: Cameras, radius: float) -> torch.Tensor:
    """Silhouettes of a ball at the origin, whose rays pass it by at less than its radius."""
    origins, directions = cameras.rays()
    along = -(origins * directions).sum(-1, keepdim=True)
    return ((origins + along * directions).norm(dim=-1) < radius).float()


def around(size: int = 64) -> Cameras:
    elevations = [-50.0, -20.0, 0.0, 20.0, 50.0, 80.0]
    return orbit_cameras_deg(
        [e for e in elevations for _ in range(6)],
        [60.0 * i + e for e in elevations for i in range(6)],
        1.5,
        49.1,
        size,
    )


def test_the_hull_of_discs_is_the_ball() -> None:
    cameras = around()
    vertices, faces = hull_surface(discs(cameras, 0.4), cameras, 0.6)
    assert is_closed(faces) and euler_number(faces) == 2
    away = vertices.norm(dim=-1) - 0.4
    assert abs(float(away.mean())) < 0.01 and float(away.abs().max()) < 0.05
    assert float(volume(vertices, faces)) > 0, "it faces outward"


def test_where_silhouettes_allow_nothing_there_is_no_surface() -> None:
    cameras = around(16)
    _, faces = hull_surface(torch.zeros(len(cameras.c2w), 16, 16), cameras, 0.6)
    assert len(faces) == 0
