"""Kolors: Stable Diffusion XL's UNet under ChatGLM's reading of a sentence, Chinese or English."""

from usd.core.registry import register
from usd.denoiser.stable_diffusion_xl import StableDiffusionXlDenoiser


@register("kolors")
class KolorsDenoiser(StableDiffusionXlDenoiser):
    """Kolors. Its tokenizer needs the package ``sentencepiece``."""

    components = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    pipeline = "KolorsPipeline"
