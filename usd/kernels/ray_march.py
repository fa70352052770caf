"""Samples along rays through occupied space, and what the rays see: marching and compositing, kernel and twin.

The fastest way to render R rays::

    samples = march(origins, directions, occupancy, step, generator)
    x = samples.positions(origins, directions)                   # (S, 3): one call of the geometry for all rays
    view = composite_density(density(x), rgb, samples)           # or composite(alpha, rgb, samples)

S follows from the occupied share of space, so its cost falls as the occupancy grid learns. Where shading is dear, look
at densities first without gradients, and shade ``samples.select(visible(...))`` only.

Letters: R rays, S samples of all rays in one packed axis, C channels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from usd.kernels.occupancy import Occupancy, is_occupied
from usd.kernels.runtime import Implementation, accelerator_of, choose
from usd.math import rng
from usd.math.volume import alpha_from_density, packed_sum, packed_transmittance


@dataclass(frozen=True)
class RaySamples:
    """Packed samples: ray after ray, near to far. ``packed`` holds each ray's first sample and their number."""

    ray_index: Int[Tensor, "S"]
    t_start: Float[Tensor, "S"]
    t_end: Float[Tensor, "S"]
    packed: Int[Tensor, "R 2"]

    def __len__(self) -> int:
        return self.ray_index.shape[0]

    @property
    def n_rays(self) -> int:
        """R: the number of rays, those without samples included."""
        return self.packed.shape[0]

    @property
    def t(self) -> Float[Tensor, "S"]:
        """Distance of each sample's middle."""
        return (self.t_start + self.t_end) / 2

    @property
    def lengths(self) -> Float[Tensor, "S"]:
        """Length of each sample along its ray."""
        return self.t_end - self.t_start

    def positions(
        self, origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"]
    ) -> Float[Tensor, "S 3"]:
        """Return the samples' middles."""
        along = directions.index_select(0, self.ray_index) * self.t[:, None]
        return along.add_(origins.index_select(0, self.ray_index))

    def select(self, keep: Bool[Tensor, "S"]) -> "RaySamples":
        """Return some of the samples, still packed."""
        # By number and not by mask: one search for all four tensors.
        index = keep.nonzero().squeeze(1)
        ray_index = self.ray_index[index]
        return RaySamples(
            ray_index, self.t_start[index], self.t_end[index], packed_info(ray_index, self.n_rays)
        )


class Composite(NamedTuple):
    """Composited values of R rays. ``depth`` is the sum of weight times distance (divide by opacity for a mean)."""

    weights: Float[Tensor, "S"]
    opacity: Float[Tensor, "R"]
    depth: Float[Tensor, "R"]
    color: Float[Tensor, "R C"]


def packed_info(ray_index: Int[Tensor, "S"], n_rays: int) -> Int[Tensor, "R 2"]:
    """Return first sample and number of samples of each ray, from a sorted ``ray_index``."""
    # Counted and not searched: rays without samples have a row, too.
    count = torch.bincount(ray_index, minlength=n_rays)
    return torch.stack([count.cumsum(0) - count, count], -1)


def join_samples(pieces: Sequence[RaySamples], rays: int) -> RaySamples:
    """Return samples of successive chunks of ``rays`` rays (the last may be shorter) as those of one set of rays."""
    ray_index = torch.cat([piece.ray_index + rays * i for i, piece in enumerate(pieces)])
    start, end = (torch.cat(each) for each in zip(*((piece.t_start, piece.t_end) for piece in pieces)))
    return RaySamples(ray_index, start, end, packed_info(ray_index, sum(piece.n_rays for piece in pieces)))


def samples_between(edges: Float[Tensor, "R E"]) -> RaySamples:
    """Return the E - 1 samples of each ray between neighboring edges (ascending), those without length left out."""
    n_rays, per_ray = len(edges), edges.shape[1] - 1
    ray_index = torch.arange(n_rays, device=edges.device).repeat_interleave(per_ray)
    start, end = edges[:, :-1].flatten(), edges[:, 1:].flatten()
    count = torch.full((n_rays,), per_ray, device=edges.device)
    samples = RaySamples(ray_index, start, end, torch.stack([count.cumsum(0) - count, count], -1))
    long = end > start
    return samples if bool(long.all()) else samples.select(long)


def intersect_box(
    origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"], radius: float, near: float, far: float
) -> tuple[Float[Tensor, "R"], Float[Tensor, "R"]]:
    """Return where each ray enters and leaves the cube [-radius, radius]^3, within [near, far]; equal for a miss."""
    # A ray along an axis has a zero there; its planes are then met infinitely far away.
    tiny = torch.full_like(directions, 1e-20)
    inverse = torch.where(directions.abs() < tiny, tiny, directions).reciprocal()
    a, b = (-radius - origins) * inverse, (radius - origins) * inverse
    # Inside all three slabs: behind the last entry and before the first exit.
    enter = torch.minimum(a, b).amax(-1).clamp(near, far)
    leave = torch.maximum(a, b).amin(-1).clamp(near, far)
    return enter, torch.maximum(enter, leave)


def march(
    origins: Float[Tensor, "R 3"],
    directions: Float[Tensor, "R 3"],
    occupancy: Occupancy,
    step: float,
    shift: torch.Generator | Float[Tensor, "R"] | None = None,
    near: float = 0.0,
    far: float = math.inf,
    implementation: Implementation = "auto",
) -> RaySamples:
    """Return samples of length ``step`` whose middles lie in occupied cells.

    Middles stand at ``enter + (k + u) step``, k = 0, 1, ... from where the ray enters the cube; u, one number in [0, 1)
    per ray, is ``shift``, or drawn from it where that is a generator; 0.5 without either. Directions are unit vectors
    for distances in world units. Not differentiable: gradients flow through what is evaluated at the samples.
    """
    if not step > 0:
        raise ValueError(f"march: step is {step}; expected a positive length")
    with torch.no_grad():
        enter, leave = intersect_box(origins, directions, occupancy.radius, near, far)
        # The shift moves a whole ray, so that its steps stay of one length.
        first = enter + _shifts(enter, shift) * step
        if accelerator_of("march", implementation, origins, directions):
            from usd.kernels import ray_march_nerfacc

            return ray_march_nerfacc.march_nerfacc(origins, directions, occupancy, step, first, leave)
        if choose(implementation, origins, directions) == "warp":
            from usd.kernels import ray_march_warp

            return ray_march_warp.march_warp(origins, directions, occupancy, step, first, leave)
        return march_torch(origins, directions, occupancy, step, first, leave)


def _shifts(
    like: Float[Tensor, "R"], shift: torch.Generator | Float[Tensor, "R"] | None
) -> Float[Tensor, "R"]:
    if shift is None:
        return torch.full_like(like, 0.5)
    drawn = shift if isinstance(shift, Tensor) else rng.uniform(like.shape, shift, dtype=like.dtype)
    return drawn.to(like)


def march_torch(
    origins: Float[Tensor, "R 3"],
    directions: Float[Tensor, "R 3"],
    occupancy: Occupancy,
    step: float,
    first: Float[Tensor, "R"],
    leave: Float[Tensor, "R"],
) -> RaySamples:
    """March by looking at every lattice point of every ray. ``first`` is the middle of sample 0."""
    n = int(((leave - first) / step).amax().clamp(min=-1)) + 1 if len(first) else 0
    # A multiple of the step, as in the kernels: a running sum would round differently.
    t = first[:, None] + torch.arange(n, device=first.device) * step
    inside = t < leave[:, None]
    x = origins[:, None] + t[..., None] * directions[:, None]
    # Points behind the cube belong to the nearest cell, hence both questions.
    keep = inside & is_occupied(occupancy, x.reshape(-1, 3)).view_as(inside)
    ray_index = keep.nonzero()[:, 0]
    middle = t[keep]
    return RaySamples(ray_index, middle - step / 2, middle + step / 2, packed_info(ray_index, len(origins)))


def composite(
    alpha: Float[Tensor, "S"],
    features: Float[Tensor, "S C"],
    samples: RaySamples,
    least_transmittance: float = 0.0,
    implementation: Implementation = "auto",
) -> Composite:
    """Composite front to back: weights w = alpha T, and their sums with 1, distance and ``features``.

    Differentiable with respect to ``alpha`` and ``features`` through all four results. Samples reached by less than
    ``least_transmittance`` of the light get weight and gradient 0. ``features`` may have no channels.
    """
    if accelerator_of("composite", implementation, alpha, features, samples.t_start):
        from usd.kernels import ray_march_nerfacc

        return Composite(
            *ray_march_nerfacc.composite_nerfacc(alpha, features, samples, least_transmittance, False)
        )
    if choose(implementation, alpha, features, samples.t_start) == "warp":
        from usd.kernels import ray_march_warp

        return Composite(*ray_march_warp.composite_warp(alpha, features, samples, least_transmittance, False))
    return composite_torch(alpha, features, samples, least_transmittance)


def composite_density(
    density: Float[Tensor, "S"],
    features: Float[Tensor, "S C"],
    samples: RaySamples,
    least_transmittance: float = 0.0,
    implementation: Implementation = "auto",
) -> Composite:
    """Composite ``alpha_from_density(density, samples.lengths)`` in one pass over the samples.

    Differentiable with respect to ``density`` and ``features``.
    """
    if accelerator_of("composite", implementation, density, features, samples.t_start):
        from usd.kernels import ray_march_nerfacc

        return Composite(
            *ray_march_nerfacc.composite_nerfacc(density, features, samples, least_transmittance, True)
        )
    if choose(implementation, density, features, samples.t_start) == "warp":
        from usd.kernels import ray_march_warp

        return Composite(
            *ray_march_warp.composite_warp(density, features, samples, least_transmittance, True)
        )
    alpha = alpha_from_density(density, samples.lengths)
    return composite_torch(alpha, features, samples, least_transmittance)


def composite_torch(
    alpha: Float[Tensor, "S"],
    features: Float[Tensor, "S C"],
    samples: RaySamples,
    least_transmittance: float = 0.0,
) -> Composite:
    """Composite as ``composite`` does: rays padded to the longest, cumulative products, sums by ray."""
    # Rays have different numbers of samples: padded to the longest, products are one call.
    reach = packed_transmittance(alpha, samples.packed, samples.ray_index)
    # A choice and not a product: hidden samples get the gradient 0, even from infinite values.
    weights = torch.where(reach >= least_transmittance, alpha * reach, torch.zeros_like(alpha))
    by_ray = (samples.ray_index, samples.n_rays)
    return Composite(
        weights,
        packed_sum(weights, *by_ray),
        packed_sum(weights * samples.t, *by_ray),
        packed_sum(weights[:, None] * features, *by_ray),
    )
