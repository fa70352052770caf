"""All of space in a ball: mip-NeRF 360's contraction (arXiv 2111.12077, equation 10), and steps that suit it.

Within ``radius`` of the origin nothing changes but the unit; beyond, a point at distance n (in units of the radius)
comes to 2 - 1 / n. So what is far away has few cells of a grid, as it has few pixels.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def contract(x: Float[Tensor, "*N 3"], radius: float) -> Float[Tensor, "*N 3"]:
    """Return points of the ball of radius 2 for points of space."""
    scaled = x / radius
    norm = scaled.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return torch.where(norm > 1, (2 - 1 / norm) / norm, torch.ones_like(norm)) * scaled


def expand(y: Float[Tensor, "*N 3"], radius: float) -> Float[Tensor, "*N 3"]:
    """Return the inverse of ``contract``, for points within the ball of radius 2."""
    norm = y.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return torch.where(norm > 1, 1 / ((2 - norm).clamp_min(1e-9) * norm), torch.ones_like(norm)) * y * radius


def contracted_step(y: Float[Tensor, "N 3"], radius: float, share: float) -> Float[Tensor, "N"]:
    """Return the length in space of a step that takes ``share`` of a ray's way to infinity, where it passes ``y``.

    A ray's way s from 0 to 1 leads to distances ``radius * s / (1 - s)`` (see ``distance_along``), and ds covers
    radius / (1 - s)^2 of them.
    """
    out = y.norm(dim=-1).clamp(1, 2 - 1e-4)
    return share * radius / (2 - out) ** 2


def distance_along(s: Float[Tensor, "*N"], near: Float[Tensor, "*#N"], radius: float) -> Float[Tensor, "*N"]:
    """Return distances of places s in [0, 1): even at first, like an even disparity further away."""
    return near + radius * s / (1 - s)


def place_along(t: Float[Tensor, "*N"], near: Float[Tensor, "*#N"], radius: float) -> Float[Tensor, "*N"]:
    """Return the inverse of ``distance_along``."""
    return (t - near) / (t - near + radius)
