"""Derivatives of a scalar field from its values at the corners of a regular tetrahedron around each point.

With corners c_i of length one, sum c_i c_i^T = 4/3 I, so values f_i at distance e give

    gradient  = 3 / (4 e) sum f_i c_i            laplacian = 6 / e^2 (mean f_i - f)

four values a point instead of the six of central differences; errors are of second and first order in e.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

CORNERS = ((1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0), (1.0, 1.0, 1.0))


def corner_values(
    field: Callable[[Tensor], Tensor], x: Float[Tensor, "N 3"], eps: Float[Tensor, ""]
) -> Float[Tensor, "N 4"]:
    """Return values of ``field`` (N 3 -> N) at distance ``eps`` from each point."""
    around = x[:, None] + eps * _corners(x)
    return field(around.reshape(-1, 3)).view(-1, 4)


def gradient(values: Float[Tensor, "N 4"], eps: Float[Tensor, ""]) -> Float[Tensor, "N 3"]:
    """Return the gradient, from ``corner_values``."""
    return 0.75 / eps * (values @ _corners(values))


def laplacian(
    values: Float[Tensor, "N 4"], middle: Float[Tensor, "N"], eps: Float[Tensor, ""]
) -> Float[Tensor, "N"]:
    """Return the Laplacian, from ``corner_values`` and the values at the points themselves."""
    return 6 / eps**2 * (values.mean(1) - middle)


def _corners(like: Tensor) -> Float[Tensor, "4 3"]:
    return like.new_tensor(CORNERS) / 3**0.5
