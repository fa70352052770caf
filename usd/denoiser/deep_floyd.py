"""DeepFloyd IF, stage I: the noise predicted in a picture of 64 x 64 pixels under a sentence that T5 has read.

The UNet predicts noise and the variance of a step back; only the noise is used. Its "latents" are pictures in [-1, 1].
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.registry import register
from usd.core.types import LatentSpace
from usd.denoiser.latent import NetworkInput, UNetConfig
from usd.denoiser.picture import resize_square
from usd.denoiser.text_encoder import PromptDenoiser
from usd.denoiser.weights import whole

TOKENS = 77  # that the UNet was trained with; T5 itself has no limit


@register("deep-floyd")
class DeepFloydDenoiser(PromptDenoiser[UNetConfig]):
    """The first stage of DeepFloyd IF, any size of it."""

    components = ("unet", "text_encoder", "tokenizer", "scheduler")
    longest = TOKENS
    text_half = torch.bfloat16  # T5's activations exceed fp16

    def __init__(self, config: UNetConfig, name: str = "") -> None:
        super().__init__(config, name)
        unet = self.files.config("unet")
        side = whole(unet, "sample_size")
        self.latent = LatentSpace(whole(unet, "in_channels"), side, side, side, 1.0)

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 S S"]:
        """Return pictures in [0, 1] at the UNet's size and in [-1, 1]. Differentiable."""
        return resize_square(image.float(), self.latent.image_size) * 2 - 1

    def decode(self, z: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        """Return pictures in [0, 1]. Differentiable."""
        return (z.float() * 0.5 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> NetworkInput:
        """Return T5's last hidden states of prompts in lower case, of all 77 tokens, padding included."""
        device = self.alphas_cumprod.device
        numbers, mask = self.tokens([prompt.lower().strip() for prompt in prompts])
        with torch.autocast(device.type, enabled=False), self.text_encoder.use(device) as encoder:
            return NetworkInput(encoder(numbers.to(device), attention_mask=mask.to(device))[0].float())
