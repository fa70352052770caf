"""What image-to-3D and text-to-3D share: parts, one distillation step, pictures, and export.

A step renders random views, asks the guidance for a loss on them, and adds the regularizers of ``usd.losses.table``.
The guidance and its diffusion models are opened when training starts; testing and exporting never load one.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar

from usd.background import Background
from usd.core.config import ConfigError, Schedule, Spec, component, option
from usd.core.errors import did_you_mean, listing
from usd.core.needs import check_needs
from usd.core.random import generator
from usd.core.registry import build, find
from usd.core.types import Render
from usd.data import Data
from usd.data.pictures import write_picture
from usd.data.random_camera import CameraBatch
from usd.data.transforms import Frame, write_transforms
from usd.evaluation.gallery import rendered_rgba, validation_grid, write_contact_sheet, write_video
from usd.evaluation.views import ViewScore, mean_score, score_view, write_metrics
from usd.exporter import Exporter
from usd.geometry import Geometry
from usd.guidance import Guidance
from usd.losses import Loss, ReferenceLoss, needs_of
from usd.losses.table import REFERENCE_LOSSES, regularizers
from usd.material import Material
from usd.math.normal_map import normal_colors
from usd.prompt_processor import PromptProcessor
from usd.renderer import Renderer
from usd.system import System
from usd.system.conversion import Handover, Parts, begin
from usd.system.export_comparison import compare_with_renders, training_views

log = logging.getLogger(__name__)


def known_losses() -> dict[str, Loss | ReferenceLoss]:
    """Return the losses on renders by name, those of ``custom/losses/`` included."""
    return {**regularizers(), **REFERENCE_LOSSES}


GUIDANCE_WEIGHTS = frozenset({"lambda_usd", "lambda_vsd", "lambda_sds"})
"""Names of one weight of ``loss``: the guidance's. Whoever says one of them later means it instead of the others."""


@dataclass(frozen=True)
class DistillationConfig(System.Config):
    """Parts, and ``loss``: ``lambda_NAME`` is the weight of the loss NAME, a number or a schedule."""

    stage: Literal["coarse", "geometry", "texture"] = option(
        "coarse", "what the guidance is shown: colours; geometry: normals instead (texture: colours again)"
    )
    normal_background: float = option(
        0.0, "shade of grey behind the normals that a geometry stage shows to the guidance", ge=0, le=1
    )
    geometry: Spec = component("geometry", "implicit-volume", "the shape")
    geometry_convert_from: Path | None = option(
        None, "a checkpoint or trial whose object this training starts from, on this geometry"
    )
    geometry_convert_inherit_texture: bool = option(True, "start from its colours, too")
    geometry_convert_override: dict[str, bool | int | float | str] = option(
        {}, "options of its geometry to change, isosurface_threshold for example"
    )
    material: Spec = component("material", "no-material", "its colours")
    background: Spec = component("background", "solid-color-background", "what is behind it")
    renderer: Spec = component("renderer", "nerf-volume-renderer", "how it is seen")
    guidance: Spec = component("guidance", None, "the formula that pulls the renders towards the model")
    prompt_processor: Spec | None = component(
        "prompt_processor", None, "the words, if the guidance wants any", optional=True
    )
    loss: dict[str, Schedule] = option(
        {}, "lambda_usd (published as lambda_vsd), lambda_sparsity, lambda_opaque, ...", ge=0
    )

    exclusive_keys: ClassVar[Mapping[str, frozenset[str]]] = {"loss": GUIDANCE_WEIGHTS}


@dataclass(frozen=True)
class Shown:
    """One test view as it was written."""

    rgba: Float[Tensor, "4 H W"]
    file: Path
    batch: CameraBatch


D = TypeVar("D", bound=DistillationConfig, default=DistillationConfig, covariant=True)


class DistillationSystem(System[D]):
    """Base of the distillation systems; a subclass adds losses in ``extra_losses`` and opens what they need."""

    shares_batches: ClassVar[bool] = True
    extra_weights: ClassVar[Mapping[str, float]] = {}  # losses beyond the table, and their default weights
    geometry: Geometry
    material: Material
    background: Background
    renderer: Renderer

    @classmethod
    def unknown_keys(cls, options: Mapping[str, Any]) -> list[str]:
        loss = options.get("loss")
        known = loss_keys(cls.extra_weights)
        return [f"loss.{key}" for key in loss if key not in known] if isinstance(loss, Mapping) else []

    def build(self) -> None:
        config = self.config
        self.weights = loss_weights(config.loss, self.extra_weights)
        self.geometry = build(config.geometry, Geometry)
        self.material = build(config.material, Material)
        self.background = build(config.background, Background)
        self.renderer = build(
            config.renderer,
            Renderer,
            geometry=self.geometry,
            material=self.material,
            background=self.background,
        )
        self.guidance: Guidance | None = None
        self.prompt_processor: PromptProcessor | None = None
        self.shown: dict[str, list[Shown]] = {}

    # ------------------------------------------------------------------------------------------------- training

    def on_fit_start(self) -> None:
        """Takes the shape to start from; opens the guidance, unless its weight is never above zero."""
        self.require_outputs()
        if self.trainer.ckpt_path is None:
            self._start_shape()
        if self.weights["usd"].maximum > 0 and self.guidance is None:
            self.guidance = self.open_guidance().to(self.device)

    def require_outputs(self) -> None:
        """Raises UserError where a loss or the guidance needs what the renderer does not give."""
        wanted = {
            f"system.loss.lambda_{name}": loss.needs
            for name, loss in known_losses().items()
            if name in self.wanted
        }
        if "usd" in self.wanted:
            guidance = find(Guidance, self.config.guidance.name)
            wanted["system.guidance_type"] = check_needs(guidance.needs, f"{guidance.__name__}.needs")
        for where, needs in wanted.items():
            self.renderer.require(needs, where)

    @property
    def wanted(self) -> set[str]:
        """Names of the losses whose weight is above zero at some step."""
        return {name for name, weight in self.weights.items() if weight.maximum > 0}

    def _start_shape(self) -> None:
        """A new training's shape and colors: those of an earlier one, or what the geometry's options say."""
        config = self.config
        earlier = Handover(
            config.geometry_convert_from,
            config.geometry_convert_override,
            config.geometry_convert_inherit_texture,
        )
        parts = Parts(self.geometry, self.material, config.geometry, config.material)
        begin(parts, earlier, generator(self.device, self.seed, "colors"))

    def open_guidance(self) -> Guidance:
        """Build the guidance with everything it asks for."""
        raise NotImplementedError

    def part(self, batch: CameraBatch) -> CameraBatch:
        """Equally many views for every process."""
        return batch.views(self.share.scaled(len(batch) // self.share.total).rows)

    def compute(self, batch: CameraBatch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        active = self.active(step)
        losses = {
            **self._random_views(batch, step, generator, active),
            **self.extra_losses(batch, step, generator, active),
        }
        return {name: active[name] * loss for name, loss in losses.items()}

    def active(self, step: int) -> dict[str, float]:
        """The losses with a weight at ``step``, and their weights."""
        weights = {name: schedule(step) for name, schedule in self.weights.items()}
        return {name: weight for name, weight in weights.items() if weight > 0}

    def extra_losses(
        self, batch: CameraBatch, step: int, generator: torch.Generator, active: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Further losses by name, not yet weighted; only those in ``active``."""
        return {}

    def _random_views(
        self, batch: CameraBatch, step: int, generator: torch.Generator, active: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """The guidance and the regularizers on the batch's random views."""
        weighted = {name: loss for name, loss in regularizers().items() if name in active}
        guidance = self._opened() if "usd" in active else None
        if guidance is None and not weighted:
            return {}
        asked = frozenset() if guidance is None else guidance.needs | self.also
        needs = needs_of(weighted.values()) | asked
        render = self.renderer.render(batch.cameras, needs, generator)
        losses = {name: loss(render) for name, loss in weighted.items()}
        if guidance is not None:
            output = guidance(self.as_shown(render), batch.cameras, step, generator)
            self.skipped.doubt(output.trouble)
            self.figures.update(output.figures)
            losses["usd"] = output.loss
        self.figures["opacity"] = float(render.opacity.detach().mean())
        return losses

    def _opened(self) -> Guidance:
        assert self.guidance is not None, "on_fit_start opens the guidance"
        return self.guidance

    @property
    def also(self) -> frozenset[str]:
        """What is rendered beside colors because this stage shows it."""
        return frozenset({"normal"}) if self.config.stage == "geometry" else frozenset()

    def as_shown(self, render: Render) -> Render:
        """The render as the guidance sees it: in a geometry stage its normals are its colors."""
        if self.config.stage != "geometry":
            return render
        assert render.normal is not None
        return replace(
            render, rgb=normal_colors(render.normal, render.opacity, self.config.normal_background)
        )

    # ------------------------------------------------------------------------------------------------- pictures

    def look(self, batch: CameraBatch, *needs: str) -> Render:
        """Evaluation pictures of all views of a batch, one view at a time, on the CPU."""
        wanted = check_needs({"foreground", *needs}, "the system's views")
        with torch.no_grad():
            views = [self.renderer.render(batch.cameras[i : i + 1], wanted, None) for i in range(len(batch))]
        return stacked(views)

    def reference_picture(self, height: int, width: int) -> Float[Tensor, "3 h w"] | None:
        """A picture to show beside validation views."""
        return None

    def validate(self, batch: CameraBatch, index: int) -> None:
        """Writes ``it<step>-<index>.png``: colors, opacity, depth, and what else this stage shows."""
        grid = validation_grid(
            self.look(batch, "depth", *self.also),
            self.reference_picture(batch.cameras.height, batch.cameras.width),
        )
        write_picture(self.save_dir / f"it{self.step}-{index}.png", grid)

    def on_test_epoch_start(self) -> None:
        self.shown = {}

    def test(self, batch: CameraBatch, index: int) -> None:
        """Writes the views of a batch as straight-alpha RGBA, ``it<step>-<name>/<index>.png``."""
        folder = self.save_dir / f"it{self.step}-{batch.name}"
        for i, rgba in enumerate(rendered_rgba(self.pictured(self.look(batch, *self.also)))):
            file = write_picture(folder / f"{batch.first + i}.png", rgba)
            self.shown.setdefault(batch.name, []).append(Shown(rgba, file, batch.view(i)))

    def pictured(self, render: Render) -> Render:
        """The render as its pictures show it: a geometry stage has no colors but those of its normals."""
        if self.config.stage != "geometry":
            return render
        assert render.normal is not None
        return replace(render, foreground=normal_colors(render.normal, render.opacity, 0.0))

    def on_test_epoch_end(self) -> None:
        """For every folder of views: cameras, contact sheet, scores if there is a truth, a video of the turntable."""
        for shown in self.shown.values():
            folder, pictures = shown[0].file.parent, [view.rgba for view in shown]
            cameras = [view.batch.cameras for view in shown]
            write_transforms(folder / "transforms.json", cameras, [view.file.name for view in shown])
            write_contact_sheet(self.save_dir / f"{folder.name}.png", pictures)
            if len(pictures) > 1 and not any(view.batch.frames for view in shown):
                write_video(self.save_dir / f"{folder.name}.mp4", pictures)
            self._score(folder, shown)
        self.shown = {}

    def _score(self, folder: Path, shown: Sequence[Shown]) -> None:
        frames = [frame for view in shown for frame in view.batch.frames]
        scores = {i: score for i, view in enumerate(shown) if (score := score_shown(view)) is not None}
        if scores:
            write_metrics(folder / "metrics.json", frames, scores)
            mean = mean_score(list(scores.values()))
            self.log_dict({"test/psnr": mean.psnr, "test/ssim": mean.ssim, "test/mask_iou": mean.mask_iou})

    def export(self, exporter: Exporter, folder: Path) -> list[Path]:
        self.eval()
        return exporter.export(self.geometry, self.material, folder)

    def compare_export(self, exporter: Exporter, files: Sequence[Path], data: Data) -> str:
        """Return how far exported files are from the object in training views."""
        views = training_views(exporter, data, self.step, self.device)
        return compare_with_renders(exporter, files, views, self.look)


def stacked(views: Sequence[Render]) -> Render:
    """The pictures of several renders as one, on the CPU; parts that are not pictures are left out."""

    def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
        there = [part for part in parts if part is not None]
        return torch.cat(there).cpu() if len(there) == len(parts) else None

    return Render(
        torch.cat([view.rgb for view in views]).cpu(),
        torch.cat([view.opacity for view in views]).cpu(),
        joined([view.foreground for view in views]),
        joined([view.depth for view in views]),
        joined([view.normal for view in views]),
    )


def score_shown(view: Shown) -> ViewScore | None:
    """How far a view is from its ground-truth picture, read back as written; None where there is none."""
    frame: Frame | None = view.batch.frames[0] if view.batch.frames else None
    return None if frame is None or frame.picture is None else score_view(view.file, frame.picture)


def loss_weights(given: Mapping[str, Schedule], extra: Mapping[str, float]) -> dict[str, Schedule]:
    """Weights by loss name from ``lambda_NAME`` keys. Unknown keys are errors.

    ``lambda_vsd`` and ``lambda_sds``, as published, are other names of ``lambda_usd``; two that differ are an error.
    """
    _refuse_two_weights(given)
    known = {"usd": 1.0, **dict.fromkeys(regularizers(), 0.0), **extra}
    weights = {name: Schedule.constant(value) for name, value in known.items()}
    keys = loss_keys(extra)
    for key, schedule in given.items():
        if key not in keys:
            hint = did_you_mean(key, keys) or f" Known keys: {listing(keys)}."
            raise ConfigError(f"system.loss.{key}: unknown key.{hint}")
        if key == "lambda_lora":
            _refuse_lora(schedule)
        elif key in GUIDANCE_WEIGHTS:
            weights["usd"] = schedule
        else:
            weights[key.removeprefix("lambda_")] = schedule
    return weights


def loss_keys(extra: Mapping[str, float]) -> list[str]:
    """Every key of ``system.loss``."""
    return [f"lambda_{name}" for name in ("usd", "vsd", "sds", "lora", *regularizers(), *extra)]


def _refuse_two_weights(given: Mapping[str, Schedule]) -> None:
    first, *others = [key for key in given if key in GUIDANCE_WEIGHTS] or [""]
    for other in others:
        if given[other] != given[first]:
            raise ConfigError(
                f"system.loss.{other}: is another name of {first} and says {given[other].plain()}, not "
                f"{given[first].plain()}; expected one of the two"
            )


def _refuse_lora(schedule: Schedule) -> None:
    if schedule.maximum != 0:
        raise ConfigError(
            f"system.loss.lambda_lora: is {schedule.maximum:g}; expected 0: this method trains no LoRA"
        )
