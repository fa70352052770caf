"""A rectified flow as a diffusion: the same noise, the same steps."""

import pytest
import torch

from usd.math.diffusion import ddim_step
from usd.math.flow import LAST, eps_from_velocity, flow_alphas_cumprod, flow_levels, flow_sample

LEVELS = flow_levels()
BARS = flow_alphas_cumprod(LEVELS)


def test_levels_are_shares_of_the_timesteps_and_the_last_keeps_something_of_the_picture():
    assert len(LEVELS) == 1000 and float(LEVELS[499]) == 0.5 and float(LEVELS[-1]) == pytest.approx(LAST)
    assert bool((BARS.diff() < 0).all()) and float(BARS[-1]) > 0


def test_mixes_of_the_same_picture_and_noise_differ_by_a_factor():
    x, n = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    index = torch.tensor([10, 499, 998])
    s, bar = LEVELS[index].view(-1, 1, 1, 1), BARS[index].view(-1, 1, 1, 1)
    torch.testing.assert_close(
        flow_sample(bar.sqrt() * x + (1 - bar).sqrt() * n, LEVELS[index]),
        (1 - s) * x + s * n,
        atol=1e-5,
        rtol=1e-5,
    )


def test_the_true_velocity_gives_the_true_noise():
    x, n, s = torch.randn(2, 1, 3, 3), torch.randn(2, 1, 3, 3), torch.tensor([0.25, 0.9])
    z = (1 - s.view(-1, 1, 1, 1)) * x + s.view(-1, 1, 1, 1) * n
    torch.testing.assert_close(eps_from_velocity(z, n - x, s), n)


def test_a_deterministic_ddim_step_is_an_euler_step_of_the_flow():
    s, after = LEVELS[[799]], LEVELS[[399]]
    z, velocity = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4)
    xt = z / ((1 - s) ** 2 + s**2).sqrt()
    stepped = ddim_step(xt, eps_from_velocity(z, velocity, s), BARS[799], BARS[399])
    torch.testing.assert_close(flow_sample(stepped, after), z + (after - s) * velocity, atol=1e-5, rtol=1e-5)
