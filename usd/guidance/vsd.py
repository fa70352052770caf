"""Variational score distillation (arXiv 2305.16213): the view is compared with a model of what is rendered now.

    grad = w(t) [ eps_s(x_t, condition) - eps_lora(x_t, condition) ]

eps_lora starts as the model itself and learns, a step with every call, to remove noise from the rendered views: the
pull ends where the renders *are distributed* as the model wants them, not where each is the likeliest picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.module import preset
from usd.core.registry import register
from usd.denoiser import Student, open_student
from usd.guidance import Guidance, NoisyLatents
from usd.guidance.picture_scores import PictureOptions
from usd.guidance.scores import Scores, with_scores
from usd.guidance.text_scores import TextOptions
from usd.math.distill import score_difference


@register("vsd-guidance")
class VsdGuidance(Guidance["VsdGuidance.Config"]):
    """SDS with the prediction of a model that learns the renders in place of the noise."""

    @dataclass(frozen=True)
    class Config(PictureOptions):
        """Options of the model that learns."""

        lora_rank: int = option(4, "rank of the change of each attention layer", ge=1, le=4096)
        lora_lr: float = option(1e-3, "its learning rate (AdamW)", gt=0, le=1)

    student: Student | None = None

    def gradient(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the formula above; after that the student takes its step."""
        student = self.student = self.student or open_student(self.model, self.config.lora_rank)
        guided = scores.guided(self.config.guidance_scale)(x.xt, x.t)
        learned = student.learn(x.xt, x.t, scores.condition(), x.noise, self.config.lora_lr)
        return score_difference(x.weight, guided, learned)

    def training_state(self) -> dict[str, Any]:
        """Return what the student has learned."""
        return {} if self.student is None else {"student": self.student.training_state()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Take that back. Raises ``UserError`` where it is of another student."""
        if "student" in state:
            self.student = open_student(self.model, self.config.lora_rank)
            self.student.load_training_state(state["student"])


preset("stable-diffusion-vsd-guidance", with_scores(TextOptions, VsdGuidance), "VSD from a sentence.")
