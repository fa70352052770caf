"""Samples of rays where they matter: a coarse pass along each ray says where the fine one looks (arXiv 2003.08934)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.kernels.ray_march import RaySamples, intersect_box, samples_between
from usd.math import rng
from usd.math.volume import inverse_cdf, packed_transmittance, to_dense
from usd.renderer.occupancy_marcher import MarchOptions

Opacity = Callable[[Float[Tensor, "S 3"], RaySamples], Float[Tensor, "S"]]
"""The opacity of each sample, from the samples' middles."""


def coarse_edges(
    o: Float[Tensor, "R 3"],
    d: Float[Tensor, "R 3"],
    options: MarchOptions,
    count: int,
    generator: torch.Generator | None,
) -> Float[Tensor, "R E"]:
    """Return edges of ``count`` intervals between where each ray enters the cube and where it leaves it.

    With a generator each inner edge lies anywhere within half an interval of its place: rays then differ. The edges of
    a ray that misses the cube are all equal.
    """
    enter, leave = intersect_box(o, d, options.radius, options.near_plane, options.far_plane)
    places = torch.arange(count + 1, device=o.device, dtype=o.dtype).expand(len(o), -1)
    if generator is not None:
        shift = rng.uniform((len(o), count - 1), generator, dtype=o.dtype).to(o.device) - 0.5
        places = places + torch.nn.functional.pad(shift, (1, 1))
    return enter[:, None] + (leave - enter)[:, None] * (places / count)


def fine_places(
    edges: Float[Tensor, "R E"],
    weights: Float[Tensor, "R K"],
    count: int,
    generator: torch.Generator | None,
) -> Float[Tensor, "R M"]:
    """Return ``count`` ascending places along each ray, distributed as the weights of the intervals between edges.

    Stratified: one in each of ``count`` equal shares of the distribution, in its middle without a generator.
    """
    shape = (len(edges), count)
    within = (
        torch.full(shape, 0.5).to(edges)
        if generator is None
        else rng.uniform(shape, generator, dtype=edges.dtype).to(edges.device)
    )
    return inverse_cdf(edges, weights, (torch.arange(count).to(edges) + within) / count)


def dense_weights(alpha: Float[Tensor, "S"], samples: RaySamples, count: int) -> Float[Tensor, "R K"]:
    """Return the weights of packed samples as rows of ``count``, zero for rays without samples."""
    reach = packed_transmittance(alpha, samples.packed, samples.ray_index)
    rows = to_dense(alpha * reach, samples.packed, samples.ray_index)
    return torch.nn.functional.pad(rows, (0, count - rows.shape[1]))


@dataclass(frozen=True)
class ImportanceSampler:
    """Coarse intervals along each ray, and fine ones where the coarse ones are opaque; both are rendered."""

    options: MarchOptions
    opacity: Opacity

    @torch.no_grad()
    def sample(
        self, o: Float[Tensor, "R 3"], d: Float[Tensor, "R 3"], generator: torch.Generator | None
    ) -> RaySamples:
        """Return the intervals between all coarse edges and fine places."""
        count = self.options.num_samples_per_ray
        edges = coarse_edges(o, d, self.options, count, generator)
        coarse = samples_between(edges)
        alpha = self.opacity(coarse.positions(o, d), coarse)
        weights = dense_weights(alpha, coarse, count)
        fine = fine_places(edges, weights, self.options.num_samples_per_ray_importance, generator)
        return samples_between(torch.cat([edges, fine], -1).sort(-1).values)
