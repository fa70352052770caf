"""Activations by the names configurations use."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from usd.math.safe import trunc_exp

ActivationName = Literal[
    "none", "relu", "softplus", "shifted_softplus", "exp", "trunc_exp", "sigmoid", "tanh"
]


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu,
    "softplus": torch.nn.functional.softplus,
    "shifted_softplus": lambda x: torch.nn.functional.softplus(x - 1),
    "exp": torch.exp,
    "trunc_exp": trunc_exp,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def activation(name: ActivationName) -> Callable[[Tensor], Tensor]:
    """Return the function of that name."""
    return _ACTIVATIONS[name]
