"""Losses on the depth picture."""

import torch
from torch import Tensor

from usd.core.errors import UserError
from usd.core.types import Render
from usd.losses import loss

LEAST = 1e-3  # differences of depth below this are continued linearly


@loss("depth", "opacity", center_ratio=0.78125)
def center_depth(render: Render, center_ratio: float) -> Tensor:
    """Penalize objects away from the picture's middle: -log(depth inside the middle - depth outside).

    Score Jacobian Chaining, arXiv 2212.00774. The depth is that of the composite, zero where nothing is; the middle is
    a box of ``center_ratio`` of each side. Below a difference of 0.001 the logarithm goes on as its tangent.
    """
    if render.depth is None:
        raise UserError("system.loss.lambda_center_depth: needs a renderer that gives a depth")
    depth = render.depth * render.opacity
    inside = _middle(depth, center_ratio)
    n = inside.sum() * len(depth)
    difference = (depth * inside).sum() / n - (depth * ~inside).sum() / (depth.numel() - n).clamp_min(1)
    logarithm = -difference.clamp_min(LEAST).log()
    return logarithm + (LEAST - difference).relu() / LEAST


def _middle(picture: Tensor, ratio: float) -> Tensor:
    """Return which pixels (H W) lie in the middle box."""
    boxes = []
    for side in picture.shape[2:]:
        border = round(side * (1 - ratio) / 2)
        index = torch.arange(side, device=picture.device)
        boxes.append((index >= border) & (index < side - border))
    return boxes[0][:, None] & boxes[1]
