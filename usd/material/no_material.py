"""The features themselves as colors, whatever the view."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.config import ConfigError, option
from usd.core.registry import register
from usd.material import Material
from usd.material.sd_latent_adapter import N_LATENTS, Autoencoder, rgb_from_latents
from usd.network.activation import ActivationName, activation
from usd.network.mlp import MLPConfig, mlp


@register("no-material")
class NoMaterial(Material["NoMaterial.Config"]):
    """color = activation(features), or of a network of the features where one is configured."""

    @dataclass(frozen=True)
    class Config:
        n_output_dims: int = option(
            3, "numbers of a color: 3 RGB, 4 latents; 0: no colors, all is gray", choices=(0, 3, 4)
        )
        color_activation: ActivationName = option("sigmoid", "activation that brings colors into [0, 1]")
        input_feature_dims: int | None = option(
            None, "features of a point; null: as many as a color has numbers", ge=1, le=4096
        )
        mlp_network_config: MLPConfig | None = option(None, "network between features and color; null: none")

        latent_autoencoder: Autoencoder = option(
            "stable-diffusion", "autoencoder of four-channel latents, for pictures and export"
        )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.n_channels = config.n_output_dims or 3
        self.n_features = config.input_feature_dims or self.n_channels
        if self.n_features < self.n_channels and config.mlp_network_config is None:
            raise ConfigError(
                f"system.material.input_feature_dims: is {self.n_features}; expected at least n_output_dims,"
                f" {self.n_channels}, or a mlp_network_config"
            )
        network = config.mlp_network_config
        self.network = None if network is None else mlp(self.n_features, self.n_channels, network)
        self._activate = activation(config.color_activation)

    @override
    def color(
        self,
        features: Float[Tensor, "N F"],
        positions: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        normals: Float[Tensor, "N 3"] | None,
    ) -> Float[Tensor, "N C"]:
        """Return colors in [0, 1], or latents."""
        if self.config.n_output_dims == 0:
            return features.new_full((len(features), 3), 0.5)
        raw = features if self.network is None else self.network(features)
        return self._activate(raw[:, : self.n_channels])

    def displayed(self, colors: Float[Tensor, "N C"]) -> Float[Tensor, "N 3"]:
        """Return display colors: rough ones of four latents, else the first three channels."""
        if self.n_channels != N_LATENTS:
            return super().displayed(colors)
        return rgb_from_latents(colors, self.config.latent_autoencoder)
