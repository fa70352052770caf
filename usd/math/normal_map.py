"""Normals as pictures: the one convention of everything that shows normals to a network or to people."""

from jaxtyping import Float
from torch import Tensor


def normal_colors(
    normal: Float[Tensor, "B 3 H W"], opacity: Float[Tensor, "B 1 H W"], behind: float | int
) -> Float[Tensor, "B 3 H W"]:
    """Return world normals (x, y, z) as colors (n + 1) / 2, over a background of the gray level ``behind`` in [0, 1].

    Where nothing is seen the normal does not matter; where it is not of unit length its color is nearer to gray.
    """
    return (normal * 0.5 + 0.5) * opacity + behind * (1 - opacity)
