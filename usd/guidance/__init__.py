"""Guidances: a formula on noise predictions that says how a rendered view should change.

``usd/guidance/<name>.py`` holds one formula each, a class directly below ``Guidance``. Where its noise predictions come
from is said by the class of its options: a picture (``picture_scores.py``), a sentence (``text_scores.py``), or a
source of your own; ``with_scores`` (``scores.py``) gives one formula another source.

The base class encodes the view, draws t and noise, asks ``gradient`` for the formula, guards it and wraps it as a loss.
"""

import contextlib
from abc import abstractmethod
from contextlib import AbstractContextManager
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
from usd.denoiser import Denoiser, Execution
from usd.guidance.scores import NotFiniteError, Pictures, Scores, ScoreSource, checks_at_once, require_finite
from usd.math.camera import Cameras
from usd.math.diffusion import add_noise, normal_like, sample_timesteps, timestep_range, x0_from_eps
from usd.math.distill import clip_gradient, image_gradient, surrogate_loss, time_weight
from usd.prompt_processor import PromptProcessor


@dataclass(frozen=True)
class NoisyLatents:
    """Latents z of rendered views, with noise at t: x_t. ``weight`` is w(t), ``generator`` draws what is random."""

    z: Float[Tensor, "B c h w"]
    xt: Float[Tensor, "B c h w"]
    noise: Float[Tensor, "B c h w"]
    t: Int[Tensor, "B"]
    weight: Float[Tensor, "B 1 1 1"]
    step: int
    generator: torch.Generator | None = None


RenderedView = tuple[Render, Cameras]
"""Rendered views, and the cameras that they are seen from."""

G = TypeVar("G", bound="GuidanceConfig", default="GuidanceConfig", covariant=True)


class Guidance(Module[G]):
    """Base of all formulas. ``prompts`` are what its text models are given: a sentence, or a negative prompt alone."""

    needs: frozenset[str] = frozenset({"rgb"})
    learns: ClassVar[bool] = False  # whether ``gradient`` also trains something

    @dataclass(frozen=True)
    class Config:
        """Options of every guidance."""

        min_step_percent: Schedule = option(
            0.02, "smallest noise level, as a share of the schedule", ge=0, le=1
        )
        max_step_percent: Schedule = option(
            0.98, "largest noise level, as a share of the schedule", ge=0, le=1
        )
        sqrt_anneal: bool = option(
            False, "one noise level a step, which falls from largest to smallest with the root of the steps"
        )
        t_anneal: bool = option(False, "one noise level a step, which falls from largest to smallest evenly")
        trainer_max_steps: int = option(
            25000, "step at which sqrt_anneal or t_anneal reaches the smallest", ge=1
        )
        weighting_strategy: Literal["sds", "dreamfusion", "uniform", "fantasia3d", "x0", "flow"] = option(
            "sds",
            "w(t): sds (dreamfusion) 1 - a, uniform 1, fantasia3d sqrt(a) (1 - a), x0 sigma / alpha, flow 1 + that",
        )
        grad_clip: Schedule | None = option(None, "limit on the size of every entry of the gradient", gt=0)
        use_img_loss: bool = option(
            False,
            "whether the render is compared with the decoded picture that the formula asks for, too (lambda_img)",
        )
        half_precision_weights: bool = option(
            True, "fp16 weights on CUDA, unless models.weights says otherwise"
        )
        models: Execution = option({}, "how the models are kept in memory and run")

        @property
        def execution(self) -> Execution:
            """``models``, with the published key taken into account."""
            return self.models.single(self.half_precision_weights)

        @property
        def wants_picture(self) -> bool:
            """Return whether a reference picture is used, so that ``set_reference`` has to be called."""
            return False

        @property
        def wants_prompts(self) -> bool:
            """Return whether the prompt itself, and not only the negative one, reaches a model."""
            return False

        def open_source(self, prompts: PromptProcessor | None) -> ScoreSource:  # noqa: ARG002 - for overrides
            """Open the models that score the views. Raises ``UserError``."""
            raise TypeError(
                f"{type(self).__qualname__} names no source of scores; expected PictureOptions, ..."
            )

    def __init__(self, config: G, prompts: PromptProcessor | None = None) -> None:
        super().__init__(config)
        check_needs(self.needs, f"{type(self).__name__}.needs")
        self.source = config.open_source(prompts)
        self.needs = self.needs | self.source.needs | self.model.needs
        self.build()

    def build(self) -> None:
        """Open what the formula needs beside its scores. Nothing by default."""

    @property
    def model(self) -> Denoiser:
        """The model that encodes the views."""
        return self.source.model

    @abstractmethod
    def gradient(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the derivative of the (implicit) loss with respect to the latents, without gradient."""

    def change_config(self, config: object) -> None:
        """Use other options of the same kind from now on, in the formula and in its scores."""
        assert isinstance(config, type(self.config))
        self.config = config
        self.source.change_options(config)

    def set_reference(self, rgb: Float[Tensor, "1 3 H W"], cameras: Cameras) -> None:
        """Show the prepared reference picture, in [0, 1] over white, and its camera to whoever looks at one.

        Call it on the training device, before the first step.
        """
        self.source.set_reference(rgb, cameras)

    def forward(
        self,
        render: Render,
        cameras: Cameras,
        step: int,
        generator: torch.Generator | None,
        pictures: Pictures | None = None,
    ) -> GuidanceOutput:
        """Return the loss 0.5 |z - sg(z - grad)|^2 / B of rendered views, and its figures.

        ``pictures`` (B, 3, H, W) are what models conditioned on a picture of each view see; by default the
        reference picture or the render. Where anything is not finite the loss is not, either, and ``trouble`` says
        what it was.
        """
        rgb = self.model.pictures(render, cameras)
        given = self.source.default_pictures(render) if pictures is None else pictures
        try:
            with self._checks():
                z = self.model.encode(require_finite(rgb, "the rendered picture"))
                x = self.noisy_latents(z, step, generator, (render, cameras))
                return self._output(x, z, cameras, given, rgb)
        except NotFiniteError as problem:
            return self._failure(rgb, problem)

    def _checks(self) -> AbstractContextManager[None]:
        """Return a block whose checks are asked at its end; at once where something would learn what is not finite."""
        return contextlib.nullcontext() if self.learns else checks_at_once()

    def from_latents(
        self,
        z: Float[Tensor, "B c h w"],
        cameras: Cameras,
        step: int,
        generator: torch.Generator | None,
        pictures: Pictures | None = None,
    ) -> GuidanceOutput:
        """Return the same for latents, wherever they come from."""
        try:
            with self._checks():
                return self._output(self.noisy_latents(z, step, generator), z, cameras, pictures)
        except NotFiniteError as problem:
            return self._failure(z, problem)

    def _output(
        self,
        x: NoisyLatents,
        z: Float[Tensor, "B c h w"],
        cameras: Cameras,
        pictures: Pictures | None,
        rgb: Float[Tensor, "B 3 H W"] | None = None,
    ) -> GuidanceOutput:
        """Return loss and figures; ``rgb`` is the render that the latents are of, if any. Raises ``NotFiniteError``."""
        grad = self._finite_gradient(x, cameras, pictures)
        losses = {} if rgb is None else self._image_loss(x, grad, rgb)
        grad = self._limited(grad, x.step)
        return GuidanceOutput(surrogate_loss(z, grad), self.figures(x, grad), losses=losses)

    def _failure(self, like: Tensor, problem: NotFiniteError) -> GuidanceOutput:
        """Return a loss that is not finite, and why."""
        return GuidanceOutput(like.sum() * torch.nan, trouble=f"{problem} ({type(self).__name__})")

    @torch.no_grad()
    def _finite_gradient(
        self, x: NoisyLatents, cameras: Cameras, pictures: Pictures | None
    ) -> Float[Tensor, "B c h w"]:
        """Return ``gradient``. Raises ``NotFiniteError``."""
        require_finite(x.z, "the latents of the rendered picture")
        return require_finite(self.gradient(x, self.source.at(cameras, pictures)), "the gradient")

    def _limited(self, grad: Float[Tensor, "B c h w"], step: int) -> Float[Tensor, "B c h w"]:
        limit = self.config.grad_clip
        return grad if limit is None else clip_gradient(grad, limit(step))

    def compared_with(self, x: NoisyLatents) -> Float[Tensor, "B c h w"] | None:  # noqa: ARG002 - for overrides
        """Return the prediction that ``gradient`` has just compared with at x_t; None where that is the noise."""
        return None

    def _image_loss(
        self, x: NoisyLatents, grad: Float[Tensor, "B c h w"], rgb: Float[Tensor, "B 3 H W"]
    ) -> dict[str, Tensor]:
        """Return the loss of the render against the decoded latents that ``grad`` asks for (HiFA, arXiv 2305.18766)."""
        if not self.config.use_img_loss:
            return {}
        bars, other = self.model.alphas_cumprod, self.compared_with(x)
        with torch.no_grad():
            eps = (x.noise if other is None else other) + grad / x.weight
            wanted = self.model.decode(x0_from_eps(x.xt, eps, bars, x.t))
            compared = None if other is None else self.model.decode(x0_from_eps(x.xt, other, bars, x.t))
        shown = rgb if rgb.shape == wanted.shape else resized(rgb, wanted.shape[-1])
        with torch.no_grad():
            compared = shown if compared is None else compared
            image_grad = self._limited(image_gradient(compared, wanted, x.weight, bars, x.t), x.step)
        return {"img": surrogate_loss(shown, require_finite(image_grad, "the gradient of the picture"))}

    def noisy_latents(
        self,
        z: Float[Tensor, "B c h w"],
        step: int,
        generator: torch.Generator | None,
        view: RenderedView | None = None,
    ) -> NoisyLatents:
        """Return z with noise at a random t of this step's range; ``view`` is what z is of, where it was rendered."""
        bars = self.model.alphas_cumprod.to(z.device)
        low, high = self.range(step)
        group = self.model.group_size
        if len(z) % group:
            raise UserError(
                f"data: the batch has {len(z)} pictures, and '{self.model.name}' denoises {group} at a time; "
                "expected view-group-datamodule, which draws its cameras"
            )
        t = sample_timesteps(len(z) // group, low, high, generator, z.device).repeat_interleave(group)
        fixed = z.detach()
        noise = self.noise(fixed, step, generator, view)
        weight = time_weight(self.config.weighting_strategy, bars, t)
        return NoisyLatents(fixed, add_noise(fixed, noise, bars, t), noise, t, weight, step, generator)

    def noise(
        self,
        z: Float[Tensor, "B c h w"],
        step: int,  # noqa: ARG002 - for overrides
        generator: torch.Generator | None,
        view: RenderedView | None,  # noqa: ARG002 - for overrides
    ) -> Float[Tensor, "B c h w"]:
        """Return the noise that is added to latents z: here fresh."""
        return normal_like(z, generator)

    def range(self, step: int) -> tuple[int, int]:
        """Return the first and the last t at this step. Raises ``UserError`` where they are the wrong way round."""
        low, high = self.config.min_step_percent(step), self.config.max_step_percent(step)
        if self.config.sqrt_anneal or self.config.t_anneal:
            low = high = self._annealed(step, low)
        try:
            return timestep_range(low, high, len(self.model.alphas_cumprod))
        except ValueError as problem:
            raise UserError(f"system.guidance: at step {step}: {problem}") from None

    def _annealed(self, step: int, low: float) -> float:
        """Return the one noise level of this step, as a share of the schedule (sqrt: HiFA, arXiv 2305.18766)."""
        done = min(step / self.config.trainer_max_steps, 1.0)
        highest = self.config.max_step_percent(0)
        share = done**0.5 if self.config.sqrt_anneal else done
        return highest * (1 - share) + low * share

    def figures(self, x: NoisyLatents, grad: Float[Tensor, "B c h w"]) -> dict[str, float | Tensor]:
        """Return what is logged: size of the gradient per picture, and the range t was drawn from."""
        low, high = self.range(x.step)
        return {
            "guidance_grad_norm": grad.flatten(1).norm(dim=1).mean(),
            "min_step": float(low),
            "max_step": float(high),
            "t": x.t.float().mean(),
        }


GuidanceConfig = Guidance.Config


@dataclass(frozen=True)
class ReferenceOptions(GuidanceConfig):
    """Options of every guidance that looks at a reference picture."""

    image_path: str = option("", "file of the reference picture", path=True)

    @property
    def wants_picture(self) -> bool:
        """Return True: the reference picture is always used."""
        return True


def resized(rgb: Float[Tensor, "B 3 H W"], size: int) -> Float[Tensor, "B 3 S S"]:
    """Return pictures at size x size, antialiased."""
    return torch.nn.functional.interpolate(
        rgb, (size, size), mode="bilinear", align_corners=False, antialias=True
    )
