"""Encodings of numbers in [0, 1] that have no weights, as tiny-cuda-nn's documentation defines them.

Each dimension is encoded by itself, one after the other. Letters: N points, d dimensions, E numbers of all d.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def frequency(x: Float[Tensor, "N d"], n_frequencies: int) -> Float[Tensor, "N E"]:
    """Return sin(2^k pi x), cos(2^k pi x) for k = 0 ... n - 1 (NeRF, arXiv 2003.08934)."""
    angle = torch.pi * x[..., None] * 2.0 ** torch.arange(n_frequencies, device=x.device)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


def triangle_wave(x: Float[Tensor, "N d"], n_frequencies: int) -> Float[Tensor, "N E"]:
    """Return waves between -1 and 1 of period 2^(1 - k), moved on by k quarters of it (arXiv 2106.12372)."""
    k = torch.arange(n_frequencies, device=x.device)
    turns = x[..., None] * 2.0 ** (k - 1) + 0.25 * k
    return ((turns - turns.floor() - 0.5).abs() * 4 - 1).flatten(1)


def one_blob(x: Float[Tensor, "N d"], n_bins: int) -> Float[Tensor, "N E"]:
    """Return how much of a bump about x lies in each of n equal bins of [0, 1], whose ends meet (arXiv 1808.03856).

    The bump is the quartic kernel 15/16 (1 - u^2)^2 with u = n (y - x), so it reaches one bin to either side.
    """
    edges = torch.arange(n_bins + 1, device=x.device, dtype=x.dtype) / n_bins
    shifts = torch.tensor([-1.0, 0.0, 1.0], device=x.device, dtype=x.dtype)
    u = (n_bins * (edges[:, None] + shifts - x[..., None, None])).clamp(-1, 1)
    below = 0.5 + 15 / 16 * (u - 2 / 3 * u**3 + u**5 / 5)
    return below.sum(-1).diff(dim=-1).flatten(1)
