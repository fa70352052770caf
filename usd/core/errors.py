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


def listing(names: Iterable[str], limit: int = 12, near: str = "") -> str:
    """Return names for a message: ``a, b, c``, cut after ``limit``; the names nearest to ``near`` are never cut."""
    ordered = sorted(names)
    if len(ordered) <= limit:
        return ", ".join(ordered) if ordered else "none"
    nearest = difflib.get_close_matches(near, ordered, n=limit // 2, cutoff=0.3) if near else []
    kept = [*nearest, *[name for name in ordered if name not in nearest]][:limit]
    return f"{', '.join(sorted(kept))}, ... ({len(ordered)} in all)"
