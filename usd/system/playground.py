"""Distillation without 3D: pictures, or their latents, follow a guidance directly. A formula shows itself in seconds.

Every view of ``fixed-views-datamodule`` is a picture of its own. Latents need no renderer, and no autoencoder in the
loop; ``optimise: picture`` sends the gradient through the encoder, as a renderer would.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.checkpoint import Checkpoint
from usd.core.config import ConfigError, Spec, component, option
from usd.core.random import generator
from usd.core.registry import build, register
from usd.core.types import Render
from usd.data.fixed_views import FixedViews
from usd.data.pictures import contact_sheet, over, read_rgba, resize_rgba, write_picture
from usd.data.random_camera import CameraBatch
from usd.data.reference import ReferenceConfig, load_reference
from usd.evaluation.embedded import object_mask
from usd.evaluation.metrics import mask_iou, psnr, ssim
from usd.evaluation.views import ViewScore, write_metrics
from usd.exporter import Exporter
from usd.guidance import PictureGuidance, ViewGuidance
from usd.system import System

Pictures = Float[Tensor, "B 3 S S"]


@dataclass(frozen=True)
class PlaygroundConfig(System.Config):
    """The guidance, and what it changes."""

    guidance: Spec = component("guidance", None, "formula that pulls the pictures")
    reference: ReferenceConfig = option({}, "how the reference picture is read")
    optimise: Literal["latent", "picture"] = option(
        "latent", "what the guidance optimizes: latents or pictures"
    )
    start: Literal["grey", "gray", "noise", "reference"] = option(
        "grey", "every view at first: one gray, noise, or the reference picture"
    )


@register("playground-system")
class PlaygroundSystem(System[PlaygroundConfig, CameraBatch]):
    """Distillation of pictures. ``canvas`` is what is optimized; ``developed`` holds its pictures for testing."""

    def build(self) -> None:
        """Check the guidance. Raises ``ConfigError`` for one without a picture."""
        if not isinstance(self.config.guidance.config, ViewGuidance.Config):
            raise ConfigError(
                f"system.guidance_type: '{self.config.guidance.name}' looks at no picture; expected one that does, "
                "such as usd-guidance"
            )
        self.guidance: PictureGuidance | None = None

    # -------------------------------------------------------------------------------------------------- training

    def configure_model(self) -> None:
        """Read the picture, open the guidance and make the canvas, before the optimizer looks for weights."""
        if self.guidance is not None or self.trainer.state.fn != "fit":
            return
        data = self.data
        if not isinstance(data, FixedViews):
            raise ConfigError(
                "data_type: the playground needs the same views at every step; expected fixed-views"
            )
        path, device = self.config.guidance.config.image_path, self.trainer.strategy.root_device
        reference = load_reference(path, self.config.reference, "system.guidance.image_path")
        self.guidance = build(self.config.guidance, PictureGuidance, prompts=None).to(device)
        picture, views = (
            reference.over(self.guidance.model.latent.image_size).to(device),
            data.chosen("train"),
        )
        assert views.reference is not None
        self.guidance.set_reference(picture, views.reference.to(device))
        self._set_canvas(self._initial_canvas(picture, len(views)))

    @property
    def _opened_guidance(self) -> PictureGuidance:
        """The guidance, while training."""
        assert self.guidance is not None, "configure_model opens the guidance"
        return self.guidance

    @torch.no_grad()
    def _initial_canvas(self, picture: Float[Tensor, "1 3 S S"], count: int) -> Float[Tensor, "N c h w"]:
        """Return what ``count`` views are at first."""
        source = generator(picture.device, self.seed, "canvas")
        first = picture if self.config.start == "reference" else torch.full_like(picture, 0.5)
        canvas = self._opened_guidance.model.encode(first) if self.config.optimise == "latent" else first
        canvas = canvas.expand(count, -1, -1, -1).clone()
        if self.config.start == "noise":
            noise = torch.randn(canvas.shape, generator=source, device=canvas.device)
            canvas = noise if self.config.optimise == "latent" else (0.5 + 0.2 * noise).clamp(0, 1)
        return canvas

    def _set_canvas(self, canvas: Float[Tensor, "B c h w"]) -> None:
        """Register what is optimized, and its pictures."""
        self.canvas = torch.nn.Parameter(canvas)
        self.register_buffer("developed", self._pictures())

    def compute(self, batch: CameraBatch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the guidance's loss on the canvas."""
        if self.config.optimise == "latent":
            output = self._opened_guidance.pull(self.canvas, batch.cameras, step, generator)
        else:
            render = Render(self.canvas.clamp(0, 1), torch.ones_like(self.canvas[:, :1]))
            output = self._opened_guidance(render, batch.cameras, step, generator)
        self.skipped.reject(output.trouble)
        self.figures.update(output.figures)
        return {"usd": output.loss}

    @torch.no_grad()
    def _pictures(self) -> Pictures:
        """Return the canvas as pictures, where the guidance is."""
        if self.config.optimise == "picture":
            return self.canvas.detach().clamp(0, 1)
        return self._opened_guidance.model.decode(self.canvas.detach())

    # -------------------------------------------------------------------------------------------------- pictures

    def pictures(self) -> Pictures:
        """Return the views as they are now, on the CPU."""
        if self.guidance is not None:
            self.developed = self._pictures()
        return self.developed.cpu()

    def validate(self, batch: CameraBatch, index: int) -> None:
        """Write ``it<step>-<index>.png``, a sheet of the views."""
        write_picture(self.save_dir / f"it{self.step}-{index}.png", contact_sheet(self.pictures(), 8))

    def test(self, batch: CameraBatch, index: int) -> None:
        """Write ``it<step>-test/<index>.png``, a sheet (truth below), and ``metrics.json`` if there is a truth."""
        folder, pictures = self.save_dir / f"it{self.step}-test", self.pictures()
        files = [write_picture(folder / f"{i}.png", picture) for i, picture in enumerate(pictures)]
        truths = [read_rgba(f.picture, "ground truth") for f in batch.frames if f.picture is not None]
        rows = [pictures]
        if len(truths) == len(files):
            truth = torch.stack([resize_rgba(truth, *pictures.shape[-2:]) for truth in truths])
            scores = {i: score_over_white(pictures[i : i + 1], truth[i : i + 1]) for i in range(len(truth))}
            write_metrics(folder / "metrics.json", batch.frames, scores)
            rows.append(over(truth))
        write_picture(self.save_dir / f"{folder.name}.png", contact_sheet(torch.cat(rows), len(pictures)))

    # ----------------------------------------------------------------------------------------------- checkpoints

    def state_dict(  # type: ignore[override]  # torch's own signature
        self, *, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Tensor]:
        """Return canvas and pictures, as they are now."""
        if self.guidance is not None:
            self.pictures()
        return super().state_dict(prefix=prefix, keep_vars=keep_vars)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Make canvas and pictures of a checkpoint's shape, then take its weights."""
        state = checkpoint["state_dict"]
        self.canvas = torch.nn.Parameter(torch.zeros_like(state["canvas"]))
        self.register_buffer("developed", torch.zeros_like(state["developed"]))
        super().restore(checkpoint)

    def export(self, exporter: Exporter, folder: Path) -> list[Path]:
        """Raise ``ConfigError``: there is no shape."""
        raise ConfigError(
            "system_type: 'playground-system' makes pictures, no shape; expected another to export"
        )


def score_over_white(picture: Float[Tensor, "1 3 S S"], truth: Float[Tensor, "1 4 S S"]) -> ViewScore:
    """Return the score of a picture over white against a cut-out; its silhouette is what is not white."""
    white = over(truth)
    iou = mask_iou(object_mask(picture), truth[:, 3:])
    return ViewScore(psnr(picture, white).item(), ssim(picture, white).item(), iou.item())
