"""A captured scene, edited by a sentence: its pictures are replaced in turn by edited renders (arXiv 2303.12789).

A step compares renders of given views with their pictures. From ``start_editing_step`` on, every ``per_editing_step``
steps one view is rendered, edited beside its original picture, and kept in that picture's place.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from typing_extensions import TypeVar, override

from usd.core.config import ConfigError, Schedule, Spec, component, option
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.module import Module, NoOptions
from usd.core.random import generator
from usd.core.registry import build, register
from usd.core.types import Render
from usd.data.multiview_camera import MultiviewCameras, PictureBatch, picture_batch
from usd.data.pictures import contact_sheet, write_picture
from usd.data.random_camera import CameraBatch
from usd.data.transforms import write_transforms
from usd.data.view_set import ViewSet
from usd.denoiser.load import in_rehearsal
from usd.evaluation.gallery import validation_grid, write_contact_sheet, write_video
from usd.evaluation.lpips import Lpips, find_lpips
from usd.guidance import Guidance
from usd.guidance.image_prompt_scores import ImagePromptOptions, edit_views
from usd.guidance.scores import NotFiniteError, require_finite
from usd.losses import needs_of
from usd.losses.pictures import absolute_difference
from usd.losses.table import LOSS_OPTIONS, regularizers
from usd.math.camera import Cameras
from usd.prompt_processor import PromptProcessor
from usd.system.distillation import loss_options
from usd.system.scene import SceneConfig, SceneSystem
from usd.system.weighted_losses import Weights, loss_keys, read_weights

LEAST_SIDE = 16  # pixels that LPIPS can look at
SHEET = 16  # edited pictures on a contact sheet


@dataclass(frozen=True)
class InstructNerf2NerfConfig(SceneConfig):
    """Components, and ``loss``: ``lambda_NAME`` is the weight of the loss NAME, a number or a schedule.

    NAME is l1 or p (LPIPS), against the pictures, or a regularizer such as orient, sparsity or opaque.
    """

    guidance: Spec = component(
        "guidance", "stable-diffusion-instructpix2pix-guidance", "model that edits the views"
    )
    prompt_processor: Spec | None = component(
        "prompt_processor", None, "the sentence that says how the scene changes", optional=True
    )
    start_editing_step: int = option(
        1000, "step of the first edit; the scene is fitted to its own pictures until then", ge=0
    )
    per_editing_step: int = option(10, "steps from one edited picture to the next", ge=1)


N = TypeVar("N", bound=InstructNerf2NerfConfig, default=InstructNerf2NerfConfig, covariant=True)


class EditedPictures(Module[NoOptions]):
    """Edited pictures by the numbers of their views, as 8-bit pixels; part of a training's state."""

    def __init__(self) -> None:
        super().__init__(NoOptions())
        self.pixels: dict[int, UInt8[Tensor, "3 H W"]] = {}

    def put(self, index: int, picture: Float[Tensor, "3 H W"]) -> None:
        """Keep a picture in [0, 1] in the place of a view's own."""
        self.pixels[index] = (255 * picture.detach().clamp(0, 1)).round().to(torch.uint8).cpu()

    def instead_of(
        self, pictures: Float[Tensor, "B 3 H W"], indices: Int[Tensor, "B"]
    ) -> Float[Tensor, "B 3 H W"]:
        """Return pictures of views by number, those that are edited already as edited."""
        chosen = [self.pixels.get(index) for index in indices.tolist()]
        rows = [own if new is None else new.to(own) / 255 for own, new in zip(pictures, chosen, strict=True)]
        return torch.stack(rows)

    def training_state(self) -> dict[str, object]:
        """Return the pictures."""
        return {"pixels": dict(self.pixels)}

    def load_training_state(self, state: Mapping[str, object]) -> None:
        """Take the pictures back."""
        pixels = state.get("pixels", {})
        assert isinstance(pixels, dict)
        self.pixels = dict(pixels)


class EditingSystem(SceneSystem[N, PictureBatch, CameraBatch]):
    """Base of systems that edit the pictures of ``multiview-camera-datamodule`` while a scene learns them."""

    transient: ClassVar[frozenset[str]] = SceneSystem.transient | {"edited"}
    picture_losses: ClassVar[Mapping[str, float]] = {"l1": 1.0, "p": 0.0}
    """Losses against pictures, and their weights where no configuration says them."""

    @classmethod
    def default_weights(cls) -> dict[str, float]:
        """Return the weights of losses where no configuration says them."""
        return {**cls.picture_losses, **dict.fromkeys(regularizers(), 0.0)}

    @classmethod
    def unknown_keys(cls, options: Mapping[str, object]) -> list[str]:
        """Return the keys of ``loss`` that this system refuses."""
        loss, known = options.get("loss"), [*loss_keys(cls.default_weights()), *LOSS_OPTIONS]
        return [f"loss.{key}" for key in loss if key not in known] if isinstance(loss, Mapping) else []

    def build(self) -> None:
        """Build the scene. Raises ``ConfigError`` for a guidance that edits no pictures, or without prompts."""
        super().build()
        refuse_other_guidance(self.config.guidance)
        if self.config.prompt_processor is None:
            raise ConfigError(
                "system.prompt_processor_type: required but not given; expected a prompt processor"
            )
        self.check_channels()
        self.guidance: Guidance | None = None
        self.prompt_processor: PromptProcessor | None = None
        self.lpips: Lpips | None = None
        self.edited = EditedPictures()
        self.test_views: list[tuple[Float[Tensor, "4 H W"], Cameras]] = []

    def check_channels(self) -> None:
        """Raise ``ConfigError`` where what is rendered is no picture."""
        if (channels := max(self.material.n_channels, self.background.n_channels)) != 3:
            raise ConfigError(
                f"system.material.n_output_dims: what is rendered has {channels} channels; expected 3, colors"
            )

    def loss_weights(self) -> Weights:
        """Return the weights of the pictures' losses and of the regularizers."""
        self.loss_options = {**LOSS_OPTIONS, **loss_options(self.config.loss)}
        given: dict[str, Schedule] = {
            key: weight for key, weight in self.config.loss.items() if key not in LOSS_OPTIONS
        }
        return read_weights(given, self.default_weights())

    # ------------------------------------------------------------------------------------------------- training

    @property
    def views(self) -> ViewSet:
        """All views that are trained on. Raises ``ConfigError`` where the data have none."""
        if not isinstance(self.data, MultiviewCameras):
            raise ConfigError("data_type: gives no views with pictures; expected multiview-camera-datamodule")
        return self.data.train_views

    def on_fit_start(self) -> None:
        """Refuse what cannot be trained, take the shape to start from, and open the models."""
        camera = self.views.cameras
        for name, loss in regularizers().items():
            if name in self.used_losses:
                self.renderer.require(loss.needs, f"system.loss.lambda_{name}")
        if "p" in self.used_losses:
            self.lpips = self._open_lpips(min(camera.height, camera.width))
        if self.trainer.ckpt_path is None:
            self.geometry.initialize()
        super().on_fit_start()
        if self.guidance is None:
            self.guidance = self._open_guidance().to(self.device)

    def on_train_start(self) -> None:
        """Take back what was edited. Raises ``UserError`` where that is of other views."""
        super().on_train_start()
        views = self.views
        shape = (3, views.cameras.height, views.cameras.width)
        for index, picture in self.edited.pixels.items():
            if index >= len(views) or tuple(picture.shape) != shape:
                raise UserError(
                    f"data.dataroot: the checkpoint has an edited view {index} of {picture.shape[2]} x "
                    f"{picture.shape[1]} pixels; here are {len(views)} views of {shape[2]} x {shape[1]}; expected the "
                    "data that the training began with"
                )

    def _open_lpips(self, side: int) -> Lpips | None:
        """Return the perceptual loss, on the training device. Raises ``ConfigError`` without its weights."""
        if side < LEAST_SIDE:
            raise ConfigError(
                f"system.loss.lambda_p: LPIPS needs pictures of at least {LEAST_SIDE} pixels, not {side}; "
                "expected 0, or a smaller data.train_downsample_resolution"
            )
        found, why = find_lpips()
        if found is not None:
            weights = {name: weight.to(self.device) for name, weight in found.weights.items()}
            return replace(found, weights=weights, linear=tuple(w.to(self.device) for w in found.linear))
        if not in_rehearsal():
            raise ConfigError(f"system.loss.lambda_p: {why}; expected these files, or 0")
        say(f"note: system.loss.lambda_p: {why}; the dry run does without, the real run needs them")
        return None

    def _open_guidance(self) -> Guidance:
        """Build the guidance with its prompts. Raises ``ConfigError`` where the renderer lacks what it needs."""
        assert self.config.prompt_processor is not None
        self.prompt_processor = build(self.config.prompt_processor, PromptProcessor)
        guidance = build(self.config.guidance, Guidance, prompts=self.prompt_processor)
        self.renderer.require(guidance.needs, "system.guidance_type")
        return guidance

    def on_train_batch_start(self, batch_idx: int) -> None:
        """Update every module; edit a view if it is time to."""
        super().on_train_batch_start(batch_idx)
        if self.edits_at(self.global_step):
            self.edit_view(self.view_to_edit(self.global_step, len(self.views)), self.global_step)

    def edits_at(self, step: int) -> bool:
        """Return whether a view is edited before this step."""
        past = step - self.config.start_editing_step
        return past >= 0 and past % self.config.per_editing_step == 0

    def view_to_edit(self, step: int, count: int) -> int:
        """Return which of ``count`` views it is: all of them in an order drawn anew, then all of them again."""
        edits = (step - self.config.start_editing_step) // self.config.per_editing_step
        order = generator("cpu", self.seed, "editing order", 0, edits // count)
        return int(torch.randperm(count, generator=order)[edits % count])

    @torch.no_grad()
    def edit_view(self, index: int, step: int) -> None:
        """Edit a view as it is rendered now; where that is not finite its picture stays, and a line says so."""
        assert self.guidance is not None, "on_fit_start opens the guidance"
        batch = picture_batch(self.views, torch.tensor([index]), "train").to(self.device)
        with self._evaluation_mode():
            render = self.renderer.render(batch.cameras, self.guidance.needs, None)
        random = generator(self.device, self.seed, "edit", 0, step)
        condition = condition_of(self.guidance, render, batch)
        try:
            rgb = require_finite(render.rgb.clamp(0, 1), "the rendered picture")
            made = edit_views(self.guidance, rgb, batch.cameras, step, random, condition)
            require_finite(made, "the edited picture")
        except NotFiniteError as problem:
            say(f"step {step}: view {index} is not edited, since {problem}")
            return
        size = (batch.cameras.height, batch.cameras.width)
        self.edited.put(
            index, torch.nn.functional.interpolate(made, size, mode="bilinear", antialias=True)[0]
        )

    @contextmanager
    def _evaluation_mode(self) -> Iterator[None]:
        """Have the scene render whole pictures, as for evaluation, for a while."""
        components: tuple[Module, ...] = (self.geometry, self.material, self.background, self.renderer)
        training = [part.training for part in components]
        for part in components:
            part.eval()
        try:
            yield
        finally:
            for part, was in zip(components, training, strict=True):
                part.train(was)

    def compute(self, batch: PictureBatch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the weighted losses of renders against the pictures as they are now, and of the renders themselves."""
        active = self.active(step)
        render = self.renderer.render(batch.cameras, self.needs_at(step), generator)
        truth = self.edited.instead_of(batch.pictures, batch.indices)
        losses = {**self.regularization(render, active), **self.differences(render.rgb, truth, active)}
        self.note_progress(render.rgb, truth)
        return {name: active[name] * loss for name, loss in losses.items()}

    def needs_at(self, step: int) -> frozenset[str]:
        """Return what the regularizers of a step need of a render."""
        return needs_of(loss for name, loss in regularizers().items() if name in self.active(step))

    def regularization(self, render: Render, active: Mapping[str, float]) -> dict[str, Tensor]:
        """Return the active losses of renders themselves."""
        weighted = {name: loss for name, loss in regularizers().items() if name in active}
        return {name: loss(render, **self.loss_options) for name, loss in weighted.items()}

    def differences(
        self, rgb: Float[Tensor, "B 3 H W"], truth: Float[Tensor, "B 3 H W"], active: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Return the active losses between rendered and true pictures."""
        losses: dict[str, Tensor] = {}
        if "l1" in active:
            losses["l1"] = absolute_difference(rgb, truth)
        if "p" in active and self.lpips is not None:
            losses["p"] = self.lpips.distance(rgb, truth).mean()
        return losses

    def note_progress(self, rgb: Float[Tensor, "B 3 H W"], truth: Float[Tensor, "B 3 H W"]) -> None:
        """Keep the figures of a step that are no losses."""
        error = (rgb.detach() - truth).square().mean()
        self.figures["psnr"] = float(-10 * error.clamp_min(1e-10).log10())
        self.figures["edited_views"] = len(self.edited.pixels)

    # ------------------------------------------------------------------------------------------------- pictures

    def validate(self, batch: CameraBatch, index: int) -> None:
        """Write ``it<step>-<index>.png``: the views above their parts; ``it<step>-edited.png``: edited pictures."""
        render = self.render_views(batch.cameras, "depth")
        whole = contact_sheet(render.rgb.clamp(0, 1), columns=len(batch))
        gap = torch.ones_like(whole[:, :2])
        picture = torch.cat([whole, gap, validation_grid(render)], 1)
        write_picture(self.save_dir / f"it{self.step}-{index}.png", picture)
        if index == 0 and self.edited.pixels:
            edited = [opaque_rgba(picture / 255) for _, picture in sorted(self.edited.pixels.items())]
            write_contact_sheet(self.save_dir / f"it{self.step}-edited.png", edited, SHEET)

    def on_test_epoch_start(self) -> None:
        """Forget the views of an earlier test."""
        self.test_views = []

    @override
    def test(self, batch: CameraBatch, index: int) -> None:
        """Write the views of a batch with what is behind the scene, ``it<step>-test/<index>.png``."""
        pictures = self.evaluation_views(batch.cameras).rgb.clamp(0, 1)
        for i, rgb in enumerate(pictures):
            write_picture(self._test_folder / f"{batch.first + i}.png", rgb)
            self.test_views.append((opaque_rgba(rgb), batch.cameras[i : i + 1].to("cpu")))

    @property
    def _test_folder(self) -> Path:
        """Folder of test views."""
        return self.save_dir / f"it{self.step}-test"

    def on_test_epoch_end(self) -> None:
        """Write cameras, a contact sheet and a video of the views; edited ones have no truth to be scored against."""
        folder = self._test_folder
        if not self.test_views:
            return
        pictures, cameras = zip(*self.test_views, strict=True)
        write_transforms(folder / "transforms.json", list(cameras), [f"{i}.png" for i in range(len(cameras))])
        write_contact_sheet(self.save_dir / f"{folder.name}.png", pictures)
        if len(pictures) > 1:
            write_video(self.save_dir / f"{folder.name}.mp4", pictures)
        self.test_views = []


@register("instructnerf2nerf-system")
class InstructNerf2NerfSystem(EditingSystem[InstructNerf2NerfConfig]):
    """Instruct-NeRF2NeRF: a scene of ``multiview-camera-datamodule`` that comes to look as a sentence says."""


def refuse_other_guidance(chosen: Spec) -> None:
    """Raise ``ConfigError`` for a guidance that edits no pictures, or edits all of them beside one."""
    if not isinstance(chosen.config, ImagePromptOptions):
        raise ConfigError(
            f"system.guidance_type: {chosen.name} edits no pictures; expected "
            "stable-diffusion-instructpix2pix-guidance or stable-diffusion-controlnet-guidance"
        )
    if chosen.config.wants_picture:
        raise ConfigError(
            f"system.guidance.image_path: is {chosen.config.image_path}; expected none: every view is edited beside "
            "its own picture"
        )


def condition_of(guidance: Guidance, render: Render, batch: PictureBatch) -> Float[Tensor, "B 3 H W"]:
    """Return what the model sees beside the views: their original pictures, or rendered normals if it follows those."""
    if "normal" not in guidance.needs:
        return batch.pictures
    normals = guidance.source.default_pictures(render)
    assert normals is not None, "there is no reference picture"
    return normals


def opaque_rgba(rgb: Float[Tensor, "3 H W"]) -> Float[Tensor, "4 H W"]:
    """Return a picture with an alpha of 1."""
    return torch.cat([rgb, torch.ones_like(rgb[:1])])
