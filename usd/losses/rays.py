"""Errors of single rays against the pixels they were drawn from, and the means that are trained.

R rays. Some pixels lie: views made by a model contradict each other, and masks are frayed. ``trusted_mean`` weighs
views and leaves the worst rays out, as Wonder3D does (arXiv 2310.15008).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.ranks import gathered, mean_over

GRAZING = 0.1  # normals seen at a cosine below this are not to be trusted


def absolute_error(rgb: Float[Tensor, "R 3"], truth: Float[Tensor, "R 3"]) -> Float[Tensor, "R"]:
    """Return the mean over channels of |difference|."""
    return (rgb - truth).abs().mean(-1)


def squared_error(rgb: Float[Tensor, "R 3"], truth: Float[Tensor, "R 3"]) -> Float[Tensor, "R"]:
    """Return the mean over channels of the squared difference."""
    return (rgb - truth).square().mean(-1)


def mask_error(opacity: Float[Tensor, "R"], mask: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
    """Return the binary cross entropy between opacity, clamped to [0.001, 0.999], and each pixel's coverage."""
    o = opacity.clamp(1e-3, 1 - 1e-3)
    return -(mask * o.log() + (1 - mask) * torch.log1p(-o))


def depth_error(depth: Float[Tensor, "R"], truth: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
    """Return |difference| / truth of distances along rays, at most 1; 0 where the truth is 0, unknown."""
    share = (depth - truth).abs() / truth.clamp_min(1e-6)
    return torch.where(truth > 0, share.clamp_max(1), torch.zeros_like(share))


def normal_error(normal: Float[Tensor, "R 3"], truth: Float[Tensor, "R 3"]) -> Float[Tensor, "R"]:
    """Return 1 - cosine, in [0, 2]; both unit vectors."""
    return 1 - (normal * truth).sum(-1)


def normal_trust(truth: Float[Tensor, "R 3"], direction: Float[Tensor, "R 3"]) -> Float[Tensor, "R"]:
    """Return the trust in a given normal: exp(|cosine|) of the angle at which it is seen, over that of one head on.

    0 where it is unknown (a zero vector), grazes, or faces away (arXiv 2310.15008).
    """
    toward = -(truth * direction).sum(-1)
    return torch.where(toward > GRAZING, torch.exp(toward - 1), torch.zeros_like(toward))


def trusted_mean(
    error: Float[Tensor, "R"], weight: Float[Tensor, "R"], left_out: float = 0.0
) -> Float[Tensor, ""]:
    """Return the weighted mean, without the share ``left_out`` of worst rays with weight; 0 for no rays."""
    if left_out > 0:
        known = gathered(error[weight > 0])
        limit = torch.quantile(known, 1 - left_out) if len(known) else torch.inf
        weight = weight * (error.detach() <= limit)
    return mean_over((weight * error).sum(), weight.sum(), 1e-6)
