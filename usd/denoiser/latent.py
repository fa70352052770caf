"""What the published models have in common: a UNet under a condition, mostly on the latents of an autoencoder."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

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
from usd.denoiser.networks import Autoencoder, UNet
from usd.denoiser.picture import resize_square
from usd.denoiser.weights import NetworkConfig, number, whole, whole_numbers
from usd.math.diffusion import (
    eps_from_v,
    linear_alphas_cumprod,
    scaled_linear_alphas_cumprod,
    squared_cosine_alphas_cumprod,
)

DEFAULT_SCALING = 0.18215  # of AutoencoderKL, when its configuration does not say


@dataclass(frozen=True)
class NetworkInput(Embedding):
    """The UNet's input besides x_t and t: cross-attention tokens, channels beside x_t, a vector beside the time."""

    tokens: Float[Tensor, "B K W"]
    latent: Float[Tensor, "B c h w"] | None = None
    time: Float[Tensor, "B V"] | None = None


@dataclass(frozen=True)
class UNetConfig:
    """The options of a model with a UNet."""

    folder: str = option(help="diffusers folder or single file of the model", path=True)
    execution: Execution = option({}, "how the model's networks are kept in memory and run")
    lora_file: str | None = option(
        None, "LoRA to add to the model: a file, or a folder of diffusers or peft", path=True
    )
    lora_scale: float = option(1.0, "factor of the LoRA's change", ge=-100, le=100)


L = TypeVar("L", bound=UNetConfig, default=UNetConfig, covariant=True)


class UNetDenoiser(Denoiser[L]):
    """A folder or single file with ``unet`` and ``scheduler``; subclasses add their space and their condition."""

    Config = UNetConfig

    def __init__(self, config: L, name: str = "") -> None:
        super().__init__(config, name or Path(config.folder).name)
        self.folder = Path(config.folder)
        self.execution = execution = config.execution
        files = open_components(self.folder)
        if config.lora_file is not None:
            files = with_lora(files, Path(config.lora_file), config.lora_scale)
        self.files = files  # closures must not hold self: weights would outlive it
        self.unet: Frozen[UNet] = Frozen(
            lambda: files.network("unet"),
            execution.weights,
            execution,
            partial(compile_network, mode=execution.compile),
        )
        path, scheduler = self.folder / "scheduler" / "scheduler_config.json", files.config("scheduler")
        self.predicts = prediction_type(scheduler, path)
        self.register_buffer("alphas_cumprod", scheduler_alphas(scheduler, path), persistent=False)

    @torch.no_grad()
    def eps(
        self, xt: Float[Tensor, "B c h w"], t: Int[Tensor, "B"], embedding: Embedding
    ) -> Float[Tensor, "B c h w"]:
        """Return the noise predicted in x_t; a variance that the UNet predicts beside it is dropped."""
        assert isinstance(embedding, NetworkInput)
        predicted = self._predict(xt, t, embedding)[:, : xt.shape[1]].float()
        if self.predicts == "v_prediction":
            return eps_from_v(xt.float(), predicted, self.alphas_cumprod, t)
        return predicted

    def _predict(self, xt: Tensor, t: Tensor, condition: NetworkInput) -> Tensor:
        """Return the UNet's own output, in its own dtype."""
        device, dtype = xt.device, self.unet.dtype(xt.device)
        x = (xt if condition.latent is None else torch.cat([xt, condition.latent.to(xt)], 1)).to(dtype)
        given = condition.map(lambda _, tensor: tensor.to(device, dtype))
        with torch.autocast(device.type, enabled=False), self.unet.use(device) as unet:
            self._check_width(given.tokens.shape[-1])
            chunks = [
                self._run(unet, x[a:b], t[a:b], _rows(given, a, b))
                for a, b in self._ranges(len(x), self.group_size)
            ]
            return torch.cat(chunks)

    def _run(self, unet: UNet, x: Tensor, t: Tensor, condition: NetworkInput) -> Tensor:
        """Return the UNet's output for a chunk of the batch."""
        return unet(x, t, encoder_hidden_states=condition.tokens, class_labels=condition.time).sample

    def _ranges(self, count: int, group: int = 1) -> list[tuple[int, int]]:
        """Return the ranges of rows that go through a network together, in whole groups: [first, end)."""
        size = max((self.execution.views_at_once or count) // group, 1) * group
        return [(first, first + size) for first in range(0, max(count, 1), size)]

    def _chunks(self, batch: Tensor) -> list[Tensor]:
        return [batch[first:end] for first, end in self._ranges(len(batch))]

    def _check_width(self, given: int) -> None:
        """Raise UserError where the tokens of a condition are those of another model."""
        unet = self.files.config("unet")
        wanted = unet.get("encoder_hid_dim") or unet.get("cross_attention_dim", 1280)
        if given != wanted:
            raise UserError(
                f"'{self.name}' attends to tokens of width {wanted}, but its condition has width {given}; "
                "expected the prompt processor and the guidance to name the same model"
            )


class LatentDenoiser(UNetDenoiser[L]):
    """A UNet on the latents of an autoencoder, ``vae``."""

    def __init__(self, config: L, name: str = "") -> None:
        super().__init__(config, name)
        files, execution = self.files, config.execution
        self.vae: Frozen[Autoencoder] = Frozen(
            lambda: files.network("vae"),
            execution.autoencoder,
            execution,
            partial(_recompute, wanted=execution.recompute),
        )
        self.latent = latent_space(files)

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
        """Return the most likely latent, times the scaling factor. fp32."""
        return self.latent_mode(image) * self.latent.scaling_factor

    def latent_mode(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
        """Return the most likely latent, *not* scaled."""
        return self.mode_of(resize_square(image.float(), self.latent.image_size) * 2 - 1)

    def mode_of(self, picture: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
        """Return the autoencoder's own most likely latent of pictures in its own units, of any size. Differentiable."""
        device, dtype = picture.device, self.vae.dtype(picture.device)
        with torch.autocast(device.type, enabled=False), self.vae.use(device) as vae:
            latents = [vae.encode(chunk.to(dtype)).latent_dist.mode() for chunk in self._chunks(picture)]
        return torch.cat(latents).float()

    def decode(self, z: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 S S"]:
        """Return pictures in [0, 1]. Differentiable."""
        return (self.picture_of(z.float() / self.latent.scaling_factor) * 0.5 + 0.5).clamp(0, 1)

    def picture_of(self, mode: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]:
        """Return the autoencoder's own picture, in its own units, of latents that are not scaled. Differentiable."""
        latent = mode.to(self.vae.dtype(mode.device))
        with torch.autocast(mode.device.type, enabled=False), self.vae.use(mode.device) as vae:
            return torch.cat([vae.decode(chunk).sample for chunk in self._chunks(latent)]).float()


def compile_network(network: object, mode: str) -> None:
    """Have the network compiled at its first call, unless the mode is "no"."""
    if mode != "no":
        assert isinstance(network, torch.nn.Module)
        network.compile(mode=mode)


def _rows(condition: NetworkInput, first: int, end: int) -> NetworkInput:
    return condition.map(lambda _, tensor: tensor[first:end])


def _recompute(autoencoder: Autoencoder, wanted: bool) -> None:
    if wanted:
        autoencoder.enable_gradient_checkpointing()


def latent_space(files: ModelComponents) -> LatentSpace:
    """Return the latent space by the configurations of ``unet`` and ``vae``; no weights are read. Raises UserError."""
    unet, vae = files.config("unet"), files.config("vae")
    try:
        size, channels = whole(unet, "sample_size"), whole(vae, "latent_channels")
        shrink = 2 ** (len(whole_numbers(vae, "block_out_channels")) - 1)
    except (KeyError, TypeError) as problem:
        raise UserError(f"{files.place}: unet or vae config.json does not say its {problem}") from None
    scaling = number(vae, "scaling_factor", DEFAULT_SCALING)
    return LatentSpace(channels, size, size, size * shrink, scaling or DEFAULT_SCALING)


def scheduler_alphas(config: NetworkConfig, path: Path) -> Float[Tensor, "T"]:
    """Return alphabar of a scheduler_config.json. Raises UserError for schedules we do not know."""
    form, count = config.get("beta_schedule", "linear"), whole(config, "num_train_timesteps", 1000)
    if form == "squaredcos_cap_v2":
        return squared_cosine_alphas_cumprod(count)
    forms = {"scaled_linear": scaled_linear_alphas_cumprod, "linear": linear_alphas_cumprod}
    if form not in forms or config.get("trained_betas") is not None:
        raise UserError(
            f"{path}: beta_schedule '{form}' is not supported; expected one of {', '.join(forms)}, squaredcos_cap_v2"
        )
    return forms[str(form)](count, number(config, "beta_start", 0.0001), number(config, "beta_end", 0.02))


def prediction_type(config: NetworkConfig, path: Path) -> str:
    """Return "epsilon" or "v_prediction". Raises UserError for anything else that a scheduler_config.json may say."""
    kind = str(config.get("prediction_type", "epsilon"))
    if kind not in ("epsilon", "v_prediction"):
        raise UserError(
            f"{path}: prediction_type '{kind}' is not supported; expected epsilon or v_prediction"
        )
    return kind
