"""Guidances: a formula on noise predictions that says how a rendered view should change.

The base class renders nothing and knows no model: it encodes the view, draws t and noise, asks ``gradient`` for the
formula, guards it and wraps it as a loss. ``usd/guidance/<name>.py`` holds one formula each.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import TypeVar

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.module import Module
from usd.core.needs import check_needs
from usd.core.schedule import Schedule
from usd.core.types import GuidanceOutput, Render
from usd.denoiser import (
    Denoiser,
    Embedding,
    EncodedReference,
    Execution,
    TextDenoiser,
    ViewDenoiser,
    open_view_denoiser,
)
from usd.math.camera import Cameras
from usd.math.diffusion import add_noise, normal_like, sample_timesteps, timestep_range
from usd.math.distill import (
    clip_gradient,
    distillation_gradient,
    predictions_needed,
    surrogate_loss,
    time_weight,
)
from usd.prompt_processor import PromptProcessor

Predict = Callable[[], Tensor]


@dataclass(frozen=True)
class Noised:
    """A view on its way through a guidance: its latents z, noised to x_t at t; ``weight`` is w(t)."""

    z: Float[Tensor, "B c h w"]
    xt: Float[Tensor, "B c h w"]
    noise: Float[Tensor, "B c h w"]
    t: Int[Tensor, "B"]
    weight: Float[Tensor, "B 1 1 1"]
    step: int


class NotFiniteError(Exception):
    """A tensor of a guidance has values that are not finite. The message says which, and how many."""


def unusable(like: Tensor, problem: NotFiniteError) -> GuidanceOutput:
    """What comes of a step in which something was not finite: a loss that is not, either, and why."""
    return GuidanceOutput(like.sum() * torch.nan, trouble=str(problem))


G = TypeVar("G", bound="GuidanceConfig", default="GuidanceConfig", covariant=True)


class Guidance(Module[G]):
    """Base of all. ``prompts`` says what text models are told: a sentence, or words against which a view is made."""

    needs: ClassVar[frozenset[str]] = frozenset({"rgb"})
    model: Denoiser  # encodes the views

    @dataclass(frozen=True)
    class Config:
        min_step_percent: Schedule = option(
            0.02, "smallest noise level, as a share of the schedule", ge=0, le=1
        )
        max_step_percent: Schedule = option(
            0.98, "largest noise level, as a share of the schedule", ge=0, le=1
        )
        weighting_strategy: Literal["sds", "uniform", "fantasia3d"] = option(
            "sds", "w(t): sds 1 - alphabar, uniform 1, fantasia3d sqrt(alphabar) (1 - alphabar)"
        )
        grad_clip: Schedule | None = option(None, "limit on the size of every entry of the gradient", gt=0)
        half_precision_weights: bool = option(
            True, "fp16 weights on CUDA, unless models.weights says otherwise"
        )
        models: Execution = option({}, "how the models are kept in memory and run")

        @property
        def running(self) -> Execution:
            """``models``, with the published key taken into account."""
            return self.models.single(self.half_precision_weights)

    def __init__(self, config: G, prompts: PromptProcessor | None = None) -> None:
        super().__init__(config)
        check_needs(self.needs, f"{type(self).__name__}.needs")

    @abstractmethod
    def gradient(self, noised: Noised, cameras: Cameras) -> Float[Tensor, "B c h w"]:
        """How z should *not* look: the derivative of the (implicit) loss by z, without gradient."""

    def forward(
        self, render: Render, cameras: Cameras, step: int, generator: torch.Generator | None
    ) -> GuidanceOutput:
        """The loss 0.5 |z - sg(z - grad)|^2 / B and its figures.

        Where anything is not finite the loss is not, either, and ``trouble`` says what it was.
        """
        try:
            self.require_finite(render.rgb, "the rendered picture")
        except NotFiniteError as problem:
            return unusable(render.rgb, problem)
        return self.pull(self.model.encode(render.rgb), cameras, step, generator)

    def pull(
        self, z: Float[Tensor, "B c h w"], cameras: Cameras, step: int, generator: torch.Generator | None
    ) -> GuidanceOutput:
        """``forward`` for latents, wherever they come from."""
        noised = self.noised(z, step, generator)
        try:
            grad = self._limited_gradient(noised, cameras)
        except NotFiniteError as problem:
            return unusable(z, problem)
        return GuidanceOutput(surrogate_loss(z, grad), self.figures(noised, grad))

    @torch.no_grad()
    def _limited_gradient(self, noised: Noised, cameras: Cameras) -> Float[Tensor, "B c h w"]:
        """``gradient`` within ``grad_clip``. Raises NotFiniteError."""
        self.require_finite(noised.z, "the latents of the rendered picture")
        grad = self.require_finite(self.gradient(noised, cameras), "the gradient")
        limit = self.config.grad_clip
        return grad if limit is None else clip_gradient(grad, limit(noised.step))

    def noised(self, z: Float[Tensor, "B c h w"], step: int, generator: torch.Generator | None) -> Noised:
        """z at a random t of this step's range."""
        bars = self.model.alphas_cumprod.to(z.device)
        low, high = self.range(step)
        t = sample_timesteps(len(z), low, high, generator, z.device)
        fixed = z.detach()
        noise = normal_like(fixed, generator)
        weight = time_weight(self.config.weighting_strategy, bars, t)
        return Noised(fixed, add_noise(fixed, noise, bars, t), noise, t, weight, step)

    def range(self, step: int) -> tuple[int, int]:
        """First and last t at this step."""
        low, high = self.config.min_step_percent(step), self.config.max_step_percent(step)
        try:
            return timestep_range(low, high, len(self.model.alphas_cumprod))
        except ValueError as problem:
            raise UserError(f"system.guidance: at step {step}: {problem}") from None

    def figures(self, noised: Noised, grad: Float[Tensor, "B c h w"]) -> dict[str, float]:
        """What is logged: size of the gradient per picture, and the range t was drawn from."""
        low, high = self.range(noised.step)
        return {
            "guidance_grad_norm": float(grad.flatten(1).norm(dim=1).mean()),
            "min_step": float(low),
            "max_step": float(high),
            "t": float(noised.t.float().mean()),
        }

    def distill(self, noised: Noised, cond: Predict, ref: Predict, scale: float, lambda_: float) -> Tensor:
        """The general formula of ``usd.math.distill``; only the predictions it needs are computed."""
        needed = predictions_needed(scale, lambda_)
        told = self.require_finite(cond(), "the conditional prediction") if "cond" in needed else None
        plain = self.require_finite(ref(), "the unconditional prediction") if "ref" in needed else None
        return distillation_gradient(noised.weight, noised.noise, told, plain, scale, lambda_)

    def require_finite(self, tensor: Tensor, name: str) -> Tensor:
        """``tensor``. Raises NotFiniteError where it has values that are not finite."""
        if not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise NotFiniteError(
                f"{name} has {bad} of {tensor.numel()} values not finite ({type(self).__name__})"
            )
        return tensor


GuidanceConfig = Guidance.Config


def untold(model: TextDenoiser, prompts: PromptProcessor | None, batch: int) -> Embedding:
    """What a text model is told in the place of nothing: the negative prompt, where there is one."""
    return model.unconditional(batch) if prompts is None else prompts.unconditional(model, batch)


class PictureGuidance(Guidance[G]):
    """A guidance told a reference picture: ``set_reference`` before the first call."""

    @abstractmethod
    def set_reference(self, rgb: Float[Tensor, "1 3 H W"], cameras: Cameras) -> None:
        """The prepared reference picture, in [0, 1] over white, and its camera. Call it on the training device."""


V = TypeVar("V", bound="ViewConfig", default="ViewConfig", covariant=True)


class ViewGuidance(PictureGuidance[V]):
    """A guidance on a model told a picture and a camera."""

    @dataclass(frozen=True)
    class Config(Guidance.Config):
        image_path: str = option("", "the reference picture", path=True)
        zero123_model_name_or_path: str = option(
            "zero123-xl", "picture model: an alias of load/models.yaml, a folder or a hub id", path=True
        )

    def __init__(self, config: V, prompts: PromptProcessor | None = None) -> None:
        super().__init__(config, prompts)
        self.model: ViewDenoiser = open_view_denoiser(
            config.zero123_model_name_or_path,
            "system.guidance.zero123_model_name_or_path",
            config.running,
        )
        self._reading: EncodedReference | None = None

    def set_reference(self, rgb: Float[Tensor, "1 3 H W"], cameras: Cameras) -> None:
        self._reading = self.model.encode_reference(rgb, cameras)
        self.model.release_encoders()

    @property
    def reading(self) -> EncodedReference:
        """What the model read from the reference."""
        if self._reading is None:
            raise RuntimeError(f"{type(self).__name__}: set_reference has not been called")
        return self._reading

    def view_eps(self, noised: Noised, cameras: Cameras) -> Float[Tensor, "B c h w"]:
        """The noise predicted from the reference and these cameras."""
        return self.model.eps(noised.xt, noised.t, self.model.embed_view(self.reading, cameras))

    def own_unconditional_eps(self, noised: Noised) -> Float[Tensor, "B c h w"]:
        """The noise predicted by the same model told nothing."""
        return self.model.eps(noised.xt, noised.t, self.model.unconditional(len(noised.xt)))


ViewConfig = ViewGuidance.Config
