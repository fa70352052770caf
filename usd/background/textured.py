"""A learned panorama: direction to color through a picture of all directions."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.background import Background, random_color
from usd.core.config import option
from usd.core.registry import register
from usd.kernels.rasterize_texture import panorama_color
from usd.network.activation import ActivationName, activation


@register("textured-background")
class TexturedBackground(Background["TexturedBackground.Config"]):
    """color = activation(texture at the direction), sometimes replaced by one random color while training."""

    @dataclass(frozen=True)
    class Config:
        n_output_dims: int = option(3, "numbers a color has", choices=(3,))
        height: int = option(64, "texels from zenith to nadir", ge=1, le=8192)
        width: int = option(64, "texels around the horizon", ge=1, le=8192)
        color_activation: ActivationName = option("sigmoid", "brings colors into [0, 1]")
        random_aug: bool = option(False, "while training, sometimes one random color instead")
        random_aug_prob: float = option(0.5, "how often", ge=0, le=1)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.texture = torch.nn.Parameter(torch.randn(config.height, config.width, 3))
        self._activate = activation(config.color_activation)

    def color(
        self, directions: Float[Tensor, "R 3"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "R 3"]:
        """Colors in [0, 1]."""
        augment = self.training and self.config.random_aug
        other = random_color(self.config.random_aug_prob, generator, directions) if augment else None
        if other is not None:
            return other.expand(len(directions), 3)
        return self._activate(panorama_color(self.texture, directions))
