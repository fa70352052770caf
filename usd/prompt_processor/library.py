"""Named prompts: ``lib:red_car`` means the one prompt of ``load/prompt_library.json`` with those words."""

import json
import re
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path

from usd.core.errors import UserError
from usd.core.places import resource

LIBRARY_FILE = resource("load/prompt_library.json")
PREFIX = "lib:"


@cache
def library(file: Path = LIBRARY_FILE) -> tuple[str, ...]:
    """Return all prompts of a file, a JSON object of lists. Raises UserError when it is missing or wrong."""
    try:
        groups = json.loads(file.read_text(encoding="utf-8"))
        return tuple(str(prompt) for group in groups.values() for prompt in group)
    except (OSError, ValueError, AttributeError) as problem:
        raise UserError(f"{file}: is no prompt library ({problem})") from None


def full_prompt(prompt: str, prompts: tuple[str, ...] | None = None) -> str:
    """Return ``prompt``, or the library's one prompt with all the words behind ``lib:``. Raises UserError."""
    if not prompt.startswith(PREFIX):
        return prompt
    wanted = [word.lower() for word in prompt.removeprefix(PREFIX).split("_") if word]
    known = library() if prompts is None else prompts
    found = [text for text in known if wanted and set(wanted) <= set(re.findall(r"\w+", text.lower()))]
    if len(found) == 1:
        return found[0]
    fits = f"{len(found)} library prompts fit" + (f", such as '{found[0]}' and '{found[1]}'" if found else "")
    near = "" if found else _nearest_prompt(wanted, known)
    raise UserError(
        f"system.prompt_processor.prompt: '{prompt}': {fits}; expected words of exactly one{near}"
    )


def _nearest_prompt(wanted: list[str], known: tuple[str, ...]) -> str:
    """Return `` (nearest: '...')``, the prompt whose words come nearest to those wanted; or nothing."""

    def likeness(text: str) -> float:
        words = re.findall(r"\w+", text.lower())
        return sum(max(SequenceMatcher(None, word, other).ratio() for other in words) for word in wanted)

    return f" (nearest: '{max(known, key=likeness)}')" if known and wanted else ""
