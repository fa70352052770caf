"""Options that a configuration gives and that nothing reads as it is: a line each, instead of silence.

A class of options says in ``read_with`` which value of another of its options each of them needs; what depends on
more than that is a method ``unread``, from the options' keys to why nothing reads them.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol, runtime_checkable

from usd.core.config import Spec, key_of

ReadWith = Mapping[str, tuple[str, Collection[object]]]
"""Option -> the other option that it depends on, and the values of that with which it is read."""


@runtime_checkable
class HasUnread(Protocol):
    """Options that may be of no use together."""

    def unread(self) -> Mapping[str, str]:
        """Return the keys of options that nothing reads as the others are, and why."""


def unread_options(config: object, given: object, at: str = "") -> Iterator[str]:
    """Yield a note for each option in ``given``, the mapping that ``config`` was read from, that nothing reads."""
    config = config.config if isinstance(config, Spec) else config
    if not isinstance(given, Mapping) or not dataclasses.is_dataclass(config):
        return
    for key, why in _reasons(config).items():
        if _is_given(given, key):
            yield f"note: {at}{key}: is not read {why}"
    for field in dataclasses.fields(config):
        key = key_of(field.name)
        yield from unread_options(getattr(config, field.name), given.get(key), f"{at}{key}.")


def _reasons(config: object) -> Mapping[str, str]:
    rules: ReadWith = getattr(config, "read_with", {})
    found = {}
    for key, (other, values) in rules.items():
        value = getattr(config, other)
        if value not in values:
            found[key] = f"where {other} is {'null' if value is None else value}"
    return {**found, **(config.unread() if isinstance(config, HasUnread) else {})}


def _is_given(values: Mapping[object, object], key: str) -> bool:
    """Return whether a mapping has a value at a key path."""
    name, _, rest = key.partition(".")
    inner = values.get(name)
    return name in values and (not rest or (isinstance(inner, Mapping) and _is_given(inner, rest)))
