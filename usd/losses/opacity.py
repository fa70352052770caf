"""Losses on the opacity picture: few covered pixels, and none half transparent."""

import torch
from torch import Tensor

from usd.core.ranks import mean
from usd.core.types import Render
from usd.losses import loss


@loss("opacity")
def sparsity(render: Render) -> Tensor:
    """Penalize covered pixels: mean of sqrt(o^2 + 0.01), which is 0.1 for an empty picture."""
    return mean((render.opacity.square() + 0.01).sqrt())


@loss("opacity")
def opaque(render: Render) -> Tensor:
    """Penalize half-transparent pixels: the binary entropy of the opacity, clamped to [0.001, 0.999].

    At most ln 2, reached at opacity 1/2.
    """
    o = render.opacity.clamp(1e-3, 1 - 1e-3)
    return mean(-(o * o.log() + (1 - o) * torch.log1p(-o)))
