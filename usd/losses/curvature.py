"""A loss on curvature, for smooth surfaces."""

from torch import Tensor

from usd.core.errors import UserError
from usd.core.ranks import mean_over
from usd.core.types import Render
from usd.losses import loss


@loss("samples", "laplacian")
def curvature(render: Render) -> Tensor:
    """Penalize bending: the mean of |Laplacian of f| at the samples, twice the mean curvature (arXiv 2306.03092).

    Of unit 1 / length: a sphere of radius r costs 2 / r. Weigh it little, and less as details appear.
    """
    if render.samples is None or render.samples.laplacian is None:
        raise UserError(
            "system.loss.lambda_curvature: needs distances; expected system.renderer_type to be neus-volume-renderer"
        )
    return mean_over(render.samples.laplacian.abs().sum(), len(render.samples.laplacian))
