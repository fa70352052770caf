"""Models that diffusers runs as a pipeline: its classes read the folder, its own code turns prompts into tokens."""

import importlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import TypeVar

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.types import LatentSpace
from usd.denoiser import Embedding, TextDenoiser
from usd.denoiser.components import network_class, open_components
from usd.denoiser.execution import Execution, Weights, dtype_on
from usd.denoiser.frozen import Frozen
from usd.denoiser.latent import compile_network
from usd.denoiser.networks import Encoded, Sample
from usd.denoiser.picture import resize_square
from usd.denoiser.weights import NetworkConfig, number, quiet, readable, whole, whole_numbers

DEFAULT_SIZE = (
    512  # pixels a side: these models take any, and half of their usual 1024 is a quarter of the work
)


@dataclass(frozen=True)
class PromptTokens(Embedding):
    """A pipeline's condition: tokens, 1 where one is meant, a vector of the whole prompt; latents of pictures."""

    tokens: Float[Tensor, "B T W"]
    mask: Float[Tensor, "B T"] | None = None
    pooled: Float[Tensor, "B V"] | None = None
    picture: Float[Tensor, "B c h w"] | None = None


def stack_prompts(rows: Sequence[PromptTokens]) -> PromptTokens:
    """Return the rows of several conditions as one; those that are shorter get tokens that are not meant behind.

    What else a condition holds is of one shape in all of them.
    """
    length = max(row.tokens.shape[1] for row in rows)

    def stack(name: str, _: Tensor) -> Tensor:
        found = [row.tensors()[name] for row in rows]
        return torch.cat([_fill(x, length) for x in found] if name in ("tokens", "mask") else found)

    return rows[0].map(stack)


def _fill(x: Float[Tensor, "B T *W"], length: int) -> Tensor:
    """Return rows of tokens with zeros behind, up to a length."""
    return torch.cat([x, x.new_zeros(len(x), length - x.shape[1], *x.shape[2:])], 1)


@dataclass(frozen=True)
class PipelineConfig:
    """The options of a model that diffusers runs as a pipeline."""

    folder: str = option(help="diffusers folder of the model", path=True)
    execution: Execution = option({}, "how the model's networks are kept in memory and run")
    lora_file: str | None = option(None, "LoRA to add to the model: a file, or a folder", path=True)
    lora_scale: float = option(1.0, "factor of the LoRA's change", ge=-100, le=100)


P = TypeVar("P", bound=PipelineConfig, default=PipelineConfig, covariant=True)


@runtime_checkable
class PromptReader(Protocol):
    """A pipeline of diffusers: only what reads prompts is called."""

    components: dict[str, object]

    def encode_prompt(self, prompt: list[str], **options: object) -> tuple[object, ...]:
        """Return tokens, and more that depends on the pipeline."""
        ...


@runtime_checkable
class Transformer(Protocol):
    """A network of diffusers by what it is given; each has names of its own for it."""

    def __call__(self, **inputs: object) -> tuple[Tensor, ...]:
        """Return its prediction first."""
        ...


@runtime_checkable
class PictureCoder(Protocol):
    """An autoencoder of diffusers, whatever its encoder returns."""

    def encode(self, x: Tensor) -> object:
        """Return the latents of pictures in [-1, 1], or a distribution of them."""
        ...

    def decode(self, z: Tensor) -> Sample:
        """Return pictures in [-1, 1]."""
        ...


@runtime_checkable
class LatentOutput(Protocol):
    """The output of an encoder without a distribution."""

    latent: Tensor


@runtime_checkable
class AdapterHost(Protocol):
    """A network of diffusers that LoRAs can be put into."""

    def load_lora_adapter(
        self, weights: dict[str, Tensor], prefix: str, network_alphas: dict[str, float] | None
    ) -> None:
        """Put a LoRA beside its layers."""
        ...

    def set_adapters(self, names: list[str], weights: list[float]) -> None:
        """Choose the LoRAs in use, and their strengths."""
        ...

    def fuse_lora(self) -> None:
        """Add the LoRAs in use to the weights."""
        ...

    def unload_lora(self) -> None:
        """Forget the LoRAs."""
        ...


class PromptEncoders(torch.nn.Module):
    """The text encoders of a pipeline, and the pipeline's way of asking them."""

    def __init__(self, pipeline: PromptReader) -> None:
        super().__init__()
        self.pipeline = pipeline
        found = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
        self.encoders = torch.nn.ModuleList(found)


def read_prompt_encoders(folder: Path, name: str, unread: Sequence[str], weights: Weights) -> PromptEncoders:
    """Return the text encoders of a diffusers folder, by the pipeline of this name. Raises ``UserError``.

    ``unread`` are the components that are left out: the denoising network, the autoencoder.
    """
    with readable(folder, name), quiet():
        pipeline = getattr(importlib.import_module("diffusers"), name).from_pretrained(
            folder, **dict.fromkeys(unread), **reading(weights)
        )
    return PromptEncoders(pipeline)


def read_pretrained(folder: Path, component: str, config: NetworkConfig, weights: Weights) -> torch.nn.Module:
    """Return a network of a folder by the class that its configuration names. Raises ``UserError``."""
    library, name = network_class(component, config)
    with readable(folder / component, name), quiet():
        cls = getattr(importlib.import_module(library), name)
        network = cls.from_pretrained(folder / component, **reading(weights))
    assert isinstance(network, torch.nn.Module)
    return network


def reading(weights: Weights) -> dict[str, object]:
    """Return how diffusers reads: from this disk, no pickles, at once in the precision that the network will have."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype_on(device, weights, torch.bfloat16)
    return {"local_files_only": True, "use_safetensors": True, "torch_dtype": dtype}


def with_adapter(
    network: torch.nn.Module, pipeline: str, prefix: str, file: Path, scale: float
) -> torch.nn.Module:
    """Return the network with ``scale`` times a LoRA added to its weights; text encoders stay. Raises ``UserError``."""
    with readable(file, "a LoRA of this model"), quiet():
        loader = getattr(importlib.import_module("diffusers"), pipeline)
        if not isinstance(network, AdapterHost):  # PixArt: diffusers leaves its LoRAs to peft
            return _with_peft_folder(network, file, scale)
        asked = {"unet_config": getattr(network, "config", None)} if prefix == "unet" else {}
        found = loader.lora_state_dict(file, **asked)
        tensors, alphas = found if isinstance(found, tuple) else (found, None)
        network.load_lora_adapter(tensors, prefix=prefix, network_alphas=alphas)
        network.set_adapters(["default_0"], [scale])
        network.fuse_lora()
        network.unload_lora()
    return network


def _with_peft_folder(network: torch.nn.Module, folder: Path, scale: float) -> torch.nn.Module:
    """Return the network with ``scale`` times the LoRA of a folder of peft added to its weights."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    changed = PeftModel.from_pretrained(network, folder)
    for layer in changed.modules():
        if isinstance(layer, LoraLayer):
            layer.scale_layer(scale)
    merged = changed.merge_and_unload()
    assert isinstance(merged, torch.nn.Module)
    return merged


class PipelineDenoiser(TextDenoiser[P]):
    """A model in a diffusers folder: a denoising network, ``vae``, text encoders.

    ``pipeline`` is the class of diffusers that reads its prompts, ``network_name`` what it calls its network;
    ``patch`` is the side in latents of its tokens.
    Subclasses say what a latent is (``normalized`` and ``raw``) and what the network predicts.
    """

    Config = PipelineConfig
    embedding = PromptTokens
    pipeline: ClassVar[str]
    network_name: ClassVar[str] = "transformer"
    patch: ClassVar[int] = 2

    def __init__(self, config: P, name: str = "") -> None:
        super().__init__(config, name or Path(config.folder).name)
        self.folder = folder = Path(config.folder)
        self.execution = execution = config.execution
        self.files = files = open_components(folder)
        compiled, half = partial(compile_network, mode=execution.compile), torch.bfloat16
        self.network: Frozen[Transformer] = Frozen(
            partial(self._read_network, config), execution.weights, execution, compiled, half
        )
        read = partial(read_pretrained, folder, "vae", files.config("vae"), execution.autoencoder)
        self.vae: Frozen[PictureCoder] = Frozen(read, execution.autoencoder, execution)
        self.prompts: Frozen[PromptEncoders] = Frozen(
            self._read_encoders, execution.weights, execution, half=half
        )
        self.latent = self._latent_space()

    @classmethod
    def _read_network(cls, config: PipelineConfig) -> torch.nn.Module:
        """Return the network, with the change of a LoRA in its weights. Raises ``UserError``."""
        folder = Path(config.folder)
        about = open_components(folder).config(cls.network_name)
        network = read_pretrained(folder, cls.network_name, about, config.execution.weights)
        if config.lora_file is None:
            return network
        lora = Path(config.lora_file)
        return with_adapter(network, cls.pipeline, cls.network_name, lora, config.lora_scale)

    def _read_encoders(self) -> PromptEncoders:
        """Return the text encoders, and the pipeline's way of asking them. Raises ``UserError``."""
        unread = (self.network_name, "vae")
        return read_prompt_encoders(self.folder, self.pipeline, unread, self.execution.weights)

    def _latent_space(self) -> LatentSpace:
        """Return the latent space of pictures of the size that is asked for. Raises ``UserError``."""
        step = self.shrink * self.patch
        size = self.execution.image_size or DEFAULT_SIZE
        if size % step:
            raise UserError(
                f"models.image_size: is {size}; expected a multiple of {step} for '{self.name}', which takes any other"
            )
        scaling = number(self.files.config("vae"), "scaling_factor", 1.0)
        return LatentSpace(self.channels, size // self.shrink, size // self.shrink, size, scaling)

    @property
    def shrink(self) -> int:
        """Pixels a side of a latent."""
        return 2 ** (len(whole_numbers(self.files.config("vae"), "block_out_channels")) - 1)

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return whole(self.files.config("vae"), "latent_channels")

    @torch.no_grad()
    def eps(
        self, xt: Float[Tensor, "B c h w"], t: Int[Tensor, "B"], embedding: Embedding
    ) -> Float[Tensor, "B c h w"]:
        """Return the noise predicted in x_t."""
        assert isinstance(embedding, PromptTokens)
        with self.network.use(xt.device) as network:
            return self.eps_of(network, xt, t, embedding, self.network.dtype(xt.device))

    @abstractmethod
    def eps_of(
        self,
        network: Transformer,
        xt: Float[Tensor, "B c h w"],
        t: Int[Tensor, "B"],
        embedding: PromptTokens,
        dtype: torch.dtype,
    ) -> Float[Tensor, "B c h w"]:
        """Return the noise that a network of this kind predicts in x_t, with gradients where they are kept."""

    @abstractmethod
    def noise_per_prediction(self, t: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Return by how much the noise grows with what the network predicts."""

    # ---------------------------------------------------------------------------------------------------- latents

    def normalized(self, latent: Tensor) -> Tensor:
        """Return a latent of the autoencoder as the network knows it: less the shift, times the factor."""
        vae = self.files.config("vae")
        return (latent - number(vae, "shift_factor", 0.0)) * self.latent.scaling_factor

    def raw(self, z: Tensor) -> Tensor:
        """Undo ``normalized``."""
        return z / self.latent.scaling_factor + number(self.files.config("vae"), "shift_factor", 0.0)

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
        """Return the most likely latent as the network knows it, fp32. Differentiable."""
        picture = resize_square(image.float(), self.latent.image_size) * 2 - 1
        device, dtype = picture.device, self.vae.dtype(picture.device)
        with torch.autocast(device.type, enabled=False), self.vae.use(device) as vae:
            return self.normalized(self._encode(vae, picture.to(dtype)).float())

    def decode(self, z: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 S S"]:
        """Return pictures in [0, 1]. Differentiable."""
        latent = self.raw(z.float()).to(self.vae.dtype(z.device))
        with torch.autocast(z.device.type, enabled=False), self.vae.use(z.device) as vae:
            return (self._decode(vae, latent).float() * 0.5 + 0.5).clamp(0, 1)

    def _encode(self, vae: PictureCoder, picture: Tensor) -> Tensor:
        """Return the autoencoder's most likely latents of pictures in [-1, 1]."""
        encoded = vae.encode(picture)
        if isinstance(encoded, LatentOutput):
            return encoded.latent
        assert isinstance(encoded, Encoded)
        return encoded.latent_dist.mode()

    def _decode(self, vae: PictureCoder, latent: Tensor) -> Tensor:
        """Return pictures in [-1, 1] of the autoencoder's latents."""
        return vae.decode(latent).sample

    # ----------------------------------------------------------------------------------------------------- prompts

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> PromptTokens:
        """Return what the pipeline's own code makes of prompts."""
        device = self.alphas_cumprod.device
        with torch.autocast(device.type, enabled=False), self.prompts.use(device) as encoders, quiet():
            return self._read_prompts(encoders.pipeline, list(prompts), device)

    def _read_prompts(self, pipeline: PromptReader, prompts: list[str], device: torch.device) -> PromptTokens:
        """Return the condition of prompts. Here: what comes first are the tokens."""
        tokens = pipeline.encode_prompt(prompts, device=device)[0]
        assert isinstance(tokens, Tensor)
        return PromptTokens(tokens.float())

    def unconditional(self, batch: int) -> PromptTokens:
        """Return the condition of the empty prompt. Raises ``UserError`` where the model was distilled of it."""
        self.require_guidance()
        return self.embed_text([""]).select(torch.zeros(batch, dtype=torch.long))

    def require_guidance(self) -> None:
        """Raise ``UserError`` where the model has no unconditional prediction."""

    def release_encoders(self) -> None:
        """Free the text encoders; they are read again when needed."""
        self.prompts.drop()
