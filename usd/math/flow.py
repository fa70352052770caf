"""Rectified flow as a diffusion that preserves variance, so that formulas made for the one serve the other.

A flow mixes picture and noise as z = (1 - s) x + s n and predicts the velocity v = n - x. The same picture and noise,
mixed as x_t = sqrt(abar) x + sqrt(1 - abar) n, differ by a factor only: abar = (1 - s)^2 / ((1 - s)^2 + s^2) and
z = x_t / (sqrt(abar) + sqrt(1 - abar)). The noise predicted is z + (1 - s) v. All of it is linear in v, so that
guidance by differences of predictions commutes with it, and a deterministic DDIM step is an Euler step of the flow.
"""

import torch
from jaxtyping import Float
from torch import Tensor

LAST = 0.9995
"""The level in the place of 1, at which nothing of the picture is left and alphabar would be 0."""


def flow_levels(count: int = 1000) -> Float[Tensor, "T"]:
    """Return the levels s of ``count`` timesteps: (t + 1) / count, the last one a little below 1."""
    return (torch.arange(1, count + 1, dtype=torch.float64) / count).clamp_max(LAST).float()


def flow_alphas_cumprod(levels: Float[Tensor, "T"]) -> Float[Tensor, "T"]:
    """Return alphabar of the diffusion whose signal and noise have the same ratio as at these levels."""
    s = levels.double()
    return ((1 - s).square() / ((1 - s).square() + s.square())).float()


def flow_sample(xt: Float[Tensor, "B C H W"], level: Float[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
    """Return z at level s of x_t of the same picture and noise."""
    s = level.view(-1, 1, 1, 1)
    return xt * ((1 - s).square() + s.square()).sqrt()


def eps_from_velocity(
    z: Float[Tensor, "B C H W"], velocity: Float[Tensor, "B C H W"], level: Float[Tensor, "B"]
) -> Float[Tensor, "B C H W"]:
    """Return the noise in z by the velocity predicted there."""
    return z + (1 - level.view(-1, 1, 1, 1)) * velocity
