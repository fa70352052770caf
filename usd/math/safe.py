"""Numerics owned in one place: functions whose values and gradients stay finite where the textbook's do not."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx

TINY = 1e-12
MAX_EXPONENT = 15.0


def safe_div(a: Float[Tensor, "..."], b: Float[Tensor, "..."], tiny: float = TINY) -> Float[Tensor, "..."]:
    """Return a / b where |b| > tiny, else 0; no gradient flows through a division that did not happen."""
    ok = b.abs() > tiny
    return torch.where(ok, a / torch.where(ok, b, torch.ones_like(b)), torch.zeros_like(a * b))


class _TruncExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]  # torch types it on a subclass
        return grads[0] * x.clamp(max=MAX_EXPONENT).exp()


def trunc_exp(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return exp(x), whose gradient is computed at min(x, 15), so that one outlier cannot blow up a step.

    Instant-NGP's activation of densities (arXiv 2201.05989).
    """
    return _TruncExp.apply(x)
