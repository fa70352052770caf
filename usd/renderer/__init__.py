"""Renderers: from a geometry, a material and a background to pictures."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.background import Background
from usd.core.errors import ConfigError, UserError, listing
from usd.core.module import C, Module
from usd.core.registry import find, names
from usd.core.types import Render
from usd.geometry import Geometry
from usd.kernels.ray_march import Composite
from usd.material import Material
from usd.math.camera import Cameras, Window

ALIASES = {"nvdiff-rasterizer": "rasterizer"}  # threestudio's name


@dataclass(frozen=True)
class SceneComponents:
    """What is rendered. Renderers refer to it; the system owns it, so a checkpoint holds each component once."""

    geometry: Geometry
    material: Material
    background: Background


class Renderer(Module[C]):
    """Pictures of a scene, differentiable with respect to its parameters.

    ``outputs`` declares what ``needs`` may ask of it (``usd.core.needs``). ``rgb`` and ``opacity`` always come.
    """

    outputs: frozenset[str] = frozenset({"rgb", "opacity", "foreground", "depth", "normal"})

    def __init__(self, config: C, geometry: Geometry, material: Material, background: Background) -> None:
        super().__init__(config)
        self.scene = SceneComponents(geometry, material, background)

    @abstractmethod
    def render(
        self,
        cameras: Cameras,
        needs: frozenset[str] = frozenset(),
        generator: torch.Generator | None = None,
        window: Window | None = None,
    ) -> Render:
        """Render all cameras' pictures, or one window of each.

        ``needs`` names those of ``outputs`` wanted beside ``rgb`` and ``opacity``. The generator is the only
        randomness; without one the result is deterministic. With one, a random background is drawn first.
        """

    def require(self, needs: frozenset[str], where: str) -> None:
        """Raise ConfigError, blaming the key ``where``, if ``needs`` names what this renderer does not give."""
        missing = needs - self.outputs
        if missing:
            raise ConfigError(
                f"{where}: needs {listing(missing)}, which {type(self).__name__} does not give; expected "
                f"system.renderer_type to be {' or '.join(_renderers_of(needs)) or 'one that does'}"
            )


def _renderers_of(needs: frozenset[str]) -> list[str]:
    """Return names of the renderers that give all of ``needs``."""
    found: dict[type[Renderer], str] = {}
    for name in names("renderer"):
        try:
            found.setdefault(find(Renderer, name), name)
        except UserError:  # a package that is not installed
            continue
    return sorted(name for renderer, name in found.items() if needs <= renderer.outputs)


@dataclass(frozen=True)
class ViewRays:
    """Rays of all pixels of a window of each camera, view by view and row by row; ``shape`` is (B, H, W)."""

    origins: Float[Tensor, "R 3"]
    directions: Float[Tensor, "R 3"]
    shape: tuple[int, int, int]


def view_rays(cameras: Cameras, window: Window | None) -> ViewRays:
    """Return the rays of a window of each camera, of the whole pictures without one."""
    at = window or Window(0, 0, cameras.height, cameras.width)
    origins, directions = (rays.reshape(-1, 3) for rays in cameras.window_rays(at))
    return ViewRays(origins, directions, (len(cameras), at.height, at.width))


def pictures(
    values: Float[Tensor, "R V"],
    background: Float[Tensor, "R C"],
    needs: frozenset[str],
    shape: tuple[int, int, int],
) -> Render:
    """Return values along rays (C of color, 1, distance, normal; all times opacity) as pictures over a background."""

    def picture(rows: Float[Tensor, "R c"]) -> Float[Tensor, "B c H W"]:
        return rows.view(*shape, -1).permute(0, 3, 1, 2)

    channels = background.shape[1]
    foreground, opacity, distance, normal = values.split([channels, 1, 1, values.shape[1] - channels - 2], 1)
    return Render(
        rgb=picture(foreground + (1 - opacity) * background),
        opacity=picture(opacity),
        foreground=picture(foreground) if "foreground" in needs else None,
        depth=picture(distance / opacity.clamp_min(1e-6)) if "depth" in needs else None,
        normal=picture(torch.nn.functional.normalize(normal, dim=-1)) if "normal" in needs else None,
    )


def composited_values(sums: Composite, channels: int) -> Float[Tensor, "R V"]:
    """Return what ``pictures`` takes, from the sums of ``channels`` of color and of normals along rays."""
    parts = [sums.color[:, :channels], sums.opacity[:, None], sums.depth[:, None], sums.color[:, channels:]]
    return torch.cat(parts, 1)
