"""Activations by the names configurations use."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from usd.math.color import srgb_from_linear
from usd.math.safe import trunc_exp

ActivationName = Literal[
    "none",
    "relu",
    "softplus",
    "shifted_softplus",
    "exp",
    "shifted_exp",
    "trunc_exp",
    "shifted_trunc_exp",
    "sigmoid",
    "tanh",
    "scale_-11_01",
    "lin2srgb",
]


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu,
    "softplus": torch.nn.functional.softplus,
    "shifted_softplus": lambda x: torch.nn.functional.softplus(x - 1),
    "exp": torch.exp,
    "shifted_exp": lambda x: torch.exp(x - 1),
    "trunc_exp": trunc_exp,
    "shifted_trunc_exp": lambda x: trunc_exp(x - 1),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "scale_-11_01": lambda x: 0.5 * x + 0.5,  # from [-1, 1], not clamped
    "lin2srgb": lambda x: srgb_from_linear(x.clamp(0, 1)),
}


def activation(name: ActivationName) -> Callable[[Tensor], Tensor]:
    """Return the function of that name."""
    return _ACTIVATIONS[name]
