"""Compositing by gsplat (arXiv 2409.06765), behind the signature of ``usd.kernels.splat``.

Its thresholds are ours, and it takes our lists of tiles; what it does better is the blending on CUDA.
"""

from jaxtyping import Float
from torch import Tensor

from usd.kernels.accelerators import load_accelerator
from usd.kernels.splat import Projection, SplatPicture
from usd.kernels.splat_warp import SIDE, tile_lists


def composite_gsplat(seen: Projection, features: Float[Tensor, "B N C"]) -> SplatPicture:
    """Composite as ``composite_torch`` does, on CUDA."""
    # Lists are made here in both cases, so that the two blend the same splats in the same order.
    lists = tile_lists(seen.box, seen.depth.detach(), seen.height, seen.width)
    grid = (len(features), -(-seen.height // SIDE), -(-seen.width // SIDE))
    # gsplat takes inverse covariances, as the ellipse keeps them, and has gradients of its own.
    center, conic, opacity = seen.ellipse.split([2, 3, 1], -1)
    sums, alpha = load_accelerator("gsplat").rasterize_to_pixels(
        center.contiguous(),
        conic.contiguous(),
        features.contiguous(),
        opacity[..., 0].contiguous(),
        seen.width,
        seen.height,
        SIDE,
        lists.starts[:-1].view(grid),
        lists.tiles,
    )
    return SplatPicture(sums, alpha[..., 0])
