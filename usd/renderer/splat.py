"""Pictures of Gaussian splats: what ``usd.kernels.splat`` blends, over the background."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.core.types import Render
from usd.geometry import SplatCloud
from usd.kernels.splat import Projection, composite, project, splat_view
from usd.math.quaternions import rotation_of_quaternion
from usd.math.spherical_harmonics import colors_of_harmonics
from usd.math.splats import Splats
from usd.renderer import Renderer, RenderRequest, behind_values, pictures


@register("splat-renderer", "diff-gaussian-rasterizer")
class SplatRenderer(Renderer["SplatRenderer.Config"]):
    """Renders Gaussians. Deterministic but for the background; depth and normals are blended as colors are."""

    @dataclass(frozen=True)
    class Config:
        antialias: bool = option(
            True,
            "Gaussians smaller than a pixel fade as a pixel enlarges them (mip filter); false: as first published",
        )

    outputs = Renderer.outputs | {"splats"}

    def configure(self) -> None:
        """Take the Gaussians. Raises ``UserError`` for a geometry without any, and a material that changes colors."""
        cloud = self.require_geometry(
            SplatCloud, "splat-renderer: needs a geometry of Gaussians (gaussian-splatting)"
        )
        # Its methods and not itself, or a checkpoint would hold the Gaussians twice.
        self.splats, self.harmonics, self.watch = cloud.splats, cloud.harmonics, cloud.watch
        material, probe = self.scene.material, torch.tensor([[-1.0, 0.0, 2.0]])
        plain = material.n_features == len(probe[0]) and not material.needs_normal
        if not plain or not torch.allclose(material.color(probe, probe, probe, None), probe.sigmoid()):
            raise UserError(
                "splat-renderer: Gaussians have colors of their own; expected system.material_type: no-material with "
                "color_activation: sigmoid"
            )

    def draw(self, request: RenderRequest) -> Render:
        """Render the Gaussians. Raises ``UserError`` for ones that are not finite, too many, and for ``samples``."""
        if "samples" in request.needs:
            raise UserError(
                "splat-renderer: Gaussians have no samples along rays; expected system.loss.lambda_orient, "
                "lambda_z_variance and other losses of samples to be 0"
            )
        rays = request.rays
        backdrop = self.scene.background.behind(rays.origins, rays.directions, request.generator)
        splats = require_finite(self.splats())
        view = splat_view(request.cameras, request.at)
        seen = project(splats, view, self.config.antialias)
        self.watch(seen)
        picture = composite(seen, self._features(splats, seen, request))
        rows = picture.sums.flatten(0, 2)
        # Depth is measured along the axis; a render's distance along the ray.
        along = torch.einsum("rj,rj->r", rays.directions, forward(request))[:, None]
        parts = [rows[:, :3], picture.opacity.reshape(-1, 1), rows[:, 3:4] / along, rows[:, 4:]]
        values = torch.cat(parts, 1)
        render = pictures(values, behind_values(values, backdrop, self.scene), request.needs, rays.shape)
        return replace(render, splats=splats) if "splats" in request.needs else render

    def _features(self, splats: Splats, seen: Projection, request: RenderRequest) -> Float[Tensor, "B N C"]:
        """Return what is blended of each Gaussian in each view: color, depth and, where needed, normal."""
        position = request.cameras.position
        # From one point for each view; the difference between parallel rays and these is the colors' own.
        offset = splats.means - position[:, None]
        coefficients = self.harmonics()[None].expand(len(position), -1, -1, -1)
        parts = [colors_of_harmonics(coefficients, normalize(offset.detach(), dim=-1)), seen.depth[..., None]]
        if "normal" in request.needs:
            parts.append(normals(splats, offset))
        return torch.cat(parts, -1)


def normals(splats: Splats, offset: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
    """Return the shortest axes of the Gaussians, turned to the viewer, who is at minus ``offset`` from them."""
    shortest = splats.scales.argmin(1)
    axes = rotation_of_quaternion(splats.rotations)
    axis = axes.gather(2, shortest[:, None, None].expand(-1, 3, 1))[..., 0]
    away = torch.einsum("nj,bnj->bn", axis, offset.detach()) > 0
    return torch.where(away[..., None], -axis, axis)


def forward(request: RenderRequest) -> Float[Tensor, "R 3"]:
    """Return the viewing direction of each ray's camera."""
    _, height, width = request.rays.shape
    return -request.cameras.c2w[:, :3, 2].repeat_interleave(height * width, 0)


def require_finite(splats: Splats) -> Splats:
    """Return the splats. Raises ``UserError`` where some are not finite numbers."""
    for name, values in vars(splats).items():
        wrong = ~values.detach().view(len(splats), -1).isfinite().all(1)
        if bool(wrong.any()):
            raise UserError(
                f"splat-renderer: {name} of {int(wrong.sum())} of {len(splats)} Gaussians are not finite numbers, so "
                "training diverged; expected lower learning rates"
            )
    return splats
