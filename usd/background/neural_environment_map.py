"""An environment map in a small network: direction to color."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.background import AugmentedBackground, BackgroundConfig, require_color
from usd.core.config import option
from usd.core.registry import register
from usd.network.activation import ActivationName, activation
from usd.network.encoding import DirectionEncoding, DirectionEncodingConfig
from usd.network.mlp import MLPConfig, mlp


@register("neural-environment-map-background")
class NeuralEnvironmentMap(AugmentedBackground["NeuralEnvironmentMap.Config"]):
    """color = activation(network(spherical harmonics))."""

    @dataclass(frozen=True)
    class Config(BackgroundConfig):
        color_activation: ActivationName = option("sigmoid", "activation that brings colors into [0, 1]")
        dir_encoding_config: DirectionEncodingConfig = option(
            DirectionEncodingConfig(), "encoding of directions"
        )
        mlp_network_config: MLPConfig = option(
            MLPConfig(n_neurons=16, n_hidden_layers=2), "network that gives colors"
        )
        eval_color: tuple[float, ...] | None = option(
            None, "fixed color when not training, of n_output_dims numbers; null: the map"
        )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        n = config.n_output_dims
        if config.eval_color is not None:
            require_color("eval_color", config.eval_color, n)
        self.encoding = DirectionEncoding(config.dir_encoding_config)
        self.network = mlp(self.encoding.n_output, n, config.mlp_network_config)
        self._activate = activation(config.color_activation)

    @override
    def update(self, step: int, generator: torch.Generator) -> None:
        """Fade octaves of a progressive direction encoding in."""
        self.encoding.update(step)

    def unaugmented(self, directions: Float[Tensor, "R 3"]) -> Float[Tensor, "R C"]:
        """Return the map's colors; outside training the fixed one where it is configured."""
        if not self.training and self.config.eval_color is not None:
            return directions.new_tensor(self.config.eval_color).expand(len(directions), self.n_channels)
        return self._activate(self.network(self.encoding(directions)))
