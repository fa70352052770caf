"""Renderers: from a geometry, a material and a background to pictures."""

import functools
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.background import Backdrop, Background
from usd.core.errors import ConfigError, UserError, listing
from usd.core.module import C, Module
from usd.core.registry import find, names
from usd.core.types import Behind, Render
from usd.geometry import Geometry
from usd.kernels.ray_march import Composite
from usd.material import Material
from usd.math.camera import Cameras, Window

G = TypeVar("G")
ALIASES = {"nvdiff-rasterizer": "rasterizer", "diff-gaussian-rasterizer": "splat"}  # threestudio's names


@dataclass(frozen=True)
class SceneComponents:
    """The components of a scene. Renderers refer to them; the system owns them, so a checkpoint holds each once."""

    geometry: Geometry
    material: Material
    background: Background


@dataclass(frozen=True)
class ViewRays:
    """Rays of all pixels of a window of each camera, view by view and row by row; ``shape`` is (B, H, W)."""

    origins: Float[Tensor, "R 3"]
    directions: Float[Tensor, "R 3"]
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class RayRequest:
    """Rays to follow, and what is wanted of them; ``lamps`` are the lamps of the views that they are of."""

    rays: ViewRays
    needs: frozenset[str] = frozenset()
    generator: torch.Generator | None = None
    lamps: Float[Tensor, "B 3"] | None = None

    def light_positions(self, ray: Int[Tensor, "S"]) -> Float[Tensor, "S 3"] | None:
        """Return the lamp of each ray's view, for rays by number; None where the cameras have none."""
        if self.lamps is None:
            return None
        _, height, width = self.rays.shape
        return self.lamps.index_select(0, ray.div(height * width, rounding_mode="floor"))


@dataclass(frozen=True)
class RenderRequest:
    """The arguments of ``Renderer.render``; see there."""

    cameras: Cameras
    needs: frozenset[str] = frozenset()
    generator: torch.Generator | None = None
    window: Window | None = None

    @property
    def at(self) -> Window:
        """The window, that of the whole pictures without one."""
        return self.window or Window(0, 0, self.cameras.height, self.cameras.width)

    @functools.cached_property
    def rays(self) -> ViewRays:
        """The rays of the window's pixels."""
        origins, directions = (rays.reshape(-1, 3) for rays in self.cameras.window_rays(self.at))
        return ViewRays(origins, directions, (len(self.cameras), self.at.height, self.at.width))

    @property
    def along_rays(self) -> RayRequest:
        """The same as a request of rays."""
        return RayRequest(self.rays, self.needs, self.generator, self.cameras.light_positions)


class Renderer(Module[C]):
    """Pictures of a scene, differentiable with respect to its parameters.

    ``outputs`` declares what ``needs`` may ask of it (``usd.core.needs``). ``rgb`` and ``opacity`` always come.
    A renderer makes what it needs in ``configure`` and renders in ``draw``.
    """

    outputs: frozenset[str] = frozenset({"rgb", "opacity", "foreground", "depth", "normal"})

    def __init__(self, config: C, geometry: Geometry, material: Material, background: Background) -> None:
        super().__init__(config)
        self.scene = SceneComponents(geometry, material, background)
        self.configure()

    def configure(self) -> None:
        """Make networks, buffers and helpers. Raises ``UserError`` for a scene that cannot be rendered."""

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
        return self.draw(RenderRequest(cameras, needs, generator, window))

    @abstractmethod
    def draw(self, request: RenderRequest) -> Render:
        """Render what ``render`` was asked for."""

    def require_geometry(self, kind: type[G], expected: str) -> G:
        """Return the scene's geometry. Raises ``UserError``, which begins with ``expected``, if it is no ``kind``."""
        geometry = self.scene.geometry
        if not isinstance(geometry, kind):
            raise UserError(f"{expected}, got {type(geometry).__name__}")
        return geometry

    def require(self, needs: frozenset[str], where: str) -> None:
        """Raise ConfigError, blaming the key ``where``, if ``needs`` names what this renderer does not give."""
        missing = needs - self.outputs
        if missing:
            raise ConfigError(
                f"{where}: needs {listing(missing)}, which {type(self).__name__} does not give; expected "
                f"system.renderer_type to be {' or '.join(_renderers_of(needs)) or 'one that does'}"
            )


class RayRenderer(Renderer[C]):
    """A renderer that follows single rays: it renders views, and any rays beside."""

    outputs = Renderer.outputs | {"samples", "length", "behind"}

    def draw(self, request: RenderRequest) -> Render:
        """Render all rays of the views. Samples' ``ray_index`` counts rays of all cameras."""
        return self.follow(request.along_rays)

    def render_rays(
        self,
        origins: Float[Tensor, "R 3"],
        directions: Float[Tensor, "R 3"],
        needs: frozenset[str] = frozenset(),
        generator: torch.Generator | None = None,
    ) -> Render:
        """Render any rays as one picture of height 1 and width R; ``needs`` as for ``render``."""
        return self.follow(RayRequest(ViewRays(origins, directions, (1, 1, len(origins))), needs, generator))

    @abstractmethod
    def follow(self, request: RayRequest) -> Render:
        """Render rays."""


def _renderers_of(needs: frozenset[str]) -> list[str]:
    """Return names of the renderers that give all of ``needs``."""
    found: dict[type[Renderer], str] = {}
    for name in names("renderer"):
        try:
            found.setdefault(find(Renderer, name), name)
        except UserError:  # a package that is not installed
            continue
    return sorted(name for renderer, name in found.items() if needs <= renderer.outputs)


def pictures(
    values: Float[Tensor, "R V"],
    background: Behind,
    needs: frozenset[str],
    shape: tuple[int, int, int],
) -> Render:
    """Return values along rays (C of color, 1, distance, normal; all times opacity) as pictures over a background."""

    def picture(rows: Float[Tensor, "R c"]) -> Float[Tensor, "B c H W"]:
        return rows.view(*shape, -1).permute(0, 3, 1, 2)

    channels = background.color.shape[1]
    foreground, opacity, distance, normal = values.split([channels, 1, 1, values.shape[1] - channels - 2], 1)
    return Render(
        rgb=picture(foreground + (1 - opacity) * background.color),
        opacity=picture(opacity),
        foreground=picture(foreground) if "foreground" in needs else None,
        depth=picture(distance / opacity.clamp_min(1e-6)) if "depth" in needs else None,
        normal=picture(torch.nn.functional.normalize(normal, dim=-1)) if "normal" in needs else None,
        behind=background if "behind" in needs else None,
    )


def behind_values(values: Float[Tensor, "R V"], backdrop: Backdrop, scene: SceneComponents) -> Behind:
    """Return what is behind the object, from what ``pictures`` takes of the object itself."""
    return backdrop(1 - values[:, scene.background.n_channels])


def composited_values(sums: Composite, channels: int) -> Float[Tensor, "R V"]:
    """Return what ``pictures`` takes, from the sums of ``channels`` of color and of normals along rays."""
    parts = [sums.color[:, :channels], sums.opacity[:, None], sums.depth[:, None], sums.color[:, channels:]]
    return torch.cat(parts, 1)


def enlarge(render: Render, height: int, width: int, window: Window) -> Render:
    """Return pictures of a window with steps, enlarged to the size of the picture that the window is a grid over.

    Bilinear between the window's pixels (efficient DreamFusion); pixels beyond the outermost ones repeat them. Samples
    stay those of the rays that were followed.
    """

    def places(first: int, step: int, count: int, size: int, like: Tensor) -> Float[Tensor, "N"]:
        at = (torch.arange(size).to(like) - first) / step
        return (at.clamp(0, count - 1) + 0.5) / count * 2 - 1

    def full(picture: Float[Tensor, "B C h w"] | None) -> Float[Tensor, "B C H W"] | None:
        if picture is None:
            return None
        y = places(window.top, window.step_y, window.height, height, picture)
        x = places(window.left, window.step_x, window.width, width, picture)
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).expand(len(picture), -1, -1, -1)
        return torch.nn.functional.grid_sample(picture, grid, padding_mode="border", align_corners=False)

    rgb, opacity = full(render.rgb), full(render.opacity)
    assert rgb is not None and opacity is not None
    foreground, depth, normal = (full(each) for each in (render.foreground, render.depth, render.normal))
    return replace(render, rgb=rgb, opacity=opacity, foreground=foreground, depth=depth, normal=normal)
