"""Delta denoising score (arXiv 2304.07090): the error that the model makes on a pair known to match is taken off.

    grad = w(t) [ eps_s(x_t, condition) - eps_s(y_t, own condition) ],

y the reference picture under the same noise, its own condition its own camera, or a sentence that describes it; eps_s
guided by s. Whatever is predicted for a picture that needs no change is no reason to change another one.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.core.registry import register
from usd.guidance import Guidance, NoisyLatents
from usd.guidance.picture_scores import PictureOptions
from usd.guidance.scores import Scores
from usd.math.diffusion import add_noise
from usd.math.distill import score_difference


@register("dds-guidance")
class DdsGuidance(Guidance["DdsGuidance.Config"]):
    """The difference of two guided scores: of the view, and of the reference picture under its own condition."""

    @dataclass(frozen=True)
    class Config(PictureOptions):
        """No options but those of the scores."""

    def build(self) -> None:
        """Open nothing more. Raises ``UserError`` for a model of view groups: the reference picture is one view."""
        if self.model.group_size > 1:
            raise UserError(
                f"system.guidance: dds compares views with one picture, and '{self.model.name}' denoises its views "
                "together; expected a model of single views"
            )

    def gradient(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the difference of the view's guided score and the reference picture's."""
        scale, own = self.config.guidance_scale, self.source.at_reference(len(x.t))
        yt = add_noise(self.source.reference_latents(x.z), x.noise, self.model.alphas_cumprod, x.t)
        return score_difference(x.weight, scores.guided(scale)(x.xt, x.t), own.guided(scale)(yt, x.t))
