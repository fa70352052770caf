"""Points to train on in milliseconds, for tests of the machinery around."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import ConfigError, option
from usd.core.registry import register
from usd.data import Data, Split


@dataclass(frozen=True)
class Points:
    """A batch of points."""

    x: Float[Tensor, "B 3"]

    def to(self, device: "torch.device | str") -> "Points":
        return Points(self.x.to(device))


@register("tiny-data")
class TinyData(Data):
    @dataclass(frozen=True)
    class Config(Data.Config):
        batch_size: int = option(4, "points per step", ge=1, le=10**18)

    config: Config

    def refuse_uneven(self, processes: int) -> None:
        if self.config.batch_size % processes:
            raise ConfigError(f"data.batch_size: {self.config.batch_size} is no multiple of {processes}")

    def batch(self, step: int, generator: torch.Generator) -> Points:
        return Points(torch.randn(self.config.batch_size, 3, generator=generator))

    def eval_batches(self, split: Split) -> list[Points]:
        return [Points(torch.full((1, 3), float(index))) for index in range(2)]
