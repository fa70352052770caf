"""What there is to configure: every component by kind, and the options of one."""

import dataclasses
import json
import typing

from usd.app.experiment import Experiment
from usd.core import registry
from usd.core.config import ComponentField, Option, describe_type, plain
from usd.core.errors import UserError, did_you_mean
from usd.core.schedule import Schedule


def listing_text() -> str:
    """Every registered component and the file it lives in, by kind. Imports none of them."""
    return "\n".join(line for kind in registry.KINDS for line in _kind_lines(kind))


def _kind_lines(kind: str) -> list[str]:
    found = sorted(registry.names(kind).items())
    root = registry.PACKAGE.parent
    width = max([len(name) for name, _ in found], default=0)
    where = [str(file.relative_to(root)) if file.is_relative_to(root) else str(file) for _, file in found]
    return [f"{kind}:", *[f"  {name:<{width}}  {place}" for (name, _), place in zip(found, where)]]


def describe(name: str) -> str:
    """Return the options of the component ``name``, or of a whole experiment: type, default, bounds, meaning."""
    if name == "experiment":
        return "\n".join(["experiment (the top level of a YAML file)", *_options(Experiment, "  ")])
    kinds = [kind for kind in registry.KINDS if name in registry.names(kind)]
    if not kinds:
        known = [known for kind in registry.KINDS for known in registry.names(kind)]
        raise UserError(
            f"--describe {name}: no component is called so.{did_you_mean(name, known)} See --list."
        )
    return "\n\n".join(_component_text(kind, name) for kind in kinds)


def _component_text(kind: str, name: str) -> str:
    cls = registry.find(kind, name)
    meaning = (cls.__doc__ or "").strip().splitlines()
    head = f"{kind}_type: {name}" + (f"\n{meaning[0]}" if meaning else "")
    return "\n".join([head, *(_options(cls.Config, "  ") or ["  (no options)"])])


def _options(cls: type, indent: str) -> list[str]:
    hints = typing.get_type_hints(cls)
    return [
        line for field in dataclasses.fields(cls) for line in _option_lines(field, hints[field.name], indent)
    ]


def _option_lines(field: dataclasses.Field, hint: object, indent: str) -> list[str]:
    if "component" in field.metadata:
        component: ComponentField = field.metadata["component"]
        default = component.default or ("null" if component.optional else "required")
        return [f"{indent}{field.name}_type: a {component.kind}  [{default}]  {component.help}".rstrip()]
    rules = field.metadata.get("option", Option())
    head = f"{indent}{field.name.removesuffix('_')}: {_type_text(hint, rules)}"
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and hint is not Schedule:
        return [f"{head}  {rules.help}".rstrip(), *_options(hint, indent + "  ")]
    return [f"{head}  [{_default_text(field)}]  {rules.help}".rstrip()]


def _type_text(hint: object, rules: Option) -> str:
    if rules.choices is not None:
        return "one of " + ", ".join(dict.fromkeys(map(str, rules.choices)))
    kind = describe_type(hint)
    bounds = {">=": rules.ge, ">": rules.gt, "<=": rules.le, "<": rules.lt}
    given = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None)
    return f"{kind}, {given}" if given else kind


def _default_text(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return json.dumps(plain(field.default), ensure_ascii=False)
    if field.default_factory is not dataclasses.MISSING:
        return json.dumps(plain(field.default_factory()), ensure_ascii=False)
    return "required"
