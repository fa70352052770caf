"""Multi-resolution hash encoding (Mueller et al. 2022, arXiv 2201.05989): position -> features of L grids.

Level l is a grid of ``N_l = floor(base_resolution * per_level_scale^l)`` cells per axis over [0, 1]^3, with one row
of F features per vertex. Where its (N_l + 1)^3 vertices fit into ``2^log2_hashmap_size`` rows they are stored
densely (x fastest), above that a vertex (i, j, k) shares row ``(i * 1 xor j * 2654435761 xor k * 805459861)
mod 2^log2_hashmap_size`` with others. The encoding is the trilinear interpolation of each level, concatenated.

``vertices`` "tinycudann" puts them where the authors' own library does, so that its tables give the same features: at
``scale * x + 1/2`` with ``scale = base_resolution * per_level_scale^l - 1``, ``ceil(scale) + 1`` a side. A level has a
multiple of 8 rows, and what lies beyond the last vertex wraps around to the level's first rows.

Grids of one or two dimensions are the same with fewer coordinates; Warp's kernels serve three.

Letters: N points, L levels, F features per level, E rows of the table (all levels, one after the other), c one of
the 8 corners of a cell, w its trilinear weight.
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.kernels.runtime import Implementation, accelerator_of, choose

TCNN_FEATURES = (1, 2, 4, 8)  # per level
PRIMES = (1, 2654435761, 805459861)


@dataclass(frozen=True)
class HashGridSpec:
    """The shape of a hash grid. Everything else (resolutions, rows per level, table size) follows from it."""

    n_levels: int = 16
    n_features_per_level: int = 2
    log2_hashmap_size: int = 19
    base_resolution: int = 16
    per_level_scale: float = 1.447269237440378
    vertices: Literal["corners", "tinycudann"] = "corners"
    n_dims: int = 3

    def __post_init__(self) -> None:
        if (
            min(self.n_levels, self.n_features_per_level, self.base_resolution) < 1
            or self.per_level_scale < 1
        ):
            raise ValueError(
                f"hash grid: levels, features, resolution and scale must be at least 1; got {self}"
            )
        if not 1 <= self.n_dims <= len(PRIMES):
            raise ValueError(f"hash grid: has {self.n_dims} dimensions; expected 1 to {len(PRIMES)}")
        if not 1 <= self.log2_hashmap_size <= 30:
            raise ValueError(f"hash grid: log2_hashmap_size is {self.log2_hashmap_size}; expected 1 to 30")
        if self.resolutions[-1] >= 2**20:
            raise ValueError(
                f"hash grid: the finest level has {self.resolutions[-1]} cells; expected below 2^20"
            )

    @functools.cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Cells per axis of each level."""
        # A little is added before rounding down: 16 * 2^(1/k)^k must be 32 on every machine.
        scales = (self.per_level_scale**level for level in range(self.n_levels))
        return tuple(math.floor(self.base_resolution * scale + 1e-6) for scale in scales)

    @functools.cached_property
    def scales(self) -> tuple[float, ...]:
        """Cells of each level that the unit cube is long: positions times this, plus ``shift``, are cells."""
        if self.vertices == "corners":
            return tuple(float(n) for n in self.resolutions)
        # In single precision and in this order, as the tables were trained: ceil() below must not differ.
        growth = np.float32(math.log2(self.per_level_scale))
        steps = np.exp2(np.arange(self.n_levels, dtype=np.float32) * growth)
        return tuple((steps * np.float32(self.base_resolution) - np.float32(1)).tolist())

    @property
    def shift(self) -> float:
        """Cells by which positions are moved."""
        return 0.0 if self.vertices == "corners" else 0.5

    @functools.cached_property
    def sides(self) -> tuple[int, ...]:
        """Vertices a side of each level."""
        # N cells have N + 1 vertices a side.
        return tuple(math.ceil(scale) + 1 for scale in self.scales)

    @functools.cached_property
    def last_cells(self) -> tuple[int, ...]:
        """Cells of each level where the unit cube ends; on its own corners the upper face belongs to the last cell."""
        if self.vertices == "corners":
            return tuple(n - 1 for n in self.resolutions)
        return tuple(math.floor(scale + self.shift) for scale in self.scales)

    @functools.cached_property
    def level_rows(self) -> tuple[int, ...]:
        """Rows of the table that each level owns."""
        unit = 1 if self.vertices == "corners" else 8
        counts = (side**self.n_dims for side in self.sides)
        return tuple(min(-(-count // unit) * unit, 2**self.log2_hashmap_size) for count in counts)

    @functools.cached_property
    def offsets(self) -> tuple[int, ...]:
        """First row of each level."""
        return tuple(sum(self.level_rows[:level]) for level in range(self.n_levels))

    @property
    def dense(self) -> tuple[bool, ...]:
        """For each level, whether it is stored without hashing."""
        return tuple(
            side**self.n_dims <= rows for side, rows in zip(self.sides, self.level_rows, strict=True)
        )

    @property
    def n_rows(self) -> int:
        """E: rows of the table."""
        return sum(self.level_rows)

    @property
    def n_output(self) -> int:
        """Width L * F of the encoding."""
        return self.n_levels * self.n_features_per_level

    def init_table(
        self, generator: torch.Generator | None = None, scale: float = 1e-4
    ) -> Float[Tensor, "E F"]:
        """Return a fresh table, uniform in [-scale, scale] as in the paper, on the generator's device."""
        device = "cpu" if generator is None else generator.device
        table = torch.rand(self.n_rows, self.n_features_per_level, generator=generator, device=device)
        return (table * 2 - 1) * scale


def hash_grid(
    x: Float[Tensor, "N d"],
    table: Float[Tensor, "E F"],
    spec: HashGridSpec,
    implementation: Implementation = "auto",
) -> Float[Tensor, "N LF"]:
    """Encode N points in [0, 1]^d (points outside are moved to the nearest face, with zero gradient there).

    Differentiable with respect to ``table`` and ``x``, twice. Feature f of level l is column ``l * F + f``. For speed
    call it once per step with all points, contiguous and float32, and do not let ``x`` require grad unless a
    normal is wanted: then only the table's gradient is computed.
    """
    _check_table(table, spec)
    if spec.n_dims != len(PRIMES):
        return hash_grid_torch(x, table, spec)
    features = spec.n_features_per_level
    obstacle = "" if features in TCNN_FEATURES else f"tinycudann has no grids of {features} features"
    if accelerator_of("hash_grid", implementation, x, table, obstacle=obstacle):
        from usd.kernels import hash_grid_tinycudann

        return hash_grid_tinycudann.encode_tinycudann(x, table, spec)
    if choose(implementation, x, table) == "warp":
        from usd.kernels import hash_grid_warp

        return hash_grid_warp.encode_warp(x, table, spec)
    return hash_grid_torch(x, table, spec)


def hash_grid_torch(
    x: Float[Tensor, "N d"], table: Float[Tensor, "E F"], spec: HashGridSpec
) -> Float[Tensor, "N LF"]:
    """Encode as ``hash_grid`` does, by one gather of all corners and a weighted sum. Any dtype and device."""
    size = torch.tensor(spec.scales, device=x.device, dtype=x.dtype)
    # All levels at once: one gather of the table instead of one a level.
    scaled = x.clamp(0, 1)[:, None, :] * size[:, None] + spec.shift
    # The upper face belongs to the last cell, where the fraction is 1.
    last = torch.tensor(spec.last_cells, device=x.device)
    cell = torch.minimum(scaled.detach().floor().long(), last[:, None])
    rows = _corner_rows(cell, spec)
    weight = _corner_weights(scaled - cell.to(x.dtype))
    return (weight[..., None] * table[rows]).sum(2).reshape(len(x), spec.n_output)


def _corner_weights(fraction: Float[Tensor, "N L d"]) -> Float[Tensor, "N L c"]:
    """Return multilinear weights; corner c is at (c & 1, c >> 1 & 1, c >> 2 & 1)."""
    # Outer products in the order of the corners' bits: x fastest.
    first, *others = torch.stack([1 - fraction, fraction], -1).unbind(-2)
    for pair in others:
        first = (pair[..., :, None] * first[..., None, :]).flatten(-2)
    return first


def _corner_rows(cell: Int[Tensor, "N L d"], spec: HashGridSpec) -> Int[Tensor, "N L c"]:
    """Return row of the table of each corner of each point's cell."""
    # The bits of a corner's number are its steps along x, y and z.
    bits = torch.arange(2**spec.n_dims, device=cell.device)
    side, rows = (
        torch.tensor(values, device=cell.device)[:, None] for values in (spec.sides, spec.level_rows)
    )
    # Both addresses are computed, and one is taken: a branch by level would be slower.
    dense, hashed = torch.zeros_like(side), torch.zeros_like(side)
    for axis, prime in enumerate(PRIMES[: spec.n_dims]):
        corner = cell[..., axis, None] + (bits >> axis & 1)
        dense, hashed = dense + corner * side**axis, hashed ^ corner * prime
    hashed = hashed & (2**spec.log2_hashmap_size - 1)
    is_dense = torch.tensor(spec.dense, device=cell.device)[:, None]
    at = torch.where(is_dense, dense % rows, hashed)
    return at + torch.tensor(spec.offsets, device=cell.device)[:, None]


def _check_table(table: Tensor, spec: HashGridSpec) -> None:
    expected = (spec.n_rows, spec.n_features_per_level)
    if tuple(table.shape) != expected:
        raise ValueError(f"hash grid: the table is {tuple(table.shape)}; expected {expected} for {spec}")
