"""Classifier score distillation (arXiv 2310.19415): the guidance term alone.

grad = w(t) s (eps(x_t, picture, camera) - eps(x_t))
"""

from dataclasses import dataclass
from typing import Literal

from usd.core.config import option
from usd.core.registry import register
from usd.guidance.usd import UsdGuidance


@register("csd-guidance")
class CsdGuidance(UsdGuidance):
    """``usd-guidance`` with the unconditional prediction of the same model: what USD is without its second model."""

    @dataclass(frozen=True)
    class Config(UsdGuidance.Config):
        unconditional: Literal["prior", "own"] = option(
            "own", "eps_ref from the same model, or from the other one"
        )
