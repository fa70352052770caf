"""Real spherical harmonics up to degree 3: colors that change with the direction they are seen from.

Ordered and signed as files of Gaussian splats have them: K = (degree + 1)^2 functions, those of each degree from
m = -degree to degree, with the Condon-Shortley phase.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

CONSTANT = math.sqrt(1 / (4 * math.pi))
"""The first function, the same in every direction."""
_LINEAR = math.sqrt(3 / (4 * math.pi))
_DEGREE_2 = tuple(math.sqrt(f / math.pi) for f in (15 / 4, 5 / 16, 15 / 16))
_DEGREE_3 = tuple(math.sqrt(f / math.pi) for f in (35 / 32, 105 / 4, 21 / 32, 7 / 16, 105 / 16))


def harmonics(directions: Float[Tensor, "*n 3"], degree: int) -> Float[Tensor, "*n K"]:
    """Return the functions at unit vectors."""
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, CONSTANT)]
    if degree > 0:
        values += [-_LINEAR * y, _LINEAR * z, -_LINEAR * x]
    if degree > 1:
        xx, yy, zz = x * x, y * y, z * z
        a, b, c = _DEGREE_2
        values += [a * x * y, -a * y * z, b * (2 * zz - xx - yy), -a * x * z, c * (xx - yy)]
    if degree > 2:
        values += _third_degree(x, y, z)
    return torch.stack(values, -1)


def _third_degree(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    """Return the seven functions of degree 3."""
    xx, yy, zz = x * x, y * y, z * z
    a, b, c, d, e = _DEGREE_3
    return [
        -a * y * (3 * xx - yy),
        b * x * y * z,
        -c * y * (4 * zz - xx - yy),
        d * z * (2 * zz - 3 * xx - 3 * yy),
        -c * x * (4 * zz - xx - yy),
        e * z * (xx - yy),
        -a * x * (xx - 3 * yy),
    ]


def colors_of_harmonics(
    coefficients: Float[Tensor, "*n K C"], directions: Float[Tensor, "*n 3"]
) -> Float[Tensor, "*n C"]:
    """Return colors seen along unit directions: one half plus the sum of the functions, not below 0."""
    degree = math.isqrt(coefficients.shape[-2]) - 1
    if degree == 0:
        colors = (CONSTANT * coefficients[..., 0, :]).expand(*directions.shape[:-1], -1)
    else:
        colors = torch.einsum("...k,...kc->...c", harmonics(directions, degree), coefficients)
    return (colors + 0.5).clamp_min(0)


def turned_harmonics(
    coefficients: Float[Tensor, "N K C"], rotation: Float[Tensor, "3 3"]
) -> Float[Tensor, "N K C"]:
    """Return the coefficients of the same colors after everything is turned."""
    degree = math.isqrt(coefficients.shape[1]) - 1
    if degree == 0:
        return coefficients
    # The functions of a degree turn among themselves: how, follows from their values in enough directions.
    angle = torch.arange(64, dtype=torch.float64) + 0.5
    z, turn = 1 - angle / 32, angle * (math.pi * (3 - math.sqrt(5)))
    flat = (1 - z * z).sqrt()
    directions = torch.stack([flat * turn.cos(), flat * turn.sin(), z], -1)
    before, after = harmonics(directions @ rotation.cpu().double(), degree), harmonics(directions, degree)
    change = torch.linalg.lstsq(after, before).solution.to(coefficients)
    return torch.einsum("jk,nkc->njc", change, coefficients)
