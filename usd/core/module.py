"""The two base classes of everything a configuration can name."""

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


class Module(Component, torch.nn.Module):
    """A component with weights or buffers."""

    def __init__(self, config: Any) -> None:
        torch.nn.Module.__init__(self)
        Component.__init__(self, config)

    def update(self, step: int, generator: torch.Generator) -> None:
        """Called before every training step: occupancy grids, progressive levels. Nothing by default."""
