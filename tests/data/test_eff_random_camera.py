"""Grids of pixels: evenly spaced, inside of the picture, and over the steps every pixel alike."""

import pytest
import torch

from tests.data.test_random_camera import cameras, drawn
from usd.core.config import ConfigError
from usd.data.eff_random_camera import EffRandomCameras
from usd.data.random_camera import RandomCameras

SIZES = {"height": 12, "width": 8, "sample_height": 4, "sample_width": 4}


def test_over_the_steps_every_pixel_is_rendered_alike():
    data, counts = cameras(EffRandomCameras, **SIZES), torch.zeros(12, 8)
    for step in range(300):
        at = drawn(data, step).window
        assert (at.height, at.width, at.step_y, at.step_x) == (4, 4, 3, 2)
        rows = at.top + at.step_y * torch.arange(at.height)
        columns = at.left + at.step_x * torch.arange(at.width)
        counts[rows[:, None], columns[None]] += 1
    assert counts.sum() == 300 * 16 and (counts - 50).abs().max() < 25, "one in six, for all"


def test_the_cameras_are_those_of_whole_pictures():
    plain = cameras(RandomCameras, height=12, width=8)
    assert torch.equal(drawn(plain, 3).cameras.c2w, drawn(cameras(EffRandomCameras, **SIZES), 3).cameras.c2w)
    assert drawn(plain, 3).window is None
    assert cameras(EffRandomCameras, **SIZES).eval_batches("val")[0].window is None


def test_a_part_of_a_batch_keeps_its_grid():
    batch = drawn(cameras(EffRandomCameras, batch_size=3, **SIZES))
    assert batch.view(1).window == batch.window == batch.to("cpu").window


@pytest.mark.parametrize("key", ["height", "width"])
def test_a_grid_that_does_not_fit_is_one_clear_line(key):
    with pytest.raises(
        ConfigError, match=f"data.sample_{key}: 5 does not divide {key}; expected a divisor of"
    ):
        cameras(EffRandomCameras, **{**SIZES, f"sample_{key}": 5})
