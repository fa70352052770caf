"""Stable Diffusion: the noise predicted in a latent under a sentence."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from usd.core.errors import UserError
from usd.core.registry import register
from usd.denoiser.latent import L, LatentDenoiser, NetworkInput
from usd.denoiser.load import folder_of
from usd.denoiser.text_encoder import PromptDenoiser, empty_numbers
from usd.denoiser.weights import whole


@register("stable-diffusion")
class StableDiffusionDenoiser(LatentDenoiser[L], PromptDenoiser[L]):
    """Stable Diffusion 1.x or 2.x, folder or single file (epsilon or v prediction)."""

    components = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")

    @property
    def longest(self) -> int:
        """The number of tokens that the text encoder is given: of its position embeddings."""
        return whole(self.files.config("text_encoder"), "max_position_embeddings", 77)

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> NetworkInput:
        """Return the text encoder's last hidden state, padded to its full length as in training."""
        device, numbers = self.alphas_cumprod.device, self._numbers(prompts)
        with torch.autocast(device.type, enabled=False), self.text_encoder.use(device) as encoder:
            return NetworkInput(encoder(numbers.to(device))[0].float())

    def _numbers(self, prompts: Sequence[str]) -> Int[Tensor, "B T"]:
        """Return the prompts as numbers. Nothing but empty prompts needs no vocabulary: single files have none."""
        if any(prompts) or self.files.tokenizer() is not None:
            return self.tokens(prompts)[0]
        return empty_numbers(self.files.config("text_encoder"), len(prompts), self.longest)

    def tokenizer_folder(self) -> Path:
        """Return its own, or for a single file that of the published model of its family. Raises UserError."""
        return self.files.tokenizer() or published_tokenizer(self.files.config("unet"), self.folder)

    def vocabulary(self) -> frozenset[str] | None:
        """Return whole words, as the embedded model reads them; None for CLIP, whose byte pairs spell everything."""
        known = self.tokenizer.get_vocab()
        spelling = any(piece.endswith("</w>") for piece in known)
        return None if spelling else frozenset(known) - set(self.tokenizer.all_special_tokens)


def published_tokenizer(unet: Mapping[str, object], file: Path) -> Path:
    """Return CLIP's vocabulary for a single file, from the published folder of its family. Raises UserError."""
    alias = "sd-2.1-base" if unet["use_linear_projection"] else "sd-1.5"
    try:
        return folder_of(alias, ("tokenizer",), str(file)) / "tokenizer"
    except UserError:
        raise UserError(
            f"{file}: reading a prompt needs CLIP's vocabulary, which single files do not hold; expected the folder "
            f"'tokenizer' of '{alias}' beside it ({file.parent / 'tokenizer'}), or a way to Hugging Face"
        ) from None
