"""Multilayer perceptrons without biases, as small fields use them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.kernels.mlp import mlp as fused_mlp

_NONLINEARITIES: dict[str, Callable[[], torch.nn.Module]] = {
    "ReLU": lambda: torch.nn.ReLU(inplace=True),
    "Softplus": torch.nn.Softplus,
    "SiLU": torch.nn.SiLU,
}


@dataclass(frozen=True)
class MLPConfig:
    """``mlp_network_config``."""

    otype: Literal["VanillaMLP", "FullyFusedMLP"] = option(
        "VanillaMLP",
        "FullyFusedMLP: by tinycudann in half precision where the option kernels names it, else the same",
    )
    activation: Literal["ReLU", "Softplus", "SiLU"] = option("ReLU", "activation between layers")
    output_activation: Literal["none"] = option("none", "activation after the last layer")
    n_neurons: int = option(64, "width of the hidden layers", ge=1, le=65536)
    n_hidden_layers: int = option(1, "number of hidden layers", ge=0, le=64)


class FusedMLP(torch.nn.Sequential):
    """The same weights under the same names, computed by ``usd.kernels.mlp``. First derivatives only, where fused."""

    def forward(self, x: Float[Tensor, "N i"]) -> Float[Tensor, "N o"]:
        """Apply all layers at once."""
        return fused_mlp(x, [layer.weight for layer in self if isinstance(layer, torch.nn.Linear)])


def mlp(n_input: int, n_output: int, config: MLPConfig) -> torch.nn.Sequential:
    """Build ``n_hidden_layers`` hidden layers and a linear last one, Kaiming-uniform weights, no biases."""
    widths = [n_input, *[config.n_neurons] * config.n_hidden_layers]
    layers: list[torch.nn.Module] = []
    for before, after in pairwise(widths):
        layers += [torch.nn.Linear(before, after, bias=False), _NONLINEARITIES[config.activation]()]
    layers.append(torch.nn.Linear(widths[-1], n_output, bias=False))
    fused = config.otype == "FullyFusedMLP" and config.activation == "ReLU"
    return FusedMLP(*layers) if fused else torch.nn.Sequential(*layers)
