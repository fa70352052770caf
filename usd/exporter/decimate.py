"""Fewer triangles, same surface: edges are collapsed where the quadric error (Garland and Heckbert 1997) is least.

The language: collapsing an edge (a, b) moves both ends to one point and removes the edge's faces. The error of a point
is the sum of squared distances to the planes of the original faces around it, each weighted by the face's area.

A round collapses many edges at once. Two that collapse together have no vertex, no face and no neighbor in common,
so each may be judged as if it were alone. An edge may collapse where the surface keeps its topology (the ends share no
neighbors but those opposite to the edge) and no face around turns over. So a closed mesh stays closed, and its Euler
number stays what it is.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from usd.math.mesh import drop_unused

CHEAPEST = 0.4  # a round looks at this share of the edges
LEAST_TURN = 0.2  # cosine between a face's normal before and after
LEAST_SHAPE = 0.05  # height over longest side that faces keep, unless there was a thinner one before
NO_SIDE = 0.01  # thinner faces have no normal to keep
BORDER_WEIGHT = 10.0
ROUNDS = 1000


@dataclass(frozen=True)
class State:
    """A mesh on its way, its quadrics, and the keys of edges that cannot collapse as things are around them."""

    x: Float[Tensor, "V 3"]
    quadric: Float[Tensor, "V 4 4"]
    faces: Int[Tensor, "F 3"]
    refused: Int[Tensor, "R"]


@dataclass(frozen=True)
class Edges:
    """Undirected edges (a < b) of a mesh, the faces at each, and what of the mesh they may not change."""

    ends: Int[Tensor, "E 2"]
    n_faces: Int[Tensor, "E"]
    border: Bool[Tensor, "V"]
    locked: Bool[Tensor, "V"]

    def slices(self, size: int) -> list[slice]:
        return [slice(start, start + size) for start in range(0, len(self.ends), size)]


def decimated(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], target: int
) -> tuple[Float[Tensor, "U 3"], Int[Tensor, "K 3"]]:
    """The surface with ``target`` faces (or one less); with more where no further edge may collapse.

    Borders of open meshes stay in place; vertices at edges with more than two faces do not move.
    """
    if len(faces) <= target:
        return vertices, faces
    scale = (vertices.amax(0) - vertices.amin(0)).amax().double().clamp_min(1e-12)
    x = vertices.double() / scale
    state = State(x, face_quadrics(x, faces), faces, faces.new_zeros(0))
    for _ in range(ROUNDS):
        after = _round(state, target)
        if after is None:
            break
        state = after
        if len(state.faces) <= target:
            break
    x, faces = drop_unused(state.x * scale, state.faces)
    return x.to(vertices.dtype), faces


def face_quadrics(x: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "V 4 4"]:
    """For each vertex the sum of area-weighted plane quadrics of its faces, and of walls standing on borders."""
    a, b, c = x[faces].unbind(1)
    cross = torch.linalg.cross(b - a, c - a)
    area = 0.5 * cross.norm(dim=-1)
    normal = torch.nn.functional.normalize(cross, dim=-1)
    quadric = x.new_zeros(len(x), 4, 4)
    quadric.index_add_(0, faces.flatten(), (_planes(normal, a) * area[:, None, None]).repeat_interleave(3, 0))
    ends, owner = _borders(faces)
    along = x[ends[:, 1]] - x[ends[:, 0]]
    wall = torch.nn.functional.normalize(torch.linalg.cross(along, normal[owner]), dim=-1)
    weight = BORDER_WEIGHT * along.square().sum(-1)
    walls = _planes(wall, x[ends[:, 0]]) * weight[:, None, None]
    return quadric.index_add_(0, ends.flatten(), walls.repeat_interleave(2, 0))


def _planes(normal: Float[Tensor, "N 3"], point: Float[Tensor, "N 3"]) -> Float[Tensor, "N 4 4"]:
    plane = torch.cat([normal, -(normal * point).sum(-1, keepdim=True)], -1)
    return plane[:, :, None] * plane[:, None, :]


def _sides(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "F3 2"]:
    """The three sides of every face, the smaller vertex first: rows 3 f, 3 f + 1, 3 f + 2 belong to face f."""
    return torch.stack([faces, faces.roll(-1, 1)], -1).view(-1, 2).sort(1).values


def _keys(pairs: Int[Tensor, "N 2"], n: int) -> Int[Tensor, "N"]:
    return pairs[:, 0] * n + pairs[:, 1]


def _borders(faces: Int[Tensor, "F 3"]) -> tuple[Int[Tensor, "B 2"], Int[Tensor, "B"]]:
    """Edges with one face, and that face."""
    sides = _sides(faces)
    _, label, count = torch.unique(
        _keys(sides, int(faces.max()) + 1), return_inverse=True, return_counts=True
    )
    rows = (count[label] == 1).nonzero().flatten()
    return sides[rows], rows // 3


def _edges(faces: Int[Tensor, "F 3"], n: int) -> Edges:
    key, count = torch.unique(_keys(_sides(faces), n), return_counts=True)
    ends = torch.stack([key // n, key % n], 1)
    border, locked = (torch.zeros(n, dtype=torch.bool, device=faces.device) for _ in range(2))
    border[ends[count == 1].flatten()] = True
    locked[ends[count > 2].flatten()] = True
    return Edges(ends, count, border, locked)


def _round(state: State, target: int) -> State | None:
    """The mesh after an independent set of collapses, at most as many as are needed; None where none is left to try."""
    x, faces, n = state.x, state.faces, len(state.x)
    edges = _edges(faces, n)
    slices = edges.slices(1 << 13)  # what is worked on at once stays in the cache
    parts = [_best_place(x, state.quadric, edges, rows) for rows in slices]
    place, cost = (torch.cat(each) for each in zip(*parts))
    if len(state.refused):
        cost = cost.masked_fill(torch.isin(_keys(edges.ends, n), state.refused), torch.inf)
    order = _cheapest(cost)
    if len(order) == 0:
        return None
    chosen = order[_independent(edges.ends[order], edges.ends, n)]
    allowed = _allowed(state, edges, chosen, place[chosen])
    refused = torch.cat([state.refused, _keys(edges.ends[chosen[~allowed]], n)])
    chosen = chosen[allowed][: max(1, -(-(len(faces) - target) // 2))]
    return _collapse(replace(state, refused=refused), edges.ends[chosen], place[chosen])


def _cheapest(cost: Float[Tensor, "E"]) -> Int[Tensor, "C"]:
    """The cheapest edges that may collapse at all, best first."""
    possible = cost.isfinite().nonzero().flatten()
    k = max(min(64, len(possible)), int(CHEAPEST * len(possible)))
    return possible[cost[possible].topk(k, largest=False).indices]


def _best_place(
    x: Float[Tensor, "V 3"], quadric: Float[Tensor, "V 4 4"], edges: Edges, rows: slice
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N"]]:
    """Where the ends of some edges should meet, and the error there.

    The middle pulls a little, so that flat regions have one best place, and short edges go first there. A border
    only moves along itself; inner edges between two border vertices would pinch the surface and cost infinity.
    """
    a, b = edges.ends[rows].unbind(1)
    q = quadric[a] + quadric[b]
    middle, square = 0.5 * (x[a] + x[b]), (x[a] - x[b]).square().sum(-1)
    pull = 1e-6 * (q[:, 0, 0] + q[:, 1, 1] + q[:, 2, 2]) + 1e-12
    place = _solved(q, pull, middle)
    far = (place - middle).square().sum(-1) > square
    place = torch.where(far[:, None], middle, place)
    one_on_border = edges.border[a] != edges.border[b]
    on_border = torch.where(edges.border[a][:, None], x[a], x[b])
    place = torch.where(one_on_border[:, None], on_border, place)
    flat = (q[:, :3, :3] * place[:, None, :]).sum(-1) + 2 * q[:, :3, 3]
    error = (flat * place).sum(-1) + q[:, 3, 3]
    cost = error.clamp_min(0) + pull * square
    pinched = (
        (edges.border[a] & edges.border[b] & (edges.n_faces[rows] > 1)) | edges.locked[a] | edges.locked[b]
    )
    return place, cost.masked_fill(pinched, torch.inf)


def _solved(
    q: Float[Tensor, "E 4 4"], pull: Float[Tensor, "E"], middle: Float[Tensor, "E 3"]
) -> Float[Tensor, "E 3"]:
    """The least of each quadric, pulled towards ``middle``: a symmetric 3 x 3 system by Cramer's rule."""
    left = q[:, :3, :3] + pull[:, None, None] * torch.eye(3, dtype=q.dtype, device=q.device)
    right = pull[:, None] * middle - q[:, :3, 3]
    r, s, t = left.unbind(1)
    adjugate = torch.stack([torch.linalg.cross(*pair) for pair in ((s, t), (t, r), (r, s))], 1)
    determinant = (r * adjugate[:, 0]).sum(-1)
    return (adjugate * right[:, None, :]).sum(-1) / determinant[:, None]


def _independent(wanted: Int[Tensor, "C 2"], every: Int[Tensor, "E 2"], n: int) -> Int[Tensor, "K"]:
    """Which of the edges ``wanted`` (best first) are the best among all wanted ones that come near them."""
    rank = torch.arange(len(wanted), device=wanted.device)
    best = torch.full((n,), len(wanted), device=wanted.device)
    best.scatter_reduce_(0, wanted.flatten(), rank.repeat_interleave(2), "amin")
    near = best.clone()
    near.scatter_reduce_(0, every[:, 0], best[every[:, 1]], "amin")
    near.scatter_reduce_(0, every[:, 1], best[every[:, 0]], "amin")
    return rank[(near[wanted] == rank[:, None]).all(1)]


def _allowed(
    state: State, edges: Edges, chosen: Int[Tensor, "C"], place: Float[Tensor, "C 3"]
) -> Bool[Tensor, "C"]:
    """Which of an independent set of edges may collapse. No face touches two of them."""
    n = len(state.x)
    owner = torch.full((n,), -1, device=chosen.device)
    owner[edges.ends[chosen].flatten()] = torch.arange(len(chosen), device=chosen.device).repeat_interleave(2)
    near = owner[state.faces]
    touched = (near >= 0).any(1)
    around, near = state.faces[touched], near[touched]
    degree = torch.bincount(state.faces.flatten(), minlength=n) + edges.border
    topology = _keeps_topology(around, owner, edges.n_faces[chosen], degree)
    place_of = place[near.amax(1)][:, None]
    after = torch.where((near >= 0)[..., None], place_of, state.x[around])
    stays = (near >= 0).sum(1) == 1
    return topology & ~_spoiled(state.x[around], after, near.amax(1), stays, len(chosen))


def _keeps_topology(
    around: Int[Tensor, "N 3"], owner: Int[Tensor, "V"], n_faces: Int[Tensor, "C"], degree: Int[Tensor, "V"]
) -> Bool[Tensor, "C"]:
    """The link condition: the ends' common neighbors are the vertices opposite to the edge, each with four or more."""
    n = len(owner)
    pairs = torch.cat([around[:, [i, j]] for i in range(3) for j in range(3) if i != j])
    pairs = pairs[(owner[pairs[:, 0]] >= 0) & (owner[pairs[:, 1]] < 0)]
    known = torch.unique(_keys(pairs, n))
    end, neighbour = known // n, known % n
    shared, count = torch.unique(owner[end] * n + neighbour, return_counts=True)
    shared = shared[count == 2]
    common = torch.bincount(shared // n, minlength=len(n_faces))
    thin = torch.bincount(shared[degree[shared % n] <= 3] // n, minlength=len(n_faces))
    return (common == n_faces) & (thin == 0)


def _spoiled(
    before: Float[Tensor, "N 3 3"],
    after: Float[Tensor, "N 3 3"],
    owner: Int[Tensor, "N"],
    stays: Bool[Tensor, "N"],
    n: int,
) -> Bool[Tensor, "C"]:
    """Edges around which a face that stays would turn over, or become a worse sliver than any that was there."""
    (old, shape_before), (new, shape) = _crosses(before), _crosses(after)
    turned = (old * new).sum(-1) < LEAST_TURN * old.norm(dim=-1) * new.norm(dim=-1)
    turned = stays & ((turned & (shape_before > NO_SIDE)) | (new.norm(dim=-1) <= 1e-14))
    worst_before = shape.new_full((n,), LEAST_SHAPE).scatter_reduce(0, owner, shape_before, "amin")
    worst = shape.new_full((n,), 1.0).scatter_reduce(0, owner[stays], shape[stays], "amin")
    return (torch.bincount(owner[turned], minlength=n) > 0) | (worst < worst_before)


def _crosses(corners: Float[Tensor, "N 3 3"]) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N"]]:
    """Normals, as long as twice the area, and the faces' heights over their longest sides."""
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    longest = (corners - corners.roll(1, 1)).square().sum(-1).amax(1)
    return cross, cross.norm(dim=-1) / longest.clamp_min(1e-30)


def _collapse(state: State, ends: Int[Tensor, "K 2"], place: Float[Tensor, "K 3"]) -> State:
    """The mesh with each edge's ends at their place. What was refused nearby may be tried again."""
    (a, b), n = ends.unbind(1), len(state.x)
    x = state.x.index_copy(0, a, place)
    quadric = state.quadric.index_copy(0, a, state.quadric[a] + state.quadric[b])
    renamed = torch.arange(n, device=x.device).index_copy(0, b, a)
    faces = renamed[state.faces]
    p, q, r = faces.unbind(1)
    faces = faces[(p != q) & (q != r) & (r != p)]
    moved, changed = (torch.zeros(n, dtype=torch.bool, device=x.device) for _ in range(2))
    moved[a] = True
    changed[faces[moved[faces].any(1)].flatten()] = True
    still = ~(changed[state.refused // n] | changed[state.refused % n])
    return State(x, quadric, faces, state.refused[still])
