"""Analytic scenes for renderer tests: densities and colors in closed form, with one parameter each to train."""

import torch
from jaxtyping import Float
from torch import Tensor

from usd.background.solid_color import SolidColor
from usd.core.config import parse
from usd.core.types import Field
from usd.geometry import Volumetric
from usd.material.no_material import NoMaterial

RADIUS = 0.4


class Ball(Volumetric):
    """A ball of constant density around the origin; its features are its position."""

    def __init__(self, density: float) -> None:
        super().__init__(parse(Volumetric.Config, {"radius": 0.6}))
        self.n_features = 3
        self.sigma = torch.nn.Parameter(torch.tensor(density))
        self.tint = torch.nn.Parameter(torch.tensor([1.0, 0.0, -1.0]))

    def density(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        return self.sigma * (x.norm(dim=-1) < RADIUS)

    def query(self, x: Float[Tensor, "N 3"], needs: frozenset[str]) -> Field:
        normal = torch.nn.functional.normalize(x, dim=-1) if "normal" in needs else None
        return Field(self.density(x), 4 * x + self.tint, normal)


def material() -> NoMaterial:
    return NoMaterial(parse(NoMaterial.Config, {}))


def background(**options: object) -> SolidColor:
    return SolidColor(parse(SolidColor.Config, options))
