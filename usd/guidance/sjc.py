"""Score Jacobian chaining by perturb and average (arXiv 2212.00774): the mean of denoising errors around the view.

    grad = w(t) (z - D(z + sigma n; sigma)) / sigma,   sigma = sqrt(1 - alphabar) / sqrt(alphabar),

D the picture that the guided prediction eps_s sees. With ``var_red`` that is SDS, w(t) (eps_s - n); without it the
perturbed view stands in the place of z and n stays in, w(t) eps_s: the same on average, and less steady.
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
from usd.math.diffusion import alpha_sigma, x0_from_eps


@register("sjc-guidance")
class SjcGuidance(Guidance["SjcGuidance.Config"]):
    """The denoising error of the perturbed view."""

    @dataclass(frozen=True)
    class Config(PictureOptions):
        """Options of the perturbation."""

        var_red: bool = option(True, "take the noise out of the error again")
        weighting_strategy: Literal["sds", "dreamfusion", "uniform", "fantasia3d", "x0", "flow"] = option(
            "uniform", "w(t): sds 1 - alphabar, uniform 1 (as published), fantasia3d, x0"
        )

    def gradient(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the denoising error, in units of the noise."""
        bars = self.model.alphas_cumprod
        alpha, sigma = alpha_sigma(bars, x.t)
        seen = x0_from_eps(x.xt, scores.guided(self.config.guidance_scale)(x.xt, x.t), bars, x.t)
        start = x.z if self.config.var_red else x.xt / alpha
        return x.weight * (start - seen) * alpha / sigma
