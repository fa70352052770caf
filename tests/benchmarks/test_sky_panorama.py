"""The shipped sky is what its program makes, and it stands in for the panorama that others ship."""

import logging

import pytest
import torch

from benchmarks.sky_panorama import MEAN_LIGHT, radiance_bytes, sky_panorama
from usd.core.places import resource
from usd.kernels.rasterize_texture import panorama_color
from usd.material.environment import PUBLISHED_SKY, decode_radiance, read_panorama

SKY = "load/lights/sky.hdr"


def test_the_shipped_sky_is_the_one_that_the_program_makes() -> None:
    shipped, computed = read_panorama(resource(SKY)), sky_panorama()
    assert shipped.shape == computed.shape and resource(SKY).stat().st_size < 200_000
    error = (shipped - computed).abs() / computed.amax(2, keepdim=True)
    assert float(error.max()) < 1 / 64  # RGBE has eight bits, rounded down


def test_light_comes_from_the_sun_and_from_above() -> None:
    light = sky_panorama()
    up, down, level = panorama_color(light, torch.tensor([[0.0, 0, 1], [0, 0, -1], [0, 1, 0]]))
    assert up[2] > up[0] and level.mean() > up.mean() > down.mean()
    assert light.max() > 50 * light.median()
    assert float(decode_radiance(radiance_bytes(0 * light)).max()) == 0
    assert 0.2 * MEAN_LIGHT < float(light.mean()) < 2 * MEAN_LIGHT


def test_it_stands_in_for_the_published_panorama_with_a_note(caplog: pytest.LogCaptureFixture) -> None:
    missing = resource("load/lights") / PUBLISHED_SKY
    with caplog.at_level(logging.WARNING):
        assert torch.equal(read_panorama(missing), read_panorama(resource(SKY)))
    assert (
        len(caplog.messages) == 1 and "sky.hdr" in caplog.messages[0] and PUBLISHED_SKY in caplog.messages[0]
    )
