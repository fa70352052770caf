"""Closed triangle meshes from values on a grid: marching cubes whose tables are derived, not typed in.

The language: a grid of values X Y Z has its corners at lattice points; a point is *inside* where its value is above
the level. A cell is the cube between eight neighboring points. Corner ``c`` of a cell stands at the offsets
(c & 1, c >> 1 & 1, c >> 2 & 1); its *case* is the number whose bit c says that corner c is inside.

Every case's triangles follow from three rules. (1) A cell edge carries a vertex where its two ends differ. (2) On
each of the six faces the vertices are joined by segments that cut off the *inside* corners one by one, so two cells
that share a face always agree. (3) The segments close to loops, and a loop is filled with triangles none of whose
diagonals lies in a face of the cell. From these every surface is closed, consistently oriented (normals point
outside) and has exactly two triangles on each edge.
"""

import math
from collections.abc import Callable
from functools import cache
from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Edge = tuple[int, int]
Loop = tuple[int, ...]

EDGES: tuple[Edge, ...] = tuple(
    (a, a | 1 << axis) for axis in range(3) for a in range(8) if not a >> axis & 1
)


def grid_points(
    start: int, stop: int, resolution: int, lower: float, upper: float, like: Tensor
) -> Float[Tensor, "N 3"]:
    """Return lattice points of slabs ``start <= i < stop`` of a cube with ``resolution`` points a side, x slowest."""
    axis = torch.linspace(lower, upper, resolution, device=like.device, dtype=like.dtype)
    return torch.cartesian_prod(axis[start:stop], axis, axis)


@torch.no_grad()
def sample_grid(
    field: Callable[[Tensor], Tensor], resolution: int, radius: float, like: Tensor, chunk: int = 1 << 18
) -> Float[Tensor, "X Y Z"]:
    """Sample ``field`` (N 3 -> N) at the lattice points of the cube [-radius, radius]^3, ``chunk`` at a time."""
    slabs = max(1, chunk // resolution**2)
    parts = [
        field(grid_points(start, min(start + slabs, resolution), resolution, -radius, radius, like)).flatten()
        for start in range(0, resolution, slabs)
    ]
    return torch.cat(parts).view(resolution, resolution, resolution)


@torch.no_grad()
def marching_cubes(
    values: Float[Tensor, "X Y Z"], level: float, radius: float
) -> tuple[Float[Tensor, "V 3"], Int[Tensor, "F 3"]]:
    """Return the surface ``values == level`` of a field sampled on the cube [-radius, radius]^3 (see ``sample_grid``).

    Faces turn counter-clockwise seen from outside (where values are below the level). The cube's surface closes what
    is inside at its border. Both results are empty where nothing is above the level. Vertices are shared.
    """
    padded = torch.nn.functional.pad(values - level, (1,) * 6, value=-1.0)
    inside = padded > 0
    cells = _active_cells(inside)
    if len(cells) == 0:
        return values.new_zeros(0, 3), torch.zeros(0, 3, dtype=torch.long, device=values.device)
    edges = _triangle_edges(inside, cells)
    used, faces = torch.unique(edges, return_inverse=True)
    vertices = _edge_points(padded, used)
    scale = values.new_tensor([2 * radius / (n - 1) for n in values.shape])
    return vertices * scale - radius, faces.view(-1, 3)


def _strides(shape: torch.Size) -> tuple[int, int, int]:
    return shape[1] * shape[2], shape[2], 1


def _corner_offsets(shape: torch.Size) -> list[int]:
    x, y, z = _strides(shape)
    return [(c & 1) * x + (c >> 1 & 1) * y + (c >> 2 & 1) * z for c in range(8)]


def _active_cells(inside: Tensor) -> Int[Tensor, "C"]:
    """Return linear indices of the first corners of all cells that the surface passes through."""
    some, every = inside, inside
    for axis in range(3):
        n = inside.shape[axis] - 1
        some = some.narrow(axis, 0, n) | some.narrow(axis, 1, n)
        every = every.narrow(axis, 0, n) & every.narrow(axis, 1, n)
    at = (some & ~every).nonzero()
    return (at * torch.tensor(_strides(inside.shape), device=inside.device)).sum(-1)


def _triangle_edges(inside: Tensor, cells: Int[Tensor, "C"]) -> Int[Tensor, "F3"]:
    """Return three grid edges for each triangle, as ``3 * first point + axis``."""
    flat, offsets = inside.flatten(), _corner_offsets(inside.shape)
    case = torch.stack([flat[cells + offset].long() << c for c, offset in enumerate(offsets)]).sum(0)
    table, counts = _case_table(inside.device)
    per_cell = counts[case]
    owner = torch.repeat_interleave(cells, per_cell)
    first = torch.repeat_interleave(per_cell.cumsum(0) - per_cell, per_cell)
    rank = torch.arange(len(owner), device=inside.device) - first
    triangle = table[torch.repeat_interleave(case, per_cell), rank]
    relative = torch.tensor(
        [3 * offsets[a] + (a ^ b).bit_length() - 1 for a, b in EDGES], device=inside.device
    )
    return (3 * owner[:, None] + relative[triangle]).flatten()


def _edge_points(padded: Tensor, edges: Int[Tensor, "V"]) -> Float[Tensor, "V 3"]:
    """Return where the surface cuts the given grid edges, in lattice units of the grid without its padding."""
    axis, start = edges % 3, edges // 3
    stop = start + torch.tensor(_strides(padded.shape), device=edges.device)[axis]
    flat = padded.flatten()
    a, b = flat[start], flat[stop]
    t = (a / (a - b)).nan_to_num(0.5).clamp(0, 1)[:, None]
    limit = torch.tensor(padded.shape, device=edges.device) - 3
    p, q = (
        _unravel(i, padded.shape).sub(1).clamp_min(0).minimum(limit).to(padded.dtype) for i in (start, stop)
    )
    return p + t * (q - p)


def _unravel(index: Int[Tensor, "V"], shape: torch.Size) -> Int[Tensor, "V 3"]:
    x, y, _ = _strides(shape)
    return torch.stack([index // x, index // y % shape[1], index % shape[2]], -1)


@cache
def _case_table(device: torch.device) -> tuple[Int[Tensor, "256 T 3"], Int[Tensor, "256"]]:
    """Return triangles (three cell edges each) of all 256 cases, and how many each case has."""
    cases = [cell_triangles(case) for case in range(256)]
    most = max(map(len, cases))
    rows = [case + [(0, 0, 0)] * (most - len(case)) for case in cases]
    return torch.tensor(rows, device=device), torch.tensor([len(case) for case in cases], device=device)


def cell_triangles(case: int) -> list[tuple[int, int, int]]:
    """Return the triangles of one case; each names three entries of ``EDGES``."""
    return [corner for loop in loops(case) for corner in _fill(loop)]


def loops(case: int) -> list[Loop]:
    """Return closed chains of cell edges that bound the inside of one case, counter-clockwise seen from outside."""
    follow = dict(segment for face in _faces() for segment in _segments(face, case))
    chains = []
    while follow:
        start, at = follow.popitem()
        chain = [start]
        while at != start:
            chain.append(at)
            at = follow.pop(at)
        chains.append(tuple(chain))
    return chains


@cache
def _faces() -> tuple[tuple[int, int, int, int], ...]:
    """Return the corners of each face, counter-clockwise seen from outside the cell."""
    found = []
    for axis, side in product(range(3), range(2)):
        u, v = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        base = side << axis
        ring = (base, base | u, base | u | v, base | v)
        found.append(ring if side else ring[::-1])
    return tuple(found)


def _edge_between(a: int, b: int) -> int:
    return EDGES.index((min(a, b), max(a, b)))


def _segments(face: tuple[int, int, int, int], case: int) -> list[tuple[int, int]]:
    """Return directed segments on a face, each around one run of inside corners, from where it begins to where it ends.

    Followed from face to face they make loops that turn counter-clockwise seen from outside the surface.
    """
    ring = [case >> c & 1 for c in face]
    enter = [i for i in range(4) if not ring[i - 1] and ring[i]]
    leave = [i for i in range(4) if ring[i - 1] and not ring[i]]
    pairs = [(i, min(leave, key=lambda j: (j - i) % 4)) for i in enter]
    return [(_edge_between(face[i - 1], face[i]), _edge_between(face[j - 1], face[j])) for i, j in pairs]


def _share_a_face(a: int, b: int) -> bool:
    corners = {*EDGES[a], *EDGES[b]}
    return any(corners <= set(face) for face in _faces())


def _fill(loop: Loop) -> list[tuple[int, int, int]]:
    """Return triangles that fill a loop without a diagonal in a face of the cell."""
    if len(loop) == 3:
        return [(loop[0], loop[1], loop[2])]
    first, last = loop[0], loop[-1]
    for k in range(1, len(loop) - 1):
        left, right = loop[: k + 1], loop[k:]
        if (len(left) > 2 and _share_a_face(first, loop[k])) or (
            len(right) > 2 and _share_a_face(loop[k], last)
        ):
            continue
        parts = [_fill(part) for part in (left, right) if len(part) > 2]
        if all(parts):
            return [(first, loop[k], last)] + [triangle for part in parts for triangle in part]
    return []


def solid_field(density: Float[Tensor, "X Y Z"], spacing: float) -> Float[Tensor, "X Y Z"]:
    """Return a density field as something with a clean surface: in [0, 1], full inside, smooth across the rim.

    What no axis direction sees is full: cavities and noise inside an object never show in a render. Elsewhere it
    is the opacity of a stretch of four grid spacings, which saturates where the object is dense. Then it is blurred
    by one spacing.
    """
    opacity = -torch.expm1(-4 * spacing * density)
    return binomial_blur(opacity.masked_fill(hidden(density, spacing), 1.0))


def hidden(density: Float[Tensor, "X Y Z"], spacing: float) -> Bool[Tensor, "X Y Z"]:
    """Return grid points that less than half the light reaches from each of the six axis directions."""
    depth = torch.full_like(density, math.inf)
    for axis in range(3):
        until = density.cumsum(axis) * spacing
        beyond = until.narrow(axis, density.shape[axis] - 1, 1) - until
        depth = torch.minimum(depth, torch.minimum(until - density * spacing, beyond))
    return depth > math.log(2)


def binomial_blur(values: Float[Tensor, "X Y Z"]) -> Float[Tensor, "X Y Z"]:
    """Return weighted mean (1, 2, 1) / 4 along each axis; the border repeats."""
    for axis in range(3):
        n = values.shape[axis]
        index = torch.arange(-1, n + 1, device=values.device).clamp(0, n - 1)
        wide = values.index_select(axis, index)
        values = 0.25 * wide.narrow(axis, 0, n) + 0.5 * values + 0.25 * wide.narrow(axis, 2, n)
    return values


def silhouette_level(
    field: Float[Tensor, "X Y Z"], density: Float[Tensor, "X Y Z"], spacing: float, candidates: int = 64
) -> float | None:
    """Return the level of ``field`` whose surface looks, along the axes, as large as the density renders.

    A column of the grid renders opaque where 1 - exp(-sum of density * spacing) exceeds one half; the surface at
    level L covers it where the field's largest value exceeds L. Among ``candidates`` levels between 0 and the
    largest value, the one with the largest intersection over union is returned (the middle one where several agree
    equally well). None if no column is opaque.
    """
    peak = torch.cat([field.amax(axis).flatten() for axis in range(3)])
    opaque = torch.cat([density.sum(axis).flatten() for axis in range(3)]) * spacing > math.log(2)
    if not opaque.any():
        return None
    shares = torch.arange(1, candidates + 1, device=field.device) / (candidates + 1)
    levels = shares * peak.max()
    covered = peak > levels[:, None]
    iou = (covered & opaque).sum(1) / (covered | opaque).sum(1)
    best = (iou >= iou.max() - 1e-3).nonzero().flatten()
    return float(levels[best[(len(best) - 1) // 2]])
