"""Lamps drawn with the cameras: where the papers put them, and that they travel with their views."""

import math

import pytest
import torch

from tests.data.test_random_camera import STILL, cameras, drawn
from usd.core.config import ConfigError
from usd.math.camera import join_cameras


def lamps_of(strategy: str, **options):
    views = drawn(cameras(batch_size=4000, light_sample_strategy=strategy, **options)).cameras
    return views, views.light_positions


def angle_to_camera(views, lamps) -> torch.Tensor:
    """Angle (B,) in degrees between lamp and camera as seen from the origin."""
    return torch.nn.functional.cosine_similarity(views.position, lamps).clamp(-1, 1).acos().rad2deg()


def test_a_lamp_without_noise_stands_on_the_line_through_its_camera():
    views, lamps = lamps_of(
        "dreamfusion", light_position_perturb=0.0, light_distance_range=[7.5, 10.0], **STILL
    )
    assert angle_to_camera(views, lamps).max() < 0.1
    distance = lamps.norm(dim=-1)
    assert distance.min() >= 7.5 and distance.max() <= 10.0
    assert distance.mean() == pytest.approx(8.75, abs=0.05), "uniform between the bounds"


def test_noise_is_that_of_the_camera_position_and_not_of_its_direction():
    """To first order the lamp leaves the line by sigma / |camera| in each of two directions."""
    sigma, distance = 0.02, 2.0
    views, lamps = lamps_of(
        "dreamfusion", light_position_perturb=sigma, camera_distance_range=[distance, distance], **STILL
    )
    off = angle_to_camera(views, lamps).deg2rad()
    assert off.square().mean().sqrt() == pytest.approx(math.sqrt(2) * sigma / distance, rel=0.05)


def test_the_lamps_of_magic3d_stand_30_to_90_degrees_above_the_plane_across_the_view_axis():
    views, lamps = lamps_of("magic3d", **STILL)
    elevation = 90 - angle_to_camera(views, lamps)
    assert elevation.min() > 30 - 0.1 and elevation.max() <= 90
    assert elevation.mean() == pytest.approx(60, abs=1.0), "uniform in the angle"
    lengthwise = (lamps * torch.nn.functional.normalize(views.position, dim=-1)).sum(-1, keepdim=True)
    across = lamps - lengthwise * torch.nn.functional.normalize(views.position, dim=-1)
    assert torch.nn.functional.normalize(across, dim=-1).mean(0).norm() < 0.1, "on all sides alike"


def test_lamps_change_nothing_about_the_cameras():
    plain, lit = (drawn(cameras(batch_size=3, light_sample_strategy=s)).cameras for s in (None, "magic3d"))
    assert plain.light_positions is None and lit.light_positions is not None
    assert torch.equal(plain.c2w, lit.c2w) and torch.equal(plain.fov_y, lit.fov_y)


def test_each_view_keeps_its_lamp():
    batch = drawn(cameras(batch_size=4, light_sample_strategy="dreamfusion")).to("cpu")
    lamps = batch.cameras.light_positions
    assert torch.equal(batch.view(2).cameras.light_positions, lamps[2:3])
    assert torch.equal(batch.cameras.resize(8, 8).light_positions, lamps)
    assert torch.equal(join_cameras([batch.cameras[:1], batch.cameras[1:]]).light_positions, lamps)
    turned = batch.cameras.turned(torch.full((4,), 0.7))
    assert torch.allclose(turned.turned(torch.full((4,), -0.7)).light_positions, lamps, atol=1e-6)
    together = (turned.position * turned.light_positions).sum(-1)
    assert torch.allclose(together, (batch.cameras.position * lamps).sum(-1), atol=1e-5), "as one body"


def test_evaluation_has_no_lamps():
    data = cameras(light_sample_strategy="dreamfusion", n_val_views=2)
    assert all(batch.cameras.light_positions is None for batch in data.eval_batches("val"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"light_distance_range": [1, 2]}, "light_distance_range: without a strategy"),
        ({"light_position_perturb": 1.0}, "light_position_perturb: without a strategy"),
        ({"light_sample_strategy": "sun"}, "is not a choice"),
        ({"light_sample_strategy": "magic3d", "light_distance_range": [2, 1]}, "runs backwards"),
        ({"rays_d_normalize": False}, "rays_d_normalize"),
    ],
)
def test_options_of_lamps_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        cameras(**options)
