"""Errors a user can act on. Their message is one line; the command line prints it without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user asked for cannot be done. The message says where, what, and what was expected."""


class ConfigError(UserError):
    """A value of the configuration is wrong. The message starts with its full key path."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known word, or nothing."""
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    return f" Did you mean '{lowered[near[0]]}'?" if near else ""


def listing(names: Iterable[str], limit: int = 12) -> str:
    """Return names for a message: ``a, b, c``, cut after ``limit``."""
    ordered = sorted(names)
    more = f", ... ({len(ordered)} in all)" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more if ordered else "none"
