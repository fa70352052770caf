"""Checks of a prompt before it is embedded: empty, too long, or in words that the model does not know."""

import logging
import re
from collections.abc import Iterable

from usd.core.errors import UserError
from usd.denoiser import TextDenoiser
from usd.toybox.vocabulary import nearest_word

LOG = logging.getLogger(__name__)
SMALL = frozenset(
    ["a", "an", "the", "some", "and", "or", "with", "of", "from", "in", "on", "at", "to", "by", ",", "."]
)
"""Words that name nothing."""


def check(model: TextDenoiser, prompts: Iterable[str], where: str) -> None:
    """Warn of unknown words, once for all prompts. Raises UserError when a prompt is too long or says nothing."""
    unknown, known = refuse_unreadable(model, prompts, where), model.vocabulary()
    if known is not None and unknown:
        hints = ", ".join(_hint(word, known) for word in dict.fromkeys(unknown))
        LOG.warning("%s: '%s' does not know %s", where, model.name, hints)


def refuse_unreadable(model: TextDenoiser, prompts: Iterable[str], where: str) -> list[str]:
    """Return the words that a model does not know. Raises ``UserError`` for a prompt too long or of unknown nouns.

    A prompt for a view has known words behind it, so the sentence alone has to be among ``prompts``.
    """
    known = model.vocabulary()
    unknown: list[str] = []
    for prompt in prompts:
        too_long = model.overflow(prompt)
        if too_long:
            raise UserError(
                f"{where}: '{shortened(prompt)}' has {too_long[0]} tokens; expected at most {too_long[1]}, "
                f"which is all that '{model.name}' reads"
            )
        if known is not None:
            unknown += _unknown(prompt, known, model.name, where)
    return unknown


def _unknown(prompt: str, known: frozenset[str], name: str, where: str) -> list[str]:
    """Return the words of a prompt that are not in ``known``. Raises UserError where none of its nouns is."""
    words = tokens(prompt)
    unknown = [word for word in words if word not in known and word not in SMALL]
    if unknown and not [word for word in words if word in known and word not in SMALL]:
        hints = ", ".join(_hint(word, known) for word in dict.fromkeys(unknown))
        raise UserError(
            f"{where}: '{shortened(prompt)}': '{name}' knows none of these words: {hints}; expected words it knows"
        )
    return unknown


def _hint(word: str, known: frozenset[str]) -> str:
    near = nearest_word(word, known)
    return f"'{word}' (nearest: '{near}')" if near else f"'{word}' (nothing near)"


def tokens(prompt: str) -> list[str]:
    """Return words and signs in lower case, as word-level tokenizers cut them."""
    return re.findall(r"\w+|[^\w\s]+", prompt.lower())


def shortened(prompt: str, most: int = 60) -> str:
    """Return a prompt cut to ``most`` letters, for messages."""
    return prompt if len(prompt) <= most else f"{prompt[: most - 3]}..."
