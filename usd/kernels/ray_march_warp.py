# ruff: noqa: PLR0913, PLR0917 - a kernel takes as many arguments as it has arrays
"""Ray marching and compositing kernels; one thread walks one ray. Read ``ray_march`` first.

The walks are the C++ of ``ray_march.h``, for the reason given in ``hash_grid_warp``.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, no_type_check

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from usd.kernels import runtime
from usd.kernels.native import native_body
from usd.kernels.occupancy import Occupancy
from usd.kernels.ray_march import RaySamples

wp = runtime.import_warp()
kernel = wp.kernel(module="usd_ray_march", enable_backward=False)
BITS = 64  # points of a ray that one word of ``bits`` stands for


def native(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the decorator that gives a declaration the body of its C++ function in ``ray_march.h``."""
    return wp.func_native(native_body("ray_march.h", name))


@native("find_samples_of_ray")
@no_type_check
def find_samples_of_ray(
    r: wp.int32,
    origins: wp.array(dtype=wp.vec3f),
    directions: wp.array(dtype=wp.vec3f),
    cells: wp.array(dtype=wp.int32),
    side: wp.int32,
    radius: wp.float32,
    step: wp.float32,
    nearest: wp.array(dtype=wp.float32),
    leave: wp.array(dtype=wp.float32),
    bits: wp.array2d(dtype=wp.int64),
    count: wp.array(dtype=wp.int64),
):
    """Find the samples of ray r, in C++."""


@kernel
@no_type_check
def find_samples(
    first: wp.int32,
    origins: wp.array(dtype=wp.vec3f),
    directions: wp.array(dtype=wp.vec3f),
    cells: wp.array(dtype=wp.int32),
    side: wp.int32,
    radius: wp.float32,
    step: wp.float32,
    nearest: wp.array(dtype=wp.float32),
    leave: wp.array(dtype=wp.float32),
    bits: wp.array2d(dtype=wp.int64),
    count: wp.array(dtype=wp.int64),
):
    """Find the samples of one ray."""
    find_samples_of_ray(
        first + wp.tid(), origins, directions, cells, side, radius, step, nearest, leave, bits, count
    )


@native("write_samples_of_ray")
@no_type_check
def write_samples_of_ray(
    r: wp.int32,
    bits: wp.array2d(dtype=wp.int64),
    step: wp.float32,
    nearest: wp.array(dtype=wp.float32),
    packed: wp.array2d(dtype=wp.int64),
    ray_index: wp.array(dtype=wp.int64),
    t_start: wp.array(dtype=wp.float32),
    t_end: wp.array(dtype=wp.float32),
):
    """Write the samples of ray r, in C++."""


@kernel
@no_type_check
def write_samples(
    first: wp.int32,
    bits: wp.array2d(dtype=wp.int64),
    step: wp.float32,
    nearest: wp.array(dtype=wp.float32),
    packed: wp.array2d(dtype=wp.int64),
    ray_index: wp.array(dtype=wp.int64),
    t_start: wp.array(dtype=wp.float32),
    t_end: wp.array(dtype=wp.float32),
):
    """Write the samples of one ray."""
    write_samples_of_ray(first + wp.tid(), bits, step, nearest, packed, ray_index, t_start, t_end)


@native("composite_ray")
@no_type_check
def composite_ray(
    r: wp.int32,
    packed: wp.array2d(dtype=wp.int64),
    t_start: wp.array(dtype=wp.float32),
    t_end: wp.array(dtype=wp.float32),
    matter: wp.array(dtype=wp.float32),
    features: wp.array2d(dtype=wp.float32),
    is_density: wp.bool,
    least: wp.float32,
    weights: wp.array(dtype=wp.float32),
    reach: wp.array(dtype=wp.float32),
    opacity: wp.array(dtype=wp.float32),
    depth: wp.array(dtype=wp.float32),
    color: wp.array2d(dtype=wp.float32),
):
    """Composite ray r, in C++."""


@kernel
@no_type_check
def composite_rays(
    first: wp.int32,
    packed: wp.array2d(dtype=wp.int64),
    t_start: wp.array(dtype=wp.float32),
    t_end: wp.array(dtype=wp.float32),
    matter: wp.array(dtype=wp.float32),
    features: wp.array2d(dtype=wp.float32),
    is_density: wp.bool,
    least: wp.float32,
    weights: wp.array(dtype=wp.float32),
    reach: wp.array(dtype=wp.float32),
    opacity: wp.array(dtype=wp.float32),
    depth: wp.array(dtype=wp.float32),
    color: wp.array2d(dtype=wp.float32),
):
    """Composite one ray."""
    composite_ray(
        first + wp.tid(),
        packed,
        t_start,
        t_end,
        matter,
        features,
        is_density,
        least,
        weights,
        reach,
        opacity,
        depth,
        color,
    )


@native("composite_ray_backward")
@no_type_check
def composite_ray_backward(
    r: wp.int32,
    packed: wp.array2d(dtype=wp.int64),
    t_start: wp.array(dtype=wp.float32),
    t_end: wp.array(dtype=wp.float32),
    matter: wp.array(dtype=wp.float32),
    features: wp.array2d(dtype=wp.float32),
    is_density: wp.bool,
    least: wp.float32,
    reach: wp.array(dtype=wp.float32),
    g_weights: wp.array(dtype=wp.float32),
    g_opacity: wp.array(dtype=wp.float32),
    g_depth: wp.array(dtype=wp.float32),
    g_color: wp.array2d(dtype=wp.float32),
    g_matter: wp.array(dtype=wp.float32),
    g_features: wp.array2d(dtype=wp.float32),
):
    """Write the gradients of ray r's samples, in C++."""


@kernel
@no_type_check
def composite_rays_backward(
    first: wp.int32,
    packed: wp.array2d(dtype=wp.int64),
    t_start: wp.array(dtype=wp.float32),
    t_end: wp.array(dtype=wp.float32),
    matter: wp.array(dtype=wp.float32),
    features: wp.array2d(dtype=wp.float32),
    is_density: wp.bool,
    least: wp.float32,
    reach: wp.array(dtype=wp.float32),
    g_weights: wp.array(dtype=wp.float32),
    g_opacity: wp.array(dtype=wp.float32),
    g_depth: wp.array(dtype=wp.float32),
    g_color: wp.array2d(dtype=wp.float32),
    g_matter: wp.array(dtype=wp.float32),
    g_features: wp.array2d(dtype=wp.float32),
):
    """Write the gradients of one ray's samples."""
    composite_ray_backward(
        first + wp.tid(),
        packed,
        t_start,
        t_end,
        matter,
        features,
        is_density,
        least,
        reach,
        g_weights,
        g_opacity,
        g_depth,
        g_color,
        g_matter,
        g_features,
    )


KERNELS = (find_samples, write_samples, composite_rays, composite_rays_backward)


def march_warp(
    origins: Tensor, directions: Tensor, occupancy: Occupancy, step: float, nearest: Tensor, leave: Tensor
) -> RaySamples:
    """March as ``march_torch`` does, by the kernels: find, make room, write."""
    n = len(origins)
    # No ray has more steps than the diagonal of the cube, and two for rounding.
    most = math.ceil(2 * math.sqrt(3) * occupancy.radius / step) + 2
    count = torch.empty(n, dtype=torch.int64, device=origins.device)
    bits = count.new_empty(n, -(-most // BITS))
    points = (runtime.array(t.contiguous(), wp.vec3f) for t in (origins, directions))
    cells, ends = _four_cells_to_a_word(occupancy.binary), _arrays(nearest.contiguous(), leave.contiguous())
    split = runtime.Split((n,), grain=2048)
    grid = (runtime.array(cells), occupancy.resolution, occupancy.radius)
    find = (*points, *grid, step, *ends, *_arrays(bits, count))
    runtime.launch(find_samples, split, find, origins.device)
    # Each ray writes into its own place, so the result does not depend on the order of threads.
    end = count.cumsum(0)
    packed, total = torch.stack([end - count, count], -1), int(end[-1]) if n else 0
    starts, ends_of_samples = origins.new_empty(total), origins.new_empty(total)
    out = (count.new_empty(total), starts, ends_of_samples)
    write = (runtime.array(bits), step, ends[0], *_arrays(packed, *out))
    runtime.launch(write_samples, split, write, origins.device)
    return RaySamples(*out, packed)


def _four_cells_to_a_word(binary: Tensor) -> Tensor:
    """Return the grid's bytes as integers: a vector unit looks up many integers at once, but not bytes."""
    cells = binary.reshape(-1).view(torch.uint8)
    if len(cells) % 4 == 0:  # nearly always: nothing is copied
        return cells.view(torch.int32)
    return torch.nn.functional.pad(cells, (0, -len(cells) % 4)).view(torch.int32)


if TYPE_CHECKING:

    class CompositeContext(FunctionCtx):
        """Values that compositing keeps for its backward pass."""

        least: float
        is_density: bool
        saved_tensors: tuple[Tensor, ...]

else:  # autograd makes a class of its own
    CompositeContext = FunctionCtx


class _WarpComposite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: CompositeContext,
        matter: Tensor,
        features: Tensor,
        samples: RaySamples,
        least: float,
        is_density: bool,
    ) -> tuple[Tensor, ...]:
        n, c, n_samples = samples.n_rays, features.shape[1], len(samples)
        weights, reach = torch.empty_like(matter), matter.new_empty(n_samples // _block(matter) + n)
        opacity, depth, color = matter.new_empty(n), matter.new_empty(n), matter.new_zeros(n, c)
        inputs = _arrays(samples.packed, samples.t_start, samples.t_end, matter, features)
        out = _arrays(weights, reach, opacity, depth, color)
        split = runtime.Split((n,), grain=2048)
        runtime.launch(composite_rays, split, (*inputs, is_density, least, *out), matter.device)
        ctx.save_for_backward(samples.packed, samples.t_start, samples.t_end, matter, features, reach)
        ctx.least, ctx.is_density = least, is_density
        # Most losses use two of the four results: zeros for the others would be memory for nothing.
        ctx.set_materialize_grads(False)
        return weights, opacity, depth, color

    @staticmethod
    @once_differentiable
    def backward(ctx: CompositeContext, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, reach = ctx.saved_tensors
        matter, features = inputs[3:]
        n = len(inputs[0])
        shapes = ((0,), (n,), (n,), (n, features.shape[1]))  # none is needed for weights, the long one
        incoming = [
            matter.new_zeros(shape) if g is None else g.contiguous()
            for g, shape in zip(grads, shapes, strict=True)
        ]
        out = (torch.empty_like(matter), torch.empty_like(features))
        arrays = (*_arrays(*inputs), ctx.is_density, ctx.least, *_arrays(reach, *incoming, *out))
        split = runtime.Split((n,), grain=2048)
        runtime.launch(composite_rays_backward, split, arrays, matter.device)
        return *out, None, None, None


def _block(matter: Tensor) -> int:
    """Return BLOCK, as the kernels have it."""
    return 1 if matter.is_cuda else 8


def _arrays(*tensors: Tensor) -> list[object]:
    return [runtime.array(t) for t in tensors]


def composite_warp(
    matter: Tensor, features: Tensor, samples: RaySamples, least: float, is_density: bool
) -> tuple[Tensor, ...]:
    """Return weights, opacity, depth, color of ``composite`` or ``composite_density`` by the kernels."""
    return _WarpComposite.apply(matter.contiguous(), features.contiguous(), samples, least, is_density)
