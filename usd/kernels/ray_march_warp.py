# ruff: noqa: PLR0913, PLR0917 - a kernel takes as many arguments as it has arrays
"""Ray marching and compositing kernels; one thread walks one ray. Read ``ray_march`` first.

Backward of compositing, without dividing by 1 - alpha: with g_k the gradient that reaches w_k by any way, and
B_k = sum_{j > k} g_j alpha_j prod_{k < i < j} (1 - alpha_i), the gradient of alpha_k is T_k (g_k - B_k), and
B_{k-1} = alpha_k g_k + (1 - alpha_k) B_k. One walk from far to near. Where density is given, the gradient of alpha_k
is passed on times its derivative, length_k (1 - alpha_k).

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

# A loop over LANES has rounds that do not depend on each other: a CPU's vector unit takes several at once.
LANES = """
#if defined(__CUDA_ARCH__)
    constexpr int LANES = 1;
#else
    constexpr int LANES = 16;
#endif
"""
# Which lattice points are occupied: their number, and one bit for each, 64 to a word.
FIND = f"""{LANES}
    const wp::vec3f o = origins.data[r], d = directions.data[r];
    const int last = side - 1;
    const float scale = 0.5f * (float)side / radius;
    const float nearest_t = nearest.data[r], leave_t = leave.data[r];
    wp::int64* words = bits.data + size_t(r) * bits.shape[1];
    wp::int64 n = 0;
    for (int w = 0; w < bits.shape[1]; ++w) {{
        unsigned long long word = 0;
        for (int bit = 0; bit < 64; bit += LANES) {{
            if (!(nearest_t + (float)(64 * w + bit) * step < leave_t))
                break;
            int cell[LANES];
            unsigned inside[LANES];
            for (int lane = 0; lane < LANES; ++lane) {{
                const float t = nearest_t + (float)(64 * w + bit + lane) * step;
                inside[lane] = t < leave_t ? 1u : 0u;
                const int i = (int)((o[0] + t * d[0] + radius) * scale);
                const int j = (int)((o[1] + t * d[1] + radius) * scale);
                const int k = (int)((o[2] + t * d[2] + radius) * scale);
                const int x = i < 0 ? 0 : (i < last ? i : last);
                const int y = j < 0 ? 0 : (j < last ? j : last);
                const int z = k < 0 ? 0 : (k < last ? k : last);
                cell[lane] = (x * side + y) * side + z;
            }}
            unsigned found = 0;
            for (int lane = 0; lane < LANES; ++lane) {{
                const unsigned hit = (unsigned)cells.data[cell[lane] >> 2] >> 8 * (cell[lane] & 3) & inside[lane];
                found |= hit << lane;
                n += hit;
            }}
            word |= (unsigned long long)found << bit;
        }}
        words[w] = wp::int64(word);
    }}
    count.data[r] = n;
"""
# Runs of occupied points: cells are longer than steps.
WRITE = """
#if defined(__CUDA_ARCH__)
    const auto zeros_below = [](unsigned long long word) { return __ffsll(word) - 1; };
#else
    const auto zeros_below = [](unsigned long long word) { return __builtin_ctzll(word); };
#endif
    const wp::int64* words = bits.data + size_t(r) * bits.shape[1];
    const float nearest_t = nearest.data[r], half = step / 2.0f;
    wp::int64* index = ray_index.data + packed.data[2 * size_t(r)];
    float* starts = t_start.data + packed.data[2 * size_t(r)];
    float* ends = t_end.data + packed.data[2 * size_t(r)];
    for (int w = 0; w < bits.shape[1]; ++w) {
        unsigned long long word = (unsigned long long)words[w];
        while (word) {
            const int bit = zeros_below(word);
            const unsigned long long gap = ~(word >> bit);
            const int length = gap ? zeros_below(gap) : 64;
            const int k = 64 * w + bit;
            for (int j = 0; j < length; ++j)
                index[j] = r;
            for (int j = 0; j < length; ++j)
                starts[j] = nearest_t + (float)(k + j) * step - half;
            for (int j = 0; j < length; ++j)
                ends[j] = nearest_t + (float)(k + j) * step + half;
            index += length;
            starts += length;
            ends += length;
            word = bit + length < 64 ? word >> (bit + length) << (bit + length) : 0;
        }
    }
"""
# Compositing takes BLOCK samples of a ray at once, in a V: 8 numbers on a CPU, one on CUDA. ``load`` fills up with
# zeros, samples of nothing. ``opacity_of`` is 1 - exp(-x), exact for small x too: -x = k ln 2 + rest, and a series
# for exp(rest) - 1. ``pass_through`` is how much light is left before each, q being 1 - alpha. ``look_back`` is B_k
# of each, and of the sample before the first. In both, each lane joins with those 1, 2 and 4 places away.
VECTORS = """
#if defined(__CUDA_ARCH__)
    constexpr int BLOCK = 1;
    typedef float V;
    const auto load = [](const float* p, int n) { return *p; };
    const auto store = [](float* p, V x, int n) { *p = x; };
    const auto total = [](V x) { return x; };
    const auto keep_if_reached = [=](V x, V left) { return left >= least ? x : 0.0f; };
    const auto opacity_of = [](V x) { return -expm1f(-x); };
    const auto pass_through = [](V q, float& light) { const V left = light; light *= q; return left; };
    const auto look_back = [](V m, V q, float& behind) {
        const V later = behind;
        behind = m + q * behind;
        return later;
    };
#else
    constexpr int BLOCK = 8;
    typedef float V __attribute__((vector_size(32), aligned(4), may_alias));
    typedef int I __attribute__((vector_size(32), aligned(4), may_alias));
    #define SHUFFLE __builtin_shufflevector
    const V zero = {}, one = zero + 1.0f;
    const auto load = [](const float* p, int n) {
        if (n >= 8)
            return *(const V*)p;
        float part[8] = {};
        for (int j = 0; j < n; ++j)
            part[j] = p[j];
        return *(const V*)part;
    };
    const auto store = [](float* p, V x, int n) {
        if (n >= 8)
            *(V*)p = x;
        else
            for (int j = 0; j < n; ++j)
                p[j] = x[j];
    };
    const auto total = [](V x) { return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7])); };
    const auto choose = [](I mask, V x, V y) { return (V)(((I)x & mask) | ((I)y & ~mask)); };
    const auto keep_if_reached = [=](V x, V left) { return choose((I)(left >= zero + least), x, zero); };
    const auto opacity_of = [=](V x) {
        const V most = zero + 87.0f, some = choose((I)(x > most), most, x);
        const V y = -choose((I)(some < -most), -most, some), z = y * 1.44269504f;
        const I k = __builtin_convertvector(z + choose((I)(z < zero), zero - 0.5f, zero + 0.5f), I);
        const V whole = __builtin_convertvector(k, V), e = (y - whole * 0.693145752f) - whole * 1.42860677e-6f;
        const V series = e + e * e * (0.5f + e * (0.166666667f + e * (0.0416666667f
            + e * (0.00833333333f + e * (0.00138888889f + e * 0.000198412698f)))));
        const V power = (V)((k + 127) << 23);
        return (one - power) - power * series;
    };
    const auto pass_through = [=](V q, float& light) {
        q *= SHUFFLE(q, one, 8, 0, 1, 2, 3, 4, 5, 6);
        q *= SHUFFLE(q, one, 8, 9, 0, 1, 2, 3, 4, 5);
        q *= SHUFFLE(q, one, 8, 9, 10, 11, 0, 1, 2, 3);
        const V left = light * SHUFFLE(q, one, 8, 0, 1, 2, 3, 4, 5, 6);
        light *= q[7];
        return left;
    };
    const auto look_back = [=](V m, V q, float& behind) {
        m += q * SHUFFLE(m, zero, 1, 2, 3, 4, 5, 6, 7, 8);
        q *= SHUFFLE(q, one, 1, 2, 3, 4, 5, 6, 7, 8);
        m += q * SHUFFLE(m, zero, 2, 3, 4, 5, 6, 7, 8, 9);
        q *= SHUFFLE(q, one, 2, 3, 4, 5, 6, 7, 8, 9);
        m += q * SHUFFLE(m, zero, 4, 5, 6, 7, 8, 9, 10, 11);
        q *= SHUFFLE(q, one, 4, 5, 6, 7, 8, 9, 10, 11);
        const V all = m + q * behind, later = SHUFFLE(all, zero + behind, 1, 2, 3, 4, 5, 6, 7, 8);
        behind = all[0];
        return later;
    };
#endif
"""
OPEN = """
        const int n = count - done < BLOCK ? (int)(count - done) : BLOCK;
        const V given = load(matter.data + s, n), starts = load(t_start.data + s, n), ends = load(t_end.data + s, n);
        const V length = ends - starts, twice = ends + starts;
        const V opaque = is_density ? opacity_of(given * length) : given;
        const V left = pass_through(1.0f - opaque, light);
        const V weight = keep_if_reached(left * opaque, left);
        const float* f = features.data + s * C;
"""
# ``reach`` keeps the light left before each block: block b of ray r has place start / BLOCK + r + b.
COMPOSITE = f"""{VECTORS}
    const wp::int64 start = packed.data[2 * size_t(r)], count = packed.data[2 * size_t(r) + 1];
    float* sums = color.data + size_t(r) * C;
    float* before = reach.data + start / BLOCK + r;
    float light = 1.0f;
    V sum_w = {{}}, sum_wt = {{}}, sum_f[3] = {{}};
    for (wp::int64 done = 0; done < count; done += BLOCK) {{
        const wp::int64 s = start + done;
        *before++ = light;
        {OPEN}
        store(weights.data + s, weight, n);
        sum_w += weight;
        sum_wt += weight * twice;
        ADD_FEATURES
    }}
    opacity.data[r] = total(sum_w);
    depth.data[r] = 0.5f * total(sum_wt);
    ADD_UP
"""
COMPOSITE_BACKWARD = f"""{VECTORS}
    const wp::int64 start = packed.data[2 * size_t(r)], count = packed.data[2 * size_t(r) + 1];
    const float* g_c = g_color.data + size_t(r) * C;
    const float* before = reach.data + start / BLOCK + r;
    const float g_one = g_opacity.data[r], g_t = g_depth.data[r] * 0.5f;
    float behind = 0.0f;
    PATTERN
    for (wp::int64 block = (count + BLOCK - 1) / BLOCK - 1; block >= 0; --block) {{
        const wp::int64 done = block * BLOCK, s = start + done;
        float light = before[block];
        {OPEN}
        float* g_f = g_features.data + s * C;
        V g = g_one + g_t * twice;
        if (g_weights.shape[0] > 0)
            g += load(g_weights.data + s, n);
        FEATURE_GRADIENTS
        g = keep_if_reached(g, left);
        const V later = look_back(opaque * g, 1.0f - opaque, behind);
        g = left * (g - later);
        store(g_matter.data + s, is_density ? g * (1.0f - opaque) * length : g, n);
    }}
"""
# Multiply and add in one instruction, as CUDA does anyway.
FUSE = """
#if !defined(__CUDA_ARCH__)
    #pragma clang fp contract(fast)
#endif
"""
# Any number C of channels, one after the other.
ADD_FEATURES = """
        float w[BLOCK];
        store(w, weight, BLOCK);
        for (int j = 0; j < n; ++j)
            for (int c = 0; c < C; ++c)
                sums[c] += w[j] * f[j * C + c];
"""
FEATURE_GRADIENTS = """
        float w[BLOCK], dot[BLOCK] = {};
        store(w, weight, BLOCK);
        for (int j = 0; j < n; ++j)
            for (int c = 0; c < C; ++c) {
                dot[j] += g_c[c] * f[j * C + c];
                g_f[j * C + c] = w[j] * g_c[c];
            }
        g += load(dot, BLOCK);
"""
# Three channels: 8 samples fill three vectors, and each weight stands beside its sample's channels.
SPREAD = """
        const V spread[3] = {
            SHUFFLE(weight, weight, 0, 0, 0, 1, 1, 1, 2, 2),
            SHUFFLE(weight, weight, 2, 3, 3, 3, 4, 4, 4, 5),
            SHUFFLE(weight, weight, 5, 5, 6, 6, 6, 7, 7, 7),
        };
"""
ADD_THREE = f"""{SPREAD}
        for (int i = 0; i < 3; ++i)
            sum_f[i] += spread[i] * load(f + 8 * i, 3 * n - 8 * i);
"""
ADD_UP_THREE = """
        for (int i = 0; i < 24; ++i)
            sums[i % 3] += sum_f[i / 8][i % 8];
"""
PATTERN_THREE = """
    V pattern[3];
    for (int i = 0; i < 24; ++i)
        pattern[i / 8][i % 8] = g_c[i % 3];
"""
THREE_GRADIENTS = f"""{SPREAD}
        V h[3];
        for (int i = 0; i < 3; ++i) {{
            h[i] = pattern[i] * load(f + 8 * i, 3 * n - 8 * i);
            store(g_f + 8 * i, pattern[i] * spread[i], 3 * n - 8 * i);
        }}
        const V red = SHUFFLE(h[0], h[1], 0, 3, 6, 9, 12, 15, 0, 0);
        const V green = SHUFFLE(h[0], h[1], 1, 4, 7, 10, 13, 0, 0, 0);
        const V blue = SHUFFLE(h[0], h[1], 2, 5, 8, 11, 14, 0, 0, 0);
        g += SHUFFLE(red, h[2], 0, 1, 2, 3, 4, 5, 10, 13) + SHUFFLE(green, h[2], 0, 1, 2, 3, 4, 8, 11, 14)
            + SHUFFLE(blue, h[2], 0, 1, 2, 3, 4, 9, 12, 15);
"""


def for_channels(code: str) -> str:
    """The code for C channels: for three, as of colors, and for a number known at run time only."""
    by_one = (ADD_FEATURES, FEATURE_GRADIENTS, "", "")
    by_three = (ADD_THREE, THREE_GRADIENTS, ADD_UP_THREE, PATTERN_THREE)
    one, three = (_filled(code, parts) for parts in (by_one, by_three))
    return f"""
#if defined(__CUDA_ARCH__)
    if (features.shape[1] == 3) {{ {FUSE} constexpr int C = 3; {one} }}
#else
    if (features.shape[1] == 3) {{ {FUSE} constexpr int C = 3; {three} }}
#endif
    else {{ {FUSE} const int C = features.shape[1]; {one} }}
"""


def _filled(code: str, parts: tuple[str, str, str, str]) -> str:
    names = ("ADD_FEATURES", "FEATURE_GRADIENTS", "ADD_UP", "PATTERN")
    for name, part in zip(names, parts, strict=True):
        code = code.replace(name, part)
    return code


@wp.func_native(FIND)
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
): ...


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
    find_samples_of_ray(
        first + wp.tid(), origins, directions, cells, side, radius, step, nearest, leave, bits, count
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
    matter: wp.array(dtype=wp.float32),
    features: wp.array2d(dtype=wp.float32),
    is_density: wp.bool,
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
    composite_rays_of_ray(
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


@wp.func_native(for_channels(COMPOSITE_BACKWARD))
@no_type_check
def composite_rays_backward_of_ray(
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
): ...


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
    composite_rays_backward_of_ray(
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


def march(
    origins: Tensor, directions: Tensor, occupancy: Occupancy, step: float, nearest: Tensor, leave: Tensor
) -> RaySamples:
    """``march`` by the kernels: find, make room, write."""
    n = len(origins)
    most = math.ceil(2 * math.sqrt(3) * occupancy.radius / step) + 2
    count = torch.empty(n, dtype=torch.int64, device=origins.device)
    bits = count.new_empty(n, -(-most // BITS))
    points = (runtime.array(t.contiguous(), wp.vec3f) for t in (origins, directions))
    cells, ends = _four_cells_to_a_word(occupancy.binary), _arrays(nearest.contiguous(), leave.contiguous())
    split = runtime.Split((n,), grain=2048)
    grid = (runtime.array(cells), occupancy.resolution, occupancy.radius)
    find = (*points, *grid, step, *ends, *_arrays(bits, count))
    runtime.launch(find_samples, split, find, origins.device)
    end = count.cumsum(0)
    packed, total = torch.stack([end - count, count], -1), int(end[-1]) if n else 0
    starts, ends_of_samples = origins.new_empty(total), origins.new_empty(total)
    out = (count.new_empty(total), starts, ends_of_samples)
    write = (runtime.array(bits), step, ends[0], *_arrays(packed, *out))
    runtime.launch(write_samples, split, write, origins.device)
    return RaySamples(*out, packed)


def _four_cells_to_a_word(binary: Tensor) -> Tensor:
    """The grid's bytes as integers: a vector unit looks up many integers at once, but not bytes."""
    cells = binary.reshape(-1).view(torch.uint8)
    return torch.nn.functional.pad(cells, (0, -len(cells) % 4)).view(torch.int32)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, matter: Tensor, features: Tensor, samples: RaySamples, least: float, is_density: bool
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
        ctx.set_materialize_grads(False)
        return weights, opacity, depth, color

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
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
    """BLOCK, as the kernels have it."""
    return 1 if matter.is_cuda else 8


def _arrays(*tensors: Tensor) -> list[Any]:
    return [runtime.array(t) for t in tensors]


def composite(
    matter: Tensor, features: Tensor, samples: RaySamples, least: float, is_density: bool
) -> tuple[Tensor, ...]:
    """Weights, opacity, depth, color of ``composite`` or ``composite_density`` by the kernels."""
    return _Composite.apply(matter.contiguous(), features.contiguous(), samples, least, is_density)
