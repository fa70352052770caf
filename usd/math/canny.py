"""Canny's edges (IEEE PAMI 8(6), 1986), in plain torch: the map that a ControlNet for edges follows."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d, pad

LUMA = (0.299, 0.587, 0.114)
# (dy, dx) of the neighbor ahead for gradients at 0, 45, 90 and 135 degrees
AHEAD = ((0, 1), (1, 1), (1, 0), (1, -1))


def canny_edges(
    rgb: Float[Tensor, "B 3 H W"], low: float = 50 / 255, high: float = 100 / 255, blur: int = 5
) -> Float[Tensor, "B 1 H W"]:
    """Return 1 on edges of pictures in [0, 1] and 0 elsewhere.

    An edge is a ridge of the gradient's magnitude (of Sobel's filters, as L1 norm) above ``high``, or above ``low`` and
    connected to such a one. The picture is first averaged over ``blur`` x ``blur`` pixels (odd; 1: not at all).
    """
    luma = rgb.new_tensor(LUMA, dtype=torch.float32)
    # whole numbers from here on, as in 8-bit pictures: a ramp is exactly even, and keeps one pixel of its ridge
    gray = torch.einsum("bchw,c->bhw", rgb.float() * 255, luma).round()[:, None]
    # the mean over a window keeps single noisy pixels from becoming edges
    gray = avg_pool2d(pad(gray, [blur // 2] * 4, mode="reflect"), blur, 1).round()
    dx, dy = sobel(gray)
    magnitude = dx.abs() + dy.abs()
    ridge = _thin(magnitude, dx, dy)
    strong, weak = ridge >= max(high * 255, 1), ridge >= max(low * 255, 1)
    # hysteresis: strong edges grow along weak ones until nothing changes
    while True:
        grown = (max_pool2d(strong.float(), 3, 1, 1) > 0) & weak
        if torch.equal(grown, strong):
            return strong.float()
        strong = grown


def sobel(gray: Float[Tensor, "B 1 H W"]) -> tuple[Float[Tensor, "B 1 H W"], Float[Tensor, "B 1 H W"]]:
    """Return the horizontal and vertical differences of Sobel's 3 x 3 filters, borders repeated."""
    kernel = gray.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    padded = pad(gray, (1, 1, 1, 1), mode="replicate")
    return conv2d(padded, kernel[None, None]), conv2d(padded, kernel.T[None, None])


def _thin(magnitude: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Return the magnitude where it is largest across the edge, zero elsewhere."""
    # the gradient's direction in steps of 45 degrees; an edge and its reverse are one
    sector = torch.round(torch.atan2(dy, dx) / (math.pi / 4)).long().remainder(4)
    height, width = magnitude.shape[-2:]
    padded = pad(magnitude, (1, 1, 1, 1))

    def neighbor(down: int, right: int) -> Tensor:
        return padded[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    kept = torch.zeros_like(magnitude)
    for number, (down, right) in enumerate(AHEAD):
        # strictly larger on one side only, so that a ridge two pixels wide keeps one
        largest = (magnitude > neighbor(down, right)) & (magnitude >= neighbor(-down, -right))
        kept = torch.where((sector == number) & largest, magnitude, kept)
    return kept
