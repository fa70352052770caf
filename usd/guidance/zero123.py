"""Plain score distillation with Zero-1-to-3 and its own unconditional prediction: the baseline.

grad = w(t) [ s (eps_phi(x_t, picture, camera) - eps_phi(x_t)) + (eps_phi(x_t) - noise) ]
"""

from dataclasses import dataclass
from typing import Literal

from usd.core.config import option
from usd.core.registry import register
from usd.guidance.usd import UsdGuidance


@register("zero123-guidance")
class Zero123Guidance(UsdGuidance):
    """``usd-guidance`` with other defaults: lambda 1, and the unconditional prediction of the same model."""

    @dataclass(frozen=True)
    class Config(UsdGuidance.Config):
        lambda_: float = option(1.0, "lambda of the formula; 1 is SDS", ge=0, le=10000)
        unconditional: Literal["prior", "own"] = option(
            "own", "eps_ref from the same model, or from the other one"
        )
