"""What Stable Diffusion and Zero-1-to-3 have in common: a UNet on the latents of an autoencoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.types import LatentSpace
from usd.denoiser import Denoiser, Embedding
from usd.denoiser.frozen import Frozen
from usd.denoiser.load import load_network, read_json
from usd.denoiser.picture import resized
from usd.math.diffusion import eps_from_v, linear_alphas_cumprod, scaled_linear_alphas_cumprod

DEFAULT_SCALING = 0.18215  # of AutoencoderKL, when its configuration does not say


class _Folder(Protocol):
    folder: str
    half_precision_weights: bool


@dataclass(frozen=True)
class NetworkInput(Embedding):
    """What the UNet gets besides x_t and t: cross-attention tokens, channels beside x_t, a vector beside the time."""

    tokens: Float[Tensor, "B K W"]
    latent: Float[Tensor, "B c h w"] | None = None
    time: Float[Tensor, "B V"] | None = None


class LatentDenoiser(Denoiser):
    """A diffusers folder: ``unet``, ``vae``, ``scheduler``; subclasses add their condition."""

    @dataclass(frozen=True)
    class Config:
        folder: str = option(help="a diffusers folder", path=True)
        half_precision_weights: bool = option(True, "fp16 on CUDA; the autoencoder and CPUs always use fp32")

    def __init__(self, config: Config, name: str = "") -> None:
        super().__init__(config)
        self.folder = Path(config.folder)
        self.name = name or self.folder.name
        folder, half = (
            self.folder,
            config.half_precision_weights,
        )  # closures must not hold self: weights would outlive it
        self.unet = Frozen(lambda: load_network("diffusers", "UNet2DConditionModel", folder / "unet"), half)
        self.vae = Frozen(lambda: load_network("diffusers", "AutoencoderKL", folder / "vae"), half=False)
        self.latent = latent_space(folder)
        scheduler = folder / "scheduler" / "scheduler_config.json"
        self.predicts = prediction_type(read_json(scheduler), scheduler)
        self.register_buffer(
            "alphas_cumprod", scheduler_alphas(read_json(scheduler), scheduler), persistent=False
        )

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
        """The most likely latent, times the scaling factor. fp32."""
        return self.latent_mode(image) * self.latent.scaling_factor

    def latent_mode(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
        """The most likely latent, *not* scaled."""
        picture = resized(image.float(), self.latent.image_size) * 2 - 1
        with torch.autocast(picture.device.type, enabled=False):
            return self.vae.on(picture.device).encode(picture).latent_dist.mode()

    def decode(self, z: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 S S"]:
        with torch.autocast(z.device.type, enabled=False):
            picture = self.vae.on(z.device).decode(z.float() / self.latent.scaling_factor).sample
        return (picture * 0.5 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def eps(
        self, xt: Float[Tensor, "B c h w"], t: Int[Tensor, "B"], embedding: Embedding
    ) -> Float[Tensor, "B c h w"]:
        assert isinstance(embedding, NetworkInput)
        said = self._predict(xt, t, embedding).float()
        return (
            eps_from_v(xt.float(), said, self.alphas_cumprod, t) if self.predicts == "v_prediction" else said
        )

    def _predict(self, xt: Tensor, t: Tensor, told: NetworkInput) -> Tensor:
        """The UNet's own output, in its own dtype."""
        unet, dtype = self.unet.on(xt.device), self.unet.dtype(xt.device)
        x = xt if told.latent is None else torch.cat([xt, told.latent.to(xt)], 1)
        self._check_width(told.tokens.shape[-1], unet.config.cross_attention_dim)
        time = None if told.time is None else told.time.to(xt.device, dtype)
        with torch.autocast(xt.device.type, enabled=False):
            return unet(
                x.to(dtype), t, encoder_hidden_states=told.tokens.to(xt.device, dtype), class_labels=time
            ).sample

    def _check_width(self, given: int, wanted: int) -> None:
        if given != wanted:
            raise UserError(
                f"'{self.name}' attends to tokens of width {wanted}, but its condition has width {given}; "
                "expected the prompt processor and the guidance to name the same model"
            )


def latent_space(folder: Path) -> LatentSpace:
    """From the configurations of ``unet`` and ``vae``; no weights are read."""
    unet, vae = read_json(folder / "unet" / "config.json"), read_json(folder / "vae" / "config.json")
    try:
        size, channels = int(unet["sample_size"]), int(vae["latent_channels"])
        shrink = 2 ** (len(vae["block_out_channels"]) - 1)
    except (KeyError, TypeError) as problem:
        raise UserError(f"{folder}: unet or vae config.json does not say its {problem}") from None
    return LatentSpace(
        channels, size, size, size * shrink, float(vae.get("scaling_factor") or DEFAULT_SCALING)
    )


def scheduler_alphas(said: dict[str, Any], path: Path) -> Tensor:
    """alphabar of a scheduler_config.json. Raises UserError for schedules we do not know."""
    forms = {"scaled_linear": scaled_linear_alphas_cumprod, "linear": linear_alphas_cumprod}
    form = said.get("beta_schedule", "linear")
    if form not in forms or said.get("trained_betas") is not None:
        raise UserError(
            f"{path}: beta_schedule '{form}' is not supported; expected one of {', '.join(forms)}"
        )
    start, end = float(said.get("beta_start", 0.0001)), float(said.get("beta_end", 0.02))
    return forms[form](int(said.get("num_train_timesteps", 1000)), start, end)


def prediction_type(said: dict[str, Any], path: Path) -> str:
    """ "epsilon" or "v_prediction"."""
    kind = str(said.get("prediction_type", "epsilon"))
    if kind not in ("epsilon", "v_prediction"):
        raise UserError(
            f"{path}: prediction_type '{kind}' is not supported; expected epsilon or v_prediction"
        )
    return kind
