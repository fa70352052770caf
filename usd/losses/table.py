"""The YAML names: ``system.loss.lambda_NAME`` weighs the loss called NAME here."""

from collections.abc import Callable, Mapping

from torch import Tensor

from usd.core.errors import UserError
from usd.core.registry import import_custom
from usd.core.types import Render
from usd.losses import EstimateLoss, Loss, ReferenceLoss, loss
from usd.losses.curvature import curvature
from usd.losses.depth import center_depth
from usd.losses.eikonal import eikonal
from usd.losses.estimates import depth_correlation, estimated_normal, fitted_depth
from usd.losses.mesh import laplacian_smoothness, normal_consistency, sign_changes
from usd.losses.normals import convexity, normal_smoothness, normal_smoothness_3d
from usd.losses.opacity import opaque, sparsity
from usd.losses.reference import reference_mask, reference_rgb
from usd.losses.samples import emptiness, orientation, z_variance
from usd.losses.splats import (
    depth_total_variation,
    splat_opacity,
    splat_opacity_mean,
    splat_position,
    splat_scale,
    splat_scale_mean,
    total_variation,
)

REGULARIZERS: dict[str, Loss] = {
    "sparsity": sparsity,
    "opaque": opaque,
    "orient": orientation,
    "z_variance": z_variance,
    "emptiness": emptiness,
    "center_depth": center_depth,
    "normal_smooth": normal_smoothness,
    "normal_smoothness_2d": normal_smoothness,
    "3d_normal_smooth": normal_smoothness_3d,
    "convex": convexity,
    "eikonal": eikonal,
    "curvature": curvature,
    "normal_consistency": normal_consistency,
    "laplacian_smoothness": laplacian_smoothness,
    "sign_changes": sign_changes,
    "position": splat_position,
    "scales": splat_scale,
    "opacity": splat_opacity,
    "mean_scale": splat_scale_mean,
    "mean_opacity": splat_opacity_mean,
    "tv_loss": total_variation,
    "depth_tv_loss": depth_total_variation,
}
REFERENCE_LOSSES: dict[str, ReferenceLoss] = {"rgb": reference_rgb, "mask": reference_mask}
ESTIMATE_LOSSES: dict[str, EstimateLoss] = {
    "depth": fitted_depth,
    "depth_rel": depth_correlation,
    "normal": estimated_normal,
}
LOSS_OPTIONS: dict[str, float] = {
    name: default for loss in REGULARIZERS.values() for name, default in loss.options.items()
}
"""Keys of ``system.loss`` that are no weights, and their defaults; pass their values to every regularizer."""


def register_loss(name: str, *needs: str) -> Callable[[Callable[[Render], Tensor]], Loss]:
    """Decorate a function of a render: ``system.loss.lambda_NAME`` weighs it. ``needs`` names fields of ``Render``.

    Files of ``custom/losses/`` use it; an own name may not be one of the table's.
    """

    def decorate(function: Callable[[Render], Tensor]) -> Loss:
        known = REGULARIZERS.get(name)
        if name in REFERENCE_LOSSES or (
            known is not None and known.function.__module__ != function.__module__
        ):
            raise UserError(
                f"{function.__module__}: a loss is called '{name}' already; expected another name"
            )
        REGULARIZERS[name] = loss(*needs)(function)
        return REGULARIZERS[name]

    return decorate


def regularizers() -> Mapping[str, Loss]:
    """Return the losses on renders by name, those of ``custom/losses/`` included."""
    import_custom("losses")
    return REGULARIZERS
