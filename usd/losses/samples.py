"""Losses on the samples along rays, packed: their weights, distances and normals."""

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.ranks import mean_over
from usd.core.types import Render, Samples
from usd.losses import loss


@loss("samples", "normal")
def orientation(render: Render) -> Tensor:
    """Penalize visible normals that face away from the camera (Ref-NeRF, arXiv 2112.03907, equation 11).

    Sum of w * max(0, normal . direction)^2 over the samples, per covered pixel. The weights are not trained by it.
    """
    samples = _required_samples(render)
    if samples.normal is None:
        raise ValueError(
            "orientation loss: the samples carry no normals; expected a geometry with a normal_type"
        )
    away = (samples.normal * samples.direction).sum(-1).relu().square()
    return mean_over((samples.weight.detach() * away).sum(), (render.opacity > 0).sum())


@loss("samples", "opacity")
def z_variance(render: Render) -> Tensor:
    """Penalize surfaces smeared along the ray: the variance of the distance, averaged over rays with opacity > 1/2.

    HiFA, arXiv 2305.18766, equation 12. Zero when no ray is that opaque.
    """
    samples = _required_samples(render)
    n = int(samples.ray_index.max()) + 1 if len(samples.t) else 0
    mass = _per_ray(samples.weight, samples, n)
    mean = _per_ray(samples.weight * samples.t, samples, n) / mass.clamp_min(1e-6)
    spread = _per_ray(samples.weight * (samples.t - mean[samples.ray_index]).square(), samples, n)
    solid = (mass > 0.5).to(mass.dtype)
    return mean_over((solid * spread / mass.clamp_min(1e-6)).sum(), solid.sum())


@loss("samples", "length")
def distortion(render: Render) -> Tensor:
    """Penalize weights that are spread along their ray (mip-NeRF 360, arXiv 2111.12077, equation 15), a mean over rays.

    Distances are world units.
    """
    return mean_over(ray_distortion(_required_samples(render)).sum(), render.opacity.numel())


@loss("behind")
def background_distortion(render: Render) -> Tensor:
    """Penalize weights of the background that are spread along their ray, in places from 0 to 1 (infinity).

    0 for a background that lies nowhere.
    """
    samples = None if render.behind is None else render.behind.samples
    if samples is None:
        return render.opacity.new_zeros(())
    return mean_over(ray_distortion(samples).sum(), render.opacity.numel())


def ray_distortion(samples: Samples) -> Float[Tensor, "S"]:
    """Return the samples' shares of sum_ij w_i w_j |t_i - t_j| + sum_i w_i^2 length_i / 3 over each ray.

    The double sum takes as long as the samples are many: t ascends along a ray, so that with W and M, the sums of w and
    of w t over the samples before one, its share is 2 w (t W - M).
    """
    weight, t, length = samples.weight, samples.t, samples.length
    assert length is not None
    moment = weight * t
    # Running sums over all rays, less what they were at each ray's beginning; in double, as they grow long.
    before = [values.double().cumsum(0) - values for values in (weight, moment)]
    first = torch.searchsorted(samples.ray_index, samples.ray_index)
    mass, moment = ((sums - sums.index_select(0, first)).to(t.dtype) for sums in before)
    return 2 * weight * (t * mass - moment) + weight.square() * length / 3


@loss("samples", emptiness_scale=10.0)
def emptiness(render: Render, emptiness_scale: float) -> Tensor:
    """Penalize samples that are seen: mean of log(1 + scale * weight) (Score Jacobian Chaining, arXiv 2212.00774).

    The logarithm spares the few large weights of a surface and removes the many small ones of a haze.
    """
    weight = _required_samples(render).weight
    return mean_over(torch.log1p(emptiness_scale * weight).sum(), len(weight))


def _per_ray(values: Tensor, samples: Samples, n: int) -> Tensor:
    """Return the sums over each ray's samples."""
    return torch.zeros(n, dtype=values.dtype, device=values.device).index_add(0, samples.ray_index, values)


def _required_samples(render: Render) -> Samples:
    """Return the samples along rays. Raises ``ValueError`` for a render without them."""
    if render.samples is None:
        raise ValueError("this loss needs samples along rays; expected a volume renderer asked for 'samples'")
    return render.samples
