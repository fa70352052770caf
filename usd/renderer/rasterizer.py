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

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.core.types import Mesh, Render
from usd.geometry import ExplicitSurface
from usd.kernels import rasterize_nvdiffrast
from usd.kernels.rasterize import Fragments, Tracer, View, barycentric, interpolate, rasterize
from usd.kernels.rasterize_antialias import antialias, crossings
from usd.kernels.rasterize_nvdiffrast import ContextType
from usd.kernels.runtime import wants
from usd.math.camera import Cameras, Window
from usd.math.mesh import vertex_normals
from usd.renderer import Renderer, RenderRequest, behind_values, pictures

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
        context_type: ContextType = option("cuda", "what nvdiffrast rasterizes with, where it is used")
        antialias: bool = option(True, "blend silhouettes; without it no gradient passes through them")

    outputs = Renderer.outputs | {"mesh"}

    def configure(self) -> None:
        """Take the surface. Raises ``UserError`` for a geometry that is no mesh, and for a package that is missing."""
        geometry = self.require_geometry(
            ExplicitSurface,
            "rasterizer: needs a geometry that is a mesh (tetrahedra-sdf-grid, custom-mesh, ...)",
        )
        self.surface = geometry.surface
        self.features = geometry.features
        self.by_package = self.config.implementation == "nvdiffrast" or wants("rasterize") == "nvdiffrast"
        if self.by_package:
            _require_nvdiffrast()

    def draw(self, request: RenderRequest) -> Render:
        """Render the mesh. Raises ``UserError`` for one that is empty or not finite, and for ``samples``."""
        needs, rays = request.needs, request.rays
        if "samples" in needs:
            raise UserError(
                "rasterizer: a mesh has no samples along rays; "
                "expected system.loss.lambda_orient and lambda_z_variance to be 0"
            )
        backdrop = self.scene.background.behind(rays.origins, rays.directions, request.generator)
        mesh = require_renderable(self.surface())
        values = self._values(mesh, request)
        render = pictures(values, behind_values(values, backdrop, self.scene), needs, rays.shape)
        return replace(render, mesh=mesh) if "mesh" in needs else render

    def _values(self, mesh: Mesh, request: RenderRequest) -> Float[Tensor, "R V"]:
        """Return (color, 1, distance, normal) of every pixel of a window, times how much of it is covered."""
        at, view = request.at, with_border(request.cameras, request.at)
        fragments, blend = self._rasterize(mesh, view)
        picture = blend(fragments.picture(self._shade(mesh, view, fragments, "normal" in request.needs)))
        top, left = at.top - view.top, at.left - view.left
        bottom, right = top + at.height * at.step_y, left + at.width * at.step_x
        return picture[:, top : bottom : at.step_y, left : right : at.step_x].flatten(0, 2)

    def _rasterize(self, mesh: Mesh, view: View) -> tuple[Fragments, Blend]:
        """Return what each pixel shows, and how pictures of it are antialiased."""
        if self.by_package and (mesh.vertices.is_cuda or self.config.implementation == "nvdiffrast"):
            fragments, blend = rasterize_by_package(mesh, view, self.config.context_type)
        else:
            fragments, blend = rasterize_built_in(mesh, view)
        return fragments, blend if self.config.antialias else _unchanged

    def _shade(
        self, mesh: Mesh, view: View, fragments: Fragments, wants_normal: bool
    ) -> Float[Tensor, "P C"]:
        """Return (color, 1, distance, normal) of the covered pixels."""
        material = self.scene.material
        weights, t = barycentric(mesh.vertices, mesh.faces, view, fragments)
        o, d = (rays.index_select(0, fragments.pixel) for rays in view.rays)
        x = o + t[:, None] * d
        normal = smooth_normal(mesh, fragments, weights) if wants_normal or material.needs_normal else None
        lamps = view.cameras.light_positions
        if lamps is not None:
            lamps = lamps[fragments.pixel // (view.height * view.width)]
        color = material.lit_color(self.features(x), x, d, normal, lamps)
        values = [color, torch.ones_like(t)[:, None], t[:, None]]
        return torch.cat([*values, normal] if wants_normal and normal is not None else values, 1)


def rasterize_built_in(mesh: Mesh, view: View) -> tuple[Fragments, Blend]:
    """Return visibility and antialiasing by this project's own kernels."""
    tracer = Tracer(mesh.vertices, mesh.faces)
    fragments = rasterize(tracer, view)
    found = crossings(tracer, view, fragments)
    return fragments, lambda picture: antialias(picture, mesh.vertices, found, view)


def rasterize_by_package(mesh: Mesh, view: View, kind: ContextType) -> tuple[Fragments, Blend]:
    """Return visibility and antialiasing by nvdiffrast. Raises ``UserError`` for a mesh that is not on CUDA."""
    if mesh.vertices.device.type != "cuda":
        raise UserError(
            f"system.renderer.implementation: is 'nvdiffrast', which needs CUDA, but the mesh is on "
            f"'{mesh.vertices.device}'; expected 'built-in'"
        )
    context = rasterize_nvdiffrast.rasterize_context(kind, mesh.vertices.device)
    return rasterize_nvdiffrast.rasterize_nvdiffrast(mesh.vertices, mesh.faces, view, context)


def _require_nvdiffrast() -> None:
    """Raise ``UserError`` where the package cannot be imported."""
    try:
        rasterize_nvdiffrast.package()
    except ValueError as error:
        raise UserError(
            f"system.renderer.implementation: is 'nvdiffrast', but {error}, or 'built-in'"
        ) from error


def _unchanged(picture: Tensor) -> Tensor:
    return picture


def with_border(cameras: Cameras, at: Window) -> View:
    """Return all that a window spans, with a pixel more on each side that has one: antialiasing needs neighbors."""
    top, left = max(at.top - 1, 0), max(at.left - 1, 0)
    bottom = min(at.top + at.height * at.step_y + 1, cameras.height)
    right = min(at.left + at.width * at.step_x + 1, cameras.width)
    return View(cameras, top, left, bottom - top, right - left)


def smooth_normal(mesh: Mesh, fragments: Fragments, weights: Float[Tensor, "P 3"]) -> Float[Tensor, "P 3"]:
    """Return unit normals, interpolated between vertices."""
    normals = vertex_normals(mesh.vertices, mesh.faces)
    return torch.nn.functional.normalize(interpolate(normals, mesh.faces, fragments, weights), dim=-1)


def require_renderable(mesh: Mesh) -> Mesh:
    """Return the mesh. Raises ``UserError`` where nothing can be rendered of it."""
    if mesh.empty:
        raise UserError("rasterizer: the mesh has no faces; the surface vanished, or was never there")
    if not bool(mesh.vertices.detach().isfinite().all()):
        raise UserError("rasterizer: some vertices are not finite numbers, so training diverged")
    return mesh
