"""Numerics owned in one place: functions whose values and gradients stay finite where the textbook's do not.

``TINY`` is what denominators and square roots are kept away from zero by, in units of their own argument.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

TINY = 1e-12
MAX_EXPONENT = 15.0


def safe_exp(x: Float[Tensor, "..."], limit: float = 80.0) -> Float[Tensor, "..."]:
    """exp of x clamped to ``limit``; beyond it the value is constant and the gradient zero."""
    return torch.exp(x.clamp(max=limit))


def safe_sqrt(x: Float[Tensor, "..."], tiny: float = TINY) -> Float[Tensor, "..."]:
    """sqrt(max(x, tiny)): gradient zero, not infinite, below ``tiny``."""
    return torch.sqrt(x.clamp(min=tiny))


def safe_div(a: Float[Tensor, "..."], b: Float[Tensor, "..."], tiny: float = TINY) -> Float[Tensor, "..."]:
    """a / b where |b| > tiny, else 0; no gradient flows through a division that did not happen."""
    ok = b.abs() > tiny
    return torch.where(ok, a / torch.where(ok, b, torch.ones_like(b)), torch.zeros_like(a * b))


def safe_norm(x: Float[Tensor, "... D"], tiny: float = TINY) -> Float[Tensor, "..."]:
    """Length of vectors along the last axis; at the zero vector the length is sqrt(tiny), the gradient zero."""
    return safe_sqrt((x * x).sum(-1), tiny)


def normalize(x: Float[Tensor, "... D"], tiny: float = TINY) -> Float[Tensor, "... D"]:
    """Unit vectors; the zero vector stays zero."""
    return x / safe_norm(x, tiny)[..., None]


class _TruncExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.exp(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * torch.exp(x.clamp(-MAX_EXPONENT, MAX_EXPONENT))


def trunc_exp(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """exp whose gradient uses x clamped to +-15 (Instant-NGP's density activation), so no step explodes."""
    return _TruncExp.apply(x)
