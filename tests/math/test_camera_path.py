"""Ways of a camera: through their key views, around the object, smooth."""

import torch

from usd.math.camera import Spherical
from usd.math.camera_path import path_cameras, spline

QUARTERS = torch.tensor([0.0, 0.5, 1.0, 1.5]) * torch.pi


def circle(distance: float = 2.0) -> torch.Tensor:
    return Spherical(torch.full((4,), 0.3), QUARTERS, torch.full((4,), distance)).xyz()


def test_a_path_passes_through_its_key_views_and_ends_with_the_last():
    position, target = circle(), torch.zeros(4, 3)
    cameras = path_cameras(position, target, torch.full((4,), 0.8), 31, (16, 24))
    torch.testing.assert_close(cameras.position[::10], position, atol=1e-5, rtol=0)
    assert (cameras.height, cameras.width, len(cameras)) == (16, 24, 31)


def test_a_loop_comes_back_and_keeps_its_distance_and_its_target():
    cameras = path_cameras(circle(), torch.zeros(4, 3), torch.full((4,), 0.8), 80, (8, 8), loop=True)
    distance = cameras.position.norm(dim=-1)
    torch.testing.assert_close(distance, torch.full((80,), 2.0), atol=1e-4, rtol=0)
    steps = (cameras.position - cameras.position.roll(1, 0)).norm(dim=-1)
    assert steps.max() < 1.6 * steps.mean(), "no jump where it closes"
    looks = -cameras.c2w[:, :3, 2]
    torch.testing.assert_close(looks, -cameras.position / 2, atol=1e-4, rtol=0)


def test_a_spline_is_exact_for_straight_lines_and_for_one_value():
    line = torch.arange(5.0)[:, None] * torch.tensor([1.0, -2.0])
    times = torch.linspace(0, 4, 17)
    torch.testing.assert_close(spline(line, times, loop=False), times[:, None] * torch.tensor([1.0, -2.0]))
    torch.testing.assert_close(spline(line[:1], torch.zeros(3), loop=False), torch.zeros(3, 2))
