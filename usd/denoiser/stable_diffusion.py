"""Stable Diffusion: the noise predicted in a latent under a sentence."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from usd.core.registry import register
from usd.denoiser import TextDenoiser
from usd.denoiser.frozen import Frozen
from usd.denoiser.latent import LatentDenoiser, NetworkInput
from usd.denoiser.load import load_network, read_json, readable, weights_folder


@register("stable-diffusion")
class StableDiffusionDenoiser(LatentDenoiser, TextDenoiser):
    """An ordinary diffusers folder of Stable Diffusion 1.x or 2.x (epsilon or v prediction)."""

    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    embedding = NetworkInput

    def __init__(self, config: LatentDenoiser.Config, name: str = "") -> None:
        super().__init__(config, name)
        folder = self.folder
        self.text_encoder = Frozen(
            lambda: load_network("transformers", "CLIPTextModel", folder / "text_encoder"),
            config.running.weights,
            config.running,
        )
        self._tokenizer: Any = None
        self._nothing: NetworkInput | None = None

    @property
    def tokenizer(self) -> Any:
        """Words to numbers: CLIP's byte pairs in the original, whole words in the embedded model."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            folder = self.folder / "tokenizer"
            with readable(folder, "a tokenizer"):
                self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return self._tokenizer

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> NetworkInput:
        """The text encoder's last hidden state, padded to its full length as in training."""
        device = self.alphas_cumprod.device
        with torch.autocast(device.type, enabled=False), self.text_encoder.use(device) as encoder:
            length = encoder.config.max_position_embeddings
            words = self.tokenizer(
                list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
            )
            return NetworkInput(encoder(words.input_ids.to(device))[0].float())

    def vocabulary(self) -> frozenset[str] | None:
        """Whole words, as the embedded model reads them. CLIP's byte pairs spell everything."""
        known = self.tokenizer.get_vocab()
        spelling = any(piece.endswith("</w>") for piece in known)
        return None if spelling else frozenset(known) - set(self.tokenizer.all_special_tokens)

    def overflow(self, prompt: str) -> tuple[int, int] | None:
        config = read_json(self.folder / "text_encoder" / "config.json")
        length, most = len(self.tokenizer(prompt).input_ids), int(config.get("max_position_embeddings", 77))
        return (length, most) if length > most else None

    def fingerprint(self) -> str:
        """Of the files of text encoder and tokenizer, and of the precision they are used in."""
        folders = (weights_folder(self.folder / "text_encoder"), self.folder / "tokenizer")
        device = self.alphas_cumprod.device
        return digest_of(folders, f"{device.type} {self.text_encoder.dtype(device)}")

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
    found = hashlib.blake2b(more.encode(), digest_size=20)
    for folder in folders:
        for file in sorted(path for path in folder.iterdir() if path.is_file()):
            found.update(f"\0{file.name}\0".encode())
            with open(file, "rb") as content:
                found.update(hashlib.file_digest(content, "blake2b").digest())
    return found.hexdigest()
