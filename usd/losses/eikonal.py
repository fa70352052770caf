"""Losses on signed distances: gradients of length one, and no surface where no picture shows one."""

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.core.ranks import mean_over
from usd.core.types import Render
from usd.losses import loss


def eikonal_error(gradient: Float[Tensor, "N 3"]) -> Float[Tensor, ""]:
    """Return the mean of (|gradient| - 1)^2 (arXiv 2002.10099); 0 for no points."""
    square = gradient.square().sum(-1).clamp_min(1e-12)  # its root has a gradient everywhere
    return mean_over((square.sqrt() - 1).square().sum(), len(gradient))


@loss("samples", "gradient")
def eikonal(render: Render) -> Tensor:
    """Penalize gradients of the distance that are not of length one, at the samples along rays."""
    if render.samples is None or render.samples.gradient is None:
        raise UserError(
            "system.loss.lambda_eikonal: needs distances; expected system.renderer_type to be neus-volume-renderer"
        )
    return eikonal_error(render.samples.gradient)


def free_surface(distance: Float[Tensor, "N"], decay: float) -> Float[Tensor, ""]:
    """Penalize surfaces: mean of exp(-decay |f|) over points anywhere (SparseNeuS, arXiv 2206.05737).

    Where pictures speak they win; where nobody looks, inside and below, nothing is left.
    """
    return mean_over(torch.exp(-decay * distance.abs()).sum(), len(distance))
