"""Colors of a picture laid over a surface: bilinear texture sampling.

Texture coordinates are those of OBJ and OpenGL: u to the right, v up, (0, 0) the bottom left corner of the picture and
(1, 1) its top right one. Texel (i, j) of a picture with h rows, the top one first, has its center at
u = (j + 1/2) / w, v = 1 - (i + 1/2) / h.

A panorama shows all directions: the zenith (+z) is its top row, the middle column looks along -x, and azimuth (from +x
towards +y) grows to the left, so that seen from inside nothing is mirrored.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Wrap = Literal["repeat", "clamp", "panorama"]


def sample_texture(
    texture: Float[Tensor, "h w C"], uv: Float[Tensor, "P 2"], wrap: Wrap = "repeat"
) -> Float[Tensor, "P C"]:
    """Return bilinear colors at texture coordinates; differentiable by texture and coordinates.

    Beyond [0, 1] the picture repeats, or its border goes on; a panorama repeats to the sides only.
    """
    height, width, channels = texture.shape
    # In texels from the first center, which lies half a texel inside.
    x, y = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    left, right = _neighbor_texels(x, width, repeats=wrap != "clamp")
    top, bottom = _neighbor_texels(y, height, repeats=wrap == "repeat")
    # The floor has no gradient; the share has that of the coordinate.
    right_share, bottom_share = (x - x.detach().floor())[:, None], (y - y.detach().floor())[:, None]
    texels = texture.reshape(-1, channels)

    def row(i: Int[Tensor, "P"]) -> Float[Tensor, "P C"]:
        # Written as a + s (b - a): exact where both texels are equal.
        a, b = texels.index_select(0, i * width + left), texels.index_select(0, i * width + right)
        return a + right_share * (b - a)

    upper = row(top)
    return upper + bottom_share * (row(bottom) - upper)


def _neighbor_texels(
    x: Float[Tensor, "P"], n: int, repeats: bool
) -> tuple[Int[Tensor, "P"], Int[Tensor, "P"]]:
    """Return numbers of the two texels whose centers enclose ``x`` (in texels from the first center)."""
    low = x.detach().floor().long()
    if repeats:
        return low % n, (low + 1) % n
    return low.clamp(0, n - 1), (low + 1).clamp(0, n - 1)


def panorama_color(
    panorama: Float[Tensor, "h w C"], directions: Float[Tensor, "N 3"]
) -> Float[Tensor, "N C"]:
    """Return bilinear colors along unit directions."""
    return sample_texture(panorama, panorama_coordinates(directions), "panorama")


def panorama_coordinates(directions: Float[Tensor, "N 3"]) -> Float[Tensor, "N 2"]:
    """Return (u, v) of unit directions in a panorama."""
    x, y, z = directions.unbind(-1)
    # At the poles the azimuth is anything: some number is chosen, with a gradient that is finite.
    level = (x.detach().abs() + y.detach().abs()) < 1e-7
    azimuth = torch.atan2(y, torch.where(level, torch.ones_like(x), x))
    # The slope of asin is infinite at 1.
    elevation = torch.asin(z.clamp(-1 + 1e-6, 1 - 1e-6))
    return torch.stack([0.5 - (azimuth - math.pi) / (2 * math.pi), 0.5 + elevation / math.pi], -1)


def panorama_directions(height: int, width: int, like: Tensor) -> Float[Tensor, "N 3"]:
    """Return unit directions of a panorama's pixels, row by row."""
    down, along = ((torch.arange(n).to(like) + 0.5) / n for n in (height, width))
    # The inverse of panorama_coordinates at the centers of texels.
    elevation, azimuth = (0.5 - down) * math.pi, (1.5 - along) * 2 * math.pi - math.pi
    up, around = torch.meshgrid(elevation, azimuth, indexing="ij")
    parts = (up.cos() * around.cos(), up.cos() * around.sin(), up.sin())
    return torch.stack(parts, -1).view(-1, 3)
