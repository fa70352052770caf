"""Losses on Gaussian splats themselves, and on the smoothness of what they show."""

from torch import Tensor

from usd.core.errors import UserError
from usd.core.types import Render
from usd.kernels.splat import Splats
from usd.losses import loss


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
