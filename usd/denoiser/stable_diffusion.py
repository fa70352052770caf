"""Stable Diffusion: the noise predicted in a latent under a sentence."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from usd.core import files
from usd.core.errors import UserError
from usd.core.registry import register
from usd.denoiser import TextDenoiser
from usd.denoiser.frozen import Frozen
from usd.denoiser.latent import LatentConfig, LatentDenoiser, NetworkInput
from usd.denoiser.load import folder_of, in_rehearsal
from usd.denoiser.weights import readable


@register("stable-diffusion")
class StableDiffusionDenoiser(LatentDenoiser[LatentConfig], TextDenoiser[LatentConfig]):
    """Stable Diffusion 1.x or 2.x, folder or single file (epsilon or v prediction)."""

    components = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    embedding = NetworkInput

    def __init__(self, config: LatentConfig, name: str = "") -> None:
        super().__init__(config, name)
        files = self.files
        self.text_encoder = Frozen(
            lambda: files.network("text_encoder"),
            config.execution.weights,
            config.execution,
        )
        self._rehearsed = in_rehearsal()
        self._tokenizer: Any = None
        self._nothing: NetworkInput | None = None

    @property
    def tokenizer(self) -> Any:
        """Words to numbers: CLIP's byte pairs in the original, whole words in the embedded model."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            folder = self._tokenizer_folder()
            with readable(folder, "a tokenizer"):
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            if tokenizer.pad_token is None:
                there = (folder / "tokenizer_config.json").is_file()
                what = "says no pad_token" if there else "is missing"
                raise UserError(f"{folder}: its tokenizer_config.json {what}; expected the model's own")
            self._tokenizer = tokenizer
        return self._tokenizer

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> NetworkInput:
        """The text encoder's last hidden state, padded to its full length as in training."""
        device = self.alphas_cumprod.device
        with torch.autocast(device.type, enabled=False), self.text_encoder.use(device) as encoder:
            return NetworkInput(encoder(self._numbers(prompts, encoder.config).to(device))[0].float())

    def _numbers(self, prompts: Sequence[str], config: Any) -> Int[Tensor, "B T"]:
        """The prompts as numbers, padded. Nothing but empty prompts needs no vocabulary: single files have none."""
        length = config.max_position_embeddings
        if not any(prompts) and self.files.tokenizer() is None:
            empty = [config.bos_token_id, config.eos_token_id, *[config.pad_token_id] * (length - 2)]
            return torch.tensor([empty] * len(prompts), device="cpu")
        tokenizer, folder = self.tokenizer, self._tokenizer_folder()
        with readable(folder, "a tokenizer"):
            numbers = tokenizer(
                list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
            ).input_ids
        if int(numbers.max()) >= config.vocab_size:
            raise UserError(
                f"{folder}: gives the number {int(numbers.max())} to a word, of a text encoder that knows "
                f"{config.vocab_size}; expected the tokenizer of this model"
            )
        return numbers

    def _tokenizer_folder(self) -> Path:
        """Its own, or for a single file that of the published model of its family. Raises UserError."""
        place = self.files.tokenizer()
        return place or published_tokenizer(self.files.config("unet"), self.folder)

    def vocabulary(self) -> frozenset[str] | None:
        """Whole words, as the embedded model reads them. CLIP's byte pairs spell everything."""
        known = self.tokenizer.get_vocab()
        spelling = any(piece.endswith("</w>") for piece in known)
        return None if spelling else frozenset(known) - set(self.tokenizer.all_special_tokens)

    def overflow(self, prompt: str) -> tuple[int, int] | None:
        config = self.files.config("text_encoder")
        length, most = len(self.tokenizer(prompt).input_ids), int(config.get("max_position_embeddings", 77))
        return (length, most) if length > most else None

    def fingerprint(self) -> str | None:
        """Return a digest of text encoder, tokenizer and their precision; None in a rehearsal, which keeps nothing."""
        if self._rehearsed:
            return None
        device, encoder = self.alphas_cumprod.device, self.files.source("text_encoder")
        used = f"{device.type} {self.text_encoder.dtype(device)}"
        if encoder.is_dir() and self.config.lora_file is None:
            return digest_of((encoder, self._tokenizer_folder()), used)
        return digest_of(
            (self._tokenizer_folder(),), used + digest_of_tensors(self.files.tensors("text_encoder"))
        )

    def unconditional(self, batch: int) -> NetworkInput:
        """The empty prompt, encoded once; a text encoder that was read only for it is freed."""
        if self._nothing is None:
            in_use = self.text_encoder.loaded
            self._nothing = self.embed_text([""])
            if not in_use:
                self.release_encoders()
        return NetworkInput(self._nothing.tokens.expand(batch, -1, -1))

    def release_encoders(self) -> None:
        self.text_encoder.drop()


def digest_of(folders: Sequence[Path], more: str) -> str:
    """A digest of all files in ``folders``, names and contents, and of ``more``."""
    pieces: list[str | bytes] = [more]
    for folder in folders:
        for file in sorted(path for path in folder.iterdir() if path.is_file()):
            pieces += [f"\0{file.name}\0", files.digest_of_file(file)]
    return files.digest(*pieces, size=20)


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """A digest of names, types and values."""
    found = hashlib.blake2b(digest_size=20)
    for name, tensor in sorted(tensors.items()):
        found.update(f"\0{name} {tensor.dtype}\0".encode())
        found.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()


def published_tokenizer(unet: Mapping[str, Any], file: Path) -> Path:
    """CLIP's vocabulary for a single file, from the published folder of its family. Raises UserError."""
    alias = "sd-2.1-base" if unet["use_linear_projection"] else "sd-1.5"
    try:
        return folder_of(alias, ("tokenizer",), str(file)) / "tokenizer"
    except UserError:
        raise UserError(
            f"{file}: reading a prompt needs CLIP's vocabulary, which single files do not hold; expected the folder "
            f"'tokenizer' of '{alias}' beside it ({file.parent / 'tokenizer'}), or a way to Hugging Face"
        ) from None
