"""Options that a configuration gives and that do not hold: a line each, instead of silence.

Nothing reads some as the others are; some were given to a component whose type another file then changed.

A class of options says in ``read_with`` which value of another of its options each of them needs; what depends on
more than that is a method ``unread``, from the options' keys to why nothing reads them.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from usd.core.config import Spec, defaults, key_of, plain, plain_options
from usd.core.loading import MergedConfig, leaf_values, value_at

ReadWith = Mapping[str, tuple[str, Collection[object]]]
"""Option -> the other option that it depends on, and the values of that with which it is read."""


@runtime_checkable
class HasUnread(Protocol):
    """Options that may be of no use together."""

    def unread(self) -> Mapping[str, str]:
        """Return the keys of options that nothing reads as the others are, and why."""


def unread_options(config: object, given: object, typed: Collection[str] = (), at: str = "") -> Iterator[str]:
    """Yield a note for each option in ``given``, the mapping that ``config`` was read from, that nothing reads.

    Of files only what is not the default is meant: a trial's ``parsed.yaml`` gives every option. ``typed`` has the
    key paths of what was given by hand, which is meant always.
    """
    config = config.config if isinstance(config, Spec) else config
    if not isinstance(given, Mapping) or not dataclasses.is_dataclass(config):
        return
    for key, why in _reasons(config).items():
        if _is_given(given, key) and (_is_within(typed, f"{at}{key}") or not _is_default(config, key)):
            yield f"note: {at}{key}: is not read {why}"
    for field in dataclasses.fields(config):
        key = key_of(field.name)
        yield from unread_options(getattr(config, field.name), given.get(key), typed, f"{at}{key}.")


def _is_within(keys: Collection[str], path: str) -> bool:
    """Return whether one of ``keys`` is ``path`` or lies below it."""
    return any(f"{key}.".startswith(f"{path}.") for key in keys)


def _is_default(config: object, key: str) -> bool:
    """Return whether an option at a key path below ``config`` is what it is where nothing is given."""
    usual = defaults(type(config))
    return key.partition(".")[0] in usual and value_at(plain_options(config), key) == value_at(usual, key)


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


def dropped_options(config: object, given: Mapping[str, object], merged: MergedConfig) -> Iterator[str]:
    """Yield a note for each component of another type than in the file before, that has options of the former one.

    It names those that would change something, are not given again, and are read. ``given`` is the mapping that
    ``config`` was read from.
    """
    if not merged.dropped:
        return
    effective = dict(leaf_values(plain(config)))
    said = {key for key, _ in leaf_values(given)}
    for component, options in merged.dropped.items():
        reasons = _reasons_at(config, component.split("."))
        missed = [
            option
            for option, value in options.items()
            if (key := f"{component}.{option}") in effective.keys() - said
            and effective[key] != plain(merged.filled(value))
            and option.split(".")[0] not in reasons
        ]
        if missed:
            name = effective.get(f"{component}_type")
            yield (
                f"note: {component}_type: {name}: takes over no options that the base gives another type; "
                f"at their defaults are {', '.join(missed)}"
            )


def _reasons_at(config: object, names: Sequence[str]) -> Mapping[str, str]:
    """Return why options of the component at a key path are not read, by key."""
    for name in names:
        config = getattr(config.config if isinstance(config, Spec) else config, name, None)
    return _reasons(config.config if isinstance(config, Spec) else config)
