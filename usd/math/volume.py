"""Volume rendering as algebra on samples along rays (Max 1995; Mildenhall et al. 2020, arXiv 2003.08934).

A sample k of a ray covers [t_start, t_end], at t = their middle, with density sigma_k. Its opacity is
``alpha_k = 1 - exp(-sigma_k (t_end - t_start))``; light reaches it with transmittance
``T_k = prod_{j < k} (1 - alpha_j)``; it contributes with weight ``w_k = alpha_k T_k``. Along a ray
``sum_k w_k + T_end = 1``.

Two layouts. *Dense*: the last axis holds the K samples of a ray. *Packed*: S samples of R rays in one axis, ray after
ray, ``ray_index`` (S) being the ray of each, ``packed`` (R, 2) each ray's first sample and count.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def alpha_from_density(density: Float[Tensor, "..."], length: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return opacity of a stretch of constant density; exact for thin ones too."""
    return -torch.expm1(-density * length)


def transmittance(alpha: Float[Tensor, "... K"]) -> Float[Tensor, "... K"]:
    """Return T_k, the fraction of light that reaches each sample (dense; the first is 1)."""
    through = torch.cumprod(1 - alpha, -1)
    return torch.cat([torch.ones_like(through[..., :1]), through[..., :-1]], -1)[..., : alpha.shape[-1]]


def packed_slots(packed: Int[Tensor, "R 2"], ray_index: Int[Tensor, "S"]) -> Int[Tensor, "S"]:
    """Return the place of each packed sample along its ray: 0, 1, ..."""
    return torch.arange(len(ray_index), device=ray_index.device) - packed[:, 0].index_select(0, ray_index)


def to_dense(
    values: Float[Tensor, "S"], packed: Int[Tensor, "R 2"], ray_index: Int[Tensor, "S"], fill: float = 0.0
) -> Float[Tensor, "R K"]:
    """Return packed values as rows of the longest ray's length, ``fill`` behind each ray's last sample."""
    longest = int(packed[:, 1].max()) if len(packed) else 0
    dense = values.new_full((len(packed), longest), fill)
    return dense.index_put((ray_index, packed_slots(packed, ray_index)), values)


def from_dense(
    dense: Float[Tensor, "R K"], packed: Int[Tensor, "R 2"], ray_index: Int[Tensor, "S"]
) -> Float[Tensor, "S"]:
    """Return the inverse of ``to_dense``."""
    return dense[ray_index, packed_slots(packed, ray_index)]


def packed_transmittance(
    alpha: Float[Tensor, "S"], packed: Int[Tensor, "R 2"], ray_index: Int[Tensor, "S"]
) -> Float[Tensor, "S"]:
    """Return T_k (packed)."""
    if not len(alpha):
        return alpha
    return from_dense(transmittance(to_dense(alpha, packed, ray_index)), packed, ray_index)


def packed_sum(
    values: Float[Tensor, "S *C"], ray_index: Int[Tensor, "S"], n_rays: int
) -> Float[Tensor, "R *C"]:
    """Return sum of the samples of each ray; 0 for a ray without any."""
    return values.new_zeros(n_rays, *values.shape[1:]).index_add(0, ray_index, values)


# ------------------------------------------------------------------------------- placing samples where they matter


def inverse_cdf(
    edges: Float[Tensor, "R E"], weights: Float[Tensor, "R K"], u: Float[Tensor, "R M"]
) -> Float[Tensor, "R M"]:
    """Map ``u`` in [0, 1] to places distributed as ``weights`` of the K = E - 1 intervals between edges.

    The density is constant within an interval (arXiv 2003.08934, section 5.2). Places ascend where u does. Where all
    weights of a ray are zero they are spread over its intervals evenly.
    """
    # A little everywhere: no interval is left out for good, and a ray that meets nothing has a distribution, too.
    share = weights + 1e-3 / weights.shape[-1]
    share = share / share.sum(-1, keepdim=True)
    cdf = torch.nn.functional.pad(share.cumsum(-1), (1, 0)).clamp_max(1.0)
    # The interval whose share contains u; rounding may leave the last edge of the CDF just below 1.
    slot = (torch.searchsorted(cdf, u.contiguous(), right=True) - 1).clamp(0, weights.shape[-1] - 1)
    low, high = edges.gather(-1, slot), edges.gather(-1, slot + 1)
    within = (u - cdf.gather(-1, slot)) / share.gather(-1, slot)
    return low + within.clamp(0, 1) * (high - low)


def outer_weights(
    edges: Float[Tensor, "R E"], coarse_edges: Float[Tensor, "R D"], coarse_weights: Float[Tensor, "R J"]
) -> Float[Tensor, "R K"]:
    """Return for each interval the weights of all coarse intervals that it touches (arXiv 2111.12077, equation 12)."""
    total = torch.nn.functional.pad(coarse_weights.cumsum(-1), (1, 0))
    last = coarse_weights.shape[-1]
    # From the last coarse edge at or before the interval's beginning to the first at or behind its end.
    first = (torch.searchsorted(coarse_edges, edges[:, :-1].contiguous(), right=True) - 1).clamp(0, last)
    end = torch.searchsorted(coarse_edges, edges[:, 1:].contiguous()).clamp(0, last)
    return (total.gather(-1, end) - total.gather(-1, first)).clamp_min(0)


def interlevel_loss(
    edges: Float[Tensor, "R E"],
    weights: Float[Tensor, "R K"],
    coarse_edges: Float[Tensor, "R D"],
    coarse_weights: Float[Tensor, "R J"],
) -> Float[Tensor, ""]:
    """Punish coarse weights that do not enclose the fine ones (arXiv 2111.12077, equation 13), a mean over rays.

    Zero where coarse intervals hold at least the weight of each fine interval that they touch. The fine weights are
    taken as they are: they have no gradient.
    """
    fine = weights.detach()
    excess = (fine - outer_weights(edges.detach(), coarse_edges, coarse_weights)).relu()
    return (excess.square() / (fine + 1e-7)).sum(-1).mean()
