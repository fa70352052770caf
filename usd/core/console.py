"""The one way to say something to the user: a line on standard output, once, however many processes there are."""

import os
import sys

__all__ = ["say", "say_error"]


def say(text: str) -> None:
    """Print a line, in the first of several processes only."""
    if _is_first():
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def say_error(text: str) -> None:
    """Print a line on standard error, in whichever process that is: each has its own reasons."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _is_first() -> bool:
    """Return whether this is the first of the processes that train together."""
    if (
        "torch" not in sys.modules
    ):  # importing it takes seconds, which a mistake on the way here does not need
        return os.environ.get("LOCAL_RANK", "0") == "0"
    from usd.core import ranks

    return ranks.rank() == 0
