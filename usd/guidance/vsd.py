"""Variational score distillation (arXiv 2305.16213): the view is compared with a model of what is rendered now.

    grad = w(t) [ eps_s(x_t, condition) - eps_lora(x_t, condition, camera) ]

eps_lora starts as a diffusion model and learns, a step with every call, to remove noise from the rendered views: the
pull ends where the renders *are distributed* as the model wants them, not where each is the likeliest picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.guidance import Guidance, NoisyLatents
from usd.guidance.picture_scores import PictureOptions
from usd.guidance.render_model import LoraOptions, RenderModel
from usd.guidance.scores import Scores
from usd.math.distill import score_difference


@register("vsd-guidance")
class VsdGuidance(Guidance["VsdGuidance.Config"]):
    """SDS with the prediction of a model that learns the renders in place of the noise."""

    learns: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config(LoraOptions, PictureOptions):
        """Options of the formula, and of the model that learns."""

        guidance_type: Literal["vsd", "sds"] = option("vsd", "vsd, or sds: compare with the noise itself")

    def build(self) -> None:
        """Open the model that the LoRA changes, where it is another one."""
        self.renders = RenderModel(self.config, self.source, self.config.execution)

    def gradient(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the formula above; after that the model of the renders takes its steps."""
        guided = scores.guided(self.config.guidance_scale)(x.xt, x.t)
        if self.config.guidance_type == "sds":
            return score_difference(x.weight, guided, x.noise)
        return score_difference(x.weight, guided, self.renders.predict_and_learn(x, scores))

    @override
    def compared_with(self, x: NoisyLatents) -> Float[Tensor, "B c h w"] | None:
        """Return the prediction of the model of the renders."""
        return self.renders.predicted

    def training_state(self) -> dict[str, object]:
        """Return what the model of the renders has learned."""
        return self.renders.training_state()

    def load_training_state(self, state: Mapping[str, object]) -> None:
        """Go on from that. Raises ``UserError`` where it is of another model."""
        self.renders.load_training_state(state)
