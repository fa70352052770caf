"""Pictures of a mesh: the nearest face at every pixel, shaded once, with silhouettes that move.

Each covered pixel is shaded where its ray meets the surface, with smooth normals. Color, opacity, distance and normal
are then blended across silhouettes (``usd.kernels.rasterize_antialias``), and laid over the background last.

Letters: B views, R pixels of all views, P covered pixels, V F vertices and faces.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.background import Background
from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.core.types import Mesh, Render
from usd.geometry import ExplicitSurface, Geometry
from usd.kernels.rasterize import Seen, Tracer, View, barycentric, interpolate, rasterize
from usd.kernels.rasterize_antialias import antialias, crossings
from usd.kernels.runtime import wants
from usd.material import Material
from usd.math.camera import Cameras
from usd.math.mesh import vertex_normals
from usd.renderer import Renderer, Window, nvdiffrast, pictures

Implementation = Literal["built-in", "nvdiffrast"]
Blend = Callable[[Tensor], Tensor]  # of pictures (B H W C), across silhouettes


@register("rasterizer", "nvdiff-rasterizer")
class Rasterizer(Renderer["Rasterizer.Config"]):
    """Renders geometries that are a mesh. Deterministic but for the background; training is not different.

    What lies on a face's back is seen like its front. Parts of the mesh that fall between pixel centers are not seen.
    """

    @dataclass(frozen=True)
    class Config:
        implementation: Implementation = option(
            "built-in", "built-in: anywhere; nvdiffrast: the package of this name, on CUDA, if installed"
        )
        context_type: Literal["cuda", "gl"] = option("cuda", "nvdiffrast: what it rasterizes with")
        antialias: bool = option(True, "blend silhouettes; without it no gradient passes through them")

    outputs = Renderer.outputs | {"mesh"}

    def __init__(
        self, config: Config, geometry: Geometry, material: Material, background: Background
    ) -> None:
        super().__init__(config, geometry, material, background)
        if not isinstance(geometry, ExplicitSurface):
            raise UserError(
                f"rasterizer: needs a geometry that is a mesh (tetrahedra-sdf-grid, custom-mesh, ...), "
                f"got {type(geometry).__name__}"
            )
        self.surface = geometry.surface
        self.features = geometry.features
        self.by_package = config.implementation == "nvdiffrast" or wants("rasterize") == "nvdiffrast"
        if self.by_package:
            nvdiffrast.package()

    def render(
        self,
        cameras: Cameras,
        needs: frozenset[str] = frozenset(),
        generator: torch.Generator | None = None,
        window: Window | None = None,
    ) -> Render:
        """See ``Renderer.render``. Raises ``UserError`` for a mesh that is empty or not finite, and for ``samples``."""
        if "samples" in needs:
            raise UserError(
                "rasterizer: a mesh has no samples along rays; "
                "expected system.loss.lambda_orient and lambda_z_variance to be 0"
            )
        part = window or Window(0, 0, cameras.height, cameras.width)
        directions = cameras.crop_rays(part.top, part.left, part.height, part.width)[1].reshape(-1, 3)
        background = self.scene.background.color(directions, generator)
        mesh = checked(self.surface())
        values = self._values(mesh, cameras, part, "normal" in needs)
        render = pictures(values, background, needs, (len(cameras), part.height, part.width))
        return replace(render, mesh=mesh) if "mesh" in needs else render

    def _values(self, mesh: Mesh, cameras: Cameras, part: Window, wants_normal: bool) -> Float[Tensor, "R C"]:
        """(color, 1, distance, normal) of every pixel of a window, times how much of it is covered."""
        view = with_border(cameras, part)
        seen, blend = self._screen(mesh, view)
        picture = blend(seen.picture(self._shade(mesh, view, seen, wants_normal)))
        top, left = part.top - view.top, part.left - view.left
        return picture[:, top : top + part.height, left : left + part.width].flatten(0, 2)

    def _screen(self, mesh: Mesh, view: View) -> tuple[Seen, Blend]:
        """What each pixel shows, and how pictures of it are antialiased."""
        if self.by_package and (mesh.vertices.is_cuda or self.config.implementation == "nvdiffrast"):
            seen, blend = nvdiffrast.screen(mesh, view, self.config.context_type)
        else:
            seen, blend = screen(mesh, view)
        return seen, blend if self.config.antialias else _unchanged

    def _shade(self, mesh: Mesh, view: View, seen: Seen, wants_normal: bool) -> Float[Tensor, "P C"]:
        """(color, 1, distance, normal) of the covered pixels."""
        material = self.scene.material
        weights, t = barycentric(mesh.vertices, mesh.faces, view, seen)
        o, d = (rays.index_select(0, seen.pixel) for rays in view.rays)
        x = o + t[:, None] * d
        normal = smooth_normal(mesh, seen, weights) if wants_normal or material.needs_normal else None
        color = material.color(self.features(x), x, d, normal)
        values = [color, torch.ones_like(t)[:, None], t[:, None]]
        return torch.cat([*values, normal] if wants_normal and normal is not None else values, 1)


def screen(mesh: Mesh, view: View) -> tuple[Seen, Blend]:
    """Visibility and antialiasing by this project's own kernels."""
    tracer = Tracer(mesh.vertices, mesh.faces)
    seen = rasterize(tracer, view)
    found = crossings(tracer, view, seen)
    return seen, lambda picture: antialias(picture, mesh.vertices, found, view)


def _unchanged(picture: Tensor) -> Tensor:
    return picture


def with_border(cameras: Cameras, part: Window) -> View:
    """The window with one pixel more on each side that has one: antialiasing looks at neighbors."""
    top, left = max(part.top - 1, 0), max(part.left - 1, 0)
    bottom = min(part.top + part.height + 1, cameras.height)
    right = min(part.left + part.width + 1, cameras.width)
    return View(cameras, top, left, bottom - top, right - left)


def smooth_normal(mesh: Mesh, seen: Seen, weights: Float[Tensor, "P 3"]) -> Float[Tensor, "P 3"]:
    """Unit normals, interpolated between vertices."""
    normals = vertex_normals(mesh.vertices, mesh.faces)
    return torch.nn.functional.normalize(interpolate(normals, mesh.faces, seen, weights), dim=-1)


def checked(mesh: Mesh) -> Mesh:
    """The mesh; a ``UserError`` where nothing can be rendered of it."""
    if mesh.empty:
        raise UserError("rasterizer: the mesh has no faces; the surface vanished, or was never there")
    if not bool(mesh.vertices.detach().isfinite().all()):
        raise UserError("rasterizer: some vertices are not finite numbers, so training diverged")
    return mesh
