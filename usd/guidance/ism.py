"""Interval score matching (arXiv 2311.11284): what the condition changes between two nearby noise levels.

    grad = w(t) [ eps_s(x_t, condition) - eps(x_s) ],   s = t - interval,

x_s the DDIM inversion of the view under the unconditional prediction, x_t one more step of it.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.guidance import Guidance, NoisyLatents
from usd.guidance.picture_scores import PictureOptions
from usd.guidance.scores import Scores
from usd.math.diffusion import add_noise, x0_from_eps
from usd.math.distill import inverted, score_difference


@register("ism-guidance")
class IsmGuidance(Guidance["IsmGuidance.Config"]):
    """Both predictions lie on one path from the view, so that little of their difference is chance."""

    @dataclass(frozen=True)
    class Config(PictureOptions):
        """Options of the two points."""

        interval: int = option(50, "timesteps between the two levels", ge=1, le=1000)
        inversion_steps: int = option(3, "DDIM steps from the view to x_s", ge=1, le=1000)

    def gradient(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the difference of the guided score at x_t and the unconditional one at x_s."""
        c, bars = self.config, self.model.alphas_cumprod
        s = (x.t - c.interval).clamp_min(0)
        xs = inverted(scores.uncond, x.z, s, c.inversion_steps, bars)
        uncond = scores.uncond(xs, s)
        xt = add_noise(x0_from_eps(xs, uncond, bars, s), uncond, bars, x.t)
        return score_difference(x.weight, scores.guided(c.guidance_scale)(xt, x.t), uncond)
