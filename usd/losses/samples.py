"""Losses on the samples along rays, packed: their weights, distances and normals."""

import torch
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
