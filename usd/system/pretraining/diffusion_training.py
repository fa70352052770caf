"""What training Stable Diffusion and training Zero-1-to-3 have in common: v prediction under its own schedule."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.denoiser.attention import plain_attention
from usd.math.diffusion import add_noise, alpha_sigma, scaled_linear_alphas_cumprod

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}
"""Stable Diffusion's betas. The networks predict v: its squared error weighs high noise, where pose is decided."""


def write_scheduler(folder: Path) -> None:
    """Write the noise schedule as diffusers reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2))


def make_unet(
    channels: tuple[int, ...], in_channels: int, latent_size: int, token_width: int
) -> "UNet2DConditionModel":
    """Build a small UNet of Stable Diffusion's kind: attention below the full resolution, one head for 64 channels."""
    from diffusers import UNet2DConditionModel

    n = len(channels)
    unet = UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=in_channels,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (n - 1),
        up_block_types=("CrossAttnUpBlock2D",) * (n - 1) + ("UpBlock2D",),
        cross_attention_dim=token_width,
        attention_head_dim=tuple(c // 64 for c in channels),  # diffusers' name for the number of heads
        norm_num_groups=16,
    )
    return plain_attention(unet)


def draw_timesteps(
    count: int, high_share: float, generator: torch.Generator, device: "torch.device | str", split: int = 450
) -> Int[Tensor, "B"]:
    """Draw times uniform over the schedule, but a share ``high_share`` of them uniform above ``split``."""
    low = torch.randint(1000, (count,), generator=generator, device=generator.device)
    high = torch.randint(split, 1000, (count,), generator=generator, device=generator.device)
    chosen = torch.rand(count, generator=generator, device=generator.device) < high_share
    return torch.where(chosen, high, low).to(device)


def noise_and_target(
    x0: Float[Tensor, "B c h w"], t: Int[Tensor, "B"], generator: torch.Generator
) -> tuple[Float[Tensor, "B c h w"], Float[Tensor, "B c h w"]]:
    """Return x_t and the v that the network is to predict from it."""
    alphas = scaled_linear_alphas_cumprod().to(x0.device)
    noise = torch.randn(x0.shape, generator=generator, device=generator.device, dtype=x0.dtype).to(x0.device)
    alpha, sigma = alpha_sigma(alphas, t)
    return add_noise(x0, noise, alphas, t), alpha * noise - sigma * x0


def error_by_noise(error: Float[Tensor, "B"], t: Int[Tensor, "B"]) -> dict[str, float]:
    """Return the mean error of a batch in each third of the schedule, for the log."""
    edges = {"low": (0, 333), "middle": (333, 667), "high": (667, 1000)}
    picked = {name: error[(t >= a) & (t < b)] for name, (a, b) in edges.items()}
    return {f"error_{name}_noise": float(e.mean()) for name, e in picked.items() if len(e)}
