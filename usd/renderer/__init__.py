"""Renderers: from a geometry, a material and a background to pictures."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.background import Background
from usd.core.module import Module
from usd.core.types import Render
from usd.geometry import Geometry
from usd.material import Material
from usd.math.camera import Cameras

ALIASES = {"nvdiff-rasterizer": "rasterizer"}  # threestudio's name

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


def pictures(
    values: Float[Tensor, "R C"],
    background: Float[Tensor, "R 3"],
    needs: frozenset[str],
    shape: tuple[int, int, int],
) -> Render:
    """Values along rays (color, 1, distance, normal; all times opacity) as pictures over a background."""

    def picture(rows: Float[Tensor, "R c"]) -> Float[Tensor, "B c H W"]:
        return rows.view(*shape, -1).permute(0, 3, 1, 2)

    foreground, opacity, distance, normal = values.split([3, 1, 1, values.shape[1] - 5], 1)
    return Render(
        rgb=picture(foreground + (1 - opacity) * background),
        opacity=picture(opacity),
        foreground=picture(foreground) if "foreground" in needs else None,
        depth=picture(distance / opacity.clamp_min(1e-6)) if "depth" in needs else None,
        normal=picture(torch.nn.functional.normalize(normal, dim=-1)) if "normal" in needs else None,
    )
