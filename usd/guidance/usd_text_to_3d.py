"""Text to 3D with lambda = 0, as published: grad = (1 - alphabar) 7.5 (eps(x_t, text) - eps(x_t))."""

from usd.core.module import preset
from usd.guidance.stable_diffusion import StableDiffusionGuidance

UsdTextTo3DGuidance = preset(
    "usd-text-to-3D_guidance",
    StableDiffusionGuidance,
    "``stable-diffusion-guidance`` with other defaults: scale 7.5, lambda 0.",
    guidance_scale=7.5,
    lambda_=0.0,
)
