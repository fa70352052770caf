"""Losses between renders and whole pictures of the same views."""

from jaxtyping import Float
from torch import Tensor

from usd.core.ranks import mean


def absolute_difference(rgb: Float[Tensor, "B C H W"], truth: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """Return the mean of |difference| over pixels and channels."""
    return mean((rgb - truth).abs())
