"""The two base classes of everything a configuration can name."""

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, ClassVar, Generic, get_args

import torch
from typing_extensions import TypeVar


@dataclass(frozen=True)
class NoOptions:
    """The options of a component that has none."""


C = TypeVar("C", default=object, covariant=True)


class Component(Generic[C]):
    """Something built from a configuration of type C, a frozen dataclass of ``option`` fields.

    A subclass names its own: one nested in it, ``class Steady(ViewGuidance["Steady.Config"])``, or one beside it,
    ``class UsdSystem(DistillationSystem[UsdConfig])``, which then is its ``Config``, too.
    """

    Config: ClassVar[type[object]] = NoOptions
    config: C

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        named = [argument for base in vars(cls).get("__orig_bases__", ()) for argument in get_args(base)]
        for argument in named:
            if isinstance(argument, type) and is_dataclass(argument):
                cls.Config = argument

    def __init__(self, config: C) -> None:
        self.config = config

    @classmethod
    def unknown_keys(cls, options: Mapping[str, object]) -> list[str]:
        """Key paths below mapping options (``loss.lambda_rgb``) that others of its kind take and this one refuses."""
        return []


class Module(Component[C], torch.nn.Module):
    """A component with weights or buffers."""

    def __init__(self, config: C) -> None:
        torch.nn.Module.__init__(self)
        Component.__init__(self, config)

    def training_state(self) -> dict[str, Any]:
        """What training taught a part whose weights are in no checkpoint; kept beside the weights of the others."""
        return {}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Takes that back, when a training goes on. Empty where there was none."""

    def update(self, step: int, generator: torch.Generator) -> None:
        """Called before every training step: occupancy grids, progressive levels. Nothing by default."""
