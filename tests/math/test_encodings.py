"""Encodings without weights, against their definitions."""

import math

import pytest
import torch

from usd.math.encodings import frequency, one_blob, triangle_wave


def test_frequencies_are_sines_and_cosines_of_octaves_of_pi_dimension_by_dimension():
    found = frequency(torch.tensor([[0.25, 0.5]], dtype=torch.float64), 3)[0].tolist()
    expected = [f(math.pi * 2**k * x) for x in (0.25, 0.5) for k in range(3) for f in (math.sin, math.cos)]
    assert found == pytest.approx(expected, abs=1e-12)


def test_triangle_waves_go_straight_between_one_and_minus_one():
    """The first has period 2; the second period 1 and starts a quarter on; the third period 1/2, half on."""
    x = torch.tensor([[0.0], [0.125], [0.25], [0.5], [1.0]])
    expected = [[1, 0, -1], [0.75, -0.5, 0], [0.5, -1, 1], [0, 0, -1], [-1, 0, -1]]
    assert torch.allclose(triangle_wave(x, 3), torch.tensor(expected))


@pytest.mark.parametrize("n_bins", [4, 16])
def test_a_blob_is_a_bumps_share_of_each_bin(n_bins):
    """The bump 15/16 (1 - u^2)^2 integrated numerically; a share of 1 in all, also across the ends, which meet."""
    x = torch.tensor([[0.5], [0.3], [0.99], [0.0]], dtype=torch.float64)
    found = one_blob(x, n_bins)
    y = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000
    around = (y - x + 0.5) % 1 - 0.5
    bump = 15 / 16 * (1 - (n_bins * around).square()).clamp_min(0) ** 2 * n_bins / 40_000
    assert torch.allclose(found, bump.view(4, n_bins, -1).sum(-1), atol=1e-4)
    assert torch.allclose(found.sum(1), torch.ones(4, dtype=torch.float64))
