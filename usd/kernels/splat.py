"""Pictures of Gaussian splats (arXiv 2308.04079), differentiable by everything: projection and compositing, twins too.

The fastest way to render N splats in B views::

    view = splat_view(cameras)
    seen = project(splats, view)                                  # ellipses in pictures, differentiable
    features = torch.cat([colors, seen.depth[..., None]], -1)     # what is blended: any numbers, (B N C)
    picture = composite(seen, features)                           # sums (B H W C) and opacity (B H W)

A Gaussian is projected by the first-order change of the pixel with the point (EWA splatting); each picture blurs by
0.3 pixels^2, so that nothing falls between pixels. With ``antialias`` it blurs by 0.1, about as a pixel's box does, and
a splat fades as much as that enlarges it (arXiv 2311.16493). Its opacity at a pixel is ``opacity * exp(-distance^2 /
2)``, in standard deviations; what is fainter than 1/255 is not drawn, nothing covers more than 0.999, and a pixel ends
with the splat that would leave it less than 1e-4 of its light.

Letters: N splats, B views, H W pixels, C numbers that are blended, M = B N ellipses, T pairs of a splat and a tile.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from usd.kernels.runtime import Implementation, accelerator_of, choose
from usd.math.camera import Cameras, Window
from usd.math.quaternions import rotation_of_quaternion
from usd.math.splats import Splats

LEAST_ALPHA, MOST_ALPHA, LEAST_LIGHT = 1 / 255, 0.999, 1e-4
PIXEL_BLUR, WIDE_BLUR, LEAST_SHARE, MARGIN = 0.1, 0.3, 1e-6, 0.15
NEAR = 0.01
CHUNK = 1 << 22


@dataclass(frozen=True)
class SplatView:
    """B cameras as splats are projected: world to camera (x right, y down, z forward), then to pixels.

    ``lens`` is fx, fy, cx, cy in pixels; pixel centers are at halves. Parallel projections have no division by depth.
    ``rim`` is how far to the left, top, right and bottom (x / z, y / z) the projection is still linearized where a
    splat is; beyond that it is as at the rim, or splats near the camera's plane would cover everything.
    """

    w2c: Float[Tensor, "B 3 4"]
    lens: Float[Tensor, "B 4"]
    rim: Float[Tensor, "B 4"]
    height: int
    width: int
    perspective: bool = True

    def __len__(self) -> int:
        return self.w2c.shape[0]


@dataclass(frozen=True)
class Projection:
    """N splats as B views see them. ``ellipse`` is the center u, v in pixels, the conic A, B, C, and the opacity.

    At an offset (x, y) from the center a splat's squared distance is A x^2 + 2 B x y + C y^2. ``box`` holds the pixels
    x0 to x1 and y0 to y1 that it may touch; it is empty for what is not seen. No gradient passes through it.
    """

    ellipse: Float[Tensor, "B N 6"]
    depth: Float[Tensor, "B N"]
    box: Int[Tensor, "B N 4"]
    height: int
    width: int


@dataclass(frozen=True)
class SplatPicture:
    """Pictures: the sums of features by weight, and of the weights alone."""

    sums: Float[Tensor, "B H W C"]
    opacity: Float[Tensor, "B H W"]


def splat_view(cameras: Cameras, at: Window | None = None) -> SplatView:
    """Return cameras, or a window of their pictures, as splats are projected; differentiable by ``cameras.c2w``."""
    # Our cameras look along -z with y up; here z is depth and y points down, as rows are counted.
    flip = cameras.c2w.new_tensor([1.0, -1.0, -1.0])
    w2c = cameras.world_to_camera()[:, :3] * flip[:, None]
    at = at or Window(0, 0, cameras.height, cameras.width)
    lens = camera_lens(cameras)
    size = lens.new_tensor([cameras.width, cameras.height])
    focal, center = lens.split(2, 1)
    rim = torch.cat([(-MARGIN * size - center) / focal, ((1 + MARGIN) * size - center) / focal], 1)
    # The window's first pixel has its center at one half, and its steps are as long as a pixel.
    step = lens.new_tensor([at.step_x, at.step_y])
    first = lens.new_tensor([at.left + 0.5, at.top + 0.5])
    lens = torch.cat([focal / step, (center - first) / step + 0.5], 1)
    return SplatView(w2c, lens, rim, at.height, at.width, cameras.span_y is None)


def camera_lens(cameras: Cameras) -> Float[Tensor, "B 4"]:
    """Return fx, fy, cx, cy in pixels; of parallel projections pixels a unit."""
    span = cameras.span_y
    focal = cameras.focals if span is None else (cameras.height / span)[:, None].expand(-1, 2)
    return torch.cat([focal, cameras.principal_point], 1)


# --------------------------------------------------------------------------------------------------- projection


def project(
    splats: Splats, view: SplatView, antialias: bool = False, implementation: Implementation = "auto"
) -> Projection:
    """Return the splats as ellipses in the pictures; differentiable by splats and ``view.w2c``."""
    given = (splats.means, splats.scales, splats.rotations, splats.opacities)
    if len(splats) and choose(implementation, *given, view.w2c) == "warp":
        from usd.kernels.splat_warp import project_warp

        return project_warp(splats, view, antialias)
    return project_torch(splats, view, antialias)


def project_torch(splats: Splats, view: SplatView, antialias: bool) -> Projection:
    """Project as ``project`` does, with torch's own operators; differentiable by ``view.lens``, too."""
    place = torch.einsum("bij,nj->bni", view.w2c[:, :, :3], splats.means) + view.w2c[:, None, :, 3]
    depth = place[..., 2]
    ahead = depth > NEAR
    # What is behind the camera is moved ahead of it, so that no gradient divides by zero.
    place = torch.where(ahead[..., None], place, place.new_tensor([0.0, 0.0, 1.0]))
    center, slope = _center_and_slope(place, view)
    # The covariance of a Gaussian is the square of this matrix: kept as it is, it can never be indefinite.
    shape = rotation_of_quaternion(splats.rotations) * splats.scales[:, None]
    # Its three axes as arrows in the picture.
    axes = slope @ view.w2c[:, None, :, :3] @ shape
    inner = axes @ axes.transpose(-1, -2)
    conic, variance, fade = _blurred(inner, antialias)
    opacity = splats.opacities * fade
    ellipse = torch.cat([center, conic, opacity[..., None]], -1)
    ellipse = torch.where(ahead[..., None], ellipse, torch.zeros_like(ellipse))
    return Projection(
        ellipse, depth, _boxes(ellipse.detach(), variance.detach(), view), view.height, view.width
    )


def _center_and_slope(
    place: Float[Tensor, "B N 3"], view: SplatView
) -> tuple[Float[Tensor, "B N 2"], Float[Tensor, "B N 2 3"]]:
    """Return pixels of points, and how they change with the points; far outside the picture as at its rim."""
    focal, center = view.lens[:, None, :2].expand_as(place[..., :2]), view.lens[:, None, 2:]
    zero = torch.zeros_like(focal)
    if not view.perspective:
        return focal * place[..., :2] + center, torch.cat([torch.diag_embed(focal), zero[..., None]], -1)
    z = place[..., 2:]
    ratio = (place[..., :2] / z).clamp(*view.rim[:, None].split(2, -1))
    slope = torch.cat([torch.diag_embed(focal / z), (-focal * ratio / z)[..., None]], -1)
    return focal * place[..., :2] / z + center, slope


def _blurred(
    inner: Float[Tensor, "B N 2 2"], antialias: bool
) -> tuple[Float[Tensor, "B N 3"], Float[Tensor, "B N 2"], Float[Tensor, "B N"]]:
    """Return conics, variances along x and y, and factors of opacity of covariances in the picture."""
    a0, b, c0 = inner[..., 0, 0], inner[..., 0, 1], inner[..., 1, 1]
    # A pixel is not a point: variances of what is seen and of the pixel add up.
    blur = PIXEL_BLUR if antialias else WIDE_BLUR
    a, c = a0 + blur, c0 + blur
    det = a * c - b * b
    fade = torch.ones_like(det)
    if antialias:
        # What the blur adds to the area, the opacity gives back.
        fade = ((a0 * c0 - b * b) / det).clamp_min(LEAST_SHARE).sqrt()
    return torch.stack([c / det, -b / det, a / det], -1), torch.stack([a, c], -1), fade


def _boxes(
    ellipse: Float[Tensor, "B N 6"], variance: Float[Tensor, "B N 2"], view: SplatView
) -> Int[Tensor, "B N 4"]:
    """Return the pixels where splats are opaque enough to be drawn."""
    opacity = ellipse[..., 5:]
    # The squared distance at which the splat is as faint as what is no longer drawn.
    reach = 2 * (opacity / LEAST_ALPHA).clamp_min(1e-30).log()
    half = (reach.clamp_min(0) * variance).sqrt() + 0.01
    size = half.new_tensor([view.width, view.height])
    # Pixel centers are half a pixel from their corners.
    low = (ellipse[..., :2] - half - 0.5).ceil().clamp_min(0).minimum(size)
    high = (ellipse[..., :2] + half + 0.5).floor().clamp_min(0).minimum(size)
    seen = (reach > 0) & (low < high).all(-1, keepdim=True)
    box = torch.stack([low[..., 0], high[..., 0], low[..., 1], high[..., 1]], -1)
    return torch.where(seen, box, torch.zeros_like(box)).int()


# -------------------------------------------------------------------------------------------------- compositing


def composite(
    seen: Projection, features: Float[Tensor, "B N C"], implementation: Implementation = "auto"
) -> SplatPicture:
    """Blend features front to back; differentiable by ``seen.ellipse`` and the features.

    Raises ``MemoryError`` for splats that cover more tiles than memory has room for.
    """
    if accelerator_of("splats", implementation, seen.ellipse, features) == "gsplat":
        from usd.kernels.splat_gsplat import composite_gsplat

        return composite_gsplat(seen, features)
    if features.shape[1] and choose(implementation, seen.ellipse, features) == "warp":
        from usd.kernels.splat_warp import composite_warp

        return composite_warp(seen, features)
    return composite_torch(seen, features)


def composite_torch(seen: Projection, features: Float[Tensor, "B N C"]) -> SplatPicture:
    """Composite as ``composite`` does, by comparing every pixel with every splat that touches its rows."""
    views = [_composite_view(seen, features, view) for view in range(len(features))]
    sums, opacity = zip(*views)
    return SplatPicture(torch.stack(sums), torch.stack(opacity))


def _composite_view(seen: Projection, features: Float[Tensor, "B N C"], view: int) -> tuple[Tensor, Tensor]:
    """Return the sums (H W C) and the opacity (H W) of one view, some rows of pixels at a time."""
    # Stable, so that splats of one depth keep their order here and in the kernels.
    order = seen.depth[view].argsort(stable=True)
    ellipse, values, box = (each[view][order] for each in (seen.ellipse, features, seen.box))
    # As many rows as a table of their pixels and all splats has room for.
    rows = max(1, min(16, CHUNK // max(1, seen.width * len(order))))
    parts = []
    for top in range(0, seen.height, rows):
        bottom = min(top + rows, seen.height)
        # Most splats touch a few rows only.
        near = (box[:, 2] < bottom) & (box[:, 3] > top)
        # Computed again for the gradient: a table of all pixels and splats is not kept.
        parts.append(
            checkpoint(
                _composite_rows, ellipse[near], values[near], (top, bottom, seen.width), use_reentrant=False
            )
        )
    sums, opacity = zip(*parts)
    return torch.cat(sums), torch.cat(opacity)


def _composite_rows(
    ellipse: Float[Tensor, "K 6"], values: Float[Tensor, "K C"], at: tuple[int, int, int]
) -> tuple[Float[Tensor, "h W C"], Float[Tensor, "h W"]]:
    """Return sums and opacity of some rows of pixels, of splats in order."""
    top, bottom, width = at
    y = torch.arange(top, bottom, device=ellipse.device, dtype=ellipse.dtype) + 0.5
    x = torch.arange(width, device=ellipse.device, dtype=ellipse.dtype) + 0.5
    u, v, a, b, c, opacity = ellipse.unbind(-1)
    dx, dy = x[:, None] - u, (y[:, None] - v)[:, None]
    alpha = (opacity * torch.exp(-0.5 * (a * dx**2 + c * dy**2) - b * dx * dy)).clamp_max(MOST_ALPHA)
    alpha = torch.where(alpha >= LEAST_ALPHA, alpha, torch.zeros_like(alpha))
    # Light that is left behind each splat, were all of them drawn.
    after = (1 - alpha).cumprod(-1)
    # A pixel ends before the splat that would leave it too little light, and light never comes back.
    drawn = after > LEAST_LIGHT
    alpha = torch.where(drawn, alpha, torch.zeros_like(alpha))
    after = (1 - alpha).cumprod(-1)
    before = torch.cat([torch.ones_like(after[..., :1]), after[..., :-1]], -1)
    left = after[..., -1] if after.shape[-1] else after.new_ones(len(y), len(x))
    return (before * alpha) @ values, 1 - left
