"""Backgrounds: the color a ray meets where the object lets it through."""

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.module import C, Module


class Background(Module[C]):
    """Colors of ray directions."""

    @abstractmethod
    def color(
        self, directions: Float[Tensor, "R 3"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "R 3"]:
        """Colors in [0, 1] along unit directions. In training mode a generator may bring random augmentation."""


def random_color(
    probability: float, generator: torch.Generator | None, like: Tensor
) -> Float[Tensor, "3"] | None:
    """With some probability a color uniform in [0, 1]^3, otherwise None. Always draws the same count of numbers."""
    if generator is None:
        return None
    draw = torch.rand(4, generator=generator, device=generator.device).to(like)
    return draw[1:] if float(draw[0]) < probability else None
