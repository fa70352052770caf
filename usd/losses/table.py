"""The YAML names: ``system.loss.lambda_NAME`` weighs the loss called NAME here."""

from usd.losses import EstimateLoss, Loss, ReferenceLoss
from usd.losses.curvature import curvature
from usd.losses.depth import center_depth
from usd.losses.eikonal import eikonal
from usd.losses.estimates import depth_correlation, estimated_normal, fitted_depth
from usd.losses.mesh import laplacian_smoothness, normal_consistency, sign_changes
from usd.losses.normals import convexity, normal_smoothness, normal_smoothness_3d
from usd.losses.opacity import opaque, sparsity
from usd.losses.reference import reference_mask, reference_rgb
from usd.losses.samples import emptiness, orientation, z_variance

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
