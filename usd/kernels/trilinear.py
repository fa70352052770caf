"""Volumes between their voxels: a place's value is that of the eight voxels around it, weighted by how near they are.

The language: a volume's voxels fill the cube [-1, 1]^3, x along its last axis, y and z along those before; a voxel's
value stands at its center, half a voxel inside of its faces. Beyond the cube there is nothing: zeros.

The torch twin is ``grid_sample``, which serves CUDA too. On a CPU that reads one number from each of eight places a
channel; the kernel copies the volume into rows of channels first, and then reads eight rows.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from usd.kernels import runtime


def sample_volumes(
    volumes: Float[Tensor, "R C D H W"],
    places: Float[Tensor, "R P 3"],
    implementation: runtime.Implementation = "auto",
) -> Float[Tensor, "R C P"]:
    """Return each volume's values at its places (x, y, z), with gradients for both; once differentiable."""
    if volumes.is_cuda or runtime.choose(implementation, volumes, places) == "torch":
        grid = places[:, :, None, None]
        return grid_sample(volumes, grid, align_corners=False, padding_mode="zeros")[..., 0, 0]
    from usd.kernels import trilinear_warp

    return trilinear_warp.sample(volumes, places)
