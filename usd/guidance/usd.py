"""Unbiased score distillation, image to 3D (arXiv 2312.06198).

    grad = w(t) [ s (eps_phi(x_t, picture, camera) - eps_psi(x_t)) + lambda (eps_psi(x_t) - noise) ]

phi is Zero-1-to-3, psi Stable Diffusion told nothing, lambda = 0. The published code's values are the defaults.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.guidance import Noised
from usd.guidance.rectifiable import RectifiableGuidance
from usd.math.camera import Cameras


@register("usd-guidance")
class UsdGuidance(RectifiableGuidance["UsdGuidance.Config"]):
    """Zero-1-to-3's condition against another model's unconditional prediction."""

    @dataclass(frozen=True)
    class Config(RectifiableGuidance.Config):
        lambda_: float = option(
            0.0, "lambda of the formula; 1 is SDS, less gives richer detail", ge=0, le=10000
        )
        unconditional: Literal["prior", "own"] = option(
            "prior", "eps_ref from the other model (unbiased), or Zero-1-to-3's own (SDS, CSD)"
        )

    def gradient(self, noised: Noised, cameras: Cameras) -> Float[Tensor, "B c h w"]:
        return self.distill(
            noised,
            lambda: self.view_eps(noised, cameras),
            lambda: self.reference_eps(noised),
            self.config.guidance_scale,
            self.config.lambda_,
        )
