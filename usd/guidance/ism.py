"""Interval score matching (arXiv 2311.11284): what the condition changes between two nearby noise levels.

    grad = w(t) [ eps_s(x_t, picture, camera) - eps(x_s) ],   s = t - interval,

x_s the DDIM inversion of the view under the unconditional prediction, x_t one more step of it.
"""

from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.guidance import Noised
from usd.guidance.rectifiable import RectifiableGuidance
from usd.math.camera import Cameras
from usd.math.diffusion import add_noise, x0_from_eps
from usd.math.distill import inverted, score_difference


@register("ism-guidance")
class IsmGuidance(RectifiableGuidance["IsmGuidance.Config"]):
    """Both predictions lie on one path from the view, so that little of their difference is chance."""

    @dataclass(frozen=True)
    class Config(RectifiableGuidance.Config):
        interval: int = option(50, "timesteps between the two levels", ge=1, le=1000)
        inversion_steps: int = option(3, "DDIM steps from the view to x_s", ge=1, le=1000)

    def gradient(self, noised: Noised, cameras: Cameras) -> Float[Tensor, "B c h w"]:
        told, bars = self.model.embed_view(self.reading, cameras), self.model.alphas_cumprod
        before = (noised.t - self.config.interval).clamp_min(0)

        def untold(xt: Float[Tensor, "B c h w"], t: Int[Tensor, "B"]) -> Float[Tensor, "B c h w"]:
            return self.reference_eps(replace(noised, xt=xt, t=t))

        xs = inverted(untold, noised.z, before, self.config.inversion_steps, bars)
        plain = untold(xs, before)
        xt = add_noise(x0_from_eps(xs, plain, bars, before), plain, bars, noised.t)
        guided = self.guided_eps(replace(noised, xt=xt), told, self.config.guidance_scale)
        return score_difference(noised.weight, guided, plain)
