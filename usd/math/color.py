"""Values of colors: as displayed (sRGB) and as light (linear). IEC 61966-2-1."""

import torch
from jaxtyping import Float
from torch import Tensor


def linear_from_srgb(value: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return light in [0, 1] from displayed values in [0, 1]."""
    return torch.where(value <= 0.04045, value / 12.92, ((value.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(light: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return displayed values in [0, 1] from light in [0, 1]; differentiable, at 0 too."""
    return torch.where(
        light <= 0.0031308, 12.92 * light, 1.055 * light.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    )
