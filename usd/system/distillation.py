"""What image-to-3D and text-to-3D share: one distillation step, evaluation pictures, scores.

A step renders random views, asks the guidance for a loss on them, and adds the regularizers of ``usd.losses.table``.
The guidance and its diffusion models are opened when training starts; testing and exporting never load one.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar, override

from usd.core.config import ConfigError, Schedule, Spec, component, option
from usd.core.needs import check_needs
from usd.core.random import generator
from usd.core.registry import find
from usd.core.types import GuidanceOutput, Render
from usd.core.unread import ReadWith
from usd.data import Data
from usd.data.pictures import write_picture
from usd.data.random_camera import CameraBatch
from usd.data.transforms import Frame, write_transforms
from usd.evaluation.gallery import rendered_rgba, validation_grid, write_contact_sheet, write_video
from usd.evaluation.views import ViewScore, score_view, write_metrics
from usd.exporter import Exporter
from usd.guidance import Guidance
from usd.losses import EstimateLoss, Loss, ReferenceLoss, needs_of
from usd.losses.table import ESTIMATE_LOSSES, LOSS_OPTIONS, REFERENCE_LOSSES, regularizers
from usd.math.camera import Cameras, Window
from usd.math.normal_map import normal_colors
from usd.prompt_processor import PromptProcessor
from usd.renderer import enlarge
from usd.system.conversion import ConversionOptions, ConversionTarget, initialize_object
from usd.system.export_comparison import compare_with_renders, training_views
from usd.system.latent_pictures import LatentPictures, fit_latents, require_channels, rough_pictures
from usd.system.scene import SceneConfig, SceneSystem
from usd.system.weighted_losses import Weights, loss_keys, read_weights

log = logging.getLogger(__name__)

LOSS_ALIASES = {
    **dict.fromkeys(("vsd", "sds", "sd", "sdi"), "usd"),
    **dict.fromkeys(("usd_img", "sds_img", "sd_img", "vsd_img"), "img"),
    **dict.fromkeys(("3d_sd", "3d_sds"), "3d"),
}
"""Published names of the guidances' losses."""
GUIDANCES = {"usd": "guidance", "3d": "guidance_3d"}
"""Which component makes which loss."""
GUIDANCE_WEIGHTS = frozenset(loss_keys(["usd", *(a for a, name in LOSS_ALIASES.items() if name == "usd")]))
"""Names of one weight of ``loss``: the guidance's. Whoever says one of them later means it instead of the others."""


def known_losses() -> dict[str, Loss | ReferenceLoss | EstimateLoss]:
    """Return the losses on renders by name, those of ``custom/losses/`` included."""
    return {**regularizers(), **REFERENCE_LOSSES, **ESTIMATE_LOSSES}


IMAGE_KEYS = tuple(f"lambda_{name}" for name in ("img", "usd_img", "sds_img", "sd_img", "vsd_img"))
"""Keys of the weight of the guidance's term on pictures."""


@dataclass(frozen=True)
class DistillationConfig(SceneConfig):
    """Components, and ``loss``: ``lambda_NAME`` is the weight of the loss NAME, a number or a schedule.

    NAME is usd (published as vsd, too), sparsity, opaque and so on.
    """

    read_with: ClassVar[ReadWith] = {
        **dict.fromkeys(("normal_background", "latent_steps"), ("stage", ("geometry",))),
    }

    stage: Literal["coarse", "geometry", "texture"] = option(
        "coarse",
        "stage of Fantasia3D: geometry shows normals to the guidance, coarse and texture show colors",
    )
    normal_background: float = option(
        0.0, "shade of gray behind the normals that a geometry stage shows to the guidance", ge=0, le=1
    )
    geometry_convert_from: Path | None = option(
        None, "checkpoint or trial whose object this training starts from, on this geometry"
    )
    geometry_convert_inherit_texture: bool = option(
        True, "start from the colors of geometry_convert_from, too"
    )
    geometry_convert_override: dict[str, bool | int | float | str] = option(
        {}, "options of the geometry in geometry_convert_from to change, isosurface_threshold for example"
    )
    guidance: Spec = component("guidance", None, "formula that pulls the renders towards the model")
    guidance_3d: Spec | None = component(
        "guidance", None, "second formula beside guidance, of weight lambda_3d (Magic123)", optional=True
    )
    latent_steps: int = option(
        0,
        "first steps of a geometry stage in which normals and opacity are the latents themselves, not encoded "
        "(Fantasia3D, arXiv 2303.13873)",
        ge=0,
    )
    rgb_as_latents: bool = option(
        False,
        "whether renders are latents of the guidance's model, so that nothing is encoded (Latent-NeRF, SJC)",
    )
    prompt_processor: Spec | None = component(
        "prompt_processor", None, "prompt processor, if the guidance wants prompts", optional=True
    )

    exclusive_keys: ClassVar[Mapping[str, frozenset[str]]] = {"loss": GUIDANCE_WEIGHTS}

    def unread(self) -> Mapping[str, str]:
        """Return options of a stage before where there is none, and weights of pictures' terms that no guidance has."""
        found = dict(super().unread())
        if self.geometry_convert_from is None:
            why = "where geometry_convert_from is null"
            found |= dict.fromkeys(("geometry_convert_inherit_texture", "geometry_convert_override"), why)
        guidances = [spec.config for spec in (self.guidance, self.guidance_3d) if spec is not None]
        if any(getattr(options, "use_img_loss", False) for options in guidances):
            return found
        used = [key for key in IMAGE_KEYS if key in self.loss and self.loss[key].maximum > 0]
        return found | {f"loss.{key}": "where guidance.use_img_loss is false" for key in used}


@dataclass(frozen=True)
class WrittenView:
    """One test view as it was written."""

    rgba: Float[Tensor, "4 H W"]
    file: Path
    batch: CameraBatch


D = TypeVar("D", bound=DistillationConfig, default=DistillationConfig, covariant=True)


class DistillationSystem(SceneSystem[D, CameraBatch]):
    """Base of the distillation systems; a subclass adds losses in ``extra_losses`` and opens what they need."""

    shares_batches: ClassVar[bool] = True
    extra_weights: ClassVar[Mapping[str, float]] = {}  # losses beyond the table, and their default weights
    transient: ClassVar[frozenset[str]] = SceneSystem.transient | {"guidance_3d"}

    @classmethod
    def unknown_keys(cls, options: Mapping[str, object]) -> list[str]:
        """Return the keys of ``loss`` that this system refuses."""
        loss = options.get("loss")
        known = [*loss_keys([*default_weights(cls.extra_weights), *LOSS_ALIASES]), *LOSS_OPTIONS]
        return [f"loss.{key}" for key in loss if key not in known] if isinstance(loss, Mapping) else []

    def build(self) -> None:
        """Build the scene; guidance and prompt processor are opened by a training."""
        super().build()
        if self.material.n_channels != self.background.n_channels:
            raise ConfigError(
                f"system.background.n_output_dims: is {self.background.n_channels}; expected "
                f"{self.material.n_channels}, as the material's"
            )
        if self.material.n_channels > 3 and self.geometry.n_features < self.material.n_features:
            raise ConfigError(
                f"system.geometry.n_feature_dims: is {self.geometry.n_features}; expected {self.material.n_features}, "
                "as the material's"
            )
        self._latent_pictures: LatentPictures | None = None
        self.guidance: Guidance | None = None
        self.guidance_3d: Guidance | None = None
        self.prompt_processor: PromptProcessor | None = None
        self.test_views: dict[str, list[WrittenView]] = {}

    def loss_weights(self) -> Weights:
        """Return the weights of the guidance, the regularizers and ``extra_weights``."""
        self.loss_options = {**LOSS_OPTIONS, **loss_options(self.config.loss)}
        given = {key: weight for key, weight in self.config.loss.items() if key not in LOSS_OPTIONS}
        weights = distillation_weights(given, self.extra_weights)
        if self.config.guidance_3d is None:
            if any(
                LOSS_ALIASES.get(key.removeprefix("lambda_"), key) in ("3d", "lambda_3d") for key in given
            ):
                raise ConfigError(
                    "system.guidance_3d_type: required by lambda_3d, but not given; expected a guidance"
                )
            weights["3d"] = Schedule.constant(0.0)
        return weights

    # ------------------------------------------------------------------------------------------------- training

    def on_fit_start(self) -> None:
        """Take the shape to start from; open the guidance, unless its weight is never above zero."""
        self.require_outputs()
        if self.trainer.ckpt_path is None:
            self._start_shape()
        super().on_fit_start()
        if self.weights["usd"].maximum > 0 and self.guidance is None:
            self.guidance = self.open_guidance().to(self.device)
        if (
            self.config.guidance_3d is not None
            and self.weights["3d"].maximum > 0
            and self.guidance_3d is None
        ):
            self.guidance_3d = self.open_guidance(self.config.guidance_3d).to(self.device)
        if self.config.rgb_as_latents:
            require_channels(self.material.n_channels, self._opened_guidance("usd").model.latent)

    def require_outputs(self) -> None:
        """Raise ``UserError`` where a loss or the guidance needs what the renderer does not give."""
        outputs = {
            f"system.loss.lambda_{name}": loss.needs
            for name, loss in known_losses().items()
            if name in self.used_losses
        }
        for name, key in GUIDANCES.items():
            chosen = getattr(self.config, key)
            if name in self.used_losses and chosen is not None:
                guidance = find(Guidance, chosen.name)
                outputs[f"system.{key}_type"] = check_needs(guidance.needs, f"{guidance.__name__}.needs")
        for where, needs in outputs.items():
            self.renderer.require(needs, where)

    def _start_shape(self) -> None:
        """Set a new training's shape and colors: those of an earlier one, or what the geometry's options say."""
        config = self.config
        options = ConversionOptions(
            config.geometry_convert_from,
            config.geometry_convert_override,
            config.geometry_convert_inherit_texture,
        )
        target = ConversionTarget(self.geometry, self.material, config.geometry, config.material)
        initialize_object(target, options, generator(self.device, self.seed, "colors"))
        self.geometry.keep_start()

    def open_guidance(self, chosen: Spec | None = None) -> Guidance:
        """Build a guidance, by default ``guidance``, with everything it asks for."""
        raise NotImplementedError

    def batch_share(self, batch: CameraBatch) -> CameraBatch:
        """Return equally many views for every process."""
        rows = self.share.scaled(len(batch) // self.share.total).rows
        return batch.views(rows.start, rows.stop)

    def compute(self, batch: CameraBatch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the weighted losses of random views, and those that a subclass adds."""
        active = self.active(step)
        losses = {
            **self._random_views(batch, step, generator, active),
            **self.extra_losses(batch, step, generator, active),
        }
        return {name: active[name] * loss for name, loss in losses.items() if name in active}

    def extra_losses(
        self,
        batch: CameraBatch,  # noqa: ARG002 - for overrides
        step: int,  # noqa: ARG002 - for overrides
        generator: torch.Generator,  # noqa: ARG002 - for overrides
        active: Mapping[str, float],  # noqa: ARG002 - for overrides
    ) -> dict[str, Tensor]:
        """Return further losses by name, not yet weighted; only those in ``active``."""
        return {}

    def _random_views(
        self, batch: CameraBatch, step: int, generator: torch.Generator, active: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Return the losses of guidances and regularizers on the batch's random views."""
        weighted = {name: loss for name, loss in regularizers().items() if name in active}
        guidances = {name: self._opened_guidance(name) for name in GUIDANCES if name in active}
        if not guidances and not weighted:
            return {}
        needs = needs_of(weighted.values()).union(*(guidance.needs for guidance in guidances.values()))
        render = self._render_batch(
            batch, needs | (self.stage_needs if guidances else frozenset()), generator
        )
        losses = {name: loss(render, **self.loss_options) for name, loss in weighted.items()}
        for name, guidance in guidances.items():
            output = self._guide(guidance, render, batch, step, generator)
            self.skipped.reject(output.trouble)
            prefix = "" if name == "usd" else f"{name}_"
            self.figures.update({prefix + key: value for key, value in output.figures.items()})
            losses[name] = output.loss
            losses.update({prefix + key: loss for key, loss in output.losses.items()})
        self.figures["opacity"] = render.opacity.detach().mean()
        return losses

    def _render_batch(self, batch: CameraBatch, needs: frozenset[str], generator: torch.Generator) -> Render:
        """Render a batch's views; where it asks for a subgrid of their pixels, that is interpolated between."""
        render = self.renderer.render(batch.cameras, needs, generator, batch.window)
        if batch.window is None:
            return render
        return enlarge(render, batch.cameras.height, batch.cameras.width, batch.window)

    def _guide(
        self, guidance: Guidance, render: Render, batch: CameraBatch, step: int, generator: torch.Generator
    ) -> GuidanceOutput:
        """Return what a guidance says of a render, or of the latents that it is."""
        latents = self.latents_of(render, step)
        if latents is None:
            return guidance(self.guidance_input(render), batch.cameras, step, generator)
        return guidance.from_latents(
            fit_latents(latents, guidance.model.latent), batch.cameras, step, generator
        )

    def latents_of(self, render: Render, step: int) -> Float[Tensor, "B C H W"] | None:
        """Return the render as latents where it is to be taken as such; None where it is pictures."""
        if self.config.rgb_as_latents:
            return render.rgb
        if self.config.stage != "geometry" or step >= self.config.latent_steps:
            return None
        assert render.normal is not None
        return torch.cat([2 * normal_colors(render.normal, render.opacity, 0.0) - 1, render.opacity], 1)

    def _opened_guidance(self, name: str) -> Guidance:
        """Return a guidance, while training."""
        opened = getattr(self, GUIDANCES[name])
        assert isinstance(opened, Guidance), "on_fit_start opens the guidance"
        return opened

    @property
    def stage_needs(self) -> frozenset[str]:
        """Quantities that are rendered beside colors because this stage shows them."""
        return frozenset({"normal"}) if self.config.stage == "geometry" else frozenset()

    def guidance_input(self, render: Render) -> Render:
        """Return the render as the guidance gets it: in a geometry stage its normals are its colors."""
        if self.config.stage != "geometry":
            return render
        assert render.normal is not None
        return replace(
            render, rgb=normal_colors(render.normal, render.opacity, self.config.normal_background)
        )

    # ------------------------------------------------------------------------------------------------- pictures

    def reference_picture(self, height: int, width: int) -> Float[Tensor, "3 h w"] | None:  # noqa: ARG002 - for overrides
        """Return a picture to show beside validation views; None without."""
        return None

    def validate(self, batch: CameraBatch, index: int) -> None:
        """Write ``it<step>-<index>.png``: colors, opacity, depth, and what else this stage shows."""
        grid = validation_grid(
            self.render_views(batch.cameras, "depth", *self.stage_needs),
            self.reference_picture(batch.cameras.height, batch.cameras.width),
        )
        write_picture(self.save_dir / f"it{self.step}-{index}.png", grid)

    def on_test_epoch_start(self) -> None:
        """Forget the views of an earlier test."""
        self.test_views = {}

    @override
    def test(self, batch: CameraBatch, index: int) -> None:
        """Write the views of a batch as straight-alpha RGBA, ``it<step>-<name>/<index>.png``."""
        folder = self.save_dir / f"it{self.step}-{batch.name}"
        for i, rgba in enumerate(rendered_rgba(self.evaluation_views(batch.cameras))):
            file = write_picture(folder / f"{batch.first + i}.png", rgba)
            self.test_views.setdefault(batch.name, []).append(WrittenView(rgba, file, batch.view(i)))

    def render_views(self, cameras: Cameras, *needs: str, window: Window | None = None) -> Render:
        """Render evaluation pictures on the CPU; latents are decoded, in a window roughly and pixel by pixel."""
        render = super().render_views(cameras, *needs, window=window)
        if not self.config.rgb_as_latents:
            return render
        return rough_pictures(render, self.material) if window else self._decoder().decode(render)

    def _decoder(self) -> LatentPictures:
        """Return what decodes rendered latents; a test without a training opens the guidance for it."""
        if self._latent_pictures is None:
            if self.guidance is None:
                self.guidance = self.open_guidance().to(self.device)
            self._latent_pictures = LatentPictures(self.guidance.model)
        return self._latent_pictures

    def evaluation_views(self, cameras: Cameras) -> Render:
        """Render evaluation pictures: a geometry stage has no colors but those of its normals."""
        render = self.render_views(cameras, *self.stage_needs)
        if self.config.stage != "geometry":
            return render
        assert render.normal is not None
        return replace(render, foreground=normal_colors(render.normal, render.opacity, 0.0))

    def on_test_epoch_end(self) -> None:
        """Write of every folder of views cameras, contact sheet, scores if there is a truth, a turntable's video."""
        for views in self.test_views.values():
            folder, pictures = views[0].file.parent, [view.rgba for view in views]
            cameras = [view.batch.cameras for view in views]
            write_transforms(folder / "transforms.json", cameras, [view.file.name for view in views])
            write_contact_sheet(self.save_dir / f"{folder.name}.png", pictures)
            if len(pictures) > 1 and not any(view.batch.frames for view in views):
                write_video(self.save_dir / f"{folder.name}.mp4", pictures)
            self._write_scores(folder, views)
        self.test_views = {}

    def _write_scores(self, folder: Path, views: Sequence[WrittenView]) -> None:
        """Write ``metrics.json`` of the views that have a true picture, and log the mean."""
        frames = [frame for view in views for frame in view.batch.frames]
        scores = {i: score for i, view in enumerate(views) if (score := view_score(view)) is not None}
        if scores:
            write_metrics(folder / "metrics.json", frames, scores)
            self.log_scores(list(scores.values()))

    def compare_export(self, exporter: Exporter, files: Sequence[Path], data: Data) -> str:
        """Return how far exported files are from the object in training views."""
        views = training_views(exporter, data, self.step, self.device)
        return compare_with_renders(exporter, files, views, lambda view: self.render_views(view.cameras))


def view_score(view: WrittenView) -> ViewScore | None:
    """Return how far a view is from its true picture, read back as written; None where there is none."""
    frame: Frame | None = view.batch.frames[0] if view.batch.frames else None
    return None if frame is None or frame.picture is None else score_view(view.file, frame.picture)


def loss_options(given: Mapping[str, Schedule]) -> dict[str, float]:
    """Return the keys of ``system.loss`` that are no weights."""
    return {key: value(0) for key, value in given.items() if key in LOSS_OPTIONS}


def default_weights(extra: Mapping[str, float]) -> dict[str, float]:
    """Return the weights of a distillation's losses where no configuration says them."""
    return {
        "usd": 1.0,
        "img": 0.0,
        "3d": 1.0,
        "3d_img": 0.0,
        "lora": 0.0,
        **dict.fromkeys(regularizers(), 0.0),
        **extra,
    }


def distillation_weights(given: Mapping[str, Schedule], extra: Mapping[str, float]) -> Weights:
    """Return weights by loss name from ``lambda_NAME`` keys. Raises ``ConfigError`` for unknown keys.

    ``lambda_vsd`` and ``lambda_sds``, as published, are other names of ``lambda_usd``; two that differ are an error.
    """
    weights = read_weights(given, default_weights(extra), LOSS_ALIASES)
    most = weights.pop("lora").maximum
    if most != 0:
        raise ConfigError(f"system.loss.lambda_lora: is {most:g}; expected 0: this method trains no LoRA")
    return weights
