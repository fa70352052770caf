"""One color everywhere."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.background import AugmentedBackground, BackgroundConfig, require_color
from usd.core.config import option
from usd.core.registry import register

WHITE = (1.0, 1.0, 1.0)


@register("solid-color-background")
class SolidColor(AugmentedBackground["SolidColor.Config"]):
    """A fixed or learned color; of three channels it stays in [0, 1], latents may be any numbers."""

    @dataclass(frozen=True)
    class Config(BackgroundConfig):
        color: tuple[float, ...] = option(WHITE, "color everywhere, a number for each of n_output_dims")
        learned: bool = option(False, "train the color")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        n, color = config.n_output_dims, config.color
        # White is the default of every number of channels.
        color = (1.0,) * n if color == WHITE else require_color("color", color, n)
        self.value = torch.nn.Parameter(torch.tensor(color), requires_grad=config.learned)

    def unaugmented(self, directions: Float[Tensor, "R 3"]) -> Float[Tensor, "R C"]:
        """Return the color, for every ray."""
        color = self.value.clamp(0, 1) if self.n_channels == 3 else self.value
        return color.expand(len(directions), self.n_channels)
