"""Score distillation from a sentence (SDS, arXiv 2209.14988).

grad = w(t) [ s (eps(x_t, text) - eps(x_t)) + lambda (eps(x_t) - noise) ],   lambda = 1: SDS, 0: CSD and USD for text

With Perp-Neg (``use_perp_neg`` of the prompts) eps(x_t, text) is what ``usd.math.distill.perp_neg`` says.
"""

from usd.core.module import preset
from usd.guidance.scores import with_scores
from usd.guidance.text_scores import TextOptions
from usd.guidance.usd import UsdGuidance

StableDiffusionGuidance = preset(
    "stable-diffusion-guidance",
    with_scores(TextOptions, UsdGuidance),
    "A text model's condition against its own unconditional prediction (or a negative prompt's): SDS.",
    guidance_scale=100.0,
    lambda_=1.0,
)
