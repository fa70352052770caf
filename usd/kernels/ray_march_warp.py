# ruff: noqa: PLR0913, PLR0917, UP018, RUF046 - kernels: many arrays; int(0) declares a variable that changes
"""Ray marching and compositing kernels; one thread walks one ray. Read ``ray_march`` first.

Backward of compositing, without dividing by 1 - alpha: with g_k the gradient that reaches w_k by any way, and
B_k = sum_{j > k} g_j alpha_j prod_{k < i < j} (1 - alpha_i), the gradient of alpha_k is T_k (g_k - B_k), and
B_{k-1} = alpha_k g_k + (1 - alpha_k) B_k. One walk from far to near.
"""

from typing import Any, no_type_check

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from usd.kernels import runtime
from usd.kernels.occupancy import Occupancy
from usd.kernels.ray_march import RaySamples

wp = runtime.find_warp()
kernel = wp.kernel(module="usd_ray_march", enable_backward=False)


@wp.func
@no_type_check
def is_occupied(binary: wp.array3d(dtype=wp.bool), x: wp.vec3f, radius: wp.float32) -> wp.bool:
    last = binary.shape[0] - 1
    scale = 0.5 * float(binary.shape[0]) / radius
    i = wp.clamp(int((x[0] + radius) * scale), 0, last)
    j = wp.clamp(int((x[1] + radius) * scale), 0, last)
    k = wp.clamp(int((x[2] + radius) * scale), 0, last)
    return binary[i, j, k]


@kernel
@no_type_check
def count_samples(
    first: wp.int32,
    origins: wp.array(dtype=wp.vec3f),
    directions: wp.array(dtype=wp.vec3f),
    binary: wp.array3d(dtype=wp.bool),
    radius: wp.float32,
    step: wp.float32,
    nearest: wp.array(dtype=wp.float32),
    leave: wp.array(dtype=wp.float32),
    count: wp.array(dtype=wp.int64),
):
    r = first + wp.tid()
    n = int(0)
    k = int(0)
    t = nearest[r]
    while t < leave[r]:
        if is_occupied(binary, origins[r] + t * directions[r], radius):
            n += 1
        k += 1
        t = nearest[r] + float(k) * step
    count[r] = wp.int64(n)


@kernel
@no_type_check
def write_samples(
    first: wp.int32,
    origins: wp.array(dtype=wp.vec3f),
    directions: wp.array(dtype=wp.vec3f),
    binary: wp.array3d(dtype=wp.bool),
    radius: wp.float32,
    step: wp.float32,
    nearest: wp.array(dtype=wp.float32),
    leave: wp.array(dtype=wp.float32),
    packed: wp.array2d(dtype=wp.int64),
    ray_index: wp.array(dtype=wp.int64),
    t_start: wp.array(dtype=wp.float32),
    t_end: wp.array(dtype=wp.float32),
):
    r = first + wp.tid()
    s = int(packed[r, 0])
    end = s + int(packed[r, 1])
    k = int(0)
    t = nearest[r]
    while s < end:
        if is_occupied(binary, origins[r] + t * directions[r], radius):
            ray_index[s] = wp.int64(r)
            t_start[s] = t - step / 2.0
            t_end[s] = t + step / 2.0
            s += 1
        k += 1
        t = nearest[r] + float(k) * step


@kernel
@no_type_check
def composite_rays(
    first: wp.int32,
    packed: wp.array2d(dtype=wp.int64),
    t_start: wp.array(dtype=wp.float32),
    t_end: wp.array(dtype=wp.float32),
    alpha: wp.array(dtype=wp.float32),
    features: wp.array2d(dtype=wp.float32),
    least: wp.float32,
    weights: wp.array(dtype=wp.float32),
    reach: wp.array(dtype=wp.float32),
    opacity: wp.array(dtype=wp.float32),
    depth: wp.array(dtype=wp.float32),
    color: wp.array2d(dtype=wp.float32),
):
    r = first + wp.tid()
    start = int(packed[r, 0])
    end = start + int(packed[r, 1])
    through = float(1.0)
    sum_w = float(0.0)
    sum_wt = float(0.0)
    for s in range(start, end):
        reach[s] = through
        w = wp.where(through >= least, through * alpha[s], 0.0)
        weights[s] = w
        sum_w += w
        sum_wt += w * 0.5 * (t_start[s] + t_end[s])
        for c in range(features.shape[1]):
            color[r, c] = color[r, c] + w * features[s, c]
        through = through * (1.0 - alpha[s])
    opacity[r] = sum_w
    depth[r] = sum_wt


@kernel
@no_type_check
def composite_rays_backward(
    first: wp.int32,
    packed: wp.array2d(dtype=wp.int64),
    t_start: wp.array(dtype=wp.float32),
    t_end: wp.array(dtype=wp.float32),
    alpha: wp.array(dtype=wp.float32),
    features: wp.array2d(dtype=wp.float32),
    least: wp.float32,
    weights: wp.array(dtype=wp.float32),
    reach: wp.array(dtype=wp.float32),
    g_weights: wp.array(dtype=wp.float32),
    g_opacity: wp.array(dtype=wp.float32),
    g_depth: wp.array(dtype=wp.float32),
    g_color: wp.array2d(dtype=wp.float32),
    g_alpha: wp.array(dtype=wp.float32),
    g_features: wp.array2d(dtype=wp.float32),
):
    r = first + wp.tid()
    start = int(packed[r, 0])
    count = int(packed[r, 1])
    behind = float(0.0)
    for i in range(count):
        s = start + count - 1 - i
        g = g_weights[s] + g_opacity[r] + g_depth[r] * 0.5 * (t_start[s] + t_end[s])
        for c in range(features.shape[1]):
            g += g_color[r, c] * features[s, c]
            g_features[s, c] = weights[s] * g_color[r, c]
        g = wp.where(reach[s] >= least, g, 0.0)
        g_alpha[s] = reach[s] * (g - behind)
        behind = alpha[s] * g + (1.0 - alpha[s]) * behind


KERNELS = (count_samples, write_samples, composite_rays, composite_rays_backward)


def march(
    origins: Tensor, directions: Tensor, occupancy: Occupancy, step: float, nearest: Tensor, leave: Tensor
) -> RaySamples:
    """``march`` by the kernels: count, make room, write."""
    points = (runtime.array(t.contiguous(), wp.vec3f) for t in (origins, directions))
    ray = (runtime.array(nearest.contiguous()), runtime.array(leave.contiguous()))
    scene = (*points, runtime.array(occupancy.binary.contiguous()), occupancy.radius, step, *ray)
    count = torch.empty(len(origins), dtype=torch.int64, device=origins.device)
    split = runtime.Split((len(origins),), grain=128)
    runtime.launch(count_samples, split, (*scene, runtime.array(count)), origins.device)
    packed = torch.stack([count.cumsum(0) - count, count], -1)
    n = int(count.sum())
    ray_index = count.new_empty(n)
    t_start, t_end = origins.new_empty(n), origins.new_empty(n)
    out = [runtime.array(t) for t in (packed, ray_index, t_start, t_end)]
    runtime.launch(write_samples, split, (*scene, *out), origins.device)
    return RaySamples(ray_index, t_start, t_end, packed)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, alpha: Tensor, features: Tensor, samples: RaySamples, least: float
    ) -> tuple[Tensor, ...]:
        n, c = samples.n_rays, features.shape[1]
        weights, reach = torch.empty_like(alpha), torch.empty_like(alpha)
        opacity, depth, color = alpha.new_empty(n), alpha.new_empty(n), alpha.new_zeros(n, c)
        inputs = _arrays(samples.packed, samples.t_start, samples.t_end, alpha, features)
        out = _arrays(weights, reach, opacity, depth, color)
        runtime.launch(composite_rays, runtime.Split((n,), grain=128), (*inputs, least, *out), alpha.device)
        ctx.save_for_backward(samples.packed, samples.t_start, samples.t_end, alpha, features, weights, reach)
        ctx.least = least
        return weights, opacity, depth, color

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, weights, reach = ctx.saved_tensors
        alpha, features = inputs[3:]
        out = (torch.empty_like(alpha), torch.empty_like(features))
        arrays = (
            *_arrays(*inputs),
            ctx.least,
            *_arrays(weights, reach, *(g.contiguous() for g in grads), *out),
        )
        split = runtime.Split((inputs[0].shape[0],), grain=128)
        runtime.launch(composite_rays_backward, split, arrays, alpha.device)
        return *out, None, None


def _arrays(*tensors: Tensor) -> list[Any]:
    return [runtime.array(t) for t in tensors]


def composite(alpha: Tensor, features: Tensor, samples: RaySamples, least: float) -> tuple[Tensor, ...]:
    """Weights, opacity, depth, color of ``composite`` by the kernels."""
    return _Composite.apply(alpha.contiguous(), features.contiguous(), samples, least)
