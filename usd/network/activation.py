"""Activations by the names configurations use."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

ActivationName = Literal[
    "none", "relu", "softplus", "shifted_softplus", "exp", "trunc_exp", "sigmoid", "tanh"
]


class _TruncatedExp(torch.autograd.Function):
    """exp(x) whose gradient is computed at min(x, 15), so that one outlier cannot blow up a step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x.clamp(max=15).exp()


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu,
    "softplus": torch.nn.functional.softplus,
    "shifted_softplus": lambda x: torch.nn.functional.softplus(x - 1),
    "exp": torch.exp,
    "trunc_exp": _TruncatedExp.apply,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def activation(name: ActivationName) -> Callable[[Tensor], Tensor]:
    """The function of that name."""
    return _ACTIVATIONS[name]
