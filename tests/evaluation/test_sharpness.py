"""Sharpness and speckle: what they are on patterns with known answers, and what they are blind to."""

import math

import pytest
import torch

from usd.data.pictures import resize_rgba
from usd.evaluation.metrics import sharpness, speckle


def waves(length, size=96, contrast=0.5, level=0.5):
    x = torch.arange(size) * (2 * math.pi / length)
    pattern = level + 0.5 * contrast * torch.sin(x)[None, None].expand(3, size, size)
    return torch.cat([pattern, torch.ones(1, size, size)])[None]


def disc(pattern, radius=0.4):
    """The pattern on a disc, with soft alpha at its rim."""
    size = pattern.shape[-1]
    axis = torch.arange(size) - (size - 1) / 2
    away = (axis[:, None].square() + axis[None].square()).sqrt()
    return torch.cat([pattern[:, :3], (radius * size - away).clamp(0, 1)[None, None]], 1)


@pytest.mark.parametrize("length", [20, 24, 32])
def test_a_pattern_of_one_wavelength_has_its_angular_frequency(length):
    smoothing = math.exp(-0.5 * (2 * math.pi / length) ** 2)
    assert sharpness(waves(length)).item() == pytest.approx(2 * math.pi / length * smoothing, rel=0.05)


def test_contrast_and_brightness_do_not_count():
    plain = sharpness(waves(12))
    torch.testing.assert_close(sharpness(waves(12, contrast=0.2)), plain, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(sharpness(waves(12, contrast=0.2, level=0.8)), plain, atol=1e-4, rtol=1e-3)


def test_silhouettes_do_not_count():
    """A plain disc has none, whatever is behind it; a pattern's does not change by being cut out."""
    grey = torch.cat([torch.full((1, 3, 64, 64), 0.3), torch.ones(1, 1, 64, 64)], 1)
    assert sharpness(disc(grey)).item() == 0
    cut, whole = sharpness(disc(waves(8))), sharpness(waves(8))
    torch.testing.assert_close(cut, whole, atol=0, rtol=0.1)


def test_blurring_lowers_it():
    torch.manual_seed(0)
    squares = torch.rand(3, 8, 8).repeat_interleave(12, 1).repeat_interleave(12, 2)
    picture = torch.cat([squares, torch.ones(1, 96, 96)])
    sizes = [96, 64, 48, 32, 24]
    values = [sharpness(resize_rgba(resize_rgba(picture, n, n), 96, 96)[None]).item() for n in sizes]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.8 * values[0]


def test_grain_hardly_counts():
    torch.manual_seed(0)
    picture = waves(16)
    grainy = picture.clone()
    grainy[:, :3] += 0.03 * torch.randn(1, 3, 96, 96)
    assert sharpness(grainy).item() == pytest.approx(sharpness(picture).item(), rel=0.1)


def test_nothing_to_see_is_not_sharp():
    assert sharpness(torch.zeros(2, 4, 16, 16)).tolist() == [0, 0]
    assert sharpness(torch.full((1, 4, 16, 16), 0.7)).tolist() == [0]


def test_pictures_of_a_batch_do_not_mix():
    both = sharpness(torch.cat([waves(8), disc(waves(20))]))
    assert both.tolist() == pytest.approx([sharpness(waves(8)).item(), sharpness(disc(waves(20))).item()])


def patches(noise: float = 0.0, size: int = 96) -> torch.Tensor:
    """Evenly shaded squares of 24 px with sharp borders, opaque, under independent normal noise."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    shade = 0.2 + 0.3 * ((x // 24 + y // 24) % 2) + 0.002 * x
    grain = noise * torch.randn(3, size, size, generator=torch.Generator().manual_seed(0))
    return torch.cat([shade.expand(3, -1, -1) + grain, torch.ones(1, size, size)])[None]


def test_speckle_of_shaded_squares_is_nothing_and_grows_with_noise_in_proportion():
    assert speckle(patches()).item() == pytest.approx(0, abs=1e-6)
    one, two = speckle(patches(0.01)).item(), speckle(patches(0.02)).item()
    assert two == pytest.approx(2 * one, rel=0.05) and one == pytest.approx(0.0067, rel=0.15)


def test_speckle_of_a_picture_without_an_inside_is_not_a_number():
    assert speckle(torch.zeros(1, 4, 12, 12)).isnan().all()
