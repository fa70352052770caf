"""The two base classes of everything a configuration can name, and other names with other defaults."""

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import ClassVar, Generic, cast, get_args

import torch
from typing_extensions import TypeVar

from usd.core.config import changed_defaults
from usd.core.registry import register


@dataclass(frozen=True)
class NoOptions:
    """The options of a component that has none."""


C = TypeVar("C", default=object, covariant=True)


class Component(Generic[C]):
    """Something built from a configuration of type C, a frozen dataclass of ``option`` fields.

    A subclass names its own: one nested in it, ``class Steady(Guidance["Steady.Config"])``, or one beside it,
    ``class UsdSystem(DistillationSystem[UsdConfig])``, which then is its ``Config``, too. It is the first argument.
    """

    Config: ClassVar[type[object]] = NoOptions
    config: C

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        named = [argument for base in vars(cls).get("__orig_bases__", ()) for argument in get_args(base)[:1]]
        for argument in named:
            if isinstance(argument, type) and is_dataclass(argument):
                cls.Config = argument

    def __init__(self, config: C) -> None:
        self.config = config

    @classmethod
    def unknown_keys(cls, options: Mapping[str, object]) -> list[str]:  # noqa: ARG003 - for overrides
        """Return keys below mapping options (``loss.lambda_rgb``) that others of its kind take and this one refuses."""
        return []


class Module(Component[C], torch.nn.Module):
    """A component with weights or buffers.

    ``ragged`` names those whose number of rows a checkpoint says, because training changes it.
    """

    ragged: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: C) -> None:
        torch.nn.Module.__init__(self)
        Component.__init__(self, config)

    def training_state(self) -> dict[str, object]:
        """Return what training taught a component whose weights are in no checkpoint; kept beside those of others."""
        return {}

    def load_training_state(self, state: Mapping[str, object]) -> None:
        """Take ``training_state`` back when a training goes on. It is empty where there was none."""

    def update(self, step: int, generator: torch.Generator) -> None:
        """Prepare a training step (occupancy grids, progressive levels). Nothing by default."""

    def after_step(self, step: int, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
        """Follow up an optimizer step whose gradients are still there. Nothing by default.

        What changes the number of a parameter's rows changes the optimizer's state of them, too.
        """


Kind = TypeVar("Kind", bound=Component[object])


def preset(name: str, base: type[Kind], meaning: str, **defaults: object) -> type[Kind]:
    """Register ``base`` under another name, with other ``defaults`` of its options; return the class.

    ``meaning`` is its docstring. Types, bounds and help of the options are those of ``base``. Raises TypeError for an
    option that ``base`` does not have.
    """
    body = {
        "Config": changed_defaults(base.Config, defaults),
        "__doc__": meaning,
        "__module__": base.__module__,
    }
    title = "".join(word.capitalize() for word in re.split("[-_]", name))
    made = cast(type[Kind], types.new_class(title, (base,), exec_body=lambda space: space.update(body)))
    return register(name)(made)
