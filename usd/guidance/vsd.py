"""Variational score distillation (arXiv 2305.16213): the view is compared with a model of what is rendered now.

    grad = w(t) [ eps_s(x_t, picture, camera) - eps_lora(x_t, picture, camera) ]

eps_lora starts as the picture model and learns, a step with every call, to remove noise from the rendered views: the
pull ends where the renders *are distributed* as the model wants them, not where each is the likeliest picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.denoiser import Student, open_student
from usd.guidance import Noised
from usd.guidance.rectifiable import RectifiableGuidance
from usd.math.camera import Cameras
from usd.math.distill import score_difference


@register("vsd-guidance")
class VsdGuidance(RectifiableGuidance["VsdGuidance.Config"]):
    """SDS with the prediction of a model that learns the renders in place of the noise."""

    @dataclass(frozen=True)
    class Config(RectifiableGuidance.Config):
        lora_rank: int = option(4, "rank of the change of each attention layer", ge=1, le=4096)
        lora_lr: float = option(1e-3, "its learning rate (AdamW)", gt=0, le=1)

    student: Student | None = None

    def gradient(self, noised: Noised, cameras: Cameras) -> Float[Tensor, "B c h w"]:
        told = self.model.embed_view(self.reading, cameras)
        student = self.student = self.student or open_student(self.model, self.config.lora_rank)
        guided = self.guided_eps(noised, told, self.config.guidance_scale)
        learned = student.learn(noised.xt, noised.t, told, noised.noise, self.config.lora_lr)
        return score_difference(noised.weight, guided, learned)

    def training_state(self) -> dict[str, Any]:
        return {} if self.student is None else {"student": self.student.training_state()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        if "student" in state:
            self.student = open_student(self.model, self.config.lora_rank)
            self.student.load_training_state(state["student"])
