"""Options found by their key path before anything is parsed, as ``key=value`` and ``x_type=name`` need them.

Which component a key leads through depends on what the configuration says at its ``x_type``: functions take
``chosen``, which answers that.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Union, get_args, get_origin

from usd.core import registry
from usd.core.config import ComponentField, key_of
from usd.core.errors import UserError
from usd.core.schedule import Schedule

if TYPE_CHECKING:  # module imports torch
    from usd.core.module import Component

__all__ = ["component_class", "exclusive_names", "option_type", "options_in_common", "split_key"]

Chosen = Callable[[str], object]
"""Key path of an ``x_type`` -> the name that a configuration says there, or None."""


def option_type(cls: type, names: Sequence[str], chosen: Chosen, path: str = "") -> object:
    """Return the type of the option at the keys ``names`` below the dataclass ``cls``; None where there is none."""
    for field in dataclasses.fields(cls):
        component = field.metadata.get("component")
        if component and names[0] == f"{key_of(field.name)}_type":
            return str | None if len(names) == 1 else None
        if names[0] == key_of(field.name):
            at = f"{path}.{names[0]}" if path else names[0]
            return _type_below(_hint(cls, field, chosen, at), names[1:], chosen, at)
    return None


def _hint(cls: type, field: dataclasses.Field, chosen: Chosen, path: str) -> object:
    """Return the type of a field's value as far as it has options: a component's ``Config``, else the annotation."""
    component = field.metadata.get("component")
    if component:
        return getattr(_class_of(component, chosen(f"{path}_type")), "Config", None)
    return typing.get_type_hints(cls)[field.name]


def _type_below(hint: object, names: Sequence[str], chosen: Chosen, path: str) -> object:
    if not names:
        return hint
    for member in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
        if get_origin(member) is dict:
            return _type_below(get_args(member)[1], names[1:], chosen, f"{path}.{names[0]}")
        if isinstance(member, type) and dataclasses.is_dataclass(member) and member is not Schedule:
            return option_type(member, names, chosen, path)
    return None


def split_key(cls: type, key: str, chosen: Chosen) -> list[str]:
    """Return the names in a key path.

    Those below a field that ``cls`` or one of its options lists in ``dotted_keys`` are paths themselves, whose dots
    belong to them: in ``system.optimizer.params.geometry.encoding.lr`` there is one, ``geometry.encoding``.
    """
    names = key.split(".")
    for depth in range(1, len(names) - 2):
        owner = option_type(cls, names[:depth], chosen)
        if names[depth] in getattr(owner, "dotted_keys", ()):
            return [*names[: depth + 1], ".".join(names[depth + 1 : -1]), names[-1]]
    return names


def exclusive_names(cls: type, chosen: Chosen, path: str = "") -> Iterator[tuple[str, frozenset[str]]]:
    """Yield the key paths of mappings in which only one of several names may stand, with these names.

    The options of a component say so: ``exclusive_keys = {"loss": frozenset({"lambda_sds", "lambda_vsd"})}``.
    """
    for key, names in getattr(cls, "exclusive_keys", {}).items():
        yield f"{path}.{key}" if path else key, names
    for field in dataclasses.fields(cls):
        at = f"{path}.{key_of(field.name)}" if path else key_of(field.name)
        hint = _hint(cls, field, chosen, at)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint) and hint is not Schedule:
            yield from exclusive_names(hint, chosen, at)


def _class_of(field: ComponentField, name: object) -> "type[Component] | None":
    """Return the class of the component of that name, or of the default; None where there is no such component."""
    name = field.default if name is None else name
    try:
        return registry.find(field.kind, name) if isinstance(name, str) else None
    except UserError:
        return None


def component_class(cls: type, key: str, name: object, chosen: Chosen) -> "type[Component] | None":
    """Return the class of the component that ``key=name`` means, where ``key`` is an ``x_type`` below ``cls``.

    None where it means none.
    """
    *above, last = key.split(".")
    owner = option_type(cls, above, chosen) if above else cls
    for field in (
        dataclasses.fields(owner) if isinstance(owner, type) and dataclasses.is_dataclass(owner) else ()
    ):
        if "component" in field.metadata and last == f"{key_of(field.name)}_type":
            return _class_of(field.metadata["component"], name)
    return None


def options_in_common(
    before: "type[Component]", after: "type[Component]", given: Mapping[str, object]
) -> tuple[dict[str, object], list[str]]:
    """Return those of the options ``given`` to a component that mean the same for another, and the keys of the rest.

    They mean the same where both classes inherit the option, or where both have a component of one kind there.
    """
    keys = {key for key, _ in _meanings(before.Config).items() & _meanings(after.Config).items()}
    kept = {key: value for key, value in given.items() if key in keys}
    unknown = after.unknown_keys(kept)
    for path in unknown:
        name, _, inner = path.partition(".")
        options = kept[name]
        if isinstance(options, Mapping):
            kept[name] = {key: value for key, value in options.items() if key != inner}
    return kept, [*[key for key in given if key not in keys], *unknown]


def _meanings(cls: type) -> dict[str, object]:
    """Return, by key, what is equal where two options are one."""
    meanings: dict[str, object] = {}
    for field in dataclasses.fields(cls):
        component, key = field.metadata.get("component"), key_of(field.name)
        meanings |= {key: component.kind, f"{key}_type": component.kind} if component else {key: id(field)}
    return meanings
