"""Numerics owned in one place: functions whose values and gradients stay finite where the textbook's do not."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx

MAX_EXPONENT = 15.0


if TYPE_CHECKING:

    class _SavedContext(FunctionCtx):
        """The context of a backward pass, with the tensors that the forward pass saved."""

        saved_tensors: tuple[Tensor, ...]

else:  # autograd makes a class of its own
    _SavedContext = FunctionCtx


class _TruncExp(torch.autograd.Function):
    """The exponential, whose gradient does not grow beyond the one at ``MAX_EXPONENT``."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        """Return exp(x)."""
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx: _SavedContext, *grads: Tensor) -> Tensor:
        """Return the gradient, with the exponent cut off."""
        (x,) = ctx.saved_tensors
        return grads[0] * x.clamp(max=MAX_EXPONENT).exp()


def trunc_exp(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return exp(x), whose gradient is computed at min(x, 15), so that one outlier cannot blow up a step.

    Instant-NGP's activation of densities (arXiv 2201.05989).
    """
    return _TruncExp.apply(x)


def logit(p: Float[Tensor, "..."], least: float = 1e-4) -> Float[Tensor, "..."]:
    """Return the inverse of the sigmoid, of shares kept at least ``least`` away from 0 and 1."""
    return torch.logit(p, least)
