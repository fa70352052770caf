"""The visual hull: all points that every silhouette allows, its surface, and colors for points there."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from usd.math.camera import Cameras
from usd.math.isosurface import grid_points, marching_cubes
from usd.math.point_cloud import PointCloud

SIDE = 96
REACH = 2
"""Cells on each side over which the surface's normals are smoothed."""
INSIDE = HALF = 0.5


@torch.no_grad()
def hull_points(
    rgba: Float[Tensor, "V 4 H W"], cameras: Cameras, radius: float, count: int, generator: torch.Generator
) -> PointCloud:
    """Return ``count`` random points near the hull's surface in the cube [-radius, radius]^3: mean colors, and normals.

    Straight colors and alpha. Views that do not see a point say nothing about it. Empty where no point is inside all
    silhouettes.
    """
    grid = grid_points(0, SIDE, SIDE, -radius, radius, rgba.new_zeros(1)).view(-1, 3)
    inside = _allowed(grid, rgba[:, 3], cameras).view(SIDE, SIDE, SIDE)
    # What is inside with all its neighbors is never seen.
    buried = -torch.nn.functional.max_pool3d(-inside[None, None].float(), 3, 1, 1)[0, 0] > 0
    shell = (inside & ~buried).flatten().nonzero()[:, 0]
    if len(shell) == 0:
        return PointCloud(grid[:0], grid[:0])
    chosen = shell[torch.randint(len(shell), (count,), generator=generator)]
    cell = 2 * radius / (SIDE - 1)
    depth, normals = (each[chosen] for each in _depth_and_normals(inside))
    jitter = (torch.rand(count, 3, generator=generator) - 0.5) * cell
    # Along the surface alone: what is moved off it covers what is behind it.
    along = jitter - (jitter * normals).sum(1, keepdim=True) * normals
    points = grid[chosen] + along + cell * depth[:, None] * normals
    return PointCloud(points, _mean_colors(points, rgba, cameras), normals)


def _depth_and_normals(inside: Bool[Tensor, "S S S"]) -> tuple[Float[Tensor, "C"], Float[Tensor, "C 3"]]:
    """Return how many cells below the surface the points of a lattice near it are, and which way is out."""
    # Twice the mean of a small box is nearly a bell, whose slope does not know of the lattice.
    smooth = inside[None, None].float()
    for _ in range(2):
        smooth = torch.nn.functional.avg_pool3d(smooth, 2 * REACH + 1, 1, REACH)
    slope = torch.stack(torch.gradient(smooth[0, 0]), -1).view(-1, 3)
    steep = slope.norm(dim=1).clamp_min(1e-6)
    # Half of what is around a point of the surface is inside.
    depth = ((smooth.flatten() - HALF) / steep).clamp(-1, 1)
    return depth, -slope / steep[:, None]


@torch.no_grad()
def hull_surface(
    alpha: Float[Tensor, "V H W"], cameras: Cameras, radius: float
) -> tuple[Float[Tensor, "N 3"], Int[Tensor, "F 3"]]:
    """Return the closed surface of the hull in the cube [-radius, radius]^3; without faces where nothing is inside.

    Views that do not see a point say nothing about it.
    """
    grid = grid_points(0, SIDE, SIDE, -radius, radius, alpha.new_zeros(1)).view(-1, 3)
    inside = _allowed(grid, alpha, cameras).view(1, 1, SIDE, SIDE, SIDE).float()
    # The mean of 27 neighbors is 1/2 on a flat side: the surface has no steps, and stays where it is.
    smooth = torch.nn.functional.avg_pool3d(inside, 3, 1, 1)[0, 0]
    return marching_cubes(smooth, 0.5, radius)


def _allowed(x: Float[Tensor, "N 3"], alpha: Float[Tensor, "V H W"], cameras: Cameras) -> Bool[Tensor, "N"]:
    """Return which points lie inside the silhouettes of all views that see them."""
    allowed, seen = torch.ones_like(x[:, 0], dtype=torch.bool), torch.zeros_like(x[:, 0])
    for i in range(len(alpha)):
        # Points that are out already are not asked again.
        rest = allowed.nonzero()[:, 0]
        value, visible = _pixels_of(x[rest], alpha[i : i + 1], cameras[i : i + 1])
        allowed[rest] = ~visible | (value[:, 0] > INSIDE)
        seen[rest] += visible
    return allowed & (seen > 0)


def _mean_colors(x: Float[Tensor, "N 3"], rgba: Tensor, cameras: Cameras) -> Float[Tensor, "N 3"]:
    """Return the mean of the pixels that points fall on: rough, since nothing hides a point here."""
    total, weight = torch.zeros_like(x), torch.zeros_like(x[:, :1])
    for i in range(len(rgba)):
        value, visible = _pixels_of(x, rgba[i], cameras[i : i + 1])
        share = value[:, 3:] * visible[:, None]
        total += value[:, :3] * share
        weight += share
    return total / weight.clamp_min(1e-6)


def _pixels_of(
    x: Float[Tensor, "N 3"], picture: Float[Tensor, "C H W"], camera: Cameras
) -> tuple[Float[Tensor, "N C"], Bool[Tensor, "N"]]:
    """Return the pixels that points fall on, and whether they fall on the picture at all."""
    place, depth = camera.project(x)
    column, row = place[0].floor().long().unbind(-1)
    height, width = picture.shape[1:]
    visible = (depth[0] > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return picture[:, row.clamp(0, height - 1), column.clamp(0, width - 1)].T, visible
