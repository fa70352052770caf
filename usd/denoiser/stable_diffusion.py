"""Stable Diffusion: the noise predicted in a latent under a sentence."""

from collections.abc import Sequence

import torch
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase

from usd.core.registry import register
from usd.denoiser import TextDenoiser
from usd.denoiser.frozen import Frozen
from usd.denoiser.latent import LatentDenoiser, NetworkInput
from usd.denoiser.load import load_network, readable


@register("stable-diffusion")
class StableDiffusionDenoiser(LatentDenoiser, TextDenoiser):
    """An ordinary diffusers folder of Stable Diffusion 1.x or 2.x (epsilon or v prediction)."""

    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")

    def __init__(self, config: LatentDenoiser.Config, name: str = "") -> None:
        super().__init__(config, name)
        folder, half = self.folder, config.half_precision_weights
        self.text_encoder = Frozen(lambda: load_network(CLIPTextModel, folder / "text_encoder"), half)
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._nothing: NetworkInput | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        if self._tokenizer is None:
            folder = self.folder / "tokenizer"
            with readable(folder, "a tokenizer"):
                self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return self._tokenizer

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> NetworkInput:
        """The text encoder's last hidden state, padded to its full length as in training."""
        device = self.alphas_cumprod.device
        encoder = self.text_encoder.on(device)
        length = encoder.config.max_position_embeddings
        words = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        with torch.autocast(device.type, enabled=False):
            return NetworkInput(encoder(words.input_ids.to(device))[0].float())

    def unconditional(self, batch: int) -> NetworkInput:
        """The empty prompt, encoded once."""
        if self._nothing is None:
            self._nothing = self.embed_text([""])
        return NetworkInput(self._nothing.tokens.expand(batch, -1, -1))
