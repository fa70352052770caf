"""What denoisers conditioned on a sentence have in common: a text encoder and its tokenizer."""

import hashlib
import importlib.util
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.core import files
from usd.core.errors import UserError
from usd.denoiser import TextDenoiser
from usd.denoiser.components import ModelComponents
from usd.denoiser.frozen import Frozen
from usd.denoiser.latent import L, NetworkInput, UNetDenoiser
from usd.denoiser.load import in_rehearsal
from usd.denoiser.networks import TextEncoder, TextTokenizer
from usd.denoiser.weights import readable, whole


class PromptDenoiser(UNetDenoiser[L], TextDenoiser[L]):
    """A UNet that attends to the states of a text encoder. Subclasses say how prompts become its input."""

    embedding = NetworkInput
    text_half: torch.dtype = torch.float16  # the half precision that suits the text encoder

    def __init__(self, config: L, name: str = "") -> None:
        super().__init__(config, name)
        files = self.files
        self.text_encoder: Frozen[TextEncoder] = Frozen(
            lambda: files.network("text_encoder"),
            config.execution.weights,
            config.execution,
            half=self.text_half,
        )
        self._rehearsed = in_rehearsal()
        self._tokenizer: TextTokenizer | None = None
        self._empty: NetworkInput | None = None

    @abstractmethod
    def embed_text(self, prompts: Sequence[str]) -> NetworkInput:
        """Return the text encoder's last hidden states of prompts, padded as in training."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """The number of tokens that the text encoder is given."""

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer, read when first needed. Raises UserError."""
        if self._tokenizer is None:
            self._tokenizer = read_tokenizer(self.tokenizer_folder())
        return self._tokenizer

    def tokenizer_folder(self) -> Path:
        """Return the folder of the tokenizer. Raises UserError where there is none."""
        folder = self.files.tokenizer()
        if folder is None:
            raise UserError(f"{self.folder}: holds no tokenizer; expected a folder 'tokenizer' in it")
        return folder

    def tokens(self, prompts: Sequence[str]) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
        """Return prompts as numbers, padded to ``longest``, and 1 where they are not padding. Raises UserError."""
        tokenizer, folder = self.tokenizer, self.tokenizer_folder()
        with readable(folder, "a tokenizer"):
            numbers = tokenizer(
                list(prompts),
                padding="max_length",
                truncation=True,
                max_length=self.longest,
                return_tensors="pt",
            )
        most, known = int(numbers.input_ids.max()), whole(self.files.config("text_encoder"), "vocab_size")
        if most >= known:
            raise UserError(
                f"{folder}: gives the number {most} to a word, of a text encoder that knows {known}; "
                "expected the tokenizer of this model"
            )
        return numbers.input_ids, numbers.attention_mask

    def overflow(self, prompt: str) -> tuple[int, int] | None:
        """Return (tokens of the prompt, tokens that the encoder is given) where it is too long, else None."""
        length = len(self.tokenizer.encode(prompt))
        return (length, self.longest) if length > self.longest else None

    def fingerprint(self) -> str | None:
        """Return a digest of text encoder, tokenizer and their precision; None in a rehearsal, which keeps nothing."""
        if self._rehearsed:
            return None
        device, encoder = self.alphas_cumprod.device, self.files.source("text_encoder")
        used = f"{device.type} {self.text_encoder.dtype(device)}"
        if encoder.is_dir() and self.config.lora_file is None:
            return digest_of((encoder, self.tokenizer_folder()), used)
        return digest_of(
            (self.tokenizer_folder(),), used + digest_of_tensors(self.files.tensors("text_encoder"))
        )

    def unconditional(self, batch: int) -> NetworkInput:
        """Return the empty prompt, encoded once; a text encoder that was loaded only for it is freed."""
        if self._empty is None:
            in_use = self.text_encoder.loaded
            self._empty = self.embed_text([""])
            if not in_use:
                self.release_encoders()
        # It may have been encoded where the model was before it moved.
        tokens = self._empty.tokens.to(self.alphas_cumprod.device)
        return NetworkInput(tokens.expand(batch, -1, -1))

    def release_encoders(self) -> None:
        """Free the text encoder; it is loaded again when needed."""
        self.text_encoder.drop()


@torch.no_grad()
def empty_prompt(files: ModelComponents, device: torch.device) -> Float[Tensor, "1 T W"]:
    """Return the last hidden state of the empty prompt, float32; the text encoder is read for it alone.

    Without a tokenizer, as in single files, its tokens are those that the text encoder's configuration says.
    """
    config, folder = files.config("text_encoder"), files.tokenizer()
    length = whole(config, "max_position_embeddings", 77)
    if folder is None:
        numbers = empty_numbers(config, 1, length)
    else:
        tokenizer = read_tokenizer(folder)
        numbers = tokenizer(
            [""], padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
    encoder = files.network("text_encoder").float().to(device)
    return encoder(numbers.to(device))[0].float()


def empty_numbers(config: Mapping[str, object], count: int, length: int) -> Int[Tensor, "B T"]:
    """Return the numbers of ``count`` empty prompts, by the special tokens of a text encoder's configuration."""
    first, last, pad = (whole(config, f"{name}_token_id") for name in ("bos", "eos", "pad"))
    return torch.tensor([[first, last, *[pad] * (length - 2)]] * count, device="cpu")


def read_tokenizer(folder: Path) -> TextTokenizer:
    """Return the tokenizer stored in a folder. Raises UserError."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file() and not has_package("sentencepiece"):
        pieces = next(iter(sorted(folder.glob("*.model"))), None)
        if pieces is not None:
            raise UserError(
                f"{pieces}: reading it needs the package 'sentencepiece', which is not installed; pip install it"
            )
    with readable(folder, "a tokenizer"):
        tokenizer: TextTokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.pad_token is None:
        what = "says no pad_token" if (folder / "tokenizer_config.json").is_file() else "is missing"
        raise UserError(f"{folder}: its tokenizer_config.json {what}; expected the model's own")
    return tokenizer


def has_package(name: str) -> bool:
    """Return whether a package is installed."""
    return importlib.util.find_spec(name) is not None


def digest_of(folders: Sequence[Path], more: str) -> str:
    """Return a digest of all files in ``folders``, names and contents, and of ``more``."""
    pieces: list[str | bytes] = [more]
    for folder in folders:
        for file in sorted(path for path in folder.iterdir() if path.is_file()):
            pieces += [f"\0{file.name}\0", files.digest_of_file(file)]
    return files.digest(*pieces, size=20)


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of names, types and values."""
    found = hashlib.blake2b(digest_size=20)
    for name, tensor in sorted(tensors.items()):
        found.update(f"\0{name} {tensor.dtype}\0".encode())
        found.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()
