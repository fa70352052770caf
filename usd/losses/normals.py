"""Losses on rendered normals: smooth in the picture, smooth in space, and those of convex shapes."""

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.core.ranks import mean, mean_over
from usd.core.types import Render, Samples
from usd.losses import loss
from usd.math.normal_map import normal_colors

CELLS = 8  # cells a side in which convexity is judged: coarse form, no details


@loss("normal", "opacity")
def normal_smoothness(render: Render) -> Tensor:
    """Penalize changes between neighboring pixels of the normals as colors over black.

    Mean of the squared difference to the pixel below, plus that to the pixel on the right.
    """
    if render.normal is None:
        raise UserError(
            "system.loss.lambda_normal_smooth: needs normals; expected a geometry with a normal_type"
        )
    colors = normal_colors(render.normal, render.opacity, 0.0)
    down, right = colors.diff(dim=2), colors.diff(dim=3)
    return mean(down.square()) + mean(right.square())


@loss("samples", "normal", "normal_perturb")
def normal_smoothness_3d(render: Render) -> Tensor:
    """Penalize normals that differ from those at a small random distance: mean |n(x) - n(x + e)| over the samples."""
    samples = render.samples
    if samples is None or samples.normal is None or samples.normal_perturb is None:
        raise UserError(
            "system.loss.lambda_3d_normal_smooth: needs normals at samples; expected system.renderer_type to be"
            " nerf-volume-renderer or neus-volume-renderer, and a geometry with a normal_type"
        )
    return mean((samples.normal - samples.normal_perturb).abs())


def _both_covered(covered: Tensor, axis: int) -> Tensor:
    """Return the product of each cell's cover and the next one's along an axis."""
    last = covered.shape[axis] - 1
    return covered.narrow(axis, 0, last) * covered.narrow(axis, 1, last)


@loss("samples", "normal", "depth", "opacity")
def convexity(render: Render) -> Tensor:
    """Penalize concave surfaces, coarsely: on 8 x 8 cells of each view.

    Normals of a convex surface are a monotone function of the position, (n - m) . (x - y) >= 0 for any two points.
    Of cells side by side, both mostly covered, what is below zero counts, over |x - y|: in a bowl of radius r it is
    1 / r. Zero where nothing is covered.
    """
    points, normals, covered = _coarse_surface(render)
    total, count = points.new_zeros(()), points.new_zeros(())
    for axis in (2, 3):
        step, change = points.diff(dim=axis), normals.diff(dim=axis)
        both = _both_covered(covered, axis)
        # The object's size must not matter for the direction, so |x - y|^2 makes the product a curvature.
        curvature = (step * change).sum(1, keepdim=True) / step.square().sum(1, keepdim=True).clamp_min(1e-8)
        total, count = total + (both * (-curvature).relu()).sum(), count + both.sum()
    return mean_over(total, count)


def _coarse_surface(
    render: Render,
) -> tuple[Float[Tensor, "B 3 h w"], Float[Tensor, "B 3 h w"], Float[Tensor, "B 1 h w"]]:
    """Return positions relative to the camera and normals, averaged over cells, and which cells are mostly covered."""
    samples, normal, depth, opacity = render.samples, render.normal, render.depth, render.opacity
    if samples is None or normal is None or depth is None:
        raise UserError(
            "system.loss.lambda_convex: needs rays and normals; expected system.renderer_type to be"
            " nerf-volume-renderer or neus-volume-renderer, and a geometry with a normal_type"
        )
    sides = (min(CELLS, opacity.shape[2]), min(CELLS, opacity.shape[3]))
    pool = torch.nn.functional.adaptive_avg_pool2d
    share = pool(opacity, sides)
    points = pool(_ray_directions(samples, opacity) * depth * opacity, sides)
    normals = torch.nn.functional.normalize(pool(normal * opacity, sides), dim=1)
    return points / share.clamp_min(1e-6), normals, (share > 0.5).to(share)


def _ray_directions(samples: Samples, opacity: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Return the unit direction of each pixel's ray, known where it has samples; zero elsewhere."""
    n_views, _, height, width = opacity.shape
    directions = opacity.new_zeros(n_views * height * width, 3)
    # All samples of a ray have one direction, so it does not matter which of them is written last.
    directions[samples.ray_index] = samples.direction
    return directions.view(n_views, height, width, 3).permute(0, 3, 1, 2)
