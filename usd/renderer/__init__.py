"""Renderers: from a geometry, a material and a background to pictures."""

from abc import abstractmethod
from dataclasses import dataclass

import torch

from usd.background import Background
from usd.core.module import Module
from usd.core.types import Render
from usd.geometry import Geometry
from usd.material import Material
from usd.math.camera import Cameras

#: What ``needs`` may name beside ``rgb`` and ``opacity``, which always come: fields of ``Render``.
OPTIONAL = frozenset({"foreground", "depth", "normal", "samples", "mesh"})


@dataclass(frozen=True)
class Window:
    """A part of a picture, in pixels; (top, left) is its first one."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Scene:
    """What is rendered. Renderers refer to it; the system owns it, so a checkpoint holds each part once."""

    geometry: Geometry
    material: Material
    background: Background


class Renderer(Module):
    """Pictures of a scene, differentiable with respect to its parameters."""

    def __init__(
        self, config: object, geometry: Geometry, material: Material, background: Background
    ) -> None:
        super().__init__(config)
        self.scene = Scene(geometry, material, background)

    @abstractmethod
    def render(
        self,
        cameras: Cameras,
        needs: frozenset[str] = frozenset(),
        generator: torch.Generator | None = None,
        window: Window | None = None,
    ) -> Render:
        """All cameras' pictures, or one window of each.

        ``needs`` names the fields of ``Render`` wanted beside ``rgb`` and ``opacity``. The generator is the only
        randomness; without one the result is deterministic. With one, a random background is drawn first.
        """
