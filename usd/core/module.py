"""The two base classes of everything a configuration can name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


class Component:
    """Something built from a configuration. ``Config`` is a nested frozen dataclass of ``option`` fields.

    Subclasses repeat ``config: Config`` in their body, so that types are checked against their own options.
    """

    config: Any

    @dataclass(frozen=True)
    class Config:
        pass

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def unknown_keys(cls, options: Mapping[str, Any]) -> list[str]:
        """Key paths below mapping options (``loss.lambda_rgb``) that others of its kind take and this one refuses."""
        return []


class Module(Component, torch.nn.Module):
    """A component with weights or buffers."""

    def __init__(self, config: Any) -> None:
        torch.nn.Module.__init__(self)
        Component.__init__(self, config)

    def training_state(self) -> dict[str, Any]:
        """What training taught a part whose weights are in no checkpoint; kept beside the weights of the others."""
        return {}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Takes that back, when a training goes on. Empty where there was none."""

    def update(self, step: int, generator: torch.Generator) -> None:
        """Called before every training step: occupancy grids, progressive levels. Nothing by default."""
