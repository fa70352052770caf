"""An environment map in a small network: direction to color."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.background import Background, random_color
from usd.core.config import option
from usd.core.registry import register
from usd.network.activation import ActivationName, activation
from usd.network.encoding import DirectionEncodingConfig, spherical_harmonics
from usd.network.mlp import MLPConfig, mlp


@register("neural-environment-map-background")
class NeuralEnvironmentMap(Background["NeuralEnvironmentMap.Config"]):
    """color = activation(network(spherical harmonics)), sometimes replaced by one random color while training.

    The replacement keeps an object from hiding behind a background that learned its color.
    """

    @dataclass(frozen=True)
    class Config:
        n_output_dims: int = option(3, "numbers a color has", choices=(3,))
        color_activation: ActivationName = option("sigmoid", "brings colors into [0, 1]")
        dir_encoding_config: DirectionEncodingConfig = option(
            DirectionEncodingConfig(), "encoding of directions"
        )
        mlp_network_config: MLPConfig = option(MLPConfig(n_neurons=16, n_hidden_layers=2), "the network")
        random_aug: bool = option(False, "while training, sometimes one random color instead")
        random_aug_prob: float = option(0.5, "how often", ge=0, le=1)
        eval_color: tuple[float, float, float] | None = option(
            None, "a fixed color when not training; null: the map", ge=0, le=1
        )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.network = mlp(config.dir_encoding_config.degree**2, 3, config.mlp_network_config)
        self._activate = activation(config.color_activation)

    def color(
        self, directions: Float[Tensor, "R 3"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "R 3"]:
        """Colors in [0, 1]."""
        if not self.training and self.config.eval_color is not None:
            return directions.new_tensor(self.config.eval_color).expand(len(directions), 3)
        augment = self.training and self.config.random_aug
        other = random_color(self.config.random_aug_prob, generator, directions) if augment else None
        if other is not None:
            return other.expand(len(directions), 3)
        return self._activate(
            self.network(spherical_harmonics(directions, self.config.dir_encoding_config.degree))
        )
