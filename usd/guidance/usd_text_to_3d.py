"""Text to 3D with lambda = 0, as published: grad = (1 - alphabar) 7.5 (eps(x_t, text) - eps(x_t))."""

from dataclasses import dataclass

from usd.core.config import option
from usd.core.registry import register
from usd.guidance.stable_diffusion import StableDiffusionGuidance


@register("usd-text-to-3D_guidance")
class UsdTextTo3DGuidance(StableDiffusionGuidance):
    """``stable-diffusion-guidance`` with other defaults: scale 7.5, lambda 0."""

    @dataclass(frozen=True)
    class Config(StableDiffusionGuidance.Config):
        guidance_scale: float = option(7.5, "s of the formula", ge=0, le=10000)
        lambda_: float = option(0.0, "lambda of the formula", ge=0, le=10000)
