"""Two colors, above and below: the example of a drop-in component."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.background import Background
from usd.core.config import option
from usd.core.registry import register


@register("sky-background")
class Sky(Background["Sky.Config"]):
    """``zenith`` straight up, ``nadir`` straight down, mixed by the sine of the elevation between them."""

    @dataclass(frozen=True)
    class Config:
        zenith: tuple[float, float, float] = option((0.6, 0.8, 1.0), "color straight up", ge=0, le=1)
        nadir: tuple[float, float, float] = option((1.0, 1.0, 1.0), "color straight down", ge=0, le=1)

    @override
    def color(
        self, directions: Float[Tensor, "R 3"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "R 3"]:
        """Colors of unit directions; world up is +z."""
        zenith, nadir = directions.new_tensor(self.config.zenith), directions.new_tensor(self.config.nadir)
        up = 0.5 + 0.5 * directions[:, 2:]
        return up * zenith + (1 - up) * nadir
