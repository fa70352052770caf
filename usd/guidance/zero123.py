"""Plain score distillation with Zero-1-to-3 and its own unconditional prediction: the baseline.

grad = w(t) [ s (eps_phi(x_t, picture, camera) - eps_phi(x_t)) + (eps_phi(x_t) - noise) ]
"""

from usd.core.module import preset
from usd.guidance.usd import UsdGuidance

Zero123Guidance = preset(
    "zero123-guidance",
    UsdGuidance,
    "``usd-guidance`` with other defaults: lambda 1, and the unconditional prediction of the same model.",
    lambda_=1.0,
    unconditional="own",
)
preset(
    "stable-zero123-guidance",
    Zero123Guidance,
    "``zero123-guidance`` with Stable Zero123, which is told the picture's own elevation.",
    zero123_model_name_or_path="stable-zero123",
)
