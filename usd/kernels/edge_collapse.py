"""Fewer triangles, same surface: edges are collapsed where the quadric error (Garland and Heckbert 1997) is least.

The language: collapsing an edge (a, b) moves both ends to one point and removes the edge's faces. The error of a point
is the sum of squared distances to the planes of the original faces around it, each weighted by the face's area.

An edge may collapse where the surface keeps its topology (the ends share no neighbors but those opposite to the edge)
and no face around turns over. So a closed mesh stays closed, and its Euler number stays what it is. Borders stay in
place; vertices at edges with more than two faces do not move.

With Warp a heap holds all edges, and the cheapest of them goes first (edge_collapse.h): one CPU thread, wherever the
mesh is. The torch twin collapses many at once in rounds: two that collapse together have no vertex, no face and no
neighbor in common, so each may be judged as if it were alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from usd.kernels import runtime

CHEAPEST = 0.4  # a round looks at this share of the edges
LEAST_TURN = 0.2  # cosine between a face's normal before and after
LEAST_SHAPE = 0.05  # height over longest side that faces keep, unless there was a thinner one before
NO_SIDE = 0.01  # thinner faces have no normal to keep
BORDER_WEIGHT = 10.0
ROUNDS = 1000


@dataclass(frozen=True)
class CollapseState:
    """A mesh between two rounds, its quadrics, and the keys of edges that cannot collapse for now."""

    x: Float[Tensor, "V 3"]
    quadric: Float[Tensor, "V 4 4"]
    faces: Int[Tensor, "F 3"]
    refused: Int[Tensor, "R"]


@dataclass(frozen=True)
class EdgeTable:
    """Undirected edges (a < b) of a mesh, their numbers of faces, and the vertices that may not move freely."""

    ends: Int[Tensor, "E 2"]
    n_faces: Int[Tensor, "E"]
    border: Bool[Tensor, "V"]
    locked: Bool[Tensor, "V"]

    def slices(self, size: int) -> list[slice]:
        """Return ranges of at most ``size`` edges that cover them all."""
        return [slice(start, start + size) for start in range(0, len(self.ends), size)]


def collapse_edges(
    x: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    target: int,
    show: Callable[[int], None],
    implementation: runtime.Implementation = "auto",
) -> tuple[Float[Tensor, "V 3"], Int[Tensor, "K 3"]]:
    """Return a surface of unit size and double precision with ``target`` faces, or one less; more where none may go.

    Vertices keep their numbers, used or not. ``show`` is told now and then how many faces are gone.
    """
    # Quadrics are doubles whatever a mesh is made of: the choice goes by device and package alone.
    if runtime.choose(implementation, x[:0].float()) == "torch":
        return _collapse_in_rounds(x, faces, target, show)
    from usd.kernels import edge_collapse_warp

    after, left = edge_collapse_warp.collapse(x.cpu(), faces.cpu(), target, show)
    return after.to(x.device), left.to(faces.device)


def _collapse_in_rounds(
    x: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], target: int, show: Callable[[int], None]
) -> tuple[Float[Tensor, "V 3"], Int[Tensor, "K 3"]]:
    """Return what ``collapse_edges`` returns, in rounds of independent edges."""
    state = CollapseState(x, face_quadrics(x, faces), faces, faces.new_zeros(0))
    for _ in range(ROUNDS):
        after = _collapse_round(state, target)
        if after is None:
            break
        state = after
        show(len(faces) - len(state.faces))
        if len(state.faces) <= target:
            break
    return state.x, state.faces


def face_quadrics(x: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "V 4 4"]:
    """Return for each vertex the sum of area-weighted plane quadrics of its faces, and of walls on borders."""
    a, b, c = x[faces].unbind(1)
    cross = torch.linalg.cross(b - a, c - a)
    area = 0.5 * cross.norm(dim=-1)
    normal = torch.nn.functional.normalize(cross, dim=-1)
    quadric = x.new_zeros(len(x), 4, 4)
    quadric.index_add_(
        0, faces.flatten(), (_plane_quadrics(normal, a) * area[:, None, None]).repeat_interleave(3, 0)
    )
    ends, walls = _border_walls(x, faces, normal)
    return quadric.index_add_(0, ends.flatten(), walls.repeat_interleave(2, 0))


def _border_walls(
    x: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], normal: Float[Tensor, "F 3"]
) -> tuple[Int[Tensor, "B 2"], Float[Tensor, "B 4 4"]]:
    """Return the border edges, and the quadrics of walls on them."""
    # A wall stands on each border edge, at a right angle to its face: leaving the border costs like leaving a plane.
    ends, owner = _border_edges(faces)
    along = x[ends[:, 1]] - x[ends[:, 0]]
    wall = torch.nn.functional.normalize(torch.linalg.cross(along, normal[owner]), dim=-1)
    weight = BORDER_WEIGHT * along.square().sum(-1)
    return ends, _plane_quadrics(wall, x[ends[:, 0]]) * weight[:, None, None]


def _plane_quadrics(normal: Float[Tensor, "N 3"], point: Float[Tensor, "N 3"]) -> Float[Tensor, "N 4 4"]:
    """Return the outer products of plane equations (n, -n . p): squared distances as quadratic forms."""
    plane = torch.cat([normal, -(normal * point).sum(-1, keepdim=True)], -1)
    return plane[:, :, None] * plane[:, None, :]


def _face_edges(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "F3 2"]:
    """Return the three edges of every face, the smaller vertex first; rows 3 f to 3 f + 2 belong to face f."""
    return torch.stack([faces, faces.roll(-1, 1)], -1).view(-1, 2).sort(1).values


def _edge_keys(pairs: Int[Tensor, "N 2"], n: int) -> Int[Tensor, "N"]:
    """Return one number for each pair of vertices below n."""
    return pairs[:, 0] * n + pairs[:, 1]


def _border_edges(faces: Int[Tensor, "F 3"]) -> tuple[Int[Tensor, "B 2"], Int[Tensor, "B"]]:
    """Return the edges with one face, and that face."""
    sides = _face_edges(faces)
    _, label, count = torch.unique(
        _edge_keys(sides, int(faces.max()) + 1), return_inverse=True, return_counts=True
    )
    rows = (count[label] == 1).nonzero().flatten()
    return sides[rows], rows // 3


def _edge_table(faces: Int[Tensor, "F 3"], n: int) -> EdgeTable:
    """Return the edges of a mesh of n vertices."""
    key, count = torch.unique(_edge_keys(_face_edges(faces), n), return_counts=True)
    ends = torch.stack([key // n, key % n], 1)
    border, locked = (torch.zeros(n, dtype=torch.bool, device=faces.device) for _ in range(2))
    border[ends[count == 1].flatten()] = True
    locked[ends[count > 2].flatten()] = True
    return EdgeTable(ends, count, border, locked)


def _collapse_round(state: CollapseState, target: int) -> CollapseState | None:
    """Return the mesh after an independent set of collapses, at most as many as are needed.

    None where no edge is left to try.
    """
    faces, n = state.faces, len(state.x)
    edges = _edge_table(faces, n)
    place, cost = _positions_and_costs(state, edges)
    # Only the cheapest are considered: greedy order is what makes the result good, rounds what makes it fast.
    order = _cheapest_edges(cost)
    if len(order) == 0:
        return None
    chosen = order[_independent_edges(edges.ends[order], edges.ends, n)]
    allowed = _collapsible(state, edges, chosen, place[chosen])
    # An edge that failed its checks is not tried again until something around it has changed.
    refused = torch.cat([state.refused, _edge_keys(edges.ends[chosen[~allowed]], n)])
    # Each collapse of an inner edge removes two faces.
    chosen = chosen[allowed][: max(1, -(-(len(faces) - target) // 2))]
    return _collapse(replace(state, refused=refused), edges.ends[chosen], place[chosen])


def _positions_and_costs(
    state: CollapseState, edges: EdgeTable
) -> tuple[Float[Tensor, "E 3"], Float[Tensor, "E"]]:
    """Return where each edge's ends should meet, and the error there; infinite where it may not collapse now."""
    slices = edges.slices(1 << 13)  # what is worked on at once stays in the cache
    parts = [_optimal_position(state.x, state.quadric, edges, rows) for rows in slices]
    place, cost = (torch.cat(each) for each in zip(*parts))
    if len(state.refused):
        cost = cost.masked_fill(torch.isin(_edge_keys(edges.ends, len(state.x)), state.refused), torch.inf)
    return place, cost


def _cheapest_edges(cost: Float[Tensor, "E"]) -> Int[Tensor, "C"]:
    """Return the cheapest edges that may collapse at all, best first."""
    possible = cost.isfinite().nonzero().flatten()
    k = max(min(64, len(possible)), int(CHEAPEST * len(possible)))
    return possible[cost[possible].topk(k, largest=False).indices]


def _optimal_position(
    x: Float[Tensor, "V 3"], quadric: Float[Tensor, "V 4 4"], edges: EdgeTable, rows: slice
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N"]]:
    """Return where the ends of some edges should meet, and the error there.

    The middle pulls a little, so that flat regions have one best place, and short edges go first there. A border
    only moves along itself; inner edges between two border vertices would pinch the surface and cost infinity.
    """
    a, b = edges.ends[rows].unbind(1)
    q = quadric[a] + quadric[b]
    middle, square = 0.5 * (x[a] + x[b]), (x[a] - x[b]).square().sum(-1)
    # Relative to the quadric's trace, so that the pull is alike at every scale and density.
    pull = 1e-6 * (q[:, 0, 0] + q[:, 1, 1] + q[:, 2, 2]) + 1e-12
    place = _solve_quadrics(q, pull, middle)
    # Nearly singular systems have their least far away: the middle is safe there.
    far = (place - middle).square().sum(-1) > square
    place = torch.where(far[:, None], middle, place)
    # An edge from the inside to a border ends on the border, which so keeps its shape.
    one_on_border = edges.border[a] != edges.border[b]
    on_border = torch.where(edges.border[a][:, None], x[a], x[b])
    place = torch.where(one_on_border[:, None], on_border, place)
    pinched = (
        (edges.border[a] & edges.border[b] & (edges.n_faces[rows] > 1)) | edges.locked[a] | edges.locked[b]
    )
    cost = _quadric_error(q, place).clamp_min(0) + pull * square
    return place, cost.masked_fill(pinched, torch.inf)


def _quadric_error(q: Float[Tensor, "E 4 4"], place: Float[Tensor, "E 3"]) -> Float[Tensor, "E"]:
    """Return the quadrics' values, squared distances from their planes, at points."""
    # p^T A p + 2 b^T p + c, without building p as a homogeneous vector.
    flat = (q[:, :3, :3] * place[:, None, :]).sum(-1) + 2 * q[:, :3, 3]
    return (flat * place).sum(-1) + q[:, 3, 3]


def _solve_quadrics(
    q: Float[Tensor, "E 4 4"], pull: Float[Tensor, "E"], middle: Float[Tensor, "E 3"]
) -> Float[Tensor, "E 3"]:
    """Return the minimum of each quadric, pulled towards ``middle``: symmetric 3 x 3 systems by Cramer's rule."""
    left = q[:, :3, :3] + pull[:, None, None] * torch.eye(3, dtype=q.dtype, device=q.device)
    right = pull[:, None] * middle - q[:, :3, 3]
    # Cross products of rows are the adjugate; a batched solver would take many times as long.
    r, s, t = left.unbind(1)
    adjugate = torch.stack([torch.linalg.cross(*pair) for pair in ((s, t), (t, r), (r, s))], 1)
    determinant = (r * adjugate[:, 0]).sum(-1)
    return (adjugate * right[:, None, :]).sum(-1) / determinant[:, None]


def _independent_edges(wanted: Int[Tensor, "C 2"], every: Int[Tensor, "E 2"], n: int) -> Int[Tensor, "K"]:
    """Return which of the edges ``wanted`` (best first) are better than all wanted ones near them."""
    rank = torch.arange(len(wanted), device=wanted.device)
    best = torch.full((n,), len(wanted), device=wanted.device)
    best.scatter_reduce_(0, wanted.flatten(), rank.repeat_interleave(2), "amin")
    # The best rank at each vertex, then at its neighbors: two edges of the best rank around share no face.
    near = best.clone()
    near.scatter_reduce_(0, every[:, 0], best[every[:, 1]], "amin")
    near.scatter_reduce_(0, every[:, 1], best[every[:, 0]], "amin")
    return rank[(near[wanted] == rank[:, None]).all(1)]


def _collapsible(
    state: CollapseState, edges: EdgeTable, chosen: Int[Tensor, "C"], place: Float[Tensor, "C 3"]
) -> Bool[Tensor, "C"]:
    """Return which of an independent set of edges may collapse. No face touches two of them."""
    n = len(state.x)
    # The number of the chosen edge that each vertex ends; -1 elsewhere.
    owner = torch.full((n,), -1, device=chosen.device)
    owner[edges.ends[chosen].flatten()] = torch.arange(len(chosen), device=chosen.device).repeat_interleave(2)
    near = owner[state.faces]
    touched = (near >= 0).any(1)
    around, near = state.faces[touched], near[touched]
    degree = torch.bincount(state.faces.flatten(), minlength=n) + edges.border
    # A border counts as one more neighbor: the open fan of a border vertex has one vertex more than faces.
    topology = _keeps_topology(around, owner, edges.n_faces[chosen], degree)
    # Faces with one end of an edge stay and are moved; those with both disappear.
    place_of = place[near.amax(1)][:, None]
    after = torch.where((near >= 0)[..., None], place_of, state.x[around])
    stays = (near >= 0).sum(1) == 1
    return topology & ~_deforms_faces(state.x[around], after, near.amax(1), stays, len(chosen))


def _keeps_topology(
    around: Int[Tensor, "N 3"], owner: Int[Tensor, "V"], n_faces: Int[Tensor, "C"], degree: Int[Tensor, "V"]
) -> Bool[Tensor, "C"]:
    """Return which edges fulfil the link condition (Dey et al. 1999), so that topology is kept.

    The ends' common neighbors are the vertices opposite to the edge, and each of these has four neighbors or more.
    """
    n = len(owner)
    # Pairs (end of a chosen edge, vertex that ends none), each once.
    pairs = torch.cat([around[:, [i, j]] for i in range(3) for j in range(3) if i != j])
    pairs = pairs[(owner[pairs[:, 0]] >= 0) & (owner[pairs[:, 1]] < 0)]
    known = torch.unique(_edge_keys(pairs, n))
    end, neighbor = known // n, known % n
    # A neighbor that occurs twice for one edge is a neighbor of both its ends.
    shared, count = torch.unique(owner[end] * n + neighbor, return_counts=True)
    shared = shared[count == 2]
    common = torch.bincount(shared // n, minlength=len(n_faces))
    # Losing a face would leave a vertex with three neighbors with two: its faces would lie on one another.
    thin = torch.bincount(shared[degree[shared % n] <= 3] // n, minlength=len(n_faces))
    return (common == n_faces) & (thin == 0)


def _deforms_faces(
    before: Float[Tensor, "N 3 3"],
    after: Float[Tensor, "N 3 3"],
    owner: Int[Tensor, "N"],
    stays: Bool[Tensor, "N"],
    n: int,
) -> Bool[Tensor, "C"]:
    """Return the edges around which a remaining face would turn over, or become a worse sliver than any there."""
    (old, shape_before), (new, shape) = _normals_and_shapes(before), _normals_and_shapes(after)
    turned = (old * new).sum(-1) < LEAST_TURN * old.norm(dim=-1) * new.norm(dim=-1)
    # Slivers have no normal worth keeping: they may turn, but nothing may lose its area.
    turned = stays & ((turned & (shape_before > NO_SIDE)) | (new.norm(dim=-1) <= 1e-14))
    # Slivers are judged against the worst around the edge, so that bad meshes can still be decimated.
    worst_before = shape.new_full((n,), LEAST_SHAPE).scatter_reduce(0, owner, shape_before, "amin")
    worst = shape.new_full((n,), 1.0).scatter_reduce(0, owner[stays], shape[stays], "amin")
    return (torch.bincount(owner[turned], minlength=n) > 0) | (worst < worst_before)


def _normals_and_shapes(corners: Float[Tensor, "N 3 3"]) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N"]]:
    """Return normals, as long as twice the area, and the faces' heights over their longest sides."""
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    longest = (corners - corners.roll(1, 1)).square().sum(-1).amax(1)
    return cross, cross.norm(dim=-1) / longest.clamp_min(1e-30)


def _collapse(state: CollapseState, ends: Int[Tensor, "K 2"], place: Float[Tensor, "K 3"]) -> CollapseState:
    """Return the mesh with each edge's ends at their place. Edges refused nearby may be tried again."""
    (a, b), n = ends.unbind(1), len(state.x)
    x = state.x.index_copy(0, a, place)
    quadric = state.quadric.index_copy(0, a, state.quadric[a] + state.quadric[b])
    renamed = torch.arange(n, device=x.device).index_copy(0, b, a)
    faces = renamed[state.faces]
    # Faces that had both ends now name one vertex twice.
    p, q, r = faces.unbind(1)
    faces = faces[(p != q) & (q != r) & (r != p)]
    # What changed is a vertex that moved and all that share a face with it.
    moved, changed = (torch.zeros(n, dtype=torch.bool, device=x.device) for _ in range(2))
    moved[a] = True
    changed[faces[moved[faces].any(1)].flatten()] = True
    still = ~(changed[state.refused // n] | changed[state.refused % n])
    return CollapseState(x, quadric, faces, state.refused[still])
