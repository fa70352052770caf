"""The meaning of ``key=value``: the option at that key decides.

A text option takes the text as it was typed: ``#``, colons, brackets, spaces and ``${...}`` are part of it. One pair of
quotes around all of it is taken off, and ``null`` means null where the option may be null (``'"null"'`` is the word).
Where an option may be a number or a text, what reads as a number is one. In a list or mapping of texts the items are
texts. Everything else is YAML.

``x_type=name`` keeps, of the options that the files give ``x``, those that the new component declares in common with
the former one, and the components of the same kind. What it drops is said in ``notes``.
"""

import re
import types
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Literal, Union, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from usd.core.config import ConfigError, accepts, defaults
from usd.core.loading import OverrideReader, ValueOrigin, literal, unquoted, value_at, yaml_value
from usd.core.option_lookup import (
    component_class,
    exclusive_names,
    option_type,
    options_in_common,
    split_key,
)

Values = Mapping[str, object]


class OptionReader(OverrideReader):
    """The meaning of ``key=value`` for the options of the dataclass ``options``.

    ``moved`` says where a key and a whole configuration are read, where that is not where they are written.
    """

    def __init__(
        self,
        options: type,
        moved: tuple[Callable[[str], str], Callable[[dict[str, object]], dict[str, object]]] | None = None,
    ) -> None:
        self.options = options
        self.notes = ()
        self._key, self._values = moved or (str, dict)

    def names(self, key: str, merged: Values) -> list[str]:
        """Return the names in a key path; below a field of ``dotted_keys`` a dot may belong to a name."""
        there = self._key(key)
        if not key.endswith(there):  # read under another name
            return key.split(".")
        return [
            *key.removesuffix(there).split(".")[:-1],
            *split_key(self.options, there, self._chosen(merged)),
        ]

    def value(self, key: str, text: str, merged: Values) -> object:
        """Return what ``text`` means to the option at ``key``. Raises ``ConfigError``."""
        hint = self.type_of(key, merged)
        if is_text(hint) and text == unquoted(text) and re.search(r"\$\{[^}]*\}", text):
            self._note(f"{key}: '{text}' is taken as it stands; an interpolation belongs in a file")
        return typed_value(key, text, hint)

    def type_of(self, key: str, merged: Values) -> object:
        """Return the type of the option at ``key``; None where there is none."""
        chosen = self._chosen(merged)
        return option_type(self.options, split_key(self.options, self._key(key), chosen), chosen)

    def options_kept(self, key: str, value: object, merged: Values) -> dict[str, object] | None:
        """Return the options that the old and the new component have in common, and note those that are dropped."""
        there, component = self._key(key), key.removesuffix("_type")
        given = value_at(merged, component)
        if component == key or not isinstance(given, dict):
            return None
        chosen = self._chosen(merged)
        before = component_class(self.options, there, chosen(there), chosen)
        after = component_class(self.options, there, value, chosen)
        if before is None or after is None:
            return None
        if before is after:  # another name of the same component
            return dict(given)
        kept, dropped = options_in_common(before, after, given)
        usual = defaults(before.Config)  # a trial's parsed.yaml says those, too
        missed = [name for name in dropped if value_at(given, name) != value_at(usual, name)]
        if missed:
            rest = "; its other options stay" if kept else ""
            self._note(f"{key}={value}: drops {', '.join(missed)} of the file's {component}{rest}")
        return kept

    def finish(self, merged: MutableMapping[str, object], origins: Mapping[str, ValueOrigin]) -> None:
        """Drop, of names that exclude each other (``exclusive_keys``), those that an earlier file or override says."""
        for path, names in exclusive_names(self.options, self._chosen(merged)):
            given = value_at(merged, path)
            if not isinstance(given, dict):
                continue
            turns = {name: _latest(origins, f"{path}.{name}") for name in names & given.keys()}
            for name in [name for name, turn in turns.items() if turn < max(turns.values())]:
                del given[name]

    def _chosen(self, merged: Values) -> Callable[[str], object]:
        """Return what says the name of the component at a key such as ``system.guidance_type``, or None."""
        values = self._values(dict(merged))
        return lambda key: _resolved(values, key)

    def _note(self, line: str) -> None:
        self.notes = (*self.notes, f"note: {line}")


def _latest(origins: Mapping[str, ValueOrigin], key: str) -> int:
    """Return the turn of the file or override that said something last at a key path or below it."""
    return max((o.turn for name, o in origins.items() if f"{name}.".startswith(f"{key}.")), default=-1)


def _resolved(values: Values, key: str) -> object:
    """Return what is at a key path, interpolations resolved; None where nothing is."""
    found = value_at(values, key)
    if not isinstance(found, str) or "${" not in found:
        return found
    try:
        return OmegaConf.select(OmegaConf.create(dict(values)), key)
    except OmegaConfBaseException:
        return None


def typed_value(key: str, text: str, hint: object) -> object:
    """Return what ``text``, typed for an option of type ``hint`` (None where there is none), means in a file."""
    members = _members(hint)
    if text == "null" and type(None) in members:
        return None
    if any(text in get_args(member) for member in members if get_origin(member) is Literal):
        return text
    try:
        _refuse_comment(text)
        value = _structure(text) if any(map(_holds_texts, members)) else yaml_value(key, text)
    except (ConfigError, yaml.YAMLError):
        return literal(unquoted(text))  # which a number, say, refuses in its own words
    if not is_text(hint):
        return value
    others = [member for member in members if member not in (str, Path, type(None))]
    if others and not isinstance(value, str) and any(accepts(member, value) for member in others):
        return value
    return literal(unquoted(text))


def is_text(hint: object) -> bool:
    """Return whether an option of this type may be any text."""
    return bool({str, Path} & set(_members(hint)))


def _members(hint: object) -> tuple[object, ...]:
    """Return the types of a union; another type alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _holds_texts(hint: object) -> bool:
    """Return whether this is the type of a list or mapping of texts and nothing else."""
    if get_origin(hint) not in (list, tuple, dict):
        return False
    items = get_args(hint)[1:] if get_origin(hint) is dict else get_args(hint)
    return all(item in (str, Path, Ellipsis) or get_origin(item) is Literal for item in items)


def _refuse_comment(text: str) -> None:
    """Raise ``YAMLError`` where YAML would leave out the end of ``text``."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is not None and node.end_mark.index < len(text.rstrip()):
        raise yaml.YAMLError("holds a comment")


def _structure(text: str) -> object:
    """Return ``text`` as YAML in which every scalar is a text."""
    return literal(yaml.load(text, Loader=yaml.BaseLoader))
