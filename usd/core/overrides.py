"""What ``key=value`` means: the option at that key decides.

A text option takes the text as it was typed: ``#``, colons, brackets, spaces and ``${...}`` are part of it. One pair of
quotes around all of it is taken off, and ``null`` means null where the option may be null (``'"null"'`` is the word).
Where an option may be a number or a text, what reads as a number is one. In a list or mapping of texts the items are
texts. Everything else is YAML.

``x_type=name`` keeps, of the options that the files give ``x``, those that the new component declares in common with
the former one, and the components of the same kind. What it drops is told in ``notes``.
"""

import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from usd.core.config import ConfigError, accepts, component_class, option_type, options_in_common
from usd.core.loading import Reader, literal, unquoted, yaml_value

Values = Mapping[str, Any]


class OptionReader(Reader):
    """Reads what is typed for the options of the dataclass ``options``.

    ``moved`` says where a key and a whole configuration are read, where that is not where they are written.
    """

    def __init__(
        self,
        options: type,
        moved: tuple[Callable[[str], str], Callable[[dict[str, Any]], dict[str, Any]]] | None = None,
    ) -> None:
        self.options = options
        self.notes = ()
        self._key, self._values = moved or (str, dict)

    def value(self, key: str, text: str, merged: Values) -> Any:
        hint = self.type_of(key, merged)
        if is_text(hint) and text == unquoted(text) and re.search(r"\$\{[^}]*\}", text):
            self._note(f"{key}: '{text}' is taken as it stands; an interpolation belongs in a file")
        return typed_value(key, text, hint)

    def type_of(self, key: str, merged: Values) -> Any:
        """The type of the option at ``key``; None where there is none."""
        return option_type(self.options, self._key(key).split("."), self._chosen(merged))

    def options_kept(self, key: str, value: Any, merged: Values) -> dict[str, Any] | None:
        there, part = self._key(key), key.removesuffix("_type")
        given = _at(merged, part)
        if part == key or not isinstance(given, dict):
            return None
        chosen = self._chosen(merged)
        before = component_class(self.options, there, chosen(there), chosen)
        after = component_class(self.options, there, value, chosen)
        if before is None or after is None:
            return None
        if before is after:  # another name of the same component
            return dict(given)
        kept, dropped = options_in_common(before, after, given)
        if dropped:
            rest = "; its other options stay" if kept else ""
            self._note(f"{key}={value}: drops {', '.join(dropped)} of the file's {part}{rest}")
        return kept

    def _chosen(self, merged: Values) -> Callable[[str], Any]:
        """The name of the component that a key such as ``system.guidance_type`` says; None where it says none."""
        said = self._values(dict(merged))
        return lambda key: _resolved(said, key)

    def _note(self, line: str) -> None:
        self.notes = (*self.notes, f"note: {line}")


def _at(values: Values, key: str) -> Any:
    """What is written at a key path; None where nothing is."""
    found: Any = values
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _resolved(values: Values, key: str) -> Any:
    """What is at a key path, interpolations resolved; None where nothing is."""
    found = _at(values, key)
    if not isinstance(found, str) or "${" not in found:
        return found
    try:
        return OmegaConf.select(OmegaConf.create(dict(values)), key)
    except OmegaConfBaseException:
        return None


def typed_value(key: str, text: str, hint: Any) -> Any:
    """What ``text``, typed for an option of type ``hint`` (None where there is none), means, as a file would say it."""
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


def is_text(hint: Any) -> bool:
    """Whether an option of this type may be any text."""
    return bool({str, Path} & set(_members(hint)))


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union; another type alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _holds_texts(hint: Any) -> bool:
    """Whether this is the type of a list or mapping of texts and nothing else."""
    if get_origin(hint) not in (list, tuple, dict):
        return False
    items = get_args(hint)[1:] if get_origin(hint) is dict else get_args(hint)
    return all(item in (str, Path, Ellipsis) or get_origin(item) is Literal for item in items)


def _refuse_comment(text: str) -> None:
    """Raises ``YAMLError`` where YAML would leave out the end of ``text``."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is not None and node.end_mark.index < len(text.rstrip()):
        raise yaml.YAMLError("holds a comment")


def _structure(text: str) -> Any:
    """``text`` as YAML in which every scalar is a text."""
    return literal(yaml.load(text, Loader=yaml.BaseLoader))
