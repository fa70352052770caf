"""Multilayer perceptrons as small fields use them: without biases, but where one starts as a sphere."""

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
    weight_norm: bool = option(False, "train length and direction of each neuron's weights apart")
    sphere_init: bool = option(
        False,
        "start the signed distance as that to a sphere, by its network's weights (geometric initialization); needs "
        "pos_encoding_config.include_xyz",
    )
    sphere_init_radius: float = option(
        0.5, "radius of the sphere of sphere_init, of half the cube's side", gt=0, le=10
    )


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
        layers += [_linear(before, after, config), _NONLINEARITIES[config.activation]()]
    layers.append(_linear(widths[-1], n_output, config))
    fused = config.otype == "FullyFusedMLP" and config.activation == "ReLU" and not config.weight_norm
    return FusedMLP(*layers) if fused else torch.nn.Sequential(*layers)


def _linear(n_input: int, n_output: int, config: MLPConfig) -> torch.nn.Module:
    return _normed(torch.nn.Linear(n_input, n_output, bias=False), config)


def _normed(layer: torch.nn.Linear, config: MLPConfig) -> torch.nn.Module:
    """Return a layer whose weights are a direction and a length for each neuron, where that is configured."""
    return torch.nn.utils.parametrizations.weight_norm(layer) if config.weight_norm else layer


def sphere_mlp(n_input: int, config: MLPConfig) -> torch.nn.Sequential:
    """Build a network whose one output begins as |x| - ``sphere_init_radius`` of its first three inputs, about.

    Geometric initialization (SAL, arXiv 1911.10414; IDR, arXiv 2003.09852): the lengths of random projections of a
    point are, on average, proportional to its distance from the origin. Other inputs begin without influence.
    """
    widths = [n_input, *[config.n_neurons] * max(1, config.n_hidden_layers)]
    layers: list[torch.nn.Module] = []
    for before, after in pairwise(widths):
        layer = torch.nn.Linear(before, after)
        torch.nn.init.normal_(layer.weight, 0.0, (2 / after) ** 0.5)
        torch.nn.init.zeros_(layer.bias)
        if not layers:
            torch.nn.init.zeros_(layer.weight[:, 3:])
        layers += [_normed(layer, config), torch.nn.Softplus(beta=100)]
    last = torch.nn.Linear(widths[-1], 1)
    torch.nn.init.normal_(last.weight, (torch.pi / widths[-1]) ** 0.5, 1e-4)
    torch.nn.init.constant_(last.bias, -config.sphere_init_radius)
    return torch.nn.Sequential(*layers, _normed(last, config))
