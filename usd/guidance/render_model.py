"""The model of what is rendered now, which variational distillation compares with (arXiv 2305.16213, algorithm 1).

It starts as a diffusion model, learns a LoRA from the rendered views, and may be given each view's camera.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.schedule import Schedule
from usd.core.unread import ReadWith
from usd.denoiser import (
    Embedding,
    Execution,
    Student,
    StudentState,
    StudentStep,
    check_shared_latents,
    open_student,
    open_text_denoiser,
)
from usd.guidance import NoisyLatents
from usd.guidance.scores import Scores, ScoreSource
from usd.math import rng
from usd.math.camera import Cameras
from usd.math.diffusion import add_noise, guided_eps, normal_like, sample_timesteps

CAMERA_NUMBERS = {"none": 0, "extrinsics": 16, "mvp": 16, "spherical": 4}
DROPOUT = 0.1  # share of the steps in which the camera is left out, so that the model can do without


@dataclass(frozen=True)
class LoraOptions:
    """Options of the model that learns."""

    read_with: ClassVar[ReadWith] = {
        "lora_cfg_training": ("camera_condition_type", ("extrinsics", "mvp", "spherical")),
        "guidance_scale_lora": ("camera_condition_type", ("extrinsics", "mvp", "spherical")),
    }

    pretrained_model_name_or_path_lora: str | None = option(
        None, "model that the LoRA changes, may predict v; null: the one that scores the views", path=True
    )
    lora_rank: int = option(4, "rank of the LoRA of each attention layer", ge=1, le=4096)
    lora_lr: Schedule = option(1e-3, "learning rate of the LoRA (AdamW)", gt=0, le=1)
    lora_betas: tuple[float, float] = option((0.9, 0.999), "betas of the LoRA's AdamW", ge=0, lt=1)
    lora_eps: float = option(1e-8, "eps of the LoRA's AdamW", gt=0, le=1)
    lambda_lora: Schedule = option(1.0, "weight of the LoRA's own loss", ge=0)
    lora_target: Literal["noise", "prediction"] = option(
        "noise", "quantity of the LoRA's loss: noise, or what its network predicts (v, where it predicts v)"
    )
    lora_n_timestamp_samples: int = option(
        0,
        "noise levels a view is learned at in each step; 0: only the one that the formula looks at",
        ge=0,
        le=64,
    )
    camera_condition_type: Literal["none", "extrinsics", "mvp", "spherical"] = option(
        "none",
        "numbers of the camera that the LoRA's model is given: a matrix, or elevation, azimuth, distance",
    )
    lora_cfg_training: bool = option(True, "leave the camera out in a tenth of the steps of the LoRA")
    guidance_scale_lora: float = option(
        1.0, "guidance of the LoRA's prediction by the camera; 1: none", ge=0, le=1000
    )


class RenderModel:
    """A student of one of the guidance's models, or of another one in the same latent space."""

    def __init__(self, options: LoraOptions, source: ScoreSource, execution: Execution) -> None:
        self.options, self.source = options, source
        self.student: Student | None = None
        self.predicted: Float[Tensor, "B c h w"] | None = None  # at the last call
        self.base = source.model
        if options.pretrained_model_name_or_path_lora is not None:
            where = "system.guidance.pretrained_model_name_or_path_lora"
            self.base = open_text_denoiser(options.pretrained_model_name_or_path_lora, where, execution)
            check_shared_latents(source.model, self.base, where)

    def predict_and_learn(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the noise it predicts in x_t, without gradient; after that it takes its steps on the views."""
        student, condition = self.opened(), scores.condition()
        step = self._step(x.step)
        camera = camera_numbers(scores.cameras, self.options.camera_condition_type)
        if self.options.lora_n_timestamp_samples == 0 and camera is None:
            self.predicted = student.learn(x.xt, x.t, condition, x.noise, step)
            return self.predicted
        with torch.no_grad():
            self.predicted = self._predict(x, condition, camera)
        for _ in range(self.options.lora_n_timestamp_samples or 1):
            self._learn(x, condition, camera, step)
        return self.predicted

    def opened(self) -> Student:
        """Return the student, made at the first call. Raises ``UserError``."""
        if self.student is None:
            numbers = CAMERA_NUMBERS[self.options.camera_condition_type]
            base = self.base.to(self.source.model.alphas_cumprod.device)
            self.student = open_student(base, self.options.lora_rank, numbers)
        return self.student

    def training_state(self) -> dict[str, object]:
        """Return what it has learned so far; nothing before the first step."""
        return {} if self.student is None else {"student": self.student.training_state()}

    def load_training_state(self, state: Mapping[str, object]) -> None:
        """Go on from an earlier ``training_state``. Raises ``UserError`` where it is of another model."""
        if "student" in state:
            self.opened().load_training_state(cast(StudentState, state["student"]))

    def _step(self, step: int) -> StudentStep:
        o = self.options
        return StudentStep(o.lora_lr(step), o.lora_betas, o.lora_eps, o.lambda_lora(step), o.lora_target)

    def _predict(
        self, x: NoisyLatents, condition: Embedding, camera: Float[Tensor, "B N"] | None
    ) -> Float[Tensor, "B c h w"]:
        """Return the prediction, guided by the camera."""
        student, scale = self.opened(), self.options.guidance_scale_lora
        if camera is None:
            return student(x.xt, x.t, condition)
        cond = student(x.xt, x.t, student.with_camera(condition, camera))
        if scale == 1:
            return cond
        return guided_eps(
            cond, student(x.xt, x.t, student.with_camera(condition, torch.zeros_like(camera))), scale
        )

    def _learn(
        self, x: NoisyLatents, condition: Embedding, camera: Float[Tensor, "B N"] | None, step: StudentStep
    ) -> None:
        """Take one step at a fresh noise level of the whole schedule, or at the formula's."""
        student, bars = self.opened(), self.source.model.alphas_cumprod.to(x.z.device)
        xt, t, noise = x.xt, x.t, x.noise
        if self.options.lora_n_timestamp_samples:
            t = sample_timesteps(len(x.z), 0, len(bars) - 1, x.generator, x.z.device)
            noise = normal_like(x.z, x.generator)
            xt = add_noise(x.z, noise, bars, t)
        if camera is not None:
            if self.options.lora_cfg_training:
                keep = rng.uniform((len(camera),), x.generator, camera.device).to(camera) >= DROPOUT
                camera = camera * keep[:, None]
            condition = student.with_camera(condition, camera)
        student.learn(xt, t, condition, noise, step)


def camera_numbers(cameras: Cameras, kind: str) -> Float[Tensor, "B N"] | None:
    """Return numbers for where each view's camera is: a matrix, or elevation, sin and cos of azimuth, distance."""
    if kind == "none":
        return None
    if kind == "spherical":
        place = cameras.spherical
        return torch.stack([place.elevation, place.azimuth.sin(), place.azimuth.cos(), place.distance], -1)
    return (cameras.c2w if kind == "extrinsics" else cameras.mvp()).flatten(1)
