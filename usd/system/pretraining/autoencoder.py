"""``autoencoder-system``: trains the embedded family's AutoencoderKL, and whitens its latent space."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.data.toybox import ToyViews
from usd.evaluation.metrics import psnr, ssim
from usd.system.pretraining.model_training import ModelTraining, save_half, write_rows

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@register("autoencoder-system")
class AutoencoderSystem(ModelTraining["AutoencoderSystem.Config", ToyViews, ToyViews, "AutoencoderKL"]):
    """Training by L1 + squared error under a little latent noise, on random crops first, then on whole pictures.

    The latent is the posterior's mode plus noise of fixed strength: drawn from a posterior that starts as wide as a
    standard normal, the first thousands of samples teach little.
    """

    @dataclass(frozen=True)
    class Config(ModelTraining.Config):
        """Shape of the autoencoder, and its losses."""

        channels: tuple[int, ...] = option((32, 64, 96), "feature channels of each resolution", ge=1, le=8192)
        layers_per_block: int = option(1, "residual layers at each resolution", ge=1, le=32)
        latent_channels: int = option(4, "channels of a latent", ge=1, le=1024)
        image_size: int = option(64, "side of the pictures in pixels", ge=8, le=4096)
        crop_px: int = option(32, "side of the random crops", ge=8, le=4096)
        crop_steps: int = option(0, "steps that see crops only", ge=0)
        latent_noise: float = option(0.05, "standard deviation of the noise on latents", ge=0, le=100)
        lambda_size: float = option(
            1e-3, "weight of the latents' mean square, which keeps the noise felt", ge=0
        )

    def build_network(self) -> "AutoencoderKL":
        """Build the autoencoder, untrained."""
        from diffusers import AutoencoderKL

        n = len(self.config.channels)
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * n,
            up_block_types=("UpDecoderBlock2D",) * n,
            block_out_channels=self.config.channels,
            layers_per_block=self.config.layers_per_block,
            latent_channels=self.config.latent_channels,
            norm_num_groups=16,
            sample_size=self.config.image_size,
            scaling_factor=1.0,
            mid_block_add_attention=False,
        )

    def compute(self, batch: ToyViews, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the errors of reconstructions, and the size of the latents."""
        assert batch.pictures is not None
        pictures = batch.pictures
        if step < self.config.crop_steps:
            pictures = random_crop(pictures, self.config.crop_px, generator)
        with self.autocast():
            latents = self.network.encode(pictures * 2 - 1).latent_dist.mode()
            noise = torch.randn(latents.shape, generator=generator, device=generator.device).to(latents)
            back = self.network.decode(latents + self.config.latent_noise * noise).sample
        error = back.float() - (pictures * 2 - 1)
        size = self.config.lambda_size * latents.float().square().mean()
        self.figures["psnr"] = float(-10 * torch.log10(error.detach().square().mean() / 4))
        return {"l1": error.abs().mean(), "square": error.square().mean(), "size": size}

    @override
    @torch.no_grad()
    def validate(self, batch: ToyViews, index: int) -> None:
        """Report PSNR and SSIM of reconstructions, and write a sheet."""
        pictures = batch.pictures
        assert pictures is not None
        with self.autocast():
            latents = self.average.encode(pictures * 2 - 1).latent_dist.mode()
            back = (self.average.decode(latents).sample.float() / 2 + 0.5).clamp(0, 1)
        self.log_validation(
            {"psnr": psnr(back, pictures).mean().item(), "ssim": ssim(back, pictures).mean().item()}
        )
        write_rows([pictures[:24], back[:24]], self.sheet_path("reconstructions"))
        self.latest = latents.float()

    def publish(self, folder: Path) -> None:
        """Write the autoencoder with white latents."""
        vae = copy.deepcopy(self.average)
        fold_whitening(vae, self.latest)
        save_half(vae, folder)


def random_crop(pictures: Float[Tensor, "B 3 H W"], side: int, generator: torch.Generator) -> Tensor:
    """Cut one window out of the whole batch, at a random place."""
    margin = pictures.shape[-1] - side
    top, left = torch.randint(margin + 1, (2,), generator=generator, device=generator.device).tolist()
    return pictures[..., top : top + side, left : left + side]


@torch.no_grad()
def fold_whitening(vae: "AutoencoderKL", latents: Float[Tensor, "B c h w"]) -> None:
    """Make the latents of ``vae`` white (mean 0, covariance 1 over these samples) without changing reconstructions.

    The affine map is folded into the 1x1 convolutions around the latent; the posterior becomes (nearly) a point.
    """
    c = latents.shape[1]
    flat = latents.double().permute(1, 0, 2, 3).reshape(c, -1)
    mean = flat.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(flat))
    whiten = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    color = vectors @ torch.diag(values.sqrt()) @ vectors.T
    quant, post = vae.quant_conv, vae.post_quant_conv
    weight, bias = quant.weight[:c, :, 0, 0].double(), quant.bias[:c].double()
    quant.weight[:c, :, 0, 0] = (whiten @ weight).float()
    quant.bias[:c] = (whiten @ (bias - mean)).float()
    quant.weight[c:], quant.bias[c:] = 0.0, -20.0
    back = post.weight[:, :, 0, 0].double()
    post.bias += (back @ mean).float()
    post.weight[:, :, 0, 0] = (back @ color).float()
