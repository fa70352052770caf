"""A learned panorama: direction to color through a picture of all directions."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.background import AugmentedBackground, BackgroundConfig
from usd.core.config import option
from usd.core.registry import register
from usd.kernels.rasterize_texture import panorama_color
from usd.network.activation import ActivationName, activation


@register("textured-background")
class TexturedBackground(AugmentedBackground["TexturedBackground.Config"]):
    """color = activation(texture at the direction)."""

    @dataclass(frozen=True)
    class Config(BackgroundConfig):
        height: int = option(64, "texels from zenith to nadir", ge=1, le=8192)
        width: int = option(64, "texels around the horizon", ge=1, le=8192)
        color_activation: ActivationName = option("sigmoid", "activation that brings colors into [0, 1]")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.texture = torch.nn.Parameter(torch.randn(config.height, config.width, config.n_output_dims))
        self._activate = activation(config.color_activation)

    def unaugmented(self, directions: Float[Tensor, "R 3"]) -> Float[Tensor, "R C"]:
        """Return the panorama's colors."""
        return self._activate(panorama_color(self.texture, directions))
