"""SDS from a sentence in the space of pixels, 64 x 64, by DeepFloyd IF's first stage: there is no autoencoder."""

from usd.core.module import preset
from usd.guidance.stable_diffusion import StableDiffusionGuidance

preset(
    "deep-floyd-guidance",
    StableDiffusionGuidance,
    "``stable-diffusion-guidance`` on DeepFloyd IF, whose latents are pixels.",
    pretrained_model_name_or_path="deep-floyd-if",
    guidance_scale=20.0,
)
