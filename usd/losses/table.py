"""The YAML names: ``system.loss.lambda_NAME`` weighs the loss called NAME here."""

from collections.abc import Callable, Mapping

from torch import Tensor

from usd.core.errors import UserError
from usd.core.registry import import_custom
from usd.core.types import Render
from usd.losses import Loss, ReferenceLoss, loss
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
