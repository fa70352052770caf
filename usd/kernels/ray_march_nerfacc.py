"""Marching and compositing by nerfacc (arXiv 2305.04966), behind the signatures of ``usd.kernels.ray_march``.

Its steps start at the near plane and are kept where their middle lies in an occupied cell, as ours are.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from usd.kernels.accelerators import load_accelerator
from usd.kernels.occupancy import Occupancy
from usd.kernels.ray_march import RaySamples


def march_nerfacc(
    origins: Float[Tensor, "R 3"],
    directions: Float[Tensor, "R 3"],
    occupancy: Occupancy,
    step: float,
    first: Float[Tensor, "R"],
    leave: Float[Tensor, "R"],
) -> RaySamples:
    """See ``march_torch``: ``first`` is the middle of sample 0, ``leave`` where the ray leaves the cube."""
    r = occupancy.radius
    intervals, samples, _ = load_accelerator("nerfacc").traverse_grids(
        origins,
        directions,
        occupancy.binary[None],
        origins.new_tensor([[-r, -r, -r, r, r, r]]),
        near_planes=first - step / 2,
        far_planes=leave,
        step_size=step,
    )
    # nerfacc writes beginnings and ends into one array, with flags.
    start, end = intervals.vals[intervals.is_left], intervals.vals[intervals.is_right]
    return RaySamples(samples.ray_indices, start, end, samples.packed_info)


def composite_nerfacc(
    values: Float[Tensor, "S"],
    features: Float[Tensor, "S C"],
    samples: RaySamples,
    least_transmittance: float,
    from_density: bool,
) -> tuple[Float[Tensor, "S"], Float[Tensor, "R"], Float[Tensor, "R"], Float[Tensor, "R C"]]:
    """Return weights and their sums with 1, distance and features, as ``Composite`` has them."""
    package, index, n = load_accelerator("nerfacc"), samples.ray_index, samples.n_rays
    rays = {"packed_info": samples.packed, "ray_indices": index, "n_rays": n}
    if from_density:
        weights, reach, _ = package.render_weight_from_density(samples.t_start, samples.t_end, values, **rays)
    else:
        weights, reach = package.render_weight_from_alpha(values, **rays)
    # nerfacc drops such samples; here they stay, with weight 0, because losses read all of them.
    weights = torch.where(reach >= least_transmittance, weights, torch.zeros_like(weights))
    # One sum for all columns instead of three.
    columns = torch.cat([torch.ones_like(weights)[:, None], samples.t[:, None], features], 1)
    sums = package.accumulate_along_rays(weights, columns, ray_indices=index, n_rays=n)
    return weights, sums[:, 0], sums[:, 1], sums[:, 2:]
