"""Score distillation via inverted noise (arXiv 2405.15891): the noise is the one the model itself would remove.

    grad = w(t) [ eps_s(x_t, condition) - n ],   x_t = alpha z + sigma n,

n found by DDIM inversion of the view z up to t, guided by another scale (negative as published). Random noise makes
every step ask for another picture; inverted noise makes all steps ask for the same one.

As published, steps of the inversion end at fixed levels of the schedule, and the last one goes up to a step beyond t,
to a level drawn at random, whose noise is then that of t.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.guidance import Guidance, NoisyLatents
from usd.guidance.picture_scores import PictureOptions
from usd.guidance.scores import Scores
from usd.math.diffusion import add_noise, eps_from_x0
from usd.math.distill import inverted, score_difference


@register("sdi-guidance")
class SdiGuidance(Guidance["SdiGuidance.Config"]):
    """SDS with inverted noise in place of random noise."""

    @dataclass(frozen=True)
    class Config(PictureOptions):
        """Options of the inversion."""

        inversion_scale: float = option(-7.5, "scale of the guidance while inverting", ge=-10000, le=10000)
        inversion_steps: int = option(5, "DDIM steps from the view to x_t", ge=1, le=1000)
        inversion_spacing: Literal["view", "schedule"] = option(
            "view",
            "inversion_steps cut the way to x_t, or the whole schedule (as published: fewer for a small t)",
        )
        inversion_eta: float = option(0.0, "share of DDIM's own noise that every step adds", ge=0, le=1)

    def gradient(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the difference of the guided score and the inverted noise."""
        xt, noise = self._inverted(x, scores)
        return score_difference(x.weight, scores.guided(self.config.guidance_scale)(xt, x.t), noise)

    def _inverted(self, x: NoisyLatents, scores: Scores) -> tuple[Tensor, Tensor]:
        """Return x_t, and the noise in it that the model itself would remove."""
        c, bars, t, stride = self.config, self.model.alphas_cumprod, x.t, None
        if c.inversion_spacing == "schedule":
            stride = max(1, len(bars) // c.inversion_steps)
            beyond = torch.rand(1, generator=x.generator, device=t.device) * stride
            t = (t + beyond.long()).clamp_max(len(bars) - 1)
        predict = scores.guided(c.inversion_scale)
        found = inverted(predict, x.z, t, c.inversion_steps, bars, c.inversion_eta, x.generator, stride)
        noise = eps_from_x0(found, x.z, bars, t)
        return (found if stride is None else add_noise(x.z, noise, bars, x.t)), noise
