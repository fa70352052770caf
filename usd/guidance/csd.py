"""Classifier score distillation (arXiv 2310.19415): the guidance term alone.

grad = w(t) s (eps(x_t, condition) - eps(x_t))
"""

from usd.core.module import preset
from usd.guidance.scores import with_scores
from usd.guidance.text_scores import TextOptions
from usd.guidance.usd import UsdGuidance

CsdGuidance = preset(
    "csd-guidance",
    UsdGuidance,
    "``usd-guidance`` with the unconditional prediction of the same model: what USD is without its second model.",
    unconditional="own",
)
preset("stable-diffusion-csd-guidance", with_scores(TextOptions, UsdGuidance), "CSD from a sentence.")
