"""Colors that change with the view: a small network of features, direction and, if wanted, normal."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.material import Material
from usd.network.activation import ActivationName, activation
from usd.network.encoding import DirectionEncoding, DirectionEncodingConfig
from usd.network.mlp import MLPConfig, mlp


@register("neural-radiance-material")
class NeuralRadiance(Material["NeuralRadiance.Config"]):
    """color = activation(network(features, harmonics of the direction, normal))."""

    @dataclass(frozen=True)
    class Config:
        input_feature_dims: int = option(8, "features of a point", ge=1, le=4096)
        color_activation: ActivationName = option("sigmoid", "activation that brings colors into [0, 1]")
        dir_encoding_config: DirectionEncodingConfig = option(
            DirectionEncodingConfig(), "encoding of directions"
        )
        mlp_network_config: MLPConfig = option(
            MLPConfig(n_neurons=16, n_hidden_layers=2), "network that gives colors"
        )
        use_normal: bool = option(False, "give the surface's normal to the network, too")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.n_features, self.needs_normal = config.input_feature_dims, config.use_normal
        self.direction_encoding = DirectionEncoding(config.dir_encoding_config)
        width = config.input_feature_dims + self.direction_encoding.n_output + 3 * config.use_normal
        self.network = mlp(width, 3, config.mlp_network_config)
        self._activate = activation(config.color_activation)

    @override
    def update(self, step: int, generator: torch.Generator) -> None:
        """Fade octaves of a progressive direction encoding in."""
        self.direction_encoding.update(step)

    @override
    def color(
        self,
        features: Float[Tensor, "N F"],
        positions: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        normals: Float[Tensor, "N 3"] | None,
    ) -> Float[Tensor, "N 3"]:
        """Return colors in [0, 1]."""
        parts = [features, self.direction_encoding(directions)]
        if self.config.use_normal:
            assert normals is not None
            parts.append(normals)
        return self._activate(self.network(torch.cat(parts, -1)))
