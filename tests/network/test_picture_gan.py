"""Generated pictures: what a generator makes before it has learned, sizes, and the divergence of codes."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import interpolate

from usd.network.picture_gan import (
    CodeDistribution,
    Generator,
    GlobalEncoder,
    LocalEncoder,
    PatchDiscriminator,
    PictureCodes,
)


@pytest.mark.parametrize("upscale", [1, 4])
def test_a_new_generator_enlarges_the_colors(upscale: int) -> None:
    features = torch.rand(2, 7, 3, 5)
    codes = PictureCodes(torch.randn(2, 4, 3, 5), torch.randn(2, 6))
    made = Generator(7, 4, 6, 8, upscale)(features, codes)
    expected = interpolate(features[:, :3], scale_factor=float(upscale), mode="bilinear")
    torch.testing.assert_close(made, expected.clamp(1e-3, 1 - 1e-3), atol=1e-5, rtol=0)


def test_a_local_code_stands_at_every_pixel_of_the_features_also_of_odd_pictures() -> None:
    picture = torch.rand(1, 3, 13, 18)
    assert LocalEncoder(4, 8, 4)(picture).mean.shape == (1, 4, 4, 5), "a quarter, rounded up"
    assert GlobalEncoder(6, 8, 4)(picture).shape == (1, 6)
    assert PatchDiscriminator(4)(picture).shape == (1, 1, 2, 3)


def test_the_divergence_of_codes_is_that_of_normal_distributions() -> None:
    mean, log_variance = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    codes = Normal(mean, (0.5 * log_variance).exp())
    expected = kl_divergence(codes, Normal(torch.zeros(()), torch.ones(()))).sum() / 2
    torch.testing.assert_close(CodeDistribution(mean, log_variance).divergence(), expected)
