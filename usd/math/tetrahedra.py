"""Closed triangle meshes from signed distances on tetrahedra: a grid made in code, and what DMTet marches through.

The differentiable surface is that of arXiv 2111.04276, section 3.

Signed distances are *positive outside*; a grid point is inside where its distance is below zero.

The grid is the body-centered cubic lattice: corners and centers of n^3 cubes of [0, 1]^3. Two neighboring centers and
an edge of the face between them make a tetrahedron; at the border a center and half a face do. All inner ones are
congruent, with two edges of length h = 1/n and four of sqrt(3)/2 h, and nearly regular: no direction is preferred.

A tetrahedron's surface is a triangle where one corner differs from the others, two triangles where two do. The
tetrahedra around a grid edge form a ring unless the edge lies on the border; so where no border point is inside, every
surface is closed, consistently oriented and a manifold, whatever the values.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

FREEDOM = 0.25
"""How far each point may move, in edges of a cube, so that no tetrahedron can turn over: opposite edges of one are
half an edge apart, opposite corner and face more."""


@dataclass(frozen=True)
class TetrahedralGrid:
    """Points of [0, 1]^3, tetrahedra of positive volume, and which points lie on the border. ``cells`` is n."""

    points: Float[Tensor, "V 3"]
    tetrahedra: Int[Tensor, "T 4"]
    border: Bool[Tensor, "V"]
    cells: int


def cells_for(resolution: int) -> int:
    """Return n for a *resolution* as published grids count it: (resolution / 2)^3 points, so 128 has some 270,000."""
    return max(1, round(0.5 * resolution / 2 ** (1 / 3)))


@lru_cache(maxsize=4)
def tetrahedral_grid(cells: int, device: "torch.device | str" = "cpu") -> TetrahedralGrid:
    """Return the body-centered cubic grid of ``cells``^3 cubes: (n + 1)^3 + n^3 points and 12 n^3 tetrahedra.

    It is kept and shared: not to be changed in place.
    """
    corners = _lattice(cells + 1, device)
    points = torch.cat([corners.float(), _lattice(cells, device) + 0.5]) / cells
    blocks = [block for axis in range(3) for block in _across(axis, cells, device)]
    tetrahedra = torch.cat([_positive(points, block) for block in blocks])
    border = ((points == 0) | (points == 1)).any(-1)
    return TetrahedralGrid(points, tetrahedra, border, cells)


def _lattice(n: int, device: "torch.device | str") -> Int[Tensor, "N 3"]:
    axis = torch.arange(n, device=device)
    return torch.cartesian_prod(axis, axis, axis)


def _across(axis: int, n: int, device: "torch.device | str") -> list[Int[Tensor, "T 4"]]:
    """Return the tetrahedra on all faces perpendicular to an axis: four a face between cubes, two on a border."""
    ring = _face_corners(axis, n, device)
    edges = torch.stack([ring, ring.roll(-1, -1)], -1)  # face, edge of it, end
    center = (n + 1) ** 3 + torch.arange(n**3, device=device).view(n, n, n).movedim(axis, 0)
    pair = torch.stack([center[:-1].flatten(), center[1:].flatten()], -1)[:, None].expand(-1, 4, 2)
    inner = torch.cat([pair, edges[n * n : n**3]], -1).view(-1, 4)
    return [inner, _cap(center[0].flatten(), ring[: n * n]), _cap(center[-1].flatten(), ring[n**3 :])]


def _face_corners(axis: int, n: int, device: "torch.device | str") -> Int[Tensor, "F 4"]:
    """Return corner points around every face perpendicular to an axis, slab by slab along it."""
    index = torch.arange((n + 1) ** 3, device=device).view(n + 1, n + 1, n + 1).movedim(axis, 0)
    return torch.stack([part.flatten() for part in _face_ring(index)], -1)


def _face_ring(corner: Tensor) -> list[Tensor]:
    """Return what belongs to the four corners of every face perpendicular to the first axis, in turn."""
    return [corner[:, :-1, :-1], corner[:, 1:, :-1], corner[:, 1:, 1:], corner[:, :-1, 1:]]


def _cap(center: Int[Tensor, "F"], ring: Int[Tensor, "F 4"]) -> Int[Tensor, "T 4"]:
    """Return two tetrahedra between a center and a face on the border."""
    a, b, c, d = ring.unbind(-1)
    return torch.cat([torch.stack([center, a, b, c], -1), torch.stack([center, a, c, d], -1)])


def _positive(points: Float[Tensor, "V 3"], block: Int[Tensor, "T 4"]) -> Int[Tensor, "T 4"]:
    """Return tetrahedra that all turn alike, with two corners exchanged where their volume is negative."""
    negative = len(block) > 0 and float(volumes(points, block[:1])) < 0
    return block[:, [0, 1, 3, 2]] if negative else block


def volumes(points: Float[Tensor, "V 3"], tetrahedra: Int[Tensor, "T 4"]) -> Float[Tensor, "T"]:
    """Return signed volumes; positive where corners 1, 2, 3 turn counter-clockwise seen from opposite of corner 0."""
    a, b, c, d = points[tetrahedra].unbind(1)
    return ((b - a) * torch.linalg.cross(c - a, d - a)).sum(-1) / 6


def near_surface(grid: TetrahedralGrid, inside: Bool[Tensor, "V"]) -> Int[Tensor, "C 4"]:
    """Return few tetrahedra of a grid, among them all that a surface cuts: those on faces whose surroundings differ."""
    n = grid.cells
    corners, centers = inside[: (n + 1) ** 3].view(n + 1, n + 1, n + 1), inside[(n + 1) ** 3 :].view(n, n, n)
    caps = torch.arange(4 * n * n, device=inside.device)
    found, first = [], 0
    for axis in range(3):
        faces = _mixed_faces(corners.movedim(axis, 0), centers.movedim(axis, 0))
        found += [(first + 4 * faces[:, None] + torch.arange(4, device=inside.device)).flatten()]
        first += 4 * (n - 1) * n * n
        found += [first + caps]
        first += 4 * n * n
    return grid.tetrahedra[torch.cat(found)]


def _mixed_faces(corner: Bool[Tensor, "m m m"], center: Bool[Tensor, "n n n"]) -> Int[Tensor, "F"]:
    """Return which faces between cubes along the first axis have points inside and outside among their six."""
    a, b, c, d = _face_ring(corner[1:-1])
    below, above = center[:-1], center[1:]
    some, every = a | b | c | d | below | above, a & b & c & d & below & above
    return (some & ~every).flatten().nonzero()[:, 0]


def grid_surface(
    grid: TetrahedralGrid, points: Float[Tensor, "V 3"], distance: Float[Tensor, "V"]
) -> tuple[Float[Tensor, "W 3"], Int[Tensor, "F 3"]]:
    """March through a grid whose points may have been moved; what reaches its border is closed there."""
    vertices, faces, _ = grid_cut(grid, points, distance)
    return vertices, faces


def grid_cut(
    grid: TetrahedralGrid, points: Float[Tensor, "V 3"], distance: Float[Tensor, "V"]
) -> tuple[Float[Tensor, "W 3"], Int[Tensor, "F 3"], Float[Tensor, "W 2"]]:
    """Return ``grid_surface``, and for each vertex the distances at the two ends of the grid edge it lies on."""
    least = 1e-3 * (points[1] - points[0]).norm().detach()
    closed = torch.where(grid.border, distance.clamp_min(least), distance)
    inside = closed.detach() < 0
    vertices, faces, ends = marching_tetrahedra(points, closed, near_surface(grid, inside))
    return vertices, faces, closed[ends]


def grid_shift(grid: TetrahedralGrid, wanted: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
    """Return how far points of a grid move: as wanted, within their freedom; those on the border stay."""
    return bounded_shift(wanted, FREEDOM / grid.cells).masked_fill(grid.border[:, None], 0.0)


def bounded_shift(shift: Float[Tensor, "V 3"], length: float) -> Float[Tensor, "V 3"]:
    """Return ``shift`` shortened to less than ``length``: nearly itself where short, its direction is kept."""
    size = (shift.square().sum(-1, keepdim=True) + 1e-12).sqrt() / length
    return shift * torch.tanh(size) / size


def marching_tetrahedra(
    points: Float[Tensor, "V 3"], distance: Float[Tensor, "V"], tetrahedra: Int[Tensor, "T 4"]
) -> tuple[Float[Tensor, "W 3"], Int[Tensor, "F 3"], Int[Tensor, "W 2"]]:
    """Return the surface where ``distance``, linear in every tetrahedron, is zero, and the ends of each vertex's edge.

    Faces turn counter-clockwise seen from outside. Vertices are shared, and differentiable with respect to points and
    distances. All results are empty where no tetrahedron is cut. What is inside on the grid's border stays open there.
    """
    ends, faces = _cut_edges(distance.detach() < 0, tetrahedra)
    return _zeros(points, distance, ends), faces, ends


def _cut_edges(
    inside: Bool[Tensor, "V"], tetrahedra: Int[Tensor, "T 4"]
) -> tuple[Int[Tensor, "W 2"], Int[Tensor, "F 3"]]:
    """Return the grid edges that carry vertices, and the faces between these."""
    case = _cases(inside, tetrahedra)
    cut = ((case > 0) & (case < 15)).nonzero()[:, 0]
    edges = _triangle_edges(case[cut].long(), tetrahedra[cut].long())
    code, faces = torch.unique(edges[:, 0] * len(inside) + edges[:, 1], return_inverse=True)
    return torch.stack([code // len(inside), code % len(inside)], -1), faces.view(-1, 3)


def sign_changes(ends: Float[Tensor, "W 2"]) -> Float[Tensor, ""]:
    """Punish grid edges whose ends differ in sign: how far each end is from the other's sign, mean over ends.

    The regularizer of arXiv 2111.12503, equation 2. ``ends`` are the distances at both ends of each such edge, best in
    edges of a cube. It removes what no picture sees or asks for: floaters, inner walls. Zero where nothing is cut.
    """
    if len(ends) == 0:
        return ends.sum()
    wanted = (ends.detach().flip(-1) > 0).to(ends.dtype)
    return torch.nn.functional.binary_cross_entropy_with_logits(ends, wanted)


def _cases(inside: Bool[Tensor, "V"], tetrahedra: Int[Tensor, "T 4"]) -> UInt8[Tensor, "T"]:
    """Return for each tetrahedron the number whose bit c says that corner c is inside."""
    flags = inside.to(torch.uint8)
    corners = [flags[tetrahedra[:, c]] << c for c in range(4)]
    return corners[0] | corners[1] | corners[2] | corners[3]


def _triangle_edges(case: Int[Tensor, "C"], corners: Int[Tensor, "C 4"]) -> Int[Tensor, "F3 2"]:
    """Return three grid edges for each triangle, (smaller, larger) point."""
    table, count = _case_table(case.device)
    used = torch.arange(2, device=case.device) < count[case][:, None]
    owner = used.nonzero()[:, 0]
    local = table[case][used]  # triangle, its corner, end
    ends = corners[owner][:, None].expand(-1, 3, -1).gather(2, local)
    return ends.view(-1, 2).sort(-1).values


def _zeros(
    points: Float[Tensor, "V 3"], distance: Float[Tensor, "V"], ends: Int[Tensor, "W 2"]
) -> Float[Tensor, "W 3"]:
    """Return where the distance is zero between the two ends of edges, which differ in sign."""
    p, q = points[ends[:, 0]], points[ends[:, 1]]
    a, b = distance[ends[:, 0]], distance[ends[:, 1]]
    gap = a - b
    t = a / torch.where(gap.abs() < 1e-12, torch.full_like(gap, 1e-12).copysign(gap), gap)
    return p + t.clamp(0, 1)[:, None] * (q - p)


@cache
def _case_table(device: torch.device) -> tuple[Int[Tensor, "16 2 3 2"], Int[Tensor, "16"]]:
    """Return triangles of all cases as pairs of corners, and how many each has."""
    cases = [tetrahedron_triangles(case) for case in range(16)]
    rows = [case + [((0, 0),) * 3] * (2 - len(case)) for case in cases]
    return torch.tensor(rows, device=device), torch.tensor([len(case) for case in cases], device=device)


Edge = tuple[int, int]


def tetrahedron_triangles(case: int) -> list[tuple[Edge, Edge, Edge]]:
    """Return the triangles of a case; each names three edges (inside corner, outside corner)."""
    inside = [c for c in range(4) if case >> c & 1]
    outside = [c for c in range(4) if not case >> c & 1]
    ring: list[Edge] = list(product(inside, outside))
    if len(ring) == 4:
        ring = [ring[0], ring[1], ring[3], ring[2]]
    if ring and _is_clockwise(ring, inside, outside):
        ring.reverse()
    return [(ring[0], ring[i], ring[i + 1]) for i in range(1, len(ring) - 1)]


def _is_clockwise(ring: list[Edge], inside: list[int], outside: list[int]) -> bool:
    """Return whether a ring of edges turns clockwise seen from outside, in a tetrahedron of positive volume."""
    corner = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    a, b, c = ((corner[i] + corner[j]) / 2 for i, j in ring[:3])
    outward = corner[outside].mean(0) - corner[inside].mean(0)
    return bool(torch.linalg.cross(b - a, c - a) @ outward < 0)
