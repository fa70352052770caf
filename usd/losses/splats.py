"""Losses on Gaussian splats themselves, and on the smoothness of what they show."""

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.core.types import Render
from usd.losses import loss
from usd.math.splats import Splats


@loss("splats")
def splat_position(render: Render) -> Tensor:
    """Penalize Gaussians far from the origin: their mean distance."""
    return _required_splats(render).means.norm(dim=-1).mean()


@loss("splats")
def splat_scale(render: Render) -> Tensor:
    """Penalize large Gaussians: the sum of all scales."""
    return _required_splats(render).scales.sum()


@loss("splats")
def splat_opacity(render: Render) -> Tensor:
    """Penalize opacity, more where a Gaussian is large: the sum of opacity times size, which has no gradient."""
    splats = _required_splats(render)
    return (splats.scales.detach().norm(dim=-1) * splats.opacities).sum()


@loss("splats")
def splat_opacity_mean(render: Render) -> Tensor:
    """Penalize opacity: its mean, so that what is not needed dies and can be moved (arXiv 2404.09591)."""
    return _required_splats(render).opacities.mean()


@loss("splats")
def splat_scale_mean(render: Render) -> Tensor:
    """Penalize large Gaussians: the mean of all scales (arXiv 2404.09591)."""
    return _required_splats(render).scales.mean()


@loss("rgb")
def total_variation(render: Render) -> Tensor:
    """Penalize differences between neighboring pixels of the colors: mean squares down and across."""
    return _variation(render.rgb)


@loss("depth", "normal", "opacity")
def depth_total_variation(render: Render) -> Tensor:
    """Penalize differences between neighboring pixels of depth and normals, weighed by opacity."""
    assert render.depth is not None and render.normal is not None
    solid = render.opacity.detach()
    return _variation(render.depth * solid) + _variation(render.normal * solid)


def structural_dissimilarity(
    picture: Float[Tensor, "B C H W"],
    truth: Float[Tensor, "B C H W"],
    weights: Float[Tensor, "B 1 1 1"] | None = None,
    window: int = 11,
    sigma: float = 1.5,
) -> Tensor:
    """Return (1 - SSIM) / 2, mean over all pixels, with a Gaussian window; beyond their rims pictures are black.

    ``weights`` say how much each picture counts, by default 1.
    """
    parts = torch.stack([picture, truth, picture.square(), truth.square(), picture * truth])
    down, across = (_blur(size, window, sigma, picture) for size in picture.shape[-2:])
    # Products with banded matrices: torch convolves single channels on a CPU ten times as slowly.
    a, b, aa, bb, ab = (down @ parts @ across.T).unbind(0)
    luminance = (2 * a * b + 1e-4) / (a.square() + b.square() + 1e-4)
    structure = (2 * (ab - a * b) + 9e-4) / (aa - a.square() + bb - b.square() + 9e-4)
    if weights is None:
        return (1 - (luminance * structure).mean()) / 2
    return (weights.mean() - (weights * luminance * structure).mean()) / 2


def _blur(size: int, window: int, sigma: float, like: Tensor) -> Float[Tensor, "N N"]:
    """Return the matrix that replaces each of ``size`` numbers by a Gaussian mean of its neighbors."""
    at = torch.arange(size, device=like.device, dtype=like.dtype)
    away = (at[:, None] - at).abs()
    bell = torch.exp(-0.5 * (away / sigma).square()) * (away <= window // 2)
    return bell / torch.exp(-0.5 * (torch.arange(-(window // 2), window // 2 + 1) / sigma).square()).sum()


def _variation(picture: Tensor) -> Tensor:
    down, across = picture[..., 1:, :] - picture[..., :-1, :], picture[..., 1:] - picture[..., :-1]
    return down.square().mean() + across.square().mean()


def _required_splats(render: Render) -> Splats:
    """Return the rendered Gaussians. Raises ``UserError`` for a renderer without any."""
    if render.splats is None:
        raise UserError(
            "system.loss: lambda_position, lambda_scales and lambda_opacity need Gaussians; "
            "expected system.renderer_type to be splat-renderer"
        )
    return render.splats
