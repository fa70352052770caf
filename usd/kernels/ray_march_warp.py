# ruff: noqa: PLR0913, PLR0917 - a kernel takes as many arguments as it has arrays
"""Ray marching and compositing kernels; one thread walks one ray. Read ``ray_march`` first.

Backward of compositing, without dividing by 1 - alpha: with g_k the gradient that reaches w_k by any way, and
B_k = sum_{j > k} g_j alpha_j prod_{k < i < j} (1 - alpha_i), the gradient of alpha_k is T_k (g_k - B_k), and
B_{k-1} = alpha_k g_k + (1 - alpha_k) B_k. One walk from far to near.

The walks are C++ that Warp compiles for the CPU and for CUDA alike, for the reason given in ``hash_grid_warp``.
"""

import math
from typing import Any, no_type_check

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from usd.kernels import runtime
from usd.kernels.occupancy import Occupancy
from usd.kernels.ray_march import RaySamples

wp = runtime.find_warp()
kernel = wp.kernel(module="usd_ray_march", enable_backward=False)
BITS = 64

# Which lattice points are occupied: their number, and one bit for each, 64 to a word.
FIND = """
    const wp::vec3f o = origins.data[r], d = directions.data[r];
    const int last = binary.shape[0] - 1;
    const float scale = 0.5f * (float)binary.shape[0] / radius;
    const float nearest_t = nearest.data[r], leave_t = leave.data[r];
    wp::int64* words = bits.data + size_t(r) * bits.shape[1];
    wp::int64 n = 0;
    for (int w = 0; w < bits.shape[1]; ++w) {
        unsigned long long word = 0;
        for (int bit = 0; bit < 64; ++bit) {
            const float t = nearest_t + (float)(64 * w + bit) * step;
            if (!(t < leave_t))
                break;
            int cell = 0;
            for (int axis = 0; axis < 3; ++axis) {
                const int c = (int)((o[axis] + t * d[axis] + radius) * scale);
                cell = cell * (last + 1) + (c < 0 ? 0 : (c < last ? c : last));
            }
            const unsigned long long hit = binary.data[cell] ? 1 : 0;
            word |= hit << bit;
            n += hit;
        }
        words[w] = wp::int64(word);
    }
    count.data[r] = n;
"""
WRITE = """
    const wp::int64* words = bits.data + size_t(r) * bits.shape[1];
    wp::int64 s = packed.data[2 * size_t(r)];
    for (int w = 0; w < bits.shape[1]; ++w)
        for (int bit = 0; bit < 64; ++bit)
            if (((unsigned long long)words[w] >> bit) & 1) {
                const float t = nearest.data[r] + (float)(64 * w + bit) * step;
                ray_index.data[s] = r;
                t_start.data[s] = t - step / 2.0f;
                t_end.data[s] = t + step / 2.0f;
                ++s;
            }
"""
COMPOSITE = """
    const wp::int64 start = packed.data[2 * size_t(r)], end = start + packed.data[2 * size_t(r) + 1];
    float* sums = color.data + size_t(r) * C;
    float through = 1.0f, sum_w = 0.0f, sum_wt = 0.0f;
    for (wp::int64 s = start; s < end; ++s) {
        const float a = alpha.data[s];
        const float w = through >= least ? through * a : 0.0f;
        reach.data[s] = through;
        weights.data[s] = w;
        sum_w += w;
        sum_wt += w * 0.5f * (t_start.data[s] + t_end.data[s]);
        for (int c = 0; c < C; ++c)
            sums[c] += w * features.data[s * C + c];
        through *= 1.0f - a;
    }
    opacity.data[r] = sum_w;
    depth.data[r] = sum_wt;
"""
COMPOSITE_BACKWARD = """
    const wp::int64 start = packed.data[2 * size_t(r)], end = start + packed.data[2 * size_t(r) + 1];
    const float* g_sums = g_color.data + size_t(r) * C;
    const float g_one = g_opacity.data[r], g_t = g_depth.data[r] * 0.5f;
    float behind = 0.0f;
    for (wp::int64 s = end - 1; s >= start; --s) {
        const float a = alpha.data[s], w = weights.data[s];
        float g = (g_weights.shape[0] > 0 ? g_weights.data[s] : 0.0f) + g_one + g_t * (t_start.data[s] + t_end.data[s]);
        for (int c = 0; c < C; ++c) {
            g += g_sums[c] * features.data[s * C + c];
            g_features.data[s * C + c] = w * g_sums[c];
        }
        g = reach.data[s] >= least ? g : 0.0f;
        g_alpha.data[s] = reach.data[s] * (g - behind);
        behind = a * g + (1.0f - a) * behind;
    }
"""


def for_channels(code: str) -> str:
    """The code for C channels: C known to the compiler where it is 3, as for colours, or else read at run time."""
    return f"""
    if (features.shape[1] == 3) {{ constexpr int C = 3; {code} }}
    else {{ const int C = features.shape[1]; {code} }}
"""


@wp.func_native(FIND)
@no_type_check
def find_samples_of_ray(
    r: wp.int32,
    origins: wp.array(dtype=wp.vec3f),
    directions: wp.array(dtype=wp.vec3f),
    binary: wp.array3d(dtype=wp.bool),
    radius: wp.float32,
    step: wp.float32,
    nearest: wp.array(dtype=wp.float32),
    leave: wp.array(dtype=wp.float32),
    bits: wp.array2d(dtype=wp.int64),
    count: wp.array(dtype=wp.int64),
): ...


@kernel
@no_type_check
def find_samples(
    first: wp.int32,
    origins: wp.array(dtype=wp.vec3f),
    directions: wp.array(dtype=wp.vec3f),
    binary: wp.array3d(dtype=wp.bool),
    radius: wp.float32,
    step: wp.float32,
    nearest: wp.array(dtype=wp.float32),
    leave: wp.array(dtype=wp.float32),
    bits: wp.array2d(dtype=wp.int64),
    count: wp.array(dtype=wp.int64),
):
    find_samples_of_ray(
        first + wp.tid(), origins, directions, binary, radius, step, nearest, leave, bits, count
    )


@wp.func_native(WRITE)
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
): ...


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
    write_samples_of_ray(first + wp.tid(), bits, step, nearest, packed, ray_index, t_start, t_end)


@wp.func_native(for_channels(COMPOSITE))
@no_type_check
def composite_rays_of_ray(
    r: wp.int32,
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
): ...


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
    composite_rays_of_ray(
        first + wp.tid(),
        packed,
        t_start,
        t_end,
        alpha,
        features,
        least,
        weights,
        reach,
        opacity,
        depth,
        color,
    )


@wp.func_native(for_channels(COMPOSITE_BACKWARD))
@no_type_check
def composite_rays_backward_of_ray(
    r: wp.int32,
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
): ...


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
    composite_rays_backward_of_ray(
        first + wp.tid(),
        packed,
        t_start,
        t_end,
        alpha,
        features,
        least,
        weights,
        reach,
        g_weights,
        g_opacity,
        g_depth,
        g_color,
        g_alpha,
        g_features,
    )


KERNELS = (find_samples, write_samples, composite_rays, composite_rays_backward)


def march(
    origins: Tensor, directions: Tensor, occupancy: Occupancy, step: float, nearest: Tensor, leave: Tensor
) -> RaySamples:
    """``march`` by the kernels: find, make room, write."""
    n = len(origins)
    most = math.ceil(2 * math.sqrt(3) * occupancy.radius / step) + 2
    count = torch.empty(n, dtype=torch.int64, device=origins.device)
    bits = count.new_empty(n, -(-most // BITS))
    points = (runtime.array(t.contiguous(), wp.vec3f) for t in (origins, directions))
    cells, ends = occupancy.binary.contiguous(), _arrays(nearest.contiguous(), leave.contiguous())
    split = runtime.Split((n,), grain=128)
    find = (*points, runtime.array(cells), occupancy.radius, step, *ends, *_arrays(bits, count))
    runtime.launch(find_samples, split, find, origins.device)
    packed = torch.stack([count.cumsum(0) - count, count], -1)
    total = int(count.sum())
    out = (count.new_empty(total), origins.new_empty(total), origins.new_empty(total))
    write = (runtime.array(bits), step, ends[0], *_arrays(packed, *out))
    runtime.launch(write_samples, split, write, origins.device)
    return RaySamples(*out, packed)


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
        ctx.set_materialize_grads(False)
        return weights, opacity, depth, color

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, weights, reach = ctx.saved_tensors
        alpha, features = inputs[3:]
        n = len(inputs[0])
        shapes = ((0,), (n,), (n,), (n, features.shape[1]))  # none is needed for weights, the long one
        incoming = [
            alpha.new_zeros(shape) if g is None else g.contiguous()
            for g, shape in zip(grads, shapes, strict=True)
        ]
        out = (torch.empty_like(alpha), torch.empty_like(features))
        arrays = (*_arrays(*inputs), ctx.least, *_arrays(weights, reach, *incoming, *out))
        split = runtime.Split((n,), grain=128)
        runtime.launch(composite_rays_backward, split, arrays, alpha.device)
        return *out, None, None


def _arrays(*tensors: Tensor) -> list[Any]:
    return [runtime.array(t) for t in tensors]


def composite(alpha: Tensor, features: Tensor, samples: RaySamples, least: float) -> tuple[Tensor, ...]:
    """Weights, opacity, depth, color of ``composite`` by the kernels."""
    return _Composite.apply(alpha.contiguous(), features.contiguous(), samples, least)
