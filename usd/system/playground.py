"""Distillation without 3D: pictures, or their latents, follow a guidance, so that a formula shows itself in seconds.

Every view of ``fixed-views-datamodule`` is a picture of its own. Latents need no renderer, and no autoencoder in the
loop; ``optimise: picture`` sends the gradient through the encoder, as a renderer would.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.checkpoint import Checkpoint
from usd.core.config import ConfigError, Spec, component, option
from usd.core.random import generator
from usd.core.registry import build, register
from usd.core.types import Render
from usd.data.fixed_views import FixedViews
from usd.data.pictures import contact_sheet, over, read_rgba, resize_rgba, write_picture
from usd.data.random_camera import CameraBatch
from usd.data.reference import Reference, ReferenceConfig, load_reference
from usd.evaluation.embedded import object_mask
from usd.evaluation.metrics import mask_iou, psnr, ssim
from usd.evaluation.views import ViewScore, write_metrics
from usd.exporter import Exporter
from usd.guidance import Guidance, GuidanceConfig, ReferenceOptions
from usd.prompt_processor import PromptProcessor
from usd.system import System

Pictures = Float[Tensor, "B 3 S S"]


@dataclass(frozen=True)
class PlaygroundConfig(System.Config):
    """Options of the playground."""

    guidance: Spec = component("guidance", None, "formula that the pictures follow")
    prompt_processor: Spec | None = component(
        "prompt_processor", None, "prompt, where the guidance wants one", optional=True
    )
    reference: ReferenceConfig = option({}, "preparation of the reference picture")
    optimise: Literal["latent", "picture"] = option(
        "latent", "quantity that is optimized: latents or pictures"
    )
    start: Literal["grey", "gray", "noise", "reference"] = option(
        "grey", "first content of every view: one gray, noise, or the reference picture"
    )


@register("playground-system")
class PlaygroundSystem(System[PlaygroundConfig, CameraBatch]):
    """Distillation of pictures. ``canvas`` is what is optimized; ``developed`` holds its pictures for testing."""

    def build(self) -> None:
        """Check that there is a picture where one is wanted. Raises ``ConfigError``."""
        options = self.config.guidance.config
        self.wants_picture = isinstance(options, GuidanceConfig) and options.wants_picture
        if not self.wants_picture and self.config.start == "reference":
            raise ConfigError(
                f"system.start: reference, but '{self.config.guidance.name}' looks at no picture; expected another"
            )
        self.guidance: Guidance | None = None

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
        views, device = data.chosen("train"), self.trainer.strategy.root_device
        reference = self._reference() if self.wants_picture else None
        guidance = self.guidance = build(self.config.guidance, Guidance, prompts=self._prompts()).to(device)
        size = guidance.model.latent.image_size
        picture = torch.full((1, 3, size, size), 0.5, device=device)
        if reference is not None:
            assert views.reference is not None
            picture = reference.over(size, guidance.model.backdrop).to(device)
            guidance.set_reference(picture, views.reference.to(device))
        self._make_canvas(self._first(picture, len(views)))

    def _reference(self) -> Reference:
        options = self.config.guidance.config
        assert isinstance(options, ReferenceOptions)
        return load_reference(options.image_path, self.config.reference, "system.guidance.image_path")

    def _prompts(self) -> PromptProcessor | None:
        spec = self.config.prompt_processor
        return None if spec is None else build(spec, PromptProcessor)

    def _open_guidance(self) -> Guidance:
        assert self.guidance is not None, "configure_model opens the guidance"
        return self.guidance

    @torch.no_grad()
    def _first(self, picture: Float[Tensor, "1 3 S S"], count: int) -> Float[Tensor, "N c h w"]:
        """Return the canvas at the start of a training."""
        source = generator(picture.device, self.seed, "canvas")
        first = picture if self.config.start == "reference" else torch.full_like(picture, 0.5)
        canvas = self._open_guidance().model.encode(first) if self.config.optimise == "latent" else first
        canvas = canvas.expand(count, -1, -1, -1).clone()
        if self.config.start == "noise":
            noise = torch.randn(canvas.shape, generator=source, device=canvas.device)
            canvas = noise if self.config.optimise == "latent" else (0.5 + 0.2 * noise).clamp(0, 1)
        return canvas

    def _make_canvas(self, canvas: Float[Tensor, "B c h w"]) -> None:
        self.canvas = torch.nn.Parameter(canvas)
        self.register_buffer("developed", self._pictures())

    def compute(self, batch: CameraBatch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of all views."""
        if self.config.optimise == "latent":
            output = self._open_guidance().from_latents(self.canvas, batch.cameras, step, generator)
        else:
            render = Render(self.canvas.clamp(0, 1), torch.ones_like(self.canvas[:, :1]))
            output = self._open_guidance()(render, batch.cameras, step, generator)
        self.skipped.reject(output.trouble)
        self.figures.update(output.figures)
        return {"usd": output.loss}

    @torch.no_grad()
    def _pictures(self) -> Pictures:
        if self.config.optimise == "picture":
            return self.canvas.detach().clamp(0, 1)
        return self._open_guidance().model.decode(self.canvas.detach())

    # -------------------------------------------------------------------------------------------------- pictures

    def pictures(self) -> Pictures:
        """Return the views as they are now, on the CPU."""
        if self.guidance is not None:
            self.developed = self._pictures()
        return self.developed.cpu()

    @override
    def validate(self, batch: CameraBatch, index: int) -> None:
        """Write a sheet of all views, ``it<step>-<index>.png``."""
        write_picture(self.save_dir / f"it{self.step}-{index}.png", contact_sheet(self.pictures(), 8))

    @override
    def test(self, batch: CameraBatch, index: int) -> None:
        """Write ``it<step>-test/<index>.png``, a sheet (truth below), and ``metrics.json`` where there is a truth."""
        folder, pictures = self.save_dir / f"it{self.step}-test", self.pictures()
        files = [write_picture(folder / f"{i}.png", picture) for i, picture in enumerate(pictures)]
        truths = [read_rgba(f.picture, "ground truth") for f in batch.frames if f.picture is not None]
        rows = [pictures]
        if len(truths) == len(files):
            expected = torch.stack([resize_rgba(truth, *pictures.shape[-2:]) for truth in truths])
            scores = {
                i: score_over_white(pictures[i : i + 1], expected[i : i + 1]) for i in range(len(expected))
            }
            write_metrics(folder / "metrics.json", batch.frames, scores, "render above, truth below")
            rows.append(over(expected))
        write_picture(self.save_dir / f"{folder.name}.png", contact_sheet(torch.cat(rows), len(pictures)))

    # ----------------------------------------------------------------------------------------------- checkpoints

    def state_dict(  # type: ignore[override]  # torch's own signature
        self, *, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Tensor]:
        """Return all weights, with the pictures as they are now."""
        if self.guidance is not None:
            self.pictures()
        return super().state_dict(prefix=prefix, keep_vars=keep_vars)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take canvas and pictures from a checkpoint, for testing."""
        state = checkpoint["state_dict"]
        self.canvas = torch.nn.Parameter(torch.zeros_like(state["canvas"]))
        self.register_buffer("developed", torch.zeros_like(state["developed"]))
        super().restore(checkpoint)

    @override
    def export(self, exporter: Exporter, folder: Path) -> list[Path]:
        """Raise ``ConfigError``: there is no shape."""
        raise ConfigError(
            "system_type: 'playground-system' makes pictures, no shape; expected another to export"
        )


def score_over_white(picture: Float[Tensor, "1 3 S S"], truth: Float[Tensor, "1 4 S S"]) -> ViewScore:
    """Score a picture over white against a cut-out; its silhouette is what is not white."""
    white = over(truth)
    iou = mask_iou(object_mask(picture), truth[:, 3:])
    return ViewScore(psnr(picture, white).item(), ssim(picture, white).item(), iou.item())
