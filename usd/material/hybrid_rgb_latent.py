"""Colors with further channels beside them, for a network that turns rendered features into pictures."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.material import Material
from usd.network.activation import ActivationName, activation


@register("hybrid-rgb-latent-material")
class HybridRgbLatent(Material["HybridRgbLatent.Config"]):
    """The features themselves: three colors in [0, 1], then latent channels as they are (arXiv 2305.20082)."""

    @dataclass(frozen=True)
    class Config:
        n_output_dims: int = option(3, "channels of a point, three of them colors", ge=3, le=64)
        color_activation: ActivationName = option("sigmoid", "activation that brings colors into [0, 1]")
        requires_normal: bool = option(False, "evaluate normals at every sample, for losses that need them")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.n_features = self.n_channels = config.n_output_dims
        self.needs_normal = config.requires_normal
        self._activate = activation(config.color_activation)

    @override
    def color(
        self,
        features: Float[Tensor, "N F"],
        positions: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        normals: Float[Tensor, "N 3"] | None,
    ) -> Float[Tensor, "N C"]:
        """Return colors and latent channels."""
        return torch.cat([self._activate(features[:, :3]), features[:, 3 : self.n_channels]], 1)
