"""Multilayer perceptrons without biases, as small fields use them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch

from usd.core.config import option

_NONLINEARITIES: dict[str, Callable[[], torch.nn.Module]] = {
    "ReLU": lambda: torch.nn.ReLU(inplace=True),
    "Softplus": torch.nn.Softplus,
    "SiLU": torch.nn.SiLU,
}


@dataclass(frozen=True)
class MLPConfig:
    """``mlp_network_config``."""

    otype: Literal["VanillaMLP"] = option("VanillaMLP", "the kind of network")
    activation: Literal["ReLU", "Softplus", "SiLU"] = option("ReLU", "between layers")
    output_activation: Literal["none"] = option("none", "after the last layer")
    n_neurons: int = option(64, "width of the hidden layers", ge=1)
    n_hidden_layers: int = option(1, "number of hidden layers", ge=0)


def mlp(n_input: int, n_output: int, config: MLPConfig) -> torch.nn.Sequential:
    """``n_hidden_layers`` hidden layers and a linear last one, Kaiming-uniform weights, no biases."""
    widths = [n_input, *[config.n_neurons] * config.n_hidden_layers]
    layers: list[torch.nn.Module] = []
    for before, after in pairwise(widths):
        layers += [torch.nn.Linear(before, after, bias=False), _NONLINEARITIES[config.activation]()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], n_output, bias=False))
