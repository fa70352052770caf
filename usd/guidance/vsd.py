"""Variational score distillation (arXiv 2305.16213): the view is compared with a model of what is rendered now.

    grad = w(t) [ eps_s(x_t, picture, camera) - eps_lora(x_t, picture, camera) ]

eps_lora starts as the picture model and learns, a step with every call, to remove noise from the rendered views: the
pull ends where the renders *are distributed* as the model wants them, not where each is the likeliest picture.
What it has learnt is not in checkpoints: a continued run starts it afresh.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.denoiser import Embedding, Student, open_student
from usd.guidance import Noised
from usd.guidance.rectifiable import RectifiableGuidance
from usd.math.camera import Cameras
from usd.math.distill import score_difference


@register("vsd-guidance")
class VsdGuidance(RectifiableGuidance):
    """SDS with the prediction of a model that learns the renders in place of the noise."""

    @dataclass(frozen=True)
    class Config(RectifiableGuidance.Config):
        lora_rank: int = option(4, "rank of the change of each attention layer", ge=1)
        lora_lr: float = option(1e-3, "its learning rate (AdamW)", gt=0)

    config: Config
    student: Student | None = None

    def gradient(self, noised: Noised, cameras: Cameras) -> Float[Tensor, "B c h w"]:
        told = self.model.embed_view(self.reading, cameras)
        if self.student is None:
            self.student = open_student(self.model, self.config.lora_rank)
            self.teacher = torch.optim.AdamW(self.student.learned(), lr=self.config.lora_lr)
        guided = self.guided_eps(noised, told, self.config.guidance_scale)
        return score_difference(noised.weight, guided, self._learn(self.student, noised, told))

    def _learn(self, student: Student, noised: Noised, told: Embedding) -> Float[Tensor, "B c h w"]:
        """What the student predicts now; after that it takes one step towards the noise that was added."""
        with torch.enable_grad():
            predicted = student(noised.xt, noised.t, told)
            (predicted - noised.noise).square().mean().backward()
        self.teacher.step()
        self.teacher.zero_grad(set_to_none=True)
        return predicted.detach()
