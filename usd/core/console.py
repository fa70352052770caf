"""The one way to the user: lines on standard output, once, however many processes there are, and errors beside them."""

import logging
import os
import sys
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["LogLines", "error_console", "say", "say_error"]


def say(text: str) -> None:
    """Print a line, in the first of several processes only."""
    if is_first_process():
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def say_error(text: str) -> None:
    """Print a line on standard error, in whichever process that is: each has its own reasons."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def error_console() -> "Console":
    """Return standard error as a terminal that bars of progress can move on."""
    from rich.console import Console

    return Console(stderr=True)


class LogLines(logging.Handler):
    """A handler that says every record of a logger."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Say a record."""
        say(self.format(record))


def is_first_process() -> bool:
    """Return whether this is the first of the processes that train together."""
    if "torch" not in sys.modules:
        # Importing it takes seconds, which a mistake on the way here does not need.
        return os.environ.get("LOCAL_RANK", "0") == "0"
    from usd.core import ranks

    return ranks.rank() == 0
