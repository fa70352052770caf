"""The features themselves as colors, whatever the view."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.material import Material
from usd.network.activation import ActivationName, activation
from usd.network.mlp import MLPConfig, mlp


@register("no-material")
class NoMaterial(Material["NoMaterial.Config"]):
    """color = activation(features), or of a network of the features where one is configured."""

    @dataclass(frozen=True)
    class Config:
        n_output_dims: int = option(3, "numbers of a color; 0: no colors, all is gray", choices=(0, 3))
        color_activation: ActivationName = option("sigmoid", "activation that brings colors into [0, 1]")
        input_feature_dims: int | None = option(
            None, "features of a point; null: 3, used as they are", ge=1, le=4096
        )
        mlp_network_config: MLPConfig | None = option(None, "network between features and color; null: none")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.n_features = config.input_feature_dims or 3
        network = config.mlp_network_config
        self.network = None if network is None else mlp(self.n_features, 3, network)
        self._activate = activation(config.color_activation)

    def color(
        self,
        features: Float[Tensor, "N F"],
        positions: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        normals: Float[Tensor, "N 3"] | None,
    ) -> Float[Tensor, "N 3"]:
        """Return colors in [0, 1]."""
        if self.config.n_output_dims == 0:
            return features.new_full((len(features), 3), 0.5)
        raw = features if self.network is None else self.network(features)
        return self._activate(raw[:, :3])
