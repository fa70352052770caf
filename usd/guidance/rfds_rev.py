"""RFDS-Rev (arXiv 2406.03293): rectified-flow distillation whose noise is first moved to where the model expects it.

    n' = eps(x_t, condition),   x_t' = alpha z + sigma n',   grad = w(t) [ eps_s(x_t', condition) - n' ]

One step of the inversion n + (1 - s)(v + z - n) of the paper is the model's own prediction without guidance. With
``weighting_strategy: flow`` the gradient is that of the flow's own loss.
"""

from jaxtyping import Float
from torch import Tensor

from usd.core.registry import register
from usd.guidance import Guidance, NoisyLatents
from usd.guidance.picture_scores import PictureOptions
from usd.guidance.scores import Scores
from usd.math.diffusion import add_noise
from usd.math.distill import score_difference


@register("rfds-rev-guidance")
class RfdsRevGuidance(Guidance[PictureOptions]):
    """SDS whose noise is replaced by the model's own conditional prediction of it."""

    Config = PictureOptions

    def gradient(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the difference of the guided score and the predicted noise, at the view with that noise."""
        noise = scores.cond(x.xt, x.t)
        xt = add_noise(x.z, noise, self.model.alphas_cumprod, x.t)
        return score_difference(x.weight, scores.guided(self.config.guidance_scale)(xt, x.t), noise)
