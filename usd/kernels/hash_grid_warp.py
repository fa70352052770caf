# ruff: noqa: PLR0913, PLR0917 - a kernel takes as many arguments as it has arrays
# mypy: disable-error-code="name-defined, valid-type"
"""Hash grid kernels, twice differentiable by hand. Read ``hash_grid`` first: it says what is computed.

With w_k(x) the weight of corner k and T_k its row, the encoding is y = sum_k w_k T_k. Everything its first and
second derivatives need is one of six sums over corners, three in w and the same three in its derivative along a
direction v, written w' = (v . grad) w:

    interpolate  y    = sum_k w_k T_k              slope          y'   = sum_k w'_k T_k
    scatter      T_k += w_k g                      scatter_slope  T_k += w'_k g
    pull         p    = sum_k grad w_k (T_k . g)   pull_slope     p    = sum_k grad w'_k (T_k . g)

The innermost lines are C++ that Warp compiles for the CPU and for CUDA alike: written in Warp's Python they took twice
as long on a CPU, because every access to an array checks for a negative index and multiplies by a stride.
"""

import functools
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from usd.kernels import runtime
from usd.kernels.hash_grid import PRIMES, HashGridSpec

wp = runtime.find_warp()
POINTS_PER_CHUNK = 256

# Points are taken in blocks: first the cells of a block (f: place in the cell, r: rows of its corners), then the sums.
# So reads and writes of the table do not wait for the arithmetic of the next point. A CUDA thread has one point.
CELLS = """
#if defined(__CUDA_ARCH__)
    constexpr int BLOCK = 1;
#else
    constexpr int BLOCK = 16;
#endif
    constexpr int F = FEATURES;
    float* T = reinterpret_cast<float*>(table.data) + size_t(offset) * F;
    const unsigned side = unsigned(size) + 1u;
    const unsigned step_y = dense ? side : PRIME_Y, step_z = dense ? side * side : PRIME_Z;
    float fs[BLOCK][3];
    unsigned rs[BLOCK][8];
    for (int start = first; start < last; start += BLOCK) {
    const int n = last - start < BLOCK ? last - start : BLOCK;
    for (int s = 0; s < n; ++s) {
        const float* p = reinterpret_cast<const float*>(x.data + start + s);
        unsigned corner[3];
        for (int d = 0; d < 3; ++d) {
            const float scaled = (p[d] < 0.0f ? 0.0f : (p[d] > 1.0f ? 1.0f : p[d])) * (float)size;
            int low = (int)scaled;
            low = low < 0 ? 0 : (low < size ? low : size - 1);
            corner[d] = unsigned(low);
            fs[s][d] = scaled - (float)low;
        }
        const unsigned ky[2] = {corner[1] * step_y, corner[1] * step_y + step_y};
        const unsigned kz[2] = {corner[2] * step_z, corner[2] * step_z + step_z};
        if (dense)
            for (int k = 0; k < 8; ++k)
                rs[s][k] = corner[0] + (k & 1) + ky[k >> 1 & 1] + kz[k >> 2];
        else
            for (int k = 0; k < 8; ++k)
                rs[s][k] = ((corner[0] + (k & 1)) ^ ky[k >> 1 & 1] ^ kz[k >> 2]) & unsigned(mask);
    }
"""
# Of point i: X, Y, Z are the factors of w at the lower and upper corner, dX, dY, dZ their derivatives, 0 outside.
FACTORS = """
    for (int s = 0; s < n; ++s) {
    const int i = start + s;
    const float* f = fs[s];
    const unsigned* r = rs[s];
    const float* p = reinterpret_cast<const float*>(x.data + i);
    const float* u = reinterpret_cast<const float*>(v.data + i);
    float* y = reinterpret_cast<float*>(features.data) + (size_t(i) * features.shape[1] + level) * F;
    float rate[3];
    for (int d = 0; d < 3; ++d)
        rate[d] = p[d] >= 0.0f && p[d] <= 1.0f ? (float)size : 0.0f;
    const float X[2] = {1.0f - f[0], f[0]}, Y[2] = {1.0f - f[1], f[1]}, Z[2] = {1.0f - f[2], f[2]};
    const float dX[2] = {-rate[0], rate[0]}, dY[2] = {-rate[1], rate[1]}, dZ[2] = {-rate[2], rate[2]};
"""
CORNERS = """
    for (int k = 0; k < 8; ++k) {
        const int a = k & 1, b = k >> 1 & 1, c = k >> 2;
        float* row = T + size_t(r[k]) * F;
"""
WEIGHT = "const float w = X[a] * Y[b] * Z[c];"
SLOPE = (
    "const float w = dX[a] * Y[b] * Z[c] * u[0] + X[a] * dY[b] * Z[c] * u[1] + X[a] * Y[b] * dZ[c] * u[2];"
)
GATHER = "for (int q = 0; q < F; ++q) sum[q] += w * row[q];"
SCATTER = "for (int q = 0; q < F; ++q) wp::atomic_add(row + q, w * g[q]);"
DOT = "float dot = 0.0f; for (int q = 0; q < F; ++q) dot += row[q] * g[q];"
PULL = """
        sum[0] += dot * dX[a] * Y[b] * Z[c];
        sum[1] += dot * X[a] * dY[b] * Z[c];
        sum[2] += dot * X[a] * Y[b] * dZ[c];
"""
PULL_SLOPE = """
        const float xy = dX[a] * dY[b] * Z[c], yz = X[a] * dY[b] * dZ[c], zx = dX[a] * Y[b] * dZ[c];
        sum[0] += dot * (xy * u[1] + zx * u[2]);
        sum[1] += dot * (xy * u[0] + yz * u[2]);
        sum[2] += dot * (zx * u[0] + yz * u[1]);
"""
LOAD = "float g[F]; for (int q = 0; q < F; ++q) g[q] = y[q];"
ZERO, STORE = "float sum[F] = {};", "for (int q = 0; q < F; ++q) y[q] = sum[q];"
ZERO_3, ADD_3 = (
    "float sum[3] = {};",
    "for (int d = 0; d < 3; ++d) wp::atomic_add(&position.data[i][d], sum[d]);",
)
BODIES = {
    "interpolate": (ZERO, CORNERS, WEIGHT, GATHER, "}", STORE),
    "slope": (ZERO, CORNERS, SLOPE, GATHER, "}", STORE),
    "scatter": (LOAD, CORNERS, WEIGHT, SCATTER, "}"),
    "scatter_slope": (LOAD, CORNERS, SLOPE, SCATTER, "}"),
    "pull": (LOAD, ZERO_3, CORNERS, DOT, PULL, "}", ADD_3),
    "pull_slope": (LOAD, ZERO_3, CORNERS, DOT, PULL_SLOPE, "}", ADD_3),
}


@wp.struct
@no_type_check
class Levels:
    """Per level: cells per axis, first row, whether it is stored densely; and the hash's bit mask."""

    size: wp.array(dtype=wp.int32)
    offset: wp.array(dtype=wp.int32)
    dense: wp.array(dtype=wp.int32)
    mask: wp.int32


@functools.cache
def kernel(name: str, n_features: int) -> Any:
    """One of the six kernels for one number of features per level: a range of points of one level."""
    vec = wp.types.vector(n_features, wp.float32)
    add_points = _sum_over_points(name, n_features)

    @no_type_check
    def walk(
        first: wp.int32,
        first_is_level: wp.bool,
        chunk: wp.int32,
        levels: Levels,
        x: wp.array(dtype=wp.vec3f),
        v: wp.array(dtype=wp.vec3f),
        table: wp.array(dtype=vec),
        features: wp.array2d(dtype=vec),
        position: wp.array(dtype=wp.vec3f),
    ):
        level, lane = wp.tid()
        if first_is_level:
            level += first
        else:
            lane += first
        size = levels.size[level]
        offset = levels.offset[level]
        dense = levels.dense[level]
        start = lane * chunk
        end = wp.min(start + chunk, x.shape[0])
        add_points(x, v, table, features, position, start, end, level, size, offset, dense, levels.mask)

    walk.__name__ = walk.__qualname__ = name
    return wp.kernel(walk, module=f"usd_hash_grid_{name}_{n_features}", enable_backward=False)


def _sum_over_points(name: str, n_features: int) -> Any:
    """The C++ of one sum over points ``first`` to ``last`` of one level."""
    vec = wp.types.vector(n_features, wp.float32)
    constants = {"FEATURES": n_features, "PRIME_Y": f"{PRIMES[1]}u", "PRIME_Z": f"{PRIMES[2]}u"}
    code = "\n".join((CELLS, FACTORS, *BODIES[name], "} }"))
    for constant, value in constants.items():
        code = code.replace(constant, str(value))

    @no_type_check
    def add_points(
        x: wp.array(dtype=wp.vec3f),
        v: wp.array(dtype=wp.vec3f),
        table: wp.array(dtype=vec),
        features: wp.array2d(dtype=vec),
        position: wp.array(dtype=wp.vec3f),
        first: wp.int32,
        last: wp.int32,
        level: wp.int32,
        size: wp.int32,
        offset: wp.int32,
        dense: wp.int32,
        mask: wp.int32,
    ): ...

    add_points.__name__ = add_points.__qualname__ = f"{name}_over_points"
    return wp.func_native(code)(add_points)


@functools.lru_cache(maxsize=32)
def _levels(spec: HashGridSpec, device: torch.device) -> tuple[Any, tuple[Tensor, ...]]:
    """The kernels' view of a spec, and the tensors it points into."""
    tensors = tuple(
        torch.tensor(values, dtype=torch.int32, device=device)
        for values in (spec.resolutions, spec.offsets, spec.dense)
    )
    levels = Levels()
    levels.size, levels.offset, levels.dense = (wp.from_torch(t) for t in tensors)
    levels.mask = 2**spec.log2_hashmap_size - 1
    return levels, tensors


@dataclass(frozen=True)
class Sums:
    """The six sums as functions of contiguous tensors: x, v (N, 3); g (N, L * F); tables (E, F)."""

    spec: HashGridSpec

    def interpolate(self, x: Tensor, table: Tensor) -> Tensor:
        return self._run("interpolate", x, x, table, x.new_empty(len(x), self.spec.n_output), x)[1]

    def slope(self, x: Tensor, v: Tensor, table: Tensor) -> Tensor:
        return self._run("slope", x, v, table, x.new_empty(len(x), self.spec.n_output), x)[1]

    def scatter(self, x: Tensor, g: Tensor) -> Tensor:
        return self._run("scatter", x, x, self._empty_table(x), g, x)[0]

    def scatter_slope(self, x: Tensor, v: Tensor, g: Tensor) -> Tensor:
        return self._run("scatter_slope", x, v, self._empty_table(x), g, x)[0]

    def pull(self, x: Tensor, table: Tensor, g: Tensor) -> Tensor:
        return self._run("pull", x, x, table, g, torch.zeros_like(x))[2]

    def pull_slope(self, x: Tensor, v: Tensor, table: Tensor, g: Tensor) -> Tensor:
        return self._run("pull_slope", x, v, table, g, torch.zeros_like(x))[2]

    def _empty_table(self, x: Tensor) -> Tensor:
        return x.new_zeros(self.spec.n_rows, self.spec.n_features_per_level)

    def _run(
        self, name: str, x: Tensor, v: Tensor, table: Tensor, features: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Level after level, so that a CPU's cache holds one level's rows; a thread owns points, or in a scatter
        whole levels."""
        spec, by_level = self.spec, name.startswith("scatter")
        vec = wp.types.vector(spec.n_features_per_level, wp.float32)
        chunk = 1 if x.is_cuda else POINTS_PER_CHUNK
        levels, _ = _levels(spec, x.device)
        split = runtime.Split((spec.n_levels, -(-len(x) // chunk)), axis=0 if by_level else 1, grain=1)
        arrays = (
            *(runtime.array(t, wp.vec3f) for t in (x, v)),
            runtime.array(table, vec),
            runtime.array(features.view(len(x), spec.n_levels, spec.n_features_per_level), vec),
            runtime.array(position, wp.vec3f),
        )
        run = kernel(name, spec.n_features_per_level)
        runtime.launch(run, split, (by_level, chunk, levels, *arrays), x.device)
        return table, features, position


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, spec: HashGridSpec) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.spec = spec
        return Sums(spec).interpolate(x, table)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, table = ctx.saved_tensors
        g_x, g_table = _EncodeGrad.apply(x, table, grads[0], ctx.spec, ctx.needs_input_grad[:2])
        return g_x, g_table, None


class _EncodeGrad(torch.autograd.Function):
    """(x, table, g) -> (pull, scatter): the gradient, as a function that can be differentiated once more."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, table: Tensor, g: Tensor, spec: HashGridSpec, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        g = g.contiguous()
        ctx.save_for_backward(x, table, g)
        ctx.spec = spec
        ctx.set_materialize_grads(False)
        sums = Sums(spec)
        return sums.pull(x, table, g) if needs[0] else None, sums.scatter(x, g) if needs[1] else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor | None, v_table: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of v . pull + v_table . scatter."""
        x, table, g = ctx.saved_tensors
        needs_x, needs_table, needs_g = ctx.needs_input_grad[:3]
        sums = Sums(ctx.spec)
        g_x = g_table = g_g = None
        if v is not None:
            v = v.contiguous()
            g_x = sums.pull_slope(x, v, table, g) if needs_x else None
            g_table = sums.scatter_slope(x, v, g) if needs_table else None
            g_g = sums.slope(x, v, table) if needs_g else None
        if v_table is not None:
            v_table = v_table.contiguous()
            g_x = _sum(g_x, sums.pull(x, v_table, g)) if needs_x else None
            g_g = _sum(g_g, sums.interpolate(x, v_table)) if needs_g else None
        return g_x, g_table, g_g, None, None


def _sum(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b


def encode(x: Float[Tensor, "N 3"], table: Float[Tensor, "E F"], spec: HashGridSpec) -> Float[Tensor, "N LF"]:
    """``hash_grid`` by the kernels; float32 on a CPU or CUDA."""
    return _Encode.apply(x.contiguous(), table.contiguous(), spec)
