"""Prompt debiasing (arXiv 2303.15413, section 4.2): words of a prompt that speak against a view are left out of it.

"a smiling dog, back view" asks for a face at the back. How likely a view is, given a prompt, is asked of a masked
language model: the words for views compete for the gap in "This image is depicting a [MASK] view of {prompt}". A word
speaks against a view where the view is less likely with it than on average with and without it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.core.errors import UserError
from usd.denoiser import network_folder

ViewShares = Callable[[Sequence[str]], Float[Tensor, "P V"]]
"""The share of each view word for each of P prompts; a prompt's shares sum to 1."""

TEMPLATE = "This image is depicting a {gap} view of {prompt}"
AGAINST = 0.95  # least ratio of a view's share with a word to the mean of those with and without it


def debias_prompt(
    prompt: str, shares: ViewShares, views: Sequence[str], candidates: Sequence[int] | None = None
) -> list[str]:
    """Return the prompt for each view, without the words that speak against it.

    ``shares`` has a column for each of ``views``; ``candidates`` are numbers of the words that may be left out, from 0
    (None: all of them). A prompt of which no word would be left stays as it is.
    """
    words = prompt.split()
    numbers = list(range(len(words))) if candidates is None else list(candidates)
    rest = [" ".join(words[:i] + words[i + 1 :]) for i in numbers]
    found = shares([prompt, *rest])
    ratio = found[:1] / torch.lerp(found[1:], found[:1], 0.5).clamp_min(1e-12)
    made = []
    for view in range(len(views)):
        against = {number for number, r in zip(numbers, ratio[:, view].tolist(), strict=True) if r < AGAINST}
        kept = [word for i, word in enumerate(words) if i not in against]
        made.append(" ".join(kept) or prompt)
    return made


def check_word_numbers(prompt: str, numbers: Sequence[int] | None, where: str) -> None:
    """Raise UserError for numbers of words that the prompt does not have."""
    words = prompt.split()
    wrong = [number for number in numbers or () if not 0 <= number < len(words)]
    if wrong:
        raise UserError(
            f"{where}: {wrong[0]} is no word of '{prompt}'; expected numbers from 0 ('{words[0]}') "
            f"to {len(words) - 1} ('{words[-1]}')"
        )


@runtime_checkable
class WordPieces(Protocol):
    """A tokenizer of transformers for a masked language model."""

    mask_token: str | None
    mask_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the numbers of a text."""
        ...


@runtime_checkable
class MaskScores(Protocol):
    """The output of a masked language model."""

    logits: Tensor


@runtime_checkable
class MaskedLanguageModel(Protocol):
    """BertForMaskedLM of transformers and its kind."""

    def __call__(self, input_ids: Tensor) -> MaskScores:
        """Return a score for each piece at each place of a text (1 T)."""
        ...


def language_model_shares(name: str, views: Sequence[str], where: str) -> ViewShares:
    """Return how likely each view is by a masked language model: an alias, a folder or a hub id. Raises UserError."""
    folder = network_folder(name, "language", where)
    network, tokenizer = _load_language_model(folder, where)
    if tokenizer.mask_token is None:
        raise UserError(
            f"{where}: '{name}' has no word for a gap; expected a masked language model such as BERT"
        )
    gap = tokenizer.mask_token
    pieces = _view_pieces(tokenizer, views, name, where)

    @torch.no_grad()
    def shares(prompts: Sequence[str]) -> Float[Tensor, "P V"]:
        rows = []
        for prompt in prompts:
            numbers = tokenizer.encode(TEMPLATE.format(gap=gap, prompt=prompt), add_special_tokens=True)
            scores = network(torch.tensor([numbers], device="cpu")).logits[0]
            rows.append(scores[numbers.index(int(tokenizer.mask_token_id or 0))][pieces].float())
        return torch.softmax(torch.stack(rows), -1)

    return shares


def _load_language_model(folder: Path, where: str) -> tuple[MaskedLanguageModel, WordPieces]:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    try:
        network = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True).float().eval()
        return network, AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as problem:  # transformers raises whatever its readers do
        first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise UserError(
            f"{where}: {folder} cannot be read as a masked language model: {first[:200]}"
        ) from problem


def _view_pieces(tokenizer: WordPieces, views: Sequence[str], name: str, where: str) -> Int[Tensor, "V"]:
    """Return the number of each view word. Raises UserError where the model knows one only in pieces."""
    numbers = {view: tokenizer.encode(view, add_special_tokens=False) for view in views}
    odd = next((view for view, found in numbers.items() if len(found) != 1), None)
    if odd is not None:
        raise UserError(
            f"{where}: '{name}' does not know '{odd}' as one word; expected an English one such as bert-base-uncased"
        )
    return torch.tensor([found[0] for found in numbers.values()], device="cpu")
