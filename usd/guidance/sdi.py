"""Score distillation via inverted noise (arXiv 2405.15891): the noise is the one the model itself would remove.

    grad = w(t) [ eps_s(x_t, picture, camera) - n ],   x_t = alpha z + sigma n,

n found by DDIM inversion of the view z up to t, guided by another scale (negative as published). Random noise makes
every step ask for another picture; inverted noise makes all steps ask for the same one.
"""

from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.guidance import Noised
from usd.guidance.rectifiable import RectifiableGuidance
from usd.math.camera import Cameras
from usd.math.diffusion import eps_from_x0
from usd.math.distill import inverted, score_difference


@register("sdi-guidance")
class SdiGuidance(RectifiableGuidance["SdiGuidance.Config"]):
    """SDS with inverted noise in place of random noise."""

    @dataclass(frozen=True)
    class Config(RectifiableGuidance.Config):
        inversion_scale: float = option(-7.5, "scale of the guidance while inverting", ge=-10000, le=10000)
        inversion_steps: int = option(5, "DDIM steps from the view to x_t", ge=1, le=1000)

    def gradient(self, noised: Noised, cameras: Cameras) -> Float[Tensor, "B c h w"]:
        told, bars = self.model.embed_view(self.reading, cameras), self.model.alphas_cumprod

        def predicted(xt: Float[Tensor, "B c h w"], t: Int[Tensor, "B"]) -> Float[Tensor, "B c h w"]:
            return self.guided_eps(replace(noised, xt=xt, t=t), told, self.config.inversion_scale)

        xt = inverted(predicted, noised.z, noised.t, self.config.inversion_steps, bars)
        noise = eps_from_x0(xt, noised.z, bars, noised.t)
        guided = self.guided_eps(replace(noised, xt=xt), told, self.config.guidance_scale)
        return score_difference(noised.weight, guided, noise)
