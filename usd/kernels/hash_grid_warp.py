# ruff: noqa: PLR0913, PLR0917 - a kernel takes as many arguments as it has arrays
# mypy: disable-error-code="name-defined, valid-type"
"""Hash grid kernels, twice differentiable by hand. Read ``hash_grid`` first: it says what is computed.

With w_k(x) the weight of corner k and T_k its row, the encoding is y = sum_k w_k T_k. Everything its first and
second derivatives need is one of six sums over corners, three in w and the same three in its derivative along a
direction v, written w' = (v . grad) w:

    interpolate  y    = sum_k w_k T_k              slope          y'   = sum_k w'_k T_k
    scatter      T_k += w_k g                      scatter_slope  T_k += w'_k g
    pull         p    = sum_k grad w_k (T_k . g)   pull_slope     p    = sum_k grad w'_k (T_k . g)

The last two of the right column share their reading of the table, for they are usually wanted together.

The innermost lines are the C++ of ``hash_grid.h``, which Warp compiles for the CPU and for CUDA alike: written in
Warp's Python they took twice as long on a CPU, because every access to an array checks for a negative index and
multiplies by a stride.
"""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, no_type_check, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from usd.kernels import runtime
from usd.kernels.hash_grid import PRIMES, HashGridSpec
from usd.kernels.native import native_body

wp = runtime.import_warp()
POINTS_PER_TILE = 256

BODIES = {
    "interpolate": {"GATHER": 1},
    "slope": {"SLOPE": 1, "GATHER": 1},
    "scatter": {"SCATTER": 1},
    "scatter_slope": {"SLOPE": 1, "SCATTER": 1},
    "pull": {"PULL": 1},
    "pull_slope": {"SLOPE": 1, "PULL": 1},
    "slope_and_pull_slope": {"SLOPE": 1, "GATHER": 1, "PULL": 1},
}
"""The sums by name, as parts of ``sum_over_points`` in ``hash_grid.h`` that are switched on."""
NO_PARTS = dict.fromkeys(("SLOPE", "GATHER", "SCATTER", "PULL"), 0)


@wp.struct
@no_type_check
class Levels:
    """Per level: cells a unit, last cell, vertices a side, rows, first row, whether dense; and the hash's bits."""

    scale: wp.array(dtype=wp.float32)
    last_cell: wp.array(dtype=wp.int32)
    side: wp.array(dtype=wp.int32)
    rows: wp.array(dtype=wp.int32)
    offset: wp.array(dtype=wp.int32)
    dense: wp.array(dtype=wp.int32)
    mask: wp.int32


@runtime_checkable
class NativeFunction(Protocol):
    """A function in C++ as Warp's decorator makes it."""

    input_types: dict[str, object]

    def __call__(self, *arguments: object) -> None:
        """Run it, in a kernel."""


@functools.cache
def kernel(name: str, n_features: int, vertices: str = "corners") -> runtime.WarpKernel:
    """Return one of these kernels for one number of features per level: the points of a tile, at one level."""
    # Warp compiles one kernel for each number of features, known then to the compiler.
    vec = wp.types.vector(n_features, wp.float32)
    add_points = sum_over_points(name, n_features, vertices)

    @no_type_check
    def walk(
        first: wp.int32,
        first_is_level: wp.bool,
        chunk: wp.int32,
        levels: Levels,
        x: wp.array(dtype=wp.vec3f),
        v: wp.array(dtype=wp.vec3f),
        table: wp.array(dtype=vec),
        features: wp.array(dtype=vec),
        slopes: wp.array(dtype=vec),
        position: wp.array(dtype=wp.vec3f),
    ):
        level, lane = wp.tid()
        # On a CPU a launch is cut along one axis: a piece begins at first.
        if first_is_level:
            level += first
        else:
            lane += first
        scale = levels.scale[level]
        last_cell = levels.last_cell[level]
        side = levels.side[level]
        rows = levels.rows[level]
        offset = levels.offset[level]
        dense = levels.dense[level]
        start = lane * chunk
        end = wp.min(start + chunk, x.shape[0])
        # Tile after tile, in each level after level.
        tile_row = (lane * levels.scale.shape[0] + level) * chunk
        add_points(
            x,
            v,
            table,
            features,
            slopes,
            position,
            start,
            end,
            tile_row,
            scale,
            last_cell,
            side,
            rows,
            offset,
            dense,
            levels.mask,
        )

    walk.__name__ = walk.__qualname__ = name
    module = f"usd_hash_grid_{name}_{n_features}" + ("" if vertices == "corners" else f"_{vertices}")
    return wp.kernel(walk, module=module, enable_backward=False)


def sum_over_points(name: str, n_features: int, vertices: str = "corners") -> NativeFunction:
    """Return the C++ of one sum over points ``first`` to ``last`` of one level."""
    vec = wp.types.vector(n_features, wp.float32)
    macros = {"FEATURES": n_features, "PRIME_Y": f"{PRIMES[1]}u", "PRIME_Z": f"{PRIMES[2]}u"}
    macros |= {"SHIFT": "0.0f", "WRAP": 0} if vertices == "corners" else {"SHIFT": "0.5f", "WRAP": 1}
    code = native_body("hash_grid.h", "sum_over_points", **macros, **(NO_PARTS | BODIES[name]))

    @no_type_check
    def add_points(
        x: wp.array(dtype=wp.vec3f),
        v: wp.array(dtype=wp.vec3f),
        table: wp.array(dtype=vec),
        features: wp.array(dtype=vec),
        slopes: wp.array(dtype=vec),
        position: wp.array(dtype=wp.vec3f),
        first: wp.int32,
        last: wp.int32,
        tile_row: wp.int32,
        scale: wp.float32,
        last_cell: wp.int32,
        side: wp.int32,
        rows: wp.int32,
        offset: wp.int32,
        dense: wp.int32,
        mask: wp.int32,
    ): ...

    add_points.__name__ = add_points.__qualname__ = f"{name}_over_points"
    return wp.func_native(code)(add_points)


@functools.cache
def copy_kernel(into_tiles: bool, n_features: int) -> runtime.WarpKernel:
    """Return the kernel that copies features of all points from rows into tiles, or back."""
    vec = wp.types.vector(n_features, wp.float32)
    code = native_body("hash_grid.h", "copy_points", FEATURES=n_features, INTO_TILES=int(into_tiles))
    name = "into_tiles" if into_tiles else "out_of_tiles"

    @no_type_check
    def copy_points(
        features: wp.array(dtype=vec),
        tiles: wp.array(dtype=vec),
        first: wp.int32,
        last: wp.int32,
        n_levels: wp.int32,
        chunk: wp.int32,
    ): ...

    copy_points.__name__ = copy_points.__qualname__ = f"{name}_of_points"
    copy_points = wp.func_native(code)(copy_points)

    @no_type_check
    def walk(
        first: wp.int32,
        chunk: wp.int32,
        n_levels: wp.int32,
        features: wp.array(dtype=vec),
        tiles: wp.array(dtype=vec),
    ):
        start = (wp.tid() + first) * chunk
        end = wp.min(start + chunk, features.shape[0] // n_levels)
        copy_points(features, tiles, start, end, n_levels, chunk)

    walk.__name__ = walk.__qualname__ = name
    return wp.kernel(walk, module=f"usd_hash_grid_{name}_{n_features}", enable_backward=False)


def kernels(n_features: int) -> list[runtime.WarpKernel]:
    """Return all kernels for one number of features per level."""
    return [kernel(name, n_features) for name in BODIES] + [
        copy_kernel(into_tiles, n_features) for into_tiles in (True, False)
    ]


@functools.lru_cache(maxsize=32)
def _levels(spec: HashGridSpec, device: torch.device) -> tuple[object, tuple[Tensor, ...]]:
    """Return the kernels' view of a spec, and the tensors it points into."""
    numbers = {
        "last_cell": spec.last_cells,
        "side": spec.sides,
        "rows": spec.level_rows,
        "offset": spec.offsets,
        "dense": spec.dense,
    }
    tensors = {
        name: torch.tensor(values, dtype=torch.int32, device=device) for name, values in numbers.items()
    }
    tensors["scale"] = torch.tensor(spec.scales, dtype=torch.float32, device=device)
    levels = Levels()
    for name, tensor in tensors.items():
        setattr(levels, name, wp.from_torch(tensor))
    # A power of two of rows: the remainder of a hash is its lowest bits.
    levels.mask = 2**spec.log2_hashmap_size - 1
    return levels, tuple(tensors.values())


@dataclass(frozen=True)
class Sums:
    """The six sums as functions of contiguous tensors: x, v (N, 3); tables (E, F); features (N, L * F).

    Inside, a CPU keeps features in tiles: of 256 points those of the first level, then those of the second ... A sum
    runs level after level, so that the cache holds one level's rows, and then reads or writes features in sequence;
    from (N, L * F) it would take one number pair from each cache line, and that took as long as the table. Incoming
    features are handed over as ``tiled``. A CUDA thread takes one point, and a tile of one point is a plain row.
    """

    spec: HashGridSpec

    def tiled(self, g: Tensor) -> Tensor:
        """Return features as the sums want them."""
        return g if g.is_cuda else self._copy(g, self._tiles(g), True)[1]

    def interpolate(self, x: Tensor, table: Tensor) -> Tensor:
        """Return y = sum_k w_k T_k of each point and level."""
        return self._rows(self._run("interpolate", x, x, table, self._tiles(x), x)[1], x)

    def slope(self, x: Tensor, v: Tensor, table: Tensor) -> Tensor:
        """Return the derivative of ``interpolate`` along directions v."""
        return self._rows(self._run("slope", x, v, table, self._tiles(x), x)[1], x)

    def scatter(self, x: Tensor, tiles: Tensor) -> Tensor:
        """Return the table's gradient: w_k g, added to the rows T_k."""
        return self._run("scatter", x, x, self._empty_table(x), tiles, x)[0]

    def scatter_slope(self, x: Tensor, v: Tensor, tiles: Tensor) -> Tensor:
        """Return the derivative of ``scatter`` along directions v."""
        return self._run("scatter_slope", x, v, self._empty_table(x), tiles, x)[0]

    def pull(self, x: Tensor, table: Tensor, tiles: Tensor) -> Tensor:
        """Return the positions' gradient: sum_k grad w_k (T_k . g)."""
        return self._run("pull", x, x, table, tiles, torch.zeros_like(x))[2]

    def pull_slope(self, x: Tensor, v: Tensor, table: Tensor, tiles: Tensor) -> Tensor:
        """Return the derivative of ``pull`` along directions v."""
        return self._run("pull_slope", x, v, table, tiles, torch.zeros_like(x))[2]

    def slope_and_pull_slope(
        self, x: Tensor, v: Tensor, table: Tensor, tiles: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return ``slope`` and ``pull_slope``, which share their reading of the table."""
        # Slopes are written where nobody reads: the incoming features are needed to the end.
        slopes, position = self._tiles(x), torch.zeros_like(x)
        self._run("slope_and_pull_slope", x, v, table, tiles, position, slopes)
        return self._rows(slopes, x), position

    def _empty_table(self, x: Tensor) -> Tensor:
        return runtime.zeros((self.spec.n_rows, self.spec.n_features_per_level), x.device)

    def _tiles(self, x: Tensor) -> Tensor:
        """Make room for the features of all points."""
        chunk = _chunk(x)
        return runtime.room((-(-len(x) // chunk) * chunk, self.spec.n_output), x.device)

    def _rows(self, tiles: Tensor, x: Tensor) -> Tensor:
        """Return features as the caller wants them."""
        if x.is_cuda:
            return tiles
        return self._copy(runtime.room((len(x), self.spec.n_output), x.device), tiles, False)[0]

    def _copy(self, features: Tensor, tiles: Tensor, into_tiles: bool) -> tuple[Tensor, Tensor]:
        chunk, width = _chunk(features), self.spec.n_features_per_level
        split = runtime.Split((-(-len(features) // chunk),), grain=16)
        arrays = (self._vectors(features), self._vectors(tiles))
        run = copy_kernel(into_tiles, width)
        runtime.launch(run, split, (chunk, self.spec.n_levels, *arrays), features.device)
        return features, tiles

    def _vectors(self, features: Tensor) -> object:
        width = self.spec.n_features_per_level
        return runtime.array(features.view(-1, width), wp.types.vector(width, wp.float32))

    def _run(
        self,
        name: str,
        x: Tensor,
        v: Tensor,
        table: Tensor,
        features: Tensor,
        position: Tensor,
        slopes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Launch one sum. On a CPU a thread owns points, or in a scatter whole levels."""
        # Two threads must not add to one row, so a scatter gives each thread whole levels.
        by_level, chunk = name.startswith("scatter"), _chunk(x)
        levels, _ = _levels(self.spec, x.device)
        split = runtime.Split((self.spec.n_levels, -(-len(x) // chunk)), axis=0 if by_level else 1, grain=1)
        arrays = (
            *(runtime.array(t, wp.vec3f) for t in (x, v)),
            *(self._vectors(t) for t in (table, features, features if slopes is None else slopes)),
            runtime.array(position, wp.vec3f),
        )
        run = kernel(name, self.spec.n_features_per_level, self.spec.vertices)
        runtime.launch(run, split, (by_level, chunk, levels, *arrays), x.device)
        return table, features, position


def _chunk(x: Tensor) -> int:
    """Return the number of points of a tile."""
    return 1 if x.is_cuda else POINTS_PER_TILE


if TYPE_CHECKING:

    class GridContext(FunctionCtx):
        """Values that the forward passes below keep for the backward ones."""

        spec: HashGridSpec
        saved_tensors: tuple[Tensor, ...]
        needs_input_grad: tuple[bool, ...]

else:  # autograd makes a class of its own
    GridContext = FunctionCtx


class _Encode(torch.autograd.Function):
    """The encoding, with a gradient for the table.

    That for x has a node of its own: autograd runs only the nodes it needs, so a normal costs no gradient of the table,
    nor a plain step one of x. Hence x comes in a tuple, where autograd does not look: this node is no way to x, but the
    gradient it computes still depends on it.
    """

    @staticmethod
    def forward(ctx: GridContext, table: Tensor, hidden: tuple[Tensor], spec: HashGridSpec) -> Tensor:
        (x,) = hidden
        ctx.save_for_backward(x)
        ctx.spec = spec
        return Sums(spec).interpolate(x, table)

    @staticmethod
    def backward(ctx: GridContext, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return _Scatter.apply(x, grads[0], ctx.spec), None, None


class _FollowPosition(torch.autograd.Function):
    """(features, x, table) -> features, with a gradient for x."""

    @staticmethod
    def forward(ctx: GridContext, features: Tensor, x: Tensor, table: Tensor, spec: HashGridSpec) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.spec = spec
        return features.view_as(features)

    @staticmethod
    def backward(ctx: GridContext, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, table = ctx.saved_tensors
        return grads[0], _Pull.apply(x, table, grads[0], ctx.spec), None, None


class _Scatter(torch.autograd.Function):
    """(x, g) -> the table's gradient."""

    @staticmethod
    def forward(ctx: GridContext, x: Tensor, g: Tensor, spec: HashGridSpec) -> Tensor:
        sums = Sums(spec)
        # Copied into tiles once and kept so: the second derivative reads them again.
        tiles = sums.tiled(g.contiguous())
        ctx.save_for_backward(x, tiles)
        ctx.spec = spec
        return sums.scatter(x, tiles)

    @staticmethod
    @once_differentiable
    def backward(ctx: GridContext, v_table: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, tiles = ctx.saved_tensors
        sums, v_table = Sums(ctx.spec), v_table.contiguous()
        g_x = sums.pull(x, v_table, tiles) if ctx.needs_input_grad[0] else None
        return g_x, sums.interpolate(x, v_table) if ctx.needs_input_grad[1] else None, None


class _Pull(torch.autograd.Function):
    """(x, table, g) -> the positions' gradient."""

    @staticmethod
    def forward(ctx: GridContext, x: Tensor, table: Tensor, g: Tensor, spec: HashGridSpec) -> Tensor:
        sums = Sums(spec)
        tiles = sums.tiled(g.contiguous())
        ctx.save_for_backward(x, table, tiles)
        ctx.spec = spec
        return sums.pull(x, table, tiles)

    @staticmethod
    @once_differentiable
    def backward(ctx: GridContext, v: Tensor) -> tuple[Tensor | None, ...]:
        x, table, tiles = ctx.saved_tensors
        needs_x, needs_table, needs_g = ctx.needs_input_grad[:3]
        sums, v = Sums(ctx.spec), v.contiguous()
        g_x = g_g = None
        # Usually both are wanted, and then the table is read once.
        if needs_x and needs_g:
            g_g, g_x = sums.slope_and_pull_slope(x, v, table, tiles)
        elif needs_x:
            g_x = sums.pull_slope(x, v, table, tiles)
        elif needs_g:
            g_g = sums.slope(x, v, table)
        return g_x, sums.scatter_slope(x, v, tiles) if needs_table else None, g_g, None


def encode_warp(
    x: Float[Tensor, "N 3"], table: Float[Tensor, "E F"], spec: HashGridSpec
) -> Float[Tensor, "N LF"]:
    """Encode as ``hash_grid`` does, by the kernels; float32 on a CPU or CUDA."""
    x, table = x.contiguous(), table.contiguous()
    # The table's gradient is always wanted in training, the position's only for normals.
    features = _Encode.apply(table, (x,), spec)
    return _FollowPosition.apply(features, x, table, spec) if x.requires_grad else features
