"""Hash grid kernels, twice differentiable by hand. Read ``hash_grid`` first: it says what is computed.

With w_c(x) the weight of corner c and T_c its row, the encoding is y = sum_c w_c T_c. Everything its first and
second derivatives need is one of six sums over corners, three in w and the same three in its derivative along a
direction v, written w' = (v . grad) w:

    interpolate  y    = sum_c w_c T_c              slope        y'    = sum_c w'_c T_c
    scatter      T_c += w_c g                      scatter_slope  T_c += w'_c g
    pull         p    = sum_c grad w_c (T_c . g)   pull_slope   p     = sum_c grad w'_c (T_c . g)
"""

import functools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from usd.kernels import runtime
from usd.kernels.hash_grid import PRIMES, HashGridSpec

wp = runtime.find_warp()
PRIME_Y = wp.constant(wp.uint32(PRIMES[1]))
PRIME_Z = wp.constant(wp.uint32(PRIMES[2]))


@wp.struct
class Levels:
    """Per level: cells per axis, first row, whether it is stored densely; and the hash's bit mask."""

    size: wp.array(dtype=wp.int32)
    offset: wp.array(dtype=wp.int32)
    dense: wp.array(dtype=wp.int32)
    mask: wp.int32


@wp.func
def scaled(levels: Levels, level: wp.int32, x: wp.vec3f) -> wp.vec3f:
    """The point in units of cells."""
    size = float(levels.size[level])
    return wp.vec3f(
        wp.clamp(x[0], 0.0, 1.0) * size, wp.clamp(x[1], 0.0, 1.0) * size, wp.clamp(x[2], 0.0, 1.0) * size
    )


@wp.func
def lowest_corner(levels: Levels, level: wp.int32, s: wp.vec3f) -> wp.vec3i:
    last = levels.size[level] - 1
    return wp.vec3i(wp.min(int(s[0]), last), wp.min(int(s[1]), last), wp.min(int(s[2]), last))


@wp.func
def rates(levels: Levels, level: wp.int32, x: wp.vec3f) -> wp.vec3f:
    """d fraction / d x: the level's size, zero outside [0, 1]."""
    size = float(levels.size[level])
    return wp.vec3f(
        wp.where(x[0] >= 0.0 and x[0] <= 1.0, size, 0.0),
        wp.where(x[1] >= 0.0 and x[1] <= 1.0, size, 0.0),
        wp.where(x[2] >= 0.0 and x[2] <= 1.0, size, 0.0),
    )


@wp.func
def row(levels: Levels, level: wp.int32, corner: wp.vec3i, c: wp.int32) -> wp.int32:
    i = corner[0] + (c & 1)
    j = corner[1] + ((c >> 1) & 1)
    k = corner[2] + (c >> 2)
    if levels.dense[level] != 0:
        side = levels.size[level] + 1
        return levels.offset[level] + i + side * (j + side * k)
    hashed = wp.uint32(i) ^ (wp.uint32(j) * PRIME_Y) ^ (wp.uint32(k) * PRIME_Z)
    return levels.offset[level] + int(hashed & wp.uint32(levels.mask))


@wp.func
def factors(fraction: wp.vec3f, c: wp.int32) -> wp.vec3f:
    """w_c is the product of these."""
    return wp.vec3f(
        wp.where((c & 1) == 1, fraction[0], 1.0 - fraction[0]),
        wp.where(((c >> 1) & 1) == 1, fraction[1], 1.0 - fraction[1]),
        wp.where((c >> 2) == 1, fraction[2], 1.0 - fraction[2]),
    )


@wp.func
def signed(rate: wp.vec3f, c: wp.int32) -> wp.vec3f:
    """The derivatives of the factors."""
    return wp.vec3f(
        wp.where((c & 1) == 1, rate[0], -rate[0]),
        wp.where(((c >> 1) & 1) == 1, rate[1], -rate[1]),
        wp.where((c >> 2) == 1, rate[2], -rate[2]),
    )


@wp.func
def weight(fraction: wp.vec3f, c: wp.int32) -> wp.float32:
    f = factors(fraction, c)
    return f[0] * f[1] * f[2]


@wp.func
def weight_grad(fraction: wp.vec3f, rate: wp.vec3f, c: wp.int32) -> wp.vec3f:
    f = factors(fraction, c)
    r = signed(rate, c)
    return wp.vec3f(r[0] * f[1] * f[2], f[0] * r[1] * f[2], f[0] * f[1] * r[2])


@wp.func
def weight_hessian_times(fraction: wp.vec3f, rate: wp.vec3f, c: wp.int32, v: wp.vec3f) -> wp.vec3f:
    """grad w'_c; the diagonal of the Hessian is zero."""
    f = factors(fraction, c)
    r = signed(rate, c)
    xy = r[0] * r[1] * f[2]
    yz = r[1] * r[2] * f[0]
    zx = r[2] * r[0] * f[1]
    return wp.vec3f(xy * v[1] + zx * v[2], xy * v[0] + yz * v[2], zx * v[0] + yz * v[1])


@functools.cache
def kernels(n_features: int) -> SimpleNamespace:
    """The six kernels for one number of features per level."""
    vec = wp.types.vector(n_features, wp.float32)
    register = functools.partial(wp.kernel, module=f"usd_hash_grid_{n_features}", enable_backward=False)

    def interpolate(
        first: wp.int32,
        levels: Levels,
        x: wp.array(dtype=wp.vec3f),
        table: wp.array(dtype=vec),
        out: wp.array2d(dtype=vec),
    ):
        level, lane = wp.tid()
        i = first + lane
        s = scaled(levels, level, x[i])
        corner = lowest_corner(levels, level, s)
        f = s - wp.vec3f(corner)
        total = vec()
        for c in range(8):
            total += weight(f, c) * table[row(levels, level, corner, c)]
        out[i, level] = total

    def slope(
        first: wp.int32,
        levels: Levels,
        x: wp.array(dtype=wp.vec3f),
        v: wp.array(dtype=wp.vec3f),
        table: wp.array(dtype=vec),
        out: wp.array2d(dtype=vec),
    ):
        level, lane = wp.tid()
        i = first + lane
        s = scaled(levels, level, x[i])
        corner = lowest_corner(levels, level, s)
        f = s - wp.vec3f(corner)
        r = rates(levels, level, x[i])
        total = vec()
        for c in range(8):
            total += wp.dot(weight_grad(f, r, c), v[i]) * table[row(levels, level, corner, c)]
        out[i, level] = total

    def scatter(
        first: wp.int32,
        levels: Levels,
        x: wp.array(dtype=wp.vec3f),
        g: wp.array2d(dtype=vec),
        table: wp.array(dtype=vec),
    ):
        lane, i = wp.tid()
        level = first + lane
        s = scaled(levels, level, x[i])
        corner = lowest_corner(levels, level, s)
        f = s - wp.vec3f(corner)
        g_here = g[i, level]
        for c in range(8):
            wp.atomic_add(table, row(levels, level, corner, c), weight(f, c) * g_here)

    def scatter_slope(
        first: wp.int32,
        levels: Levels,
        x: wp.array(dtype=wp.vec3f),
        v: wp.array(dtype=wp.vec3f),
        g: wp.array2d(dtype=vec),
        table: wp.array(dtype=vec),
    ):
        lane, i = wp.tid()
        level = first + lane
        s = scaled(levels, level, x[i])
        corner = lowest_corner(levels, level, s)
        f = s - wp.vec3f(corner)
        r = rates(levels, level, x[i])
        g_here = g[i, level]
        for c in range(8):
            wp.atomic_add(table, row(levels, level, corner, c), wp.dot(weight_grad(f, r, c), v[i]) * g_here)

    def pull(
        first: wp.int32,
        levels: Levels,
        x: wp.array(dtype=wp.vec3f),
        table: wp.array(dtype=vec),
        g: wp.array2d(dtype=vec),
        out: wp.array(dtype=wp.vec3f),
    ):
        level, lane = wp.tid()
        i = first + lane
        s = scaled(levels, level, x[i])
        corner = lowest_corner(levels, level, s)
        f = s - wp.vec3f(corner)
        r = rates(levels, level, x[i])
        g_here = g[i, level]
        total = wp.vec3f()
        for c in range(8):
            total += weight_grad(f, r, c) * wp.dot(table[row(levels, level, corner, c)], g_here)
        wp.atomic_add(out, i, total)

    def pull_slope(
        first: wp.int32,
        levels: Levels,
        x: wp.array(dtype=wp.vec3f),
        v: wp.array(dtype=wp.vec3f),
        table: wp.array(dtype=vec),
        g: wp.array2d(dtype=vec),
        out: wp.array(dtype=wp.vec3f),
    ):
        level, lane = wp.tid()
        i = first + lane
        s = scaled(levels, level, x[i])
        corner = lowest_corner(levels, level, s)
        f = s - wp.vec3f(corner)
        r = rates(levels, level, x[i])
        g_here = g[i, level]
        total = wp.vec3f()
        for c in range(8):
            total += weight_hessian_times(f, r, c, v[i]) * wp.dot(
                table[row(levels, level, corner, c)], g_here
            )
        wp.atomic_add(out, i, total)

    made = (interpolate, slope, scatter, scatter_slope, pull, pull_slope)
    return SimpleNamespace(vec=vec, **{kernel.__name__: register(kernel) for kernel in made})


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
class Launcher:
    """The six sums as functions of tensors: x, v (N, 3); g and encodings (N, L * F); tables (E, F)."""

    spec: HashGridSpec

    def interpolate(self, x: Tensor, table: Tensor) -> Tensor:
        return self._encoding("interpolate", x, _points(x), self._rows(table))

    def slope(self, x: Tensor, v: Tensor, table: Tensor) -> Tensor:
        return self._encoding("slope", x, _points(x), _points(v), self._rows(table))

    def scatter(self, x: Tensor, g: Tensor) -> Tensor:
        return self._table("scatter", x, _points(x), self._features(g))

    def scatter_slope(self, x: Tensor, v: Tensor, g: Tensor) -> Tensor:
        return self._table("scatter_slope", x, _points(x), _points(v), self._features(g))

    def pull(self, x: Tensor, table: Tensor, g: Tensor) -> Tensor:
        return self._position("pull", x, _points(x), self._rows(table), self._features(g))

    def pull_slope(self, x: Tensor, v: Tensor, table: Tensor, g: Tensor) -> Tensor:
        return self._position("pull_slope", x, _points(x), _points(v), self._rows(table), self._features(g))

    def _rows(self, table: Tensor) -> Any:
        return runtime.array(table, self._kernels.vec)

    def _features(self, g: Tensor) -> Any:
        return runtime.array(g.reshape(len(g), self.spec.n_levels, -1), self._kernels.vec)

    @property
    def _kernels(self) -> SimpleNamespace:
        return kernels(self.spec.n_features_per_level)

    def _encoding(self, name: str, x: Tensor, *inputs: Any) -> Tensor:
        """Level after level on the CPU, so that one level's rows stay in its cache."""
        out = x.new_empty(len(x), self.spec.n_output)
        self._launch(
            name, x, (*inputs, self._features(out)), runtime.Split((self.spec.n_levels, len(x)), axis=1)
        )
        return out

    def _table(self, name: str, x: Tensor, *inputs: Any) -> Tensor:
        """On the CPU a level's rows are written by one thread only."""
        out = x.new_zeros(self.spec.n_rows, self.spec.n_features_per_level)
        split = runtime.Split((self.spec.n_levels, len(x)), axis=0, grain=1)
        self._launch(name, x, (*inputs, self._rows(out)), split)
        return out

    def _position(self, name: str, x: Tensor, *inputs: Any) -> Tensor:
        out = torch.zeros_like(x)
        self._launch(name, x, (*inputs, _points(out)), runtime.Split((self.spec.n_levels, len(x)), axis=1))
        return out

    def _launch(self, name: str, x: Tensor, arrays: tuple[Any, ...], split: runtime.Split) -> None:
        levels, _ = _levels(self.spec, x.device)
        runtime.launch(getattr(self._kernels, name), split, (levels, *arrays), x.device)


def _points(x: Tensor) -> Any:
    return runtime.array(x, wp.vec3f)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, spec: HashGridSpec) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.spec = spec
        return Launcher(spec).interpolate(x, table)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, table = ctx.saved_tensors
        g_x, g_table = _EncodeGrad.apply(x, table, grads[0], ctx.spec, ctx.needs_input_grad[:2])
        return g_x, g_table, None


class _EncodeGrad(torch.autograd.Function):
    """(x, table, g) -> (pull, scatter), the gradient as a function that can be differentiated once more."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, table: Tensor, g: Tensor, spec: HashGridSpec, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        g = g.contiguous()
        ctx.save_for_backward(x, table, g)
        ctx.spec = spec
        ctx.set_materialize_grads(False)
        launcher = Launcher(spec)
        return launcher.pull(x, table, g) if needs[0] else None, launcher.scatter(x, g) if needs[1] else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor | None, v_table: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of v . pull + v_table . scatter."""
        x, table, g = ctx.saved_tensors
        needs_x, needs_table, needs_g = ctx.needs_input_grad[:3]
        launcher = Launcher(ctx.spec)
        g_x = g_table = g_g = None
        if v is not None:
            v = v.contiguous()
            g_x = launcher.pull_slope(x, v, table, g) if needs_x else None
            g_table = launcher.scatter_slope(x, v, g) if needs_table else None
            g_g = launcher.slope(x, v, table) if needs_g else None
        if v_table is not None:
            v_table = v_table.contiguous()
            g_x = _sum(g_x, launcher.pull(x, v_table, g)) if needs_x else None
            g_g = _sum(g_g, launcher.interpolate(x, v_table)) if needs_g else None
        return g_x, g_table, g_g, None, None


def _sum(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b


def encode(x: Float[Tensor, "N 3"], table: Float[Tensor, "E F"], spec: HashGridSpec) -> Float[Tensor, "N LF"]:
    """``hash_grid`` by the kernels; float32 on a CPU or CUDA."""
    return _Encode.apply(x.contiguous(), table.contiguous(), spec)
