"""Score distillation via inverted noise (arXiv 2405.15891): the noise is the one the model itself would remove.

    grad = w(t) [ eps_s(x_t, condition) - n ],   x_t = alpha z + sigma n,

n found by DDIM inversion of the view z up to t, guided by another scale (negative as published). Random noise makes
every step ask for another picture; inverted noise makes all steps ask for the same one.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.guidance import Guidance, NoisyLatents
from usd.guidance.picture_scores import PictureOptions
from usd.guidance.scores import Scores
from usd.math.diffusion import eps_from_x0
from usd.math.distill import inverted, score_difference


@register("sdi-guidance")
class SdiGuidance(Guidance["SdiGuidance.Config"]):
    """SDS with inverted noise in place of random noise."""

    @dataclass(frozen=True)
    class Config(PictureOptions):
        """Options of the inversion."""

        inversion_scale: float = option(-7.5, "scale of the guidance while inverting", ge=-10000, le=10000)
        inversion_steps: int = option(5, "DDIM steps from the view to x_t", ge=1, le=1000)
        inversion_eta: float = option(0.0, "share of DDIM's own noise that every step adds", ge=0, le=1)

    def gradient(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the difference of the guided score and the inverted noise."""
        c, bars = self.config, self.model.alphas_cumprod
        predict, steps = scores.guided(c.inversion_scale), c.inversion_steps
        xt = inverted(predict, x.z, x.t, steps, bars, c.inversion_eta, x.generator)
        noise = eps_from_x0(xt, x.z, bars, x.t)
        return score_difference(x.weight, scores.guided(c.guidance_scale)(xt, x.t), noise)
