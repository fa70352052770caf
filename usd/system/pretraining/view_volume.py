"""``view-volume-system``: trains the feature volume that tells the embedded Zero-1-to-3 where things are.

A reference is lifted once and seen from several cameras; colors, opacity and the expected latent of each view are
compared with the truth. The expected latent is the mean of what the view can be: blurred where the reference leaves
things open, and exactly what a diffusion model needs beside x_t.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate, mse_loss
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.data.toybox import ToyViews, ViewPairs
from usd.denoiser.view_volume import (
    ViewVolume,
    ViewVolumeConfig,
    VolumeView,
    load_volume,
    write_volume,
    wrong_azimuths,
)
from usd.evaluation.metrics import mask_iou, psnr
from usd.math.camera import Cameras
from usd.system.pretraining.model_training import ModelTraining, half, write_rows


@register("view-volume-system")
class ViewVolumeSystem(ModelTraining["ViewVolumeSystem.Config", ViewPairs, ToyViews, ViewVolume]):
    """Training of the view volume. Needs an autoencoder; asks the data for pairs with the targets' pictures."""

    @dataclass(frozen=True)
    class Config(ModelTraining.Config):
        """Shape of the network, and its losses."""

        autoencoder: str = option(
            "load/toybox/stable-diffusion/vae", "folder of the autoencoder (for validation)", path=True
        )
        start_from: str | None = option(None, "folder of a view volume to go on from", path=True)
        volume: ViewVolumeConfig = option({}, "shape of the view volume")
        lambda_rgb: float = option(1.0, "weight of the rendered colors' error", ge=0)
        lambda_opacity: float = option(1.0, "weight of the rendered opacity's error", ge=0)
        lambda_latent: float = option(1.0, "weight of the expected latent's error", ge=0)

    def build_network(self) -> ViewVolume:
        """Build the volume, untrained or as ``start_from`` has it."""
        if self.config.start_from:
            return load_volume(Path(self.config.start_from)).float()
        return ViewVolume(self.config.volume)

    @override
    def compute(self, batch: ViewPairs, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the errors of colors, opacity and expected latents."""
        reference, target = batch.reference, batch.target
        assert reference.pictures is not None and target.pictures is not None
        assert target.alpha is not None and target.latents is not None
        with self.autocast():
            volumes = self.network.lift(reference.pictures, reference.cameras)
            seen = self.network.see(volumes, reference.cameras, target.cameras)
        c = self.config
        size = seen.rgb.shape[-1]
        return {
            "rgb": c.lambda_rgb * mse_loss(seen.rgb.float(), downsample(target.pictures, size)),
            "opacity": c.lambda_opacity * mse_loss(seen.opacity.float(), downsample(target.alpha, size)),
            "latent": c.lambda_latent * mse_loss(seen.hint[:, : target.latents.shape[1]], target.latents),
        }

    @override
    @torch.no_grad()
    def validate(self, batch: ToyViews, index: int) -> None:
        """Report PSNR beside that of copying, IoU, and how much worse the negated azimuth is; write a sheet."""
        from diffusers import AutoencoderKL

        pictures, alpha = batch.pictures, batch.alpha
        assert pictures is not None and alpha is not None
        vae = AutoencoderKL.from_pretrained(self.config.autoencoder, torch_dtype=torch.float32)
        vae = vae.to(self.device).eval()
        n = batch.views_each()
        first = torch.arange(0, len(pictures), n)
        rest = torch.tensor([i for i in range(len(pictures)) if i % n], device=self.device)
        reference, target = batch.cameras[first], batch.cameras[rest]
        seen = self._see(pictures[first], reference, target)
        latents = vae.encode(pictures[rest] * 2 - 1).latent_dist.mode()
        theirs = reference[torch.arange(len(first)).repeat_interleave(n - 1)]
        mirrored = self._see(pictures[first], reference, wrong_azimuths(target, theirs)["negated"])
        channels = latents.shape[1]
        error, other = (
            (s.hint[:, :channels] - latents).square().mean(dim=(1, 2, 3))[batch.named[rest]].mean()
            for s in (seen, mirrored)
        )
        made = (vae.decode(seen.hint[:, :channels]).sample / 2 + 0.5).clamp(0, 1)
        copied = pictures[first].repeat_interleave(n - 1, 0)
        self.log_validation(
            {
                "psnr": psnr(made, pictures[rest]).mean().item(),
                "psnr_of_copying": psnr(copied, pictures[rest]).mean().item(),
                "iou": mask_iou(seen.opacity.float(), downsample(alpha[rest], seen.opacity.shape[-1]))
                .mean()
                .item(),
                "latent_error": error.item(),
                "pose_negated": (other / error).item(),
            }
        )
        self._sheet(pictures, made, seen, n)

    def _see(self, pictures: Tensor, reference: Cameras, target: Cameras) -> VolumeView:
        """Return the targets as the average expects them."""
        with self.autocast():
            return self.average.see(self.average.lift(pictures, reference), reference, target)

    def _sheet(self, pictures: Tensor, made: Tensor, seen: VolumeView, n: int) -> None:
        """Write a column per toy: the reference; then truth, decoded latent and rendered colors of each view."""
        views = pictures.unflatten(0, (-1, n))[:16]
        size = pictures.shape[-1]
        rendered = interpolate(seen.rgb.float(), (size, size)).clamp(0, 1)
        made, rendered = (x.unflatten(0, (-1, n - 1))[:16] for x in (made, rendered))
        rows = [views[:, 0]]
        for j in range(n - 1):
            rows += [views[:, j + 1], made[:, j], rendered[:, j]]
        write_rows(rows, self.sheet_path("views"))

    def publish(self, folder: Path) -> None:
        """Write the volume in float16."""
        write_volume(half(self.average), folder)


def downsample(pictures: Tensor, size: int) -> Tensor:
    """Average square pictures down to ``size``."""
    return interpolate(pictures.float(), (size, size), mode="area")
