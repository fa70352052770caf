"""The YAML names: ``system.loss.lambda_NAME`` weighs the loss called NAME here."""

from usd.losses import Loss, ReferenceLoss
from usd.losses.curvature import curvature
from usd.losses.eikonal import eikonal
from usd.losses.mesh import laplacian_smoothness, normal_consistency, sign_changes
from usd.losses.opacity import opaque, sparsity
from usd.losses.reference import reference_mask, reference_rgb
from usd.losses.samples import orientation, z_variance

REGULARIZERS: dict[str, Loss] = {
    "sparsity": sparsity,
    "opaque": opaque,
    "orient": orientation,
    "z_variance": z_variance,
    "eikonal": eikonal,
    "curvature": curvature,
    "normal_consistency": normal_consistency,
    "laplacian_smoothness": laplacian_smoothness,
    "sign_changes": sign_changes,
}
REFERENCE_LOSSES: dict[str, ReferenceLoss] = {"rgb": reference_rgb, "mask": reference_mask}
