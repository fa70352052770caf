"""One picture to a 3D object: distillation from novel views, anchored to the picture at the reference camera."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import ConfigError, option, plain_options, spec
from usd.core.registry import build, register
from usd.core.types import Render
from usd.data.pictures import over, write_whole
from usd.data.random_camera import CameraBatch
from usd.data.reference import Reference, ReferenceConfig, load_reference, overlay
from usd.guidance import Guidance, GuidanceConfig
from usd.guidance.picture_scores import PictureOptions
from usd.guidance.reference_view import ReferenceViewGuidance
from usd.losses import needs_of
from usd.losses.table import REFERENCE_LOSSES
from usd.math.camera import Cameras
from usd.math.rng import use_share
from usd.prompt_processor import PromptProcessor
from usd.system import PictureSource
from usd.system.distillation import DistillationConfig, DistillationSystem

MODEL_KEYS = (
    "zero123_model_name_or_path",
    "pretrained_model_name_or_path",
    "half_precision_weights",
    "models",
)


@dataclass(frozen=True)
class UsdConfig(DistillationConfig):
    """``loss`` knows three more names: ``rgb`` and ``mask`` against the reference picture (0 by default), and
    ``reference_view``, the published code's score term there (1 by default)."""

    reference: ReferenceConfig = option({}, "how the reference picture is read")
    reference_view_latents: Literal["prior", "view"] = option(
        "prior",
        "where the reference_view loss compares: prior, Stable Diffusion's own autoencoder (512 px), as published; "
        "view, Zero-1-to-3's (256 px): a quarter of the memory, a gradient about 8 times weaker",
    )

    def picture_source(self) -> PictureSource | None:
        options = self.guidance.config
        if not isinstance(options, PictureOptions):
            return None
        keys = "system.guidance.image_path", "system.guidance.zero123_model_name_or_path"
        return PictureSource(
            options.image_path, self.reference, options.zero123_model_name_or_path, options.execution, keys
        )


@register("usd-system")
class UsdSystem(DistillationSystem[UsdConfig]):
    """Needs data that knows the reference camera, and a guidance that looks at ``system.guidance.image_path``."""

    guidance: Guidance | None
    transient: ClassVar[frozenset[str]] = DistillationSystem.transient | {"reference_view"}
    extra_weights: ClassVar[Mapping[str, float]] = {
        "reference_view": 1.0,
        **dict.fromkeys(REFERENCE_LOSSES, 0.0),
    }

    def build(self) -> None:
        super().build()
        if not isinstance(self.config.guidance.config, PictureOptions):
            name = self.config.guidance.name
            raise ConfigError(
                f"system.guidance_type: '{name}' looks at no picture; expected usd-guidance or zero123-guidance"
            )
        self.reference_view: ReferenceViewGuidance | None = None
        self.reference: Reference | None = None
        self._told = False

    def on_fit_start(self) -> None:
        """Reads the picture first: a wrong path should not cost a download."""
        options = self.config.guidance.config
        assert isinstance(options, PictureOptions)
        self.reference = load_reference(
            options.image_path, self.config.reference, "system.guidance.image_path"
        )
        if self.global_rank == 0:
            sys.stdout.write(f"reference: {options.image_path}: {'; '.join(self.reference.notes)}\n")
            with write_whole(self.save_dir / "reference.png") as file:
                overlay(self.reference).save(file)
        self._say_unheard()
        super().on_fit_start()
        if self.weights["reference_view"].maximum > 0 and self.reference_view is None:
            self.reference_view = self._open_reference_view().to(self.device)
        self._told = False

    def open_guidance(self) -> Guidance:
        return build(self.config.guidance, Guidance, prompts=self._prompts())

    def _prompts(self) -> PromptProcessor | None:
        """The prompt processor, made once; only its negative prompt is heard."""
        if self.prompt_processor is None and self.config.prompt_processor is not None:
            self.prompt_processor = build(self.config.prompt_processor, PromptProcessor)
        return self.prompt_processor

    def _say_unheard(self) -> None:
        """Says in a line which words no model is told."""
        prompts = self._prompts()
        options = self.config.guidance.config
        assert isinstance(options, GuidanceConfig)
        if options.wants_prompts or prompts is None or self.global_rank != 0:
            return
        if keys := prompts.unused_options():
            sys.stdout.write(
                f"note: system.prompt_processor: no model is told {', '.join(keys)}: a picture says what to make\n"
            )

    def _open_reference_view(self) -> ReferenceViewGuidance:
        """The published second term, on the same models as the guidance."""
        given = plain_options(self.config.guidance.config)
        options = {key: given[key] for key in MODEL_KEYS} | {"latents": self.config.reference_view_latents}
        chosen = spec("guidance", "reference-view-guidance", options)
        return build(chosen, ReferenceViewGuidance, prompts=self._prompts())

    def compute(self, batch: CameraBatch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if not self._told:
            self._tell(reference_camera(batch))
        return super().compute(batch, step, generator)

    def _tell(self, camera: Cameras) -> None:
        """Show the picture to whoever wants it, once, on the training device."""
        assert self.reference is not None
        picture = over(self.reference.rgba)[None].to(self.device)
        for guidance in (self.guidance, self.reference_view):
            if guidance is not None:
                guidance.set_reference(picture, camera)
        self._told = True

    def extra_losses(
        self, batch: CameraBatch, step: int, generator: torch.Generator, active: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Losses at the reference camera, the same in every process."""
        with use_share(generator, None):
            return self._reference_losses(batch, step, generator, active)

    def _reference_losses(
        self, batch: CameraBatch, step: int, generator: torch.Generator, active: Mapping[str, float]
    ) -> dict[str, Tensor]:
        wanted = {name: loss for name, loss in REFERENCE_LOSSES.items() if name in active}
        scored = "reference_view" in active
        if not wanted and not scored:
            return {}
        camera = reference_camera(batch)
        needs = needs_of(wanted.values()) | ({"foreground"} if scored else frozenset())
        render = self.renderer.render(camera, needs, generator)
        losses = {name: loss(render, self._target(camera)) for name, loss in wanted.items()}
        if scored:
            assert self.reference_view is not None
            output = self.reference_view(over_white(render), camera, step, generator)
            self.skipped.doubt(output.trouble)
            self.figures.update({f"reference_{name}": value for name, value in output.figures.items()})
            losses["reference_view"] = output.loss
        return losses

    def _target(self, camera: Cameras) -> Float[Tensor, "1 4 H W"]:
        assert self.reference is not None
        return self.reference.at(camera.height, camera.width)[None].to(self.device)

    def reference_picture(self, height: int, width: int) -> Float[Tensor, "3 h w"] | None:
        return None if self.reference is None else over(self.reference.at(height, width))


def reference_camera(batch: CameraBatch) -> Cameras:
    """The batch's reference camera, or a clear error."""
    if batch.reference is None:
        raise ConfigError("data_type: knows no reference camera; expected usd-random-camera-datamodule")
    return batch.reference


def over_white(render: Render) -> Render:
    """The render as the reference picture is shown to models."""
    assert render.foreground is not None
    return replace(render, rgb=render.foreground + (1 - render.opacity))
