"""One picture to a 3D object: distillation from novel views, anchored to the picture at the reference camera."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from usd.core.config import ConfigError, Schedule, Spec, option, plain_options, spec
from usd.core.console import say
from usd.core.random import generator as seeded
from usd.core.registry import build, register
from usd.core.types import Render
from usd.data.pictures import over, write_whole
from usd.data.random_camera import CameraBatch, RandomCameras
from usd.data.reference import Reference, ReferenceConfig, load_reference, overlay
from usd.guidance import Guidance, GuidanceConfig, ReferenceOptions
from usd.guidance.picture_scores import PictureOptions, PictureScores
from usd.guidance.reference_view import ReferenceViewGuidance
from usd.losses import EstimateLoss, needs_of
from usd.losses.table import ESTIMATE_LOSSES, REFERENCE_LOSSES, regularizers
from usd.math.camera import Cameras
from usd.math.rng import use_share
from usd.prompt_processor import PromptProcessor
from usd.system import PictureSource
from usd.system.distillation import DistillationConfig, DistillationSystem
from usd.system.expected_views import ExpectedViews, ExpectedViewsConfig, expected_views, training_cameras
from usd.system.weighted_losses import Weights

MODEL_KEYS = (
    "zero123_model_name_or_path",
    "pretrained_model_name_or_path",
    "half_precision_weights",
    "models",
)


@dataclass(frozen=True)
class TurnsConfig:
    """Turns that guidance and reference losses take, under threestudio's names."""

    ref_or_guidance: Literal["accumulate", "alternate"] = option(
        "accumulate",
        "order of the two: both in every step, or steps of the reference picture and of the guidance in turn",
    )
    n_ref: int = option(2, "every n-th step is the reference picture's, where they alternate", ge=1)
    ref_only_steps: int = option(0, "first steps that are the reference picture's alone", ge=0)
    no_diff_steps: int = option(0, "first steps without guidance", ge=0)
    guidance_eval: int = option(
        0, "0, the only value: pictures of the guidance's inputs are not written", ge=0
    )

    def __post_init__(self) -> None:
        if self.guidance_eval:
            raise ConfigError(
                f"system.freq.guidance_eval: is {self.guidance_eval}; expected 0, it is not there"
            )

    def has_reference(self, step: int) -> bool:
        """Return whether a step has losses at the reference picture."""
        return self.ref_or_guidance == "accumulate" or step < self.ref_only_steps or step % self.n_ref == 0

    def has_guidance(self, step: int) -> bool:
        """Return whether a step has a guidance and random views."""
        if step < max(self.ref_only_steps, self.no_diff_steps):
            return False
        return self.ref_or_guidance == "accumulate" or step % self.n_ref != 0


@dataclass(frozen=True)
class UsdConfig(DistillationConfig):
    """``loss`` knows more names.

    ``rgb`` and ``mask`` are errors against the reference picture, ``depth``, ``depth_rel`` and ``normal`` against
    estimates beside it (all 0 by default); ``reference_view`` is the published code's score term there (1 by default,
    0 without a guidance of Zero-1-to-3); ``expected`` is the error against expected views, in their steps.
    """

    image_path: str = option("", "reference picture, where no guidance names one", path=True)
    reference: ReferenceConfig = option({}, "preparation of the reference picture")
    reference_view_latents: Literal["prior", "view"] = option(
        "prior",
        "where the reference_view loss compares: prior, Stable Diffusion's own autoencoder (512 px), as published; "
        "view, Zero-1-to-3's (256 px): a quarter of the memory, a gradient about 8 times weaker",
    )
    expected_views: ExpectedViewsConfig = option(
        {}, "first steps, which fit what the view model expects to see"
    )
    freq: TurnsConfig = option({}, "order of steps of the guidance and of the reference picture")

    def guidances(self) -> dict[str, GuidanceConfig]:
        """Return the options of the guidances, by key path."""
        specs = {"system.guidance": self.guidance, "system.guidance_3d": self.guidance_3d}
        options = {key: spec.config for key, spec in specs.items() if spec is not None}
        return {key: found for key, found in options.items() if isinstance(found, GuidanceConfig)}

    def view_guidance(self) -> tuple[str, PictureOptions] | None:
        """Return key path and options of the guidance on Zero-1-to-3; None where there is none."""
        found = [
            (key, options) for key, options in self.guidances().items() if isinstance(options, PictureOptions)
        ]
        return found[0] if found else None

    @property
    def unread_models(self) -> frozenset[str]:
        """Return the options below which no model is opened: the prompts', where a picture says what to make."""
        told = any(options.wants_prompts for options in self.guidances().values())
        return frozenset() if told else frozenset({"prompt_processor"})

    @property
    def further_models(self) -> tuple[str, ...]:
        """Return the models that the reference_view loss opens beside those of the guidances."""
        found, said = self.view_guidance(), self.loss.get("lambda_reference_view")
        if found is None or (said is not None and said.maximum <= 0):
            return ()
        return (found[1].pretrained_model_name_or_path,)

    def reference_path(self) -> tuple[str, str]:
        """Return the reference picture and the key that names it; both may be empty."""
        for key, options in self.guidances().items():
            if isinstance(options, ReferenceOptions) and options.image_path:
                return options.image_path, f"{key}.image_path"
        return self.image_path, "system.image_path"

    def picture_source(self) -> PictureSource | None:
        """Return the picture and model of the guidance on Zero-1-to-3."""
        found = self.view_guidance()
        if found is None:
            return None
        key, options = found
        keys = f"{key}.image_path", f"{key}.zero123_model_name_or_path"
        model = options.zero123_model_name_or_path
        return PictureSource(self.reference_path()[0], self.reference, model, options.execution, keys)


@register("usd-system")
class UsdSystem(DistillationSystem[UsdConfig]):
    """Image-to-3D. Needs data that knows the reference camera, and a picture: a guidance's or ``system.image_path``."""

    transient: ClassVar[frozenset[str]] = DistillationSystem.transient | {"reference_view"}
    extra_weights: ClassVar[Mapping[str, float]] = {
        "reference_view": 1.0,
        "expected": 1000.0,
        **dict.fromkeys([*REFERENCE_LOSSES, *ESTIMATE_LOSSES], 0.0),
    }

    def build(self) -> None:
        """Build the scene; the reference picture is read by a training."""
        super().build()
        self.reference_view: ReferenceViewGuidance | None = None
        self.references: tuple[Reference, ...] = ()
        self._reference_is_set = False
        self._expected: ExpectedViews | None = None

    def loss_weights(self) -> Weights:
        """Return the weights; that of ``reference_view`` is 0 without a guidance on Zero-1-to-3."""
        weights = super().loss_weights()
        if self.config.view_guidance() is None and "lambda_reference_view" not in self.config.loss:
            weights["reference_view"] = Schedule.constant(0.0)
        return weights

    def on_fit_start(self) -> None:
        """Read the picture first: a wrong path should not cost a download."""
        self.references = self._read_references()
        self._say_unused_prompts()
        super().on_fit_start()
        if self.weights["reference_view"].maximum > 0 and self.reference_view is None:
            self.reference_view = self._open_reference_view().to(self.device)
        self._reference_is_set, self._expected = False, None
        if self.config.expected_views.fit_steps and self._view_scores() is None:
            say(
                "note: system.expected_views.fit_steps: no guidance on Zero-1-to-3 takes part; no views are expected"
            )

    def _read_references(self) -> tuple[Reference, ...]:
        """Read the reference picture, or take those of the data. Raises ``UserError`` where there is none."""
        path, key = self.config.reference_path()
        given = self.data.given_references() if isinstance(self.data, RandomCameras) and not path else ()
        if given:
            return given
        if not path and not any(isinstance(o, ReferenceOptions) for o in self.config.guidances().values()):
            raise ConfigError(
                f"system.guidance_type: '{self.config.guidance.name}' looks at no picture; expected usd-guidance or "
                "zero123-guidance, or system.image_path"
            )
        key = key if path else "system.guidance.image_path"
        reference = load_reference(path, self.config.reference, key)
        say(f"reference: {path}: {'; '.join(reference.notes)}")
        if self.global_rank == 0:
            with write_whole(self.save_dir / "reference.png") as file:
                overlay(reference).save(file)
        return (reference,)

    def open_guidance(self, chosen: Spec | None = None) -> Guidance:
        """Build a guidance with the prompts."""
        return build(chosen or self.config.guidance, Guidance, prompts=self._prompts())

    def _prompts(self) -> PromptProcessor | None:
        """Return the prompt processor, built once; only its negative prompt is used."""
        if self.prompt_processor is None and self.config.prompt_processor is not None:
            self.prompt_processor = build(self.config.prompt_processor, PromptProcessor)
        return self.prompt_processor

    def _say_unused_prompts(self) -> None:
        """Print a line on prompts that no model gets."""
        prompts = self._prompts()
        if prompts is None or any(options.wants_prompts for options in self.config.guidances().values()):
            return
        if keys := prompts.unused_options():
            say(
                f"note: system.prompt_processor: no model is told {', '.join(keys)}: a picture says what to make"
            )

    def _open_reference_view(self) -> ReferenceViewGuidance:
        """Build the published second term, on the guidance's models. Raises ``ConfigError`` without Zero-1-to-3."""
        found = self.config.view_guidance()
        if found is None:
            raise ConfigError(
                "system.loss.lambda_reference_view: needs a guidance on Zero-1-to-3; expected 0"
            )
        given = plain_options(found[1])
        options = {key: given[key] for key in MODEL_KEYS} | {"latents": self.config.reference_view_latents}
        chosen = spec("guidance", "reference-view-guidance", options)
        return build(chosen, ReferenceViewGuidance, prompts=self._prompts())

    def compute(self, batch: CameraBatch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the weighted losses of random views, and those at the reference camera."""
        if not self._reference_is_set:
            self._set_reference(reference_camera(batch))
        return super().compute(batch, step, generator)

    def _set_reference(self, camera: Cameras) -> None:
        """Give the picture to the guidances, once, on the training device."""
        rgba = self.references[0].rgba
        for guidance in (self.guidance, self.guidance_3d, self.reference_view):
            if guidance is not None:
                picture = over(rgba, guidance.model.backdrop)[None].to(self.device)
                guidance.set_reference(picture, camera)
        self._reference_is_set = True

    def extra_losses(
        self, batch: CameraBatch, step: int, generator: torch.Generator, active: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Return the losses at the reference camera and at expected views, the same in every process."""
        losses: dict[str, Tensor] = {}
        with use_share(generator, None):
            if self.config.freq.has_reference(step):
                losses |= self._reference_losses(batch, step, generator, active)
            if self._fits_expected_views(step):
                losses |= self._expected_losses(step, generator, active)
        return losses

    def _fits_expected_views(self, step: int) -> bool:
        """Return whether a step fits expected views instead of asking the guidance."""
        return step < self.config.expected_views.fit_steps and self._view_scores() is not None

    def _expected_losses(
        self, step: int, generator: torch.Generator, active: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Return the error of a render against an expected view, and the regularizers of that render."""
        views = self._made_expected_views()
        weighted = {name: loss for name, loss in regularizers().items() if name in active}
        needs = needs_of(weighted.values()) | {"foreground", "opacity"}
        render = self.renderer.render(views.camera(step), needs, generator)
        losses = {name: loss(render, **self.loss_options) for name, loss in weighted.items()}
        return {**losses, "expected": views.loss(render, step)}

    def _made_expected_views(self) -> ExpectedViews:
        """Return the pictures, made at the first step that fits them and again where a run is resumed."""
        if self._expected is None:
            config, source = self.config.expected_views, seeded("cpu", self.seed, "expected views")
            scores = self._view_scores()
            assert isinstance(self.data, RandomCameras) and scores is not None
            size = scores.model.latent.image_size
            cameras = training_cameras(self.data.config, config.views, size, source).to(self.device)
            self._expected = expected_views(scores, cameras, config.noise_level, source)
        return self._expected

    def _view_scores(self) -> PictureScores | None:
        """Return the scores of an opened guidance on Zero-1-to-3; None without one."""
        for guidance in (self.guidance, self.guidance_3d):
            if guidance is not None and isinstance(guidance.source, PictureScores):
                return guidance.source
        return None

    def _random_views(
        self, batch: CameraBatch, step: int, generator: torch.Generator, active: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Return the losses of random views, in the steps that have them."""
        return (
            super()._random_views(batch, step, generator, active)
            if self.config.freq.has_guidance(step) and not self._fits_expected_views(step)
            else {}
        )

    def _reference_losses(
        self, batch: CameraBatch, step: int, generator: torch.Generator, active: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Return the losses in ``active`` of one render at the reference camera."""
        picture_losses = {name: loss for name, loss in REFERENCE_LOSSES.items() if name in active}
        estimate_losses = {name: loss for name, loss in ESTIMATE_LOSSES.items() if name in active}
        scored = "reference_view" in active
        if not picture_losses and not estimate_losses and not scored:
            return {}
        camera = reference_camera(batch)
        needs = needs_of([*picture_losses.values(), *estimate_losses.values()])
        needs |= {"foreground"} if scored else frozenset()
        render = self.renderer.render(camera, needs, generator)
        reference = self.references[batch.reference_index]
        target = reference.at(camera.height, camera.width)[None].to(self.device)
        losses = {name: loss(render, target) for name, loss in picture_losses.items()}
        for name, loss in estimate_losses.items():
            losses[name] = loss(render, self._estimate(reference, loss, camera, name), target[:, 3:])
        if scored:
            assert self.reference_view is not None
            output = self.reference_view(over_white(render), camera, step, generator)
            self.skipped.reject(output.trouble)
            self.figures.update({f"reference_{name}": value for name, value in output.figures.items()})
            losses["reference_view"] = output.loss
        return losses

    def _estimate(
        self, reference: Reference, loss: EstimateLoss, camera: Cameras, name: str
    ) -> Float[Tensor, "1 C H W"]:
        """Return what a loss compares with. Raises ``ConfigError`` where the picture came without it."""
        at = reference.depth_at if loss.estimate == "depth" else reference.normal_at
        estimate = at(camera.height, camera.width)
        if estimate is None:
            raise ConfigError(
                f"system.loss.lambda_{name}: there is no {loss.estimate} beside the reference picture; expected "
                f"system.reference.requires_{loss.estimate}: true"
            )
        estimate = estimate[None].to(self.device)
        return estimate if loss.estimate == "depth" else normalize(1 - 2 * estimate, dim=1)

    def reference_picture(self, height: int, width: int) -> Float[Tensor, "3 h w"] | None:
        """Return the reference picture over white, once it is read."""
        return over(self.references[0].at(height, width)) if self.references else None


def reference_camera(batch: CameraBatch) -> Cameras:
    """Return the batch's reference camera. Raises ``ConfigError`` where it has none."""
    if batch.reference is None:
        raise ConfigError("data_type: knows no reference camera; expected usd-random-camera-datamodule")
    return batch.reference


def over_white(render: Render) -> Render:
    """Return the render over white, as models get the reference picture."""
    assert render.foreground is not None
    return replace(render, rgb=render.foreground + (1 - render.opacity))
