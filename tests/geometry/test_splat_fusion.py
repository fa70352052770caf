"""Depths that a mesh of splats is made of: closed forms of sheets one behind the other."""

import math

import pytest
import torch

from usd.geometry.splat_fusion import FRONT, MOST_DEVIATION, surface_depth
from usd.kernels.splat import splat_view
from usd.math.camera import orbit_cameras_deg
from usd.math.splats import Splats

DISTANCE, SIZE = 2.0, 9


def sheets(depths: torch.Tensor, opacity: float) -> Splats:
    """Return wide flat Gaussians across the axis of a camera on +x, at distances from it."""
    means = torch.zeros(len(depths), 3)
    means[:, 0] = DISTANCE - depths
    scales = torch.tensor([1e-4, 5.0, 5.0]).expand(len(depths), 3)
    turns = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(depths), 4)
    return Splats(means, scales, turns, torch.full((len(depths),), opacity))


def seen(splats: Splats, radius: float = 10.0) -> float:
    """Return the depth of the picture's middle."""
    view = splat_view(orbit_cameras_deg(0.0, 0.0, DISTANCE, 30.0, SIZE))
    return float(surface_depth(splats, view, radius)[SIZE // 2, SIZE // 2])


def test_the_surface_of_one_sheet_is_the_sheet() -> None:
    assert seen(sheets(torch.tensor([1.7]), 0.9)) == pytest.approx(1.7, abs=1e-3)


@pytest.mark.parametrize("opacity", [0.3, 0.6])
def test_the_surface_of_a_fog_lies_half_a_deviation_before_the_mean_of_its_light(opacity: float) -> None:
    """Sheets of one opacity, one behind the other, give light by a geometric distribution of depths."""
    step = 0.01
    found = seen(sheets(1.5 + step * torch.arange(60), opacity))
    mean, deviation = (1 - opacity) / opacity, math.sqrt(1 - opacity) / opacity
    assert found == pytest.approx(1.5 + step * (mean - FRONT * deviation), abs=5e-4)


def test_two_surfaces_that_are_blended_do_not_push_each_other_far() -> None:
    radius = 1.0
    found = seen(sheets(torch.tensor([1.5, 2.5]), 0.7), radius)
    mean = (0.7 * 1.5 + 0.21 * 2.5) / 0.91
    assert found == pytest.approx(mean - FRONT * MOST_DEVIATION * radius, abs=2e-3)


def test_what_is_less_than_half_opaque_is_no_surface() -> None:
    assert seen(sheets(torch.tensor([1.5]), 0.4)) == math.inf
