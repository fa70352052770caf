"""Colours of a picture laid over a surface: bilinear texture sampling.

Texture coordinates are those of OBJ and OpenGL: u to the right, v up, (0, 0) the bottom left corner of the picture and
(1, 1) its top right one. Texel (i, j) of a picture with h rows, the top one first, has its centre at
u = (j + 1/2) / w, v = 1 - (i + 1/2) / h.
"""

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

Wrap = Literal["repeat", "clamp"]


def sample_texture(
    texture: Float[Tensor, "h w C"], uv: Float[Tensor, "P 2"], wrap: Wrap = "repeat"
) -> Float[Tensor, "P C"]:
    """Bilinear colours at texture coordinates; differentiable by texture and coordinates.

    Beyond [0, 1] the picture repeats, or its border goes on.
    """
    height, width, channels = texture.shape
    x, y = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    (left, right), (top, bottom) = _neighbours(x, width, wrap), _neighbours(y, height, wrap)
    right_share, bottom_share = (x - x.detach().floor())[:, None], (y - y.detach().floor())[:, None]
    texels = texture.reshape(-1, channels)

    def row(i: Int[Tensor, "P"]) -> Float[Tensor, "P C"]:
        a, b = texels.index_select(0, i * width + left), texels.index_select(0, i * width + right)
        return a + right_share * (b - a)

    upper = row(top)
    return upper + bottom_share * (row(bottom) - upper)


def _neighbours(x: Float[Tensor, "P"], n: int, wrap: Wrap) -> tuple[Int[Tensor, "P"], Int[Tensor, "P"]]:
    """Numbers of the two texels whose centres enclose ``x`` (in texels from the first centre)."""
    low = x.detach().floor().long()
    if wrap == "repeat":
        return low % n, (low + 1) % n
    return low.clamp(0, n - 1), (low + 1).clamp(0, n - 1)
