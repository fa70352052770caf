"""The networks of diffusers and transformers as the denoisers use them: what goes in, and what comes out."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Sample(Protocol):
    """The output of a UNet or a decoder."""

    sample: Tensor


@runtime_checkable
class UNet(Protocol):
    """diffusers' UNet2DConditionModel."""

    def to(self, device: torch.device, dtype: torch.dtype) -> "UNet":
        """Move it, and return it."""
        ...

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        *,
        encoder_hidden_states: Tensor,
        class_labels: Tensor | None = None,
        down_block_additional_residuals: tuple[Tensor, ...] | None = None,
        mid_block_additional_residual: Tensor | None = None,
    ) -> Sample:
        """Return the prediction in ``sample`` (B c h w) at ``timestep`` (B)."""
        ...


@runtime_checkable
class AdapterOptions(Protocol):
    """peft's options of a LoRA."""

    def to_dict(self) -> dict[str, object]:
        """Return them by name."""
        ...


@runtime_checkable
class Adaptable(Protocol):
    """A network of diffusers that takes peft's adapters."""

    def add_adapter(self, adapter_config: object) -> None:
        """Put an adapter beside its layers."""
        ...


@runtime_checkable
class Adapted(Protocol):
    """A network of diffusers with an adapter."""

    peft_config: dict[str, AdapterOptions]


@runtime_checkable
class Residuals(Protocol):
    """The output of a ControlNet: a tensor for each skip connection of the UNet, and one for its middle."""

    down_block_res_samples: tuple[Tensor, ...]
    mid_block_res_sample: Tensor


@runtime_checkable
class ControlNet(Protocol):
    """diffusers' ControlNetModel."""

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        *,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor,
        conditioning_scale: float,
    ) -> Residuals:
        """Return the residuals for ``sample`` (B c h w) under the map ``controlnet_cond`` (B 3 H W)."""
        ...


@runtime_checkable
class LatentDistribution(Protocol):
    """The normal distribution that an autoencoder gives for a picture."""

    def mode(self) -> Tensor:
        """Return the most likely latent."""
        ...


@runtime_checkable
class Encoded(Protocol):
    """The output of an autoencoder's encoder."""

    latent_dist: LatentDistribution


@runtime_checkable
class Autoencoder(Protocol):
    """diffusers' AutoencoderKL."""

    def encode(self, x: Tensor) -> Encoded:
        """Return the distribution of latents of pictures in [-1, 1]."""
        ...

    def decode(self, z: Tensor) -> Sample:
        """Return pictures in [-1, 1]."""
        ...

    def enable_gradient_checkpointing(self) -> None:
        """Have activations computed again in the backward pass."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """transformers' CLIPTextModel and T5EncoderModel; the first thing that they return is the last hidden state."""

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the last hidden state (B T W) of tokens (B T), and more."""
        ...


@runtime_checkable
class SeenPicture(Protocol):
    """The output of an image encoder."""

    image_embeds: Tensor
    last_hidden_state: Tensor


@runtime_checkable
class ImageEncoder(Protocol):
    """transformers' CLIPVisionModelWithProjection."""

    def __call__(self, pixel_values: Tensor) -> SeenPicture:
        """Return the embedding of pictures and the states of their patches."""
        ...


@runtime_checkable
class TokenBatch(Protocol):
    """The output of a tokenizer for a list of prompts."""

    input_ids: Tensor
    attention_mask: Tensor


@runtime_checkable
class TextTokenizer(Protocol):
    """A tokenizer of transformers."""

    pad_token: str | None
    all_special_tokens: list[str]

    def __call__(
        self, text: list[str], *, padding: str, truncation: bool, max_length: int, return_tensors: str
    ) -> TokenBatch:
        """Return the numbers of prompts, padded and cut to ``max_length``."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a prompt, its first and last token included."""
        ...

    def get_vocab(self) -> dict[str, int]:
        """Return every piece and its number."""
        ...
