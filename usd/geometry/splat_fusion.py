"""A mesh from Gaussian splats: depth pictures from all around, fused into a signed distance, then marching cubes.

Each picture says of every lattice point how far in front of what it shows the point lies; cut off at a few cells, the
mean of all pictures is a signed distance near the surface (Curless and Levoy 1996). What no picture sees is inside.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.progress import Work, counted, each
from usd.core.types import Mesh
from usd.kernels.splat import SplatView, composite, project, splat_view
from usd.math.camera import Cameras, Spherical, orbit_cameras, sphere_angles
from usd.math.isosurface import marching_cubes, sample_grid
from usd.math.mesh import drop_unused, large_components
from usd.math.spherical_harmonics import CONSTANT
from usd.math.splats import Splats

SOLID = 0.5
CUT_CELLS = 4.0
NEIGHBORS = 8
FRONT, MOST_DEVIATION = 0.5, 0.05


@dataclass(frozen=True)
class FusionConfig:
    """Options of the mesh that is made of Gaussians."""

    resolution: int = option(128, "lattice points a side when a mesh is made of Gaussians", ge=4, le=1024)
    views: int = option(48, "depth pictures that are fused", ge=4, le=4096)
    size: int = option(256, "pixels a side of the depth pictures that are fused", ge=16, le=4096)
    outlier_area: float = option(
        0.05,
        "share of the largest component's area below which components of a fused mesh are dropped",
        ge=0,
        le=1,
    )


def fuse_surface(splats: Splats, radius: float, config: FusionConfig, resolution: int | None = None) -> Mesh:
    """Return the surface of the splats in their cube. Raises ``UserError`` where pictures show none."""
    side = config.resolution if resolution is None else resolution
    spacing = 2 * radius / (side - 1)
    fusion = _Fusion(splats, radius, config, CUT_CELLS * spacing)
    with Work("fusing depths, slices", side) as work:
        distance = counted(fusion, work, lambda x: len(x) / side**2)
        inside = sample_grid(distance, side, radius, splats.means)
    vertices, faces = marching_cubes(inside, 0.0, radius)
    if len(faces) == 0:
        raise UserError(
            "empty surface: no picture of the Gaussians is even half opaque; expected a longer training, or a larger "
            "system.geometry.radius"
        )
    keep = large_components(vertices, faces, config.outlier_area)
    return Mesh(*drop_unused(vertices, faces[keep]))


class _Fusion:
    """Signed distances of points, positive inside, in units of the cut: the mean of what depth pictures say."""

    def __init__(self, splats: Splats, radius: float, config: FusionConfig, cut: float) -> None:
        cameras = surrounding(config.views, radius, config.size).to(splats.means.device)
        self.cut = cut
        self.views: list[tuple[SplatView, Tensor]] = []
        for i in each(range(len(cameras)), "rendering depths"):
            view = splat_view(cameras[i : i + 1])
            self.views.append((view, surface_depth(splats, view, radius)))

    def __call__(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return the distances of points."""
        total, weight = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])
        for view, depth in self.views:
            place = x @ view.w2c[0, :, :3].T + view.w2c[0, :, 3]
            z = place[:, 2]
            pixel = (view.lens[0, :2] * place[:, :2] / z[:, None] + view.lens[0, 2:]).floor().long()
            column, row = pixel[:, 0].clamp(0, view.width - 1), pixel[:, 1].clamp(0, view.height - 1)
            front = (depth[row, column] - z) / self.cut
            # Points far behind what is seen are hidden: that picture knows nothing of them.
            known = front >= -1
            total += torch.where(known, front.clamp(-1, 1), torch.zeros_like(front))
            weight += known
        return torch.where(weight > 0, -total / weight.clamp_min(1), torch.ones_like(total))


def surface_depth(splats: Splats, view: SplatView, radius: float) -> Float[Tensor, "H W"]:
    """Return the depth of the surface that one view shows; infinite where it is not even half opaque.

    Gaussians are a fog: the light of a pixel comes from some depths, and where it fades exponentially their mean lies
    one standard deviation behind the front. Half a deviation before the mean is nearest to true surfaces
    (docs/splats.md). No deviation counts for more than a twentieth of the radius: beyond, two surfaces are blended.
    """
    seen = project(splats, view, antialias=True)
    # From the middle: squares of small numbers have more digits left.
    middle = seen.depth.mean()
    offset = seen.depth - middle
    picture = composite(seen, torch.stack([offset, offset.square()], -1))
    mean, square = (picture.sums[0] / picture.opacity[0, ..., None].clamp_min(1e-6)).unbind(-1)
    deviation = (square - mean.square()).clamp_min(0).sqrt().clamp_max(MOST_DEVIATION * radius)
    depth = middle + mean - FRONT * deviation
    # Where a picture shows nothing all is in front of the surface.
    return torch.where(picture.opacity[0] > SOLID, depth, math.inf)


def surrounding(count: int, radius: float, size: int) -> Cameras:
    """Return cameras all around that see the ball about the object's cube."""
    elevation, azimuth = sphere_angles(count)
    fov = math.radians(40)
    distance = math.sqrt(3) * radius / math.sin(fov / 2)
    position = Spherical(elevation, azimuth, torch.full_like(elevation, distance))
    return orbit_cameras(position, fov, size, size)


def nearest_colors(
    splats: Splats, harmonics: Float[Tensor, "N K 3"], x: Float[Tensor, "M 3"]
) -> Float[Tensor, "M 3"]:
    """Return the colors of points: those of the nearest Gaussians, by how much they cover the point; from all sides."""
    means = splats.means.detach().cpu().double().numpy()
    count = min(NEIGHBORS, len(means))
    index = torch.from_numpy(cKDTree(means).query(x.cpu().double().numpy(), k=list(range(1, count + 1)))[1])
    index = index.to(x.device)
    offset = x[:, None] - splats.means[index]
    size = splats.scales[index].amax(-1)
    weight = splats.opacities[index] * torch.exp(-0.5 * (offset.norm(dim=-1) / size).square()) + 1e-12
    colors = (harmonics[:, 0] * CONSTANT + 0.5).clamp(0, 1)
    return (weight[..., None] * colors[index]).sum(1) / weight.sum(1, keepdim=True)
