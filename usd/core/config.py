"""Configuration: YAML in threestudio's dialect, parsed strictly into frozen dataclasses.

A component declares its options as the fields of a dataclass, with ``option`` and ``component``:

    @dataclass(frozen=True)
    class Config:
        scale: float = option(7.5, "strength of the guidance", ge=0)
        max_step_percent: Schedule = option(0.98, "largest noise level", ge=0, le=1)
        geometry: Spec = component("geometry", "implicit-volume", "what the object is made of")

``parse`` turns a mapping into such a dataclass. An unknown, misspelled, missing, wrongly typed or out-of-range value
is a ``ConfigError`` whose message starts with the full key path. Nothing is ignored.
"""

import contextlib
import copy
import dataclasses
import math
import os
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Generic, Literal, Union, cast, get_args, get_origin, overload

from typing_extensions import TypeVar

from usd.core import places, registry
from usd.core.errors import ConfigError, UserError, did_you_mean, listing
from usd.core.loading import ValueOrigin, load_config
from usd.core.plain import Plain
from usd.core.schedule import FORMS, Schedule

__all__ = [
    "ConfigError",
    "Plain",
    "Schedule",
    "Spec",
    "UserError",
    "component",
    "describe_type",
    "load_config",
    "option",
    "parse",
    "plain",
    "spec",
]

T = TypeVar("T")
C = TypeVar("C", default=object, covariant=True)

LARGEST = {int: 2**31 - 1, float: 1e9}
"""The largest magnitude of a number where its option has no bound of its own. More is a slip of the hand, and its
square is not finite in the arithmetic of a GPU."""


@dataclass(frozen=True)
class Option:
    """The meaning, bounds and reading rules that ``option`` gives a field beyond its type."""

    help: str = ""
    ge: int | float | None = None
    gt: int | float | None = None
    le: int | float | None = None
    lt: int | float | None = None
    choices: tuple[object, ...] | None = None
    path: bool | Literal["output"] = False


@dataclass(frozen=True)
class ComponentField:
    """The kind of component that a field declared by ``component`` holds, and the name it has by default."""

    kind: str
    default: str | None = None
    help: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Spec(Generic[C]):
    """A component that was named but not built: its kind, its registered name and its parsed ``Config``."""

    kind: str
    name: str
    config: C


def option(
    default: object = MISSING,
    help: str = "",
    *,
    ge: int | float | None = None,
    gt: int | float | None = None,
    le: int | float | None = None,
    lt: int | float | None = None,
    choices: Sequence[T] | None = None,
    path: bool | Literal["output"] = False,
) -> T:
    """Declare a dataclass field with a meaning and bounds, which also hold for elements and values of a schedule.

    ``path=True`` marks a string that may be a file or folder: when it exists beside the configuration file (for a
    value typed by hand: in the working directory), among the resources (``load/...``) or in the working directory, it
    becomes that absolute path; otherwise it stays as it is, a model's name say. A field of type ``Path`` always
    becomes absolute; with ``path="output"`` it is a folder to write to, below the working directory.
    """
    meta = Option(help, ge, gt, le, lt, None if choices is None else tuple(choices), path)
    return cast(T, _field(default, {"option": meta}))


@overload
def component(
    kind: str, default: str | None = None, help: str = "", *, optional: Literal[True]
) -> Spec | None: ...
@overload
def component(
    kind: str, default: str | None = None, help: str = "", *, optional: Literal[False] = False
) -> Spec: ...
def component(kind: str, default: str | None = None, help: str = "", *, optional: bool = False) -> object:
    """Declare a dataclass field that holds a ``Spec``; in YAML ``<field>_type`` is its name, ``<field>`` its options.

    With ``optional`` the name may be null, and the field is then None.
    """
    meta = ComponentField(kind, default, help, optional)
    return _field(None if optional else MISSING, {"component": meta})


def changed_defaults(cls: type, defaults: Mapping[str, object]) -> type:
    """Return the frozen dataclass of the options of ``cls`` with other defaults.

    Raises TypeError for an option that ``cls`` does not have.
    """
    known, hints = {field.name: field for field in dataclasses.fields(cls)}, typing.get_type_hints(cls)
    for name in defaults:
        if name not in known:
            raise TypeError(f"{cls.__qualname__} has no option '{name}'.{did_you_mean(name, known)}")
    fields = [(name, hints[name], _field(value, known[name].metadata)) for name, value in defaults.items()]
    return dataclasses.make_dataclass("Config", fields, bases=(cls,), frozen=True)


def changed_base(cls: type, base: type, other: type) -> type:
    """Return a frozen dataclass of the options of ``cls`` with those of ``other`` in the place of those of ``base``.

    What ``cls`` and its other bases add stays the same option, also for ``options_in_common``.
    """
    if cls is base:
        return other
    if base not in cls.__mro__:
        return cls
    of_base, hints = {field.name for field in dataclasses.fields(base)}, typing.get_type_hints(cls)
    declared = vars(cls).get("__annotations__", {})
    own = [f for f in dataclasses.fields(cls) if f.name in declared and f.name not in of_base]
    fields = [(field.name, hints[field.name], field) for field in own]
    bases = tuple(changed_base(parent, base, other) for parent in cls.__bases__)
    return dataclasses.make_dataclass("Config", fields, bases=bases, frozen=True)


def _field(default: object, metadata: Mapping[str, object]) -> dataclasses.Field:
    if isinstance(default, list | dict | set):
        made: object = dataclasses.field(
            default_factory=lambda: copy.copy(default), metadata=metadata, kw_only=True
        )
    else:
        made = dataclasses.field(default=default, metadata=metadata, kw_only=True)
    return cast(dataclasses.Field, made)


# ---------------------------------------------------------------------------------------------------------- parsing


@dataclass(frozen=True)
class _KeyPath:
    """The key path of a value, and where each key was written."""

    key: str
    origins: Mapping[str, ValueOrigin]

    def __truediv__(self, name: object) -> "_KeyPath":
        return _KeyPath(f"{self.key}.{name}" if self.key else str(name), self.origins)

    def error(self, message: str) -> ConfigError:
        """Return a ``ConfigError`` that starts with this key path."""
        return ConfigError(f"{self.key or 'configuration'}: {message}")


def parse(
    cls: type[T], mapping: object, path: str = "", origins: Mapping[str, ValueOrigin] | None = None
) -> T:
    """Return ``mapping`` as an instance of the dataclass ``cls``. ``path`` is its key path, for messages.

    ``origins`` says, for a full key path, where the value was written; paths depend on it. Raises ``ConfigError``.
    """
    return cast(T, _dataclass(cls, plain(mapping), _KeyPath(path, origins or {})))


def spec(kind: str, name: str, options: object = None, path: str = "") -> Spec:
    """Return the component ``name`` of ``kind`` with ``options`` parsed into its ``Config``. Raises ``ConfigError``."""
    return _spec(kind, name, plain(options), _KeyPath(path or kind, {}))


def _dataclass(cls: type, values: object, at: _KeyPath) -> object:
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise at.error(f"expected a mapping of options, got {_short_repr(values)}")
    fields = [field for field in dataclasses.fields(cls) if field.init]
    values = {
        key_of(str(key)) if key in {f.name for f in fields} else key: item for key, item in values.items()
    }
    _refuse_unknown(values, _keys(fields), at)
    hints = typing.get_type_hints(cls)
    return cls(**{field.name: _read_field(field, hints[field.name], values, at) for field in fields})


def keys_of(cls: type) -> list[str]:
    """Return every key that a dataclass of options takes; none for another type."""
    return _keys(dataclasses.fields(cls)) if dataclasses.is_dataclass(cls) else []


def _keys(fields: Sequence[dataclasses.Field]) -> list[str]:
    named = [f"{field.name}_type" for field in fields if "component" in field.metadata]
    return [key_of(field.name) for field in fields] + named


def key_of(name: str) -> str:
    """Return the YAML key of a field; one that is a word of Python has an underscore more, as ``lambda_`` has."""
    return name.removesuffix("_")


def _refuse_unknown(values: Mapping[str, object], known: Sequence[str], at: _KeyPath) -> None:
    for key in values:
        if key not in known:
            hint = did_you_mean(str(key), known) or f" Known keys: {listing(known, near=str(key))}."
            raise (at / key).error(f"unknown key.{hint}")


def _read_field(field: dataclasses.Field, hint: object, values: Mapping[str, object], at: _KeyPath) -> object:
    if "component" in field.metadata:
        return _read_component(field.name, field.metadata["component"], values, at)
    rules, key = field.metadata.get("option", Option()), key_of(field.name)
    if key in values:
        return _checked_value(values[key], hint, rules, at / key)
    if field.default is not MISSING:
        return _checked_value(field.default, hint, rules, at / key)
    if field.default_factory is not MISSING:
        return _checked_value(field.default_factory(), hint, rules, at / key)
    raise (at / key).error(f"required but not given; expected {describe_type(hint)}")


def _read_component(
    name: str, field: ComponentField, values: Mapping[str, object], at: _KeyPath
) -> Spec | None:
    chosen = values.get(f"{name}_type", field.default)
    if chosen is None:
        if not field.optional:
            known = listing(registry.names(field.kind))
            raise (at / f"{name}_type").error(f"required but not given; expected a {field.kind}: {known}")
        if values.get(name):
            raise (at / name).error(f"options for nothing: {name}_type is null")
        return None
    if not isinstance(chosen, str):
        raise (at / f"{name}_type").error(f"expected the name of a {field.kind}, got {_short_repr(chosen)}")
    return _spec(field.kind, chosen, values.get(name), at / name)


def _spec(kind: str, name: str, options: object, at: _KeyPath) -> Spec:
    try:
        cls = registry.find(kind, name)
    except UserError as error:
        raise ConfigError(f"{at.key}_type: {error}") from error
    return Spec(kind, name, _dataclass(cls.Config, options, at))


# ----------------------------------------------------------------------------------------------------------- values


def _checked_value(value: object, hint: object, rules: Option, at: _KeyPath) -> object:
    if rules.path == "output" and isinstance(value, str | Path):
        value = places.output(_expanded(str(value)))
    result = _value(value, hint, bool(rules.path), at)
    if rules.choices is not None and result not in rules.choices:
        known = [str(choice) for choice in rules.choices]
        hint_text = did_you_mean(str(result), known)
        raise at.error(
            f"{_short_repr(value)} is not a choice; expected one of {', '.join(known)}.{hint_text}"
        )
    _check_numbers(result, rules, at)
    return result


def _check_numbers(value: object, rules: Option, at: _KeyPath) -> None:
    for name, item in value.items() if isinstance(value, dict) else ():
        _check_numbers(item, rules, at / name)
    for number in () if isinstance(value, dict) else _numbers(value):
        _check_bounds(number, rules, at)


def _numbers(value: object) -> list[int | float]:
    """Return every number in a value, as written or parsed; mappings aside."""
    if isinstance(value, Schedule):
        return list(value.values)
    if isinstance(value, tuple | list):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _check_bounds(number: int | float, rules: Option, at: _KeyPath) -> None:
    largest = LARGEST[type(number)]
    ge = -largest if rules.ge is None and rules.gt is None else rules.ge
    le = largest if rules.le is None and rules.lt is None else rules.le
    bounds = [
        (ge, ">=", ge is None or number >= ge),
        (rules.gt, ">", rules.gt is None or number > rules.gt),
        (le, "<=", le is None or number <= le),
        (rules.lt, "<", rules.lt is None or number < rules.lt),
    ]
    if not all(ok for _, _, ok in bounds):
        known = (rules.ge, rules.gt, rules.le, rules.lt)
        stated = [
            f"{sign} {_short(bound)}"
            for bound, sign, ok in bounds
            if bound is not None and (bound in known or not ok)
        ]
        raise at.error(f"{_short(number)} is out of range; expected {' and '.join(stated)}")


def _short(number: int | float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def _refuse_infinite(value: object, hint: object, at: _KeyPath) -> None:
    """Raise ``ConfigError`` for nan, infinity and integers beyond 64 bits, unless text is expected."""
    for number in () if _is_text(hint) else _numbers(value):
        if isinstance(number, float) and not math.isfinite(number):
            raise at.error(f"{number:g} is out of range; expected a finite number")
        if isinstance(number, int) and abs(number) >= 2**63:
            raise at.error("an integer of more than 64 bits is out of range")


def _is_text(hint: object) -> bool:
    """Return whether a type is text, or null."""
    return all(member in (str, type(None)) for member in get_args(hint) or [hint])


def _value(value: object, hint: object, is_path: bool, at: _KeyPath) -> object:
    _refuse_infinite(value, hint, at)
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _union(value, hint, is_path, at)
    if origin is Literal:
        return _literal(value, hint, at)
    if origin in (tuple, list):
        return _sequence(value, hint, is_path, at)
    if origin is dict:
        return _dict(value, hint, is_path, at)
    if hint is Schedule:
        return _schedule(value, at)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else _dataclass(hint, value, at)
    return _scalar(value, hint, is_path, at)


def _union(value: object, hint: object, is_path: bool, at: _KeyPath) -> object:
    members = get_args(hint)
    if value is None and type(None) in members:
        return None
    members = tuple(member for member in members if member is not type(None))
    if len(members) == 1:
        return _value(value, members[0], is_path, at)
    for member in sorted(members, key=lambda hint: (hint is not type(value), _eagerness(hint))):
        try:
            return _value(value, member, is_path, at)
        except ConfigError:
            continue
    raise at.error(f"expected {describe_type(hint)}, got {_short_repr(value)}")


def _eagerness(hint: object) -> int:
    """Return the rank of a member of a union when it is tried: exact types come first, text last."""
    order = [bool, int, float, Schedule]
    return order.index(hint) if hint in order else (9 if hint in (str, Path) else 5)


def _literal(value: object, hint: object, at: _KeyPath) -> object:
    for choice in get_args(hint):
        if value == choice and type(value) is type(choice):
            return value
    known = [str(choice) for choice in get_args(hint)]
    hint_text = did_you_mean(str(value), known)
    raise at.error(f"{_short_repr(value)} is not a choice; expected {describe_type(hint)}.{hint_text}")


def _sequence(value: object, hint: object, is_path: bool, at: _KeyPath) -> object:
    is_list, inner = get_origin(hint) is list, get_args(hint)
    if not isinstance(value, list | tuple):
        raise at.error(f"expected {describe_type(hint)}, got {_short_repr(value)}")
    if is_list or inner[-1] is Ellipsis:
        items = [_value(item, inner[0], is_path, at / index) for index, item in enumerate(value)]
        return items if is_list else tuple(items)
    if len(value) != len(inner):
        raise at.error(f"expected {describe_type(hint)}, got {len(value)} elements")
    pairs = enumerate(zip(value, inner))
    return tuple(_value(item, item_hint, is_path, at / index) for index, (item, item_hint) in pairs)


def _dict(value: object, hint: object, is_path: bool, at: _KeyPath) -> dict[str, object]:
    value = {} if value is None else value
    if not isinstance(value, Mapping):
        raise at.error(f"expected {describe_type(hint)}, got {_short_repr(value)}")
    return {str(key): _value(item, get_args(hint)[1], is_path, at / key) for key, item in value.items()}


def _schedule(value: object, at: _KeyPath) -> Schedule:
    try:
        return Schedule.parse(value)
    except ValueError as error:
        raise at.error(f"{error}; expected {FORMS}") from error


def _scalar(value: object, hint: object, is_path: bool, at: _KeyPath) -> object:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int | float) and number and float(value).is_integer():
        return int(value)  # also 1e4, which is a float to YAML
    if hint is float and isinstance(value, int | float) and number:
        return float(value)
    if hint is str and (number or isinstance(value, str)):
        return _located(str(value), at, must=False) if is_path else str(value)
    if hint is Path and value == "":
        raise at.error("is empty; expected a path")
    if hint is Path and isinstance(value, str | Path):
        return Path(_located(str(value), at, must=True))
    raise at.error(f"expected {describe_type(hint)}, got {_short_repr(value)}")


def _located(text: str, at: _KeyPath, must: bool) -> str:
    """Return ``text`` as an absolute path; a word and a colon before it, as in ``mesh:FILE``, are kept.

    What exists wins: beside the file that set it (or in the working directory when typed by hand), else among the
    resources, else in the working directory. What exists nowhere is meant to be made in the working directory, or,
    unless it ``must`` be a path, left as it is.
    """
    origin = at.origins.get(at.key)
    word, colon, rest = text.partition(":")
    if colon and rest and word.isalpha() and len(word) > 1 and not must and not _exists(origin, text):
        return f"{word}:{_located(rest, at, must)}"
    given = _expanded(text)
    if not text or given.is_absolute():
        return str(given) if text else text
    written = [] if origin is None else [origin.folder / given, places.output(given)]
    tried = [*written[:1], places.find_resource(given), *written[1:]]
    found = next((place for place in tried if place is not None and os.path.exists(place)), None)
    if found is None and not must:
        return text
    typed_in = origin.folder if origin is not None and origin.by_hand else Path.cwd()
    return os.path.normpath(found or typed_in / given)


def _exists(origin: ValueOrigin | None, text: str) -> bool:
    """Return whether a path with a colon in it is there as it stands."""
    return origin is not None and (origin.folder / text).exists()


def _expanded(text: str) -> Path:
    """Return ``text`` as a path, with ``~`` as the home folder where there is such a user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def accepts(hint: object, value: object) -> bool:
    """Return whether an option of this type takes ``value``, bounds aside."""
    try:
        _value(value, hint, False, _KeyPath("", {}))
    except ConfigError:
        return False
    return True


# ------------------------------------------------------------------------------------------------------ description


_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "null",
}


def describe_type(hint: object) -> str:
    """Return a type in words, as error messages and ``usd describe`` print it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(member) for member in inner)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in inner)
    if origin is list or (origin is tuple and inner[-1] is Ellipsis):
        return f"a list of ({describe_type(inner[0])})"
    if origin is tuple:
        return f"[{', '.join(map(describe_type, inner))}]"
    if origin is dict:
        return f"a mapping from names to ({describe_type(inner[1])})"
    if dataclasses.is_dataclass(hint) and hint is not Schedule:
        return "a mapping of options"
    return _NAMES.get(hint, hint.__name__) if isinstance(hint, type) else str(hint)


def _short_repr(value: object) -> str:
    """Return a value as the user wrote it, in at most 60 characters."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def plain(value: object) -> Plain:
    """Return a configuration as dicts, lists, numbers and texts: what YAML and checkpoints hold and ``parse`` reads."""
    if isinstance(value, Schedule):
        return value.plain()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain_options(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) or type(value).__name__ == "ListConfig":
        return [plain(item) for item in cast(Iterable[object], value)]
    return str(value) if isinstance(value, Path) else cast(Plain, value)


def _fields(cls: type) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(cls)


def plain_options(config: object) -> dict[str, Plain]:
    """Return the options of a dataclass by key, each as ``plain`` has it."""
    result: dict[str, Plain] = {}
    for field in _fields(type(config)):
        result |= _plain_option(field, getattr(config, field.name))
    return result


def _plain_option(field: dataclasses.Field, item: object) -> dict[str, Plain]:
    """Return a field's value by key: of a component its name, and its options where there is one."""
    if "component" not in field.metadata:
        return {key_of(field.name): plain(item)}
    named: dict[str, Plain] = {f"{field.name}_type": item.name if isinstance(item, Spec) else None}
    return {**named, field.name: plain(item.config)} if isinstance(item, Spec) else named


def defaults(cls: type) -> dict[str, Plain]:
    """Return what the options of a dataclass are where nothing is given, by key, as ``plain`` has them.

    Those that have to be given are left out.
    """
    result: dict[str, Plain] = {}
    hints = typing.get_type_hints(cls)
    for field in _fields(cls):
        with contextlib.suppress(ConfigError):
            result |= _plain_option(field, _read_field(field, hints[field.name], {}, _KeyPath("", {})))
    return result
