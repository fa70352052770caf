"""What Stable Diffusion and Zero-1-to-3 have in common: a UNet on the latents of an autoencoder."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import TypeVar

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.types import LatentSpace
from usd.denoiser import Denoiser, Embedding
from usd.denoiser.components import ModelComponents, open_components
from usd.denoiser.execution import Execution
from usd.denoiser.frozen import Frozen
from usd.denoiser.lora_file import with_lora
from usd.denoiser.picture import resize_square
from usd.math.diffusion import eps_from_v, linear_alphas_cumprod, scaled_linear_alphas_cumprod

DEFAULT_SCALING = 0.18215  # of AutoencoderKL, when its configuration does not say


@dataclass(frozen=True)
class NetworkInput(Embedding):
    """What the UNet gets besides x_t and t: cross-attention tokens, channels beside x_t, a vector beside the time."""

    tokens: Float[Tensor, "B K W"]
    latent: Float[Tensor, "B c h w"] | None = None
    time: Float[Tensor, "B V"] | None = None


L = TypeVar("L", bound="LatentConfig", default="LatentConfig", covariant=True)


class LatentDenoiser(Denoiser[L]):
    """A folder or single file with ``unet``, ``vae`` and ``scheduler``; subclasses add their condition."""

    @dataclass(frozen=True)
    class Config:
        folder: str = option(help="a diffusers folder or a single file", path=True)
        execution: Execution = option({}, "how its networks are kept in memory and run")
        lora_file: str | None = option(
            None, "LoRA to add to it: a file, or a folder of diffusers or peft", path=True
        )
        lora_scale: float = option(1.0, "how often it is added", ge=-100, le=100)

    def __init__(self, config: L, name: str = "") -> None:
        super().__init__(config, name or Path(config.folder).name)
        self.folder = Path(config.folder)
        self.execution = execution = config.execution
        files = open_components(self.folder)
        if config.lora_file is not None:
            files = with_lora(files, Path(config.lora_file), config.lora_scale)
        self.files = files  # closures must not hold self: weights would outlive it
        self.unet = Frozen(
            lambda: files.network("unet"),
            execution.weights,
            execution,
            partial(compiled, mode=execution.compile),
        )
        self.vae = Frozen(
            lambda: files.network("vae"),
            execution.autoencoder,
            execution,
            partial(_recomputing, wanted=execution.recompute),
        )
        self.latent = latent_space(files)
        scheduler, said = self.folder / "scheduler" / "scheduler_config.json", files.config("scheduler")
        self.predicts = prediction_type(said, scheduler)
        self.register_buffer("alphas_cumprod", scheduler_alphas(said, scheduler), persistent=False)

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
        """The most likely latent, times the scaling factor. fp32."""
        return self.latent_mode(image) * self.latent.scaling_factor

    def latent_mode(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
        """The most likely latent, *not* scaled."""
        picture = resize_square(image.float(), self.latent.image_size) * 2 - 1
        device, dtype = picture.device, self.vae.dtype(picture.device)
        with torch.autocast(device.type, enabled=False), self.vae.use(device) as vae:
            latents = [vae.encode(chunk.to(dtype)).latent_dist.mode() for chunk in self._chunks(picture)]
        return torch.cat(latents).float()

    def decode(self, z: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 S S"]:
        latent = (z.float() / self.latent.scaling_factor).to(self.vae.dtype(z.device))
        with torch.autocast(z.device.type, enabled=False), self.vae.use(z.device) as vae:
            picture = torch.cat([vae.decode(chunk).sample for chunk in self._chunks(latent)])
        return (picture.float() * 0.5 + 0.5).clamp(0, 1)

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
        device, dtype = xt.device, self.unet.dtype(xt.device)
        x = (xt if told.latent is None else torch.cat([xt, told.latent.to(xt)], 1)).to(dtype)
        tokens = told.tokens.to(device, dtype)
        time = None if told.time is None else told.time.to(device, dtype)
        with torch.autocast(device.type, enabled=False), self.unet.use(device) as unet:
            self._check_width(tokens.shape[-1], unet.config.cross_attention_dim)
            return torch.cat(
                [
                    unet(x[at], t[at], encoder_hidden_states=tokens[at], class_labels=_rows(time, at)).sample
                    for at in self._slices(len(x))
                ]
            )

    def _slices(self, count: int) -> list[slice]:
        """Ranges of views that go through a network together."""
        size = self.execution.views_at_once or count
        return [slice(first, first + size) for first in range(0, max(count, 1), max(size, 1))]

    def _chunks(self, batch: Tensor) -> list[Tensor]:
        return [batch[at] for at in self._slices(len(batch))]

    def _check_width(self, given: int, wanted: int) -> None:
        if given != wanted:
            raise UserError(
                f"'{self.name}' attends to tokens of width {wanted}, but its condition has width {given}; "
                "expected the prompt processor and the guidance to name the same model"
            )


LatentConfig = LatentDenoiser.Config


def compiled(network: torch.nn.Module, mode: str) -> None:
    """Has the network compiled at its first call, unless the mode is "no"."""
    if mode != "no":
        network.compile(mode=mode)


def _recomputing(autoencoder: Any, wanted: bool) -> None:
    if wanted:
        autoencoder.enable_gradient_checkpointing()


def _rows(tensor: Tensor | None, at: slice) -> Tensor | None:
    return None if tensor is None else tensor[at]


def latent_space(files: ModelComponents) -> LatentSpace:
    """From the configurations of ``unet`` and ``vae``; no weights are read."""
    unet, vae = files.config("unet"), files.config("vae")
    try:
        size, channels = int(unet["sample_size"]), int(vae["latent_channels"])
        shrink = 2 ** (len(vae["block_out_channels"]) - 1)
    except (KeyError, TypeError) as problem:
        raise UserError(f"{files.place}: unet or vae config.json does not say its {problem}") from None
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
