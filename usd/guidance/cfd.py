"""Consistent flow distillation (arXiv 2501.05445): noise that stays on the object, at noise levels that fall.

    grad = w(t) [ eps_s(alpha z + sigma n, condition) - n ],   n fixed: every view of a point sees the same noise

With falling t this is the sampling ODE: a view becomes the sample of its noise, which cells of a grid keep.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.core.schedule import Schedule
from usd.guidance import Guidance, NoisyLatents, RenderedView
from usd.guidance.picture_scores import PictureOptions
from usd.guidance.scores import Scores
from usd.math.distill import score_difference
from usd.math.surface_noise import SurfaceNoise


@register("cfd-guidance")
class CfdGuidance(Guidance["CfdGuidance.Config"]):
    """SDS with noise that belongs to the surface, down the noise levels."""

    needs = frozenset({"rgb", "depth"})

    @dataclass(frozen=True)
    class Config(PictureOptions):
        """Options of the noise."""

        t_anneal: bool = option(True, "one noise level a step, which falls from largest to smallest evenly")
        fixed_share: Schedule = option(
            1.0, "share of the noise's amplitude that stays on the surface; the rest is fresh", ge=0, le=1
        )
        noise_cell: float = option(1 / 256, "side in world units of a cell of the noise", gt=0, le=10)
        noise_seed: int = option(0, "seed of the noise on the surface: another one, another object", ge=0)

    def gradient(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the difference of the guided score and the noise."""
        return score_difference(x.weight, scores.guided(self.config.guidance_scale)(x.xt, x.t), x.noise)

    @override
    def noise(
        self,
        z: Float[Tensor, "B c h w"],
        step: int,
        generator: torch.Generator | None,
        view: RenderedView | None,
    ) -> Float[Tensor, "B c h w"]:
        """Return the noise on the surface, and on the screen behind it, with its share of fresh noise."""
        fresh, share = super().noise(z, step, generator, view), self.config.fixed_share(step)
        space = SurfaceNoise.drawn(z, self.config.noise_cell, self.config.noise_seed)
        fixed = space.screen.expand_as(z)
        if view is not None and (depth := view[0].depth) is not None:
            fixed = space.seen(view[1], depth, view[0].opacity, domains=len(z) // len(view[1]))
        return share * fixed + (1 - share**2) ** 0.5 * fresh
