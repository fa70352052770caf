"""Backgrounds: the color a ray meets where the object lets it through."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar

from usd.core.config import ConfigError, option
from usd.core.module import C, Module
from usd.core.types import Behind
from usd.math.rng import on_host

Backdrop = Callable[[Float[Tensor, "R"]], Behind]
"""What R rays meet behind the object, from the share of light that it lets through (R)."""


class Background(Module[C]):
    """Colors of ray directions: three channels as displayed, or those of a latent space."""

    n_channels: int = 3
    is_scene: bool = False
    """Whether it has places: whatever stands outside of the object's cube can be a part of it."""

    @abstractmethod
    def color(
        self, directions: Float[Tensor, "R 3"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "R C"]:
        """Return colors along unit directions. In training mode a generator may bring random augmentation."""

    def behind(
        self,
        origins: Float[Tensor, "R 3"],  # noqa: ARG002 - for overrides
        directions: Float[Tensor, "R 3"],
        generator: torch.Generator | None = None,
    ) -> Backdrop:
        """Return what rays meet; what is random is drawn now. Plain backgrounds look the same from anywhere."""
        seen = Behind(self.color(directions, generator))
        return lambda _: seen


@dataclass(frozen=True)
class BackgroundConfig:
    """Options of a background that a random color may replace."""

    n_output_dims: int = option(3, "numbers of a color: 3 for RGB, 4 for latents", ge=1, le=64)
    random_aug: bool = option(
        False, "while training, sometimes show one random color instead of the background"
    )
    random_aug_prob: float = option(0.5, "probability of the random color of random_aug", ge=0, le=1)


B = TypeVar("B", bound=BackgroundConfig, default=BackgroundConfig, covariant=True)


class AugmentedBackground(Background[B]):
    """A background sometimes replaced by one random color while training.

    The replacement keeps an object from hiding behind a background that learned its color.
    """

    def __init__(self, config: B) -> None:
        super().__init__(config)
        self.n_channels = config.n_output_dims

    @abstractmethod
    def unaugmented(self, directions: Float[Tensor, "R 3"]) -> Float[Tensor, "R C"]:
        """Return the background's own colors along unit directions."""

    def color(
        self, directions: Float[Tensor, "R 3"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "R C"]:
        """Return the background's own colors, or a random one (``random_aug``)."""
        if self.training and self.config.random_aug and generator is not None:
            replacement = random_color(self.config.random_aug_prob, generator, directions, self.n_channels)
            if replacement is not None:
                return replacement.expand(len(directions), self.n_channels)
        return self.unaugmented(directions)


def random_color(
    probability: float, generator: torch.Generator, like: Tensor, n_channels: int = 3
) -> Float[Tensor, "C"] | None:
    """Return with some probability a color uniform in [0, 1]^C, otherwise None.

    The generator gives the same count of numbers either way.
    """
    source = on_host(generator)
    draw = torch.rand(1 + n_channels, generator=source, device=source.device)
    return draw[1:].to(like) if float(draw[0]) < probability else None


def require_color(key: str, color: tuple[float, ...], n_channels: int) -> tuple[float, ...]:
    """Return a configured color of that many channels; three of them lie in [0, 1]. Raises ``ConfigError``."""
    if len(color) != n_channels:
        raise ConfigError(
            f"system.background.{key}: has {len(color)} numbers; expected {n_channels} (n_output_dims)"
        )
    wrong = [value for value in color if n_channels == 3 and not 0 <= value <= 1]
    if wrong:
        raise ConfigError(
            f"system.background.{key}: {wrong[0]:g} is out of range; expected numbers in [0, 1]"
        )
    return color
