"""Unbiased score distillation, image to 3D (arXiv 2312.06198), and with other values SDS and CSD.

    grad = w(t) [ s (eps_phi(x_t, picture, camera) - eps_psi(x_t)) + lambda (eps_psi(x_t) - noise) ]

phi is Zero-1-to-3, psi Stable Diffusion without a prompt, lambda = 0. The published code's values are the defaults.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.guidance import Guidance, NoisyLatents
from usd.guidance.picture_scores import PictureOptions
from usd.guidance.scores import Scores
from usd.math.distill import distillation_gradient, predictions_needed


@register("usd-guidance")
class UsdGuidance(Guidance["UsdGuidance.Config"]):
    """A condition against an unconditional prediction, by default that of another model."""

    @dataclass(frozen=True)
    class Config(PictureOptions):
        """Options of the formula; its scale is ``guidance_scale``."""

        lambda_: float = option(
            0.0, "lambda of the formula; 1 is SDS, less gives richer detail", ge=0, le=10000
        )
        unconditional: Literal["prior", "own", "mixed"] = option(
            "prior",
            "eps_psi: the text model's (unbiased), the picture model's own (SDS, CSD), or mixed, of both",
        )

    def gradient(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the formula above; only the predictions that it needs are computed."""
        scale, lambda_ = self.config.guidance_scale, self.config.lambda_
        needed = predictions_needed(scale, lambda_)
        cond = scores.cond(x.xt, x.t) if "cond" in needed else None
        uncond = scores.uncond(x.xt, x.t) if "ref" in needed else None
        return distillation_gradient(x.weight, x.noise, cond, uncond, scale, lambda_)
