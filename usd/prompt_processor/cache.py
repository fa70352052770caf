"""Embeddings of prompts on disk, found by content: weights of the text encoder, precision, and the prompt itself.

Another model in the same folder, or another prompt, is another file; files are written whole or not at all, so several
runs may share a cache. A file that cannot be read is made again; a folder that cannot be written only costs time.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from usd.core import files
from usd.denoiser import Embedding, TextDenoiser

LOG = logging.getLogger(__name__)
FORMAT = "usd-prompt-1"


def embed_with_cache(model: TextDenoiser, prompts: Sequence[str], folder: Path | None) -> Embedding:
    """Return ``model.embed_text(prompts)``, from ``folder`` where it holds them: no text encoder is loaded then."""
    digest = None if folder is None else model.fingerprint()
    if folder is None or digest is None:
        return model.embed_text(prompts)
    known = {prompt: folder / f"{key_of(digest, prompt)}.safetensors" for prompt in prompts}
    rows = {prompt: row for prompt, file in known.items() if (row := read_embedding(file)) is not None}
    missing = [prompt for prompt in known if prompt not in rows]
    if missing:
        made = model.embed_text(missing)
        for i, prompt in enumerate(missing):
            row = made.select(torch.tensor([i])).tensors()
            rows[prompt] = {name: x.cpu() for name, x in row.items()}
            write_embedding(rows[prompt], known[prompt])
    device = model.alphas_cumprod.device
    names = rows[prompts[0]]
    return model.restore_embedding(
        {name: torch.cat([rows[p][name] for p in prompts]).to(device) for name in names}
    )


def key_of(digest: str, prompt: str) -> str:
    """Return the name of a prompt's file."""
    text = "\0".join([FORMAT, digest, prompt])
    return files.digest(text, size=20)


def read_embedding(file: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file; None where there is none or it is broken."""
    try:
        return load_file(file) if file.is_file() else None
    except (SafetensorError, OSError, ValueError):
        return None


def write_embedding(tensors: dict[str, Tensor], file: Path) -> None:
    """Store tensors in a file, whole or not at all. What the disk refuses is not kept."""
    try:
        with files.replace_atomically(file) as partial:
            save_file({name: x.contiguous() for name, x in tensors.items()}, partial)
    except (OSError, SafetensorError) as problem:
        LOG.info("%s: embeddings are not kept (%s)", file.parent, problem)
