"""One color everywhere."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.background import Background, random_color
from usd.core.config import option
from usd.core.registry import register


@register("solid-color-background")
class SolidColor(Background["SolidColor.Config"]):
    """A fixed or learned color, replaced by a random one now and then while training if asked for."""

    @dataclass(frozen=True)
    class Config:
        n_output_dims: int = option(3, "numbers a color has", choices=(3,))
        color: tuple[float, float, float] = option((1.0, 1.0, 1.0), "the color", ge=0, le=1)
        learned: bool = option(False, "the color is trained")
        random_aug: bool = option(False, "while training, sometimes a random color instead")
        random_aug_prob: float = option(0.5, "how often", ge=0, le=1)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.value = torch.nn.Parameter(torch.tensor(config.color), requires_grad=config.learned)

    def color(
        self, directions: Float[Tensor, "R 3"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "R 3"]:
        """The color, for every ray."""
        augment = self.training and self.config.random_aug
        other = random_color(self.config.random_aug_prob, generator, self.value) if augment else None
        return (self.value.clamp(0, 1) if other is None else other).expand(len(directions), 3)
