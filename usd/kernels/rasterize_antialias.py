"""Analytic antialiasing: neighboring pixels on the two sides of a silhouette are blended by where it crosses.

The idea is that of arXiv 2011.03277, section 3.4. Between the center of a covered pixel A (at 0) and that of
its neighbor B (at 1) a silhouette crosses at alpha; the border of the pixels is at 1/2::

    alpha > 1/2:  B <- B + (alpha - 1/2) (A - B)        alpha < 1/2:  A <- A + (1/2 - alpha) (B - A)

A row's sum is then exactly the covered length and moves with the edge. alpha depends on the edge's two
vertices, which is how gradients reach them. Three things differ from the paper. Crossings are found from the
edges, not from the triangles that two pixels show, so that faces smaller than a pixel lose none. Whether a
crossing is visible is decided by a ray just beside it. Rows are blended before columns, so that a picture in
[0, 1] stays there.

An edge is a *silhouette* of a view if all its faces lie on one side of it, as seen from there: folds, borders
of open meshes, and anything non-manifold; how faces turn does not matter. MeshEdges steeper than 45 degrees are
crossed by rows, the others by columns; where an outline passes 45 degrees a pixel may jump by a part of its
value.

Letters: B views, E edges, S silhouettes of all views, K crossings, C channels.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from usd.kernels.rasterize import Fragments, Tracer, View

BESIDE_PX = 0.01  # how far outside its silhouette a crossing's visibility is looked at
LEAST_GAP = 1e-3  # what is behind a silhouette is further away by at least this share
LEAST_DEPTH = 1e-6  # edges that end nearer to the camera's plane are left out


@dataclass(frozen=True)
class MeshEdges:
    """The edges of a mesh, and the three half-edges of each face; half-edge k belongs to face k % F.

    ``turn`` is 1 where a half-edge runs along its edge, -1 where against it.
    """

    ends: Int[Tensor, "E 2"]
    of_half: Int[Tensor, "N"]
    turn: Float[Tensor, "N"]
    n_faces: Float[Tensor, "E"]


def edges_of(faces: Int[Tensor, "F 3"], n_vertices: int, like: Float[Tensor, "..."]) -> MeshEdges:
    """Return every edge once, its lower vertex first."""
    half = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    # Both faces of an edge name it in their own direction: the order of its ends is forgotten here ...
    low, high = torch.minimum(*half.unbind(1)), torch.maximum(*half.unbind(1))
    # One number for a pair, because unique of numbers is much faster than unique of rows.
    key, of_half = torch.unique(low * n_vertices + high, return_inverse=True)
    ends = torch.stack([key // n_vertices, key % n_vertices], -1)
    # ... and kept beside, as the side on which the face lies depends on it.
    turn = torch.where(half[:, 0] == low, 1.0, -1.0).to(like)
    return MeshEdges(ends, of_half, turn, torch.bincount(of_half, minlength=len(key)).to(like))


@dataclass(frozen=True)
class Silhouettes:
    """Edges with all their faces on one side, in one view. ``side`` is +1 where that is the right of p0 -> p1.

    "Right" is meant in a picture whose y axis points down.
    """

    view: Int[Tensor, "S"]
    ends: Int[Tensor, "S 2"]
    side: Float[Tensor, "S"]


def silhouettes(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], view: View, edges: MeshEdges
) -> Silhouettes:
    """Return all views' silhouettes. Edges without an extent, as seen by a camera, are none."""
    a, b, c = vertices[faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    # The side of its face that each camera sees: +1 the back, -1 the front, 0 the rim.
    facing = (view.toward(a) * normal).sum(-1).sign()
    # Seen along an edge, a face lies to its right or left; all on one side make an outline.
    total = facing.new_zeros(len(facing), len(edges.ends))
    total.index_add_(1, edges.of_half, facing.repeat(1, 3) * edges.turn)
    which, edge = (total.abs() == edges.n_faces).nonzero().unbind(1)
    return Silhouettes(which, edges.ends[edge], total[which, edge].sign())


@dataclass(frozen=True)
class Crossings:
    """Crossings of visible silhouettes with segments between neighboring pixels' centers, at most one a segment.

    ``inner`` is the pixel that shows the silhouette's surface, ``outer`` its neighbor in the same row or, where
    ``in_row`` is false, in the same column; both are numbered as ``Fragments.pixel``. ``ends`` are the edge's vertices.
    """

    view: Int[Tensor, "K"]
    ends: Int[Tensor, "K 2"]
    in_row: Bool[Tensor, "K"]
    inner: Int[Tensor, "K"]
    outer: Int[Tensor, "K"]

    def __len__(self) -> int:
        return self.view.shape[0]

    def select(self, index: Tensor) -> "Crossings":
        """Return some of the crossings, by number or mask."""
        return Crossings(
            self.view[index], self.ends[index], self.in_row[index], self.inner[index], self.outer[index]
        )


@torch.no_grad()
def crossings(tracer: Tracer, view: View, fragments: Fragments) -> Crossings:
    """Return the crossings that change the picture of the fragments. Not differentiable; ``crossing_points`` is."""
    # Only outlines can move a pixel from one surface to another, and they are few.
    edges = edges_of(tracer.faces, len(tracer.vertices), tracer.vertices)
    outlines = silhouettes(tracer.vertices, tracer.faces, view, edges)
    found = _scan(tracer.vertices, outlines, view)
    # The pixel that shows the outline's own surface is the nearer one; elsewhere another surface covers it.
    distance = torch.full_like(view.rays[0][:, 0], torch.inf).index_copy(0, fragments.pixel, fragments.t)
    found = found.select(distance[found.inner] < distance[found.outer])
    # Rays are dear, so they come last, for what the cheap tests have left.
    found = found.select(_is_visible(tracer, found, view, distance))
    return _outermost(found, crossing_points(tracer.vertices, found, view).alpha)


def _scan(vertices: Float[Tensor, "V 3"], outlines: Silhouettes, view: View) -> Crossings:
    """Find every crossing of a silhouette with a row or column of pixel centers, between two pixels."""
    (p0, depth0), (p1, depth1) = (view.project(vertices[i], outlines.view) for i in outlines.ends.unbind(1))
    # A steep edge is crossed by rows of pixels, a flat one by columns: each pixel pair then counts once.
    run, rise = (p1 - p0).unbind(1)
    in_row = rise.abs() >= run.abs()
    start, end, n_lines = p0.gather(1, axis(in_row)), p1.gather(1, axis(in_row)), line_count(in_row, view)
    # A projection means nothing behind the camera.
    in_front = (depth0 > LEAST_DEPTH) & (depth1 > LEAST_DEPTH)
    # Every line that an edge crosses becomes an entry of its own.
    edge, line = _lines_between(start.squeeze(1), end.squeeze(1), n_lines, in_front)
    in_row = in_row[edge]
    place = _crossing_place(p0[edge], p1[edge], in_row, line)
    # The crossing lies between the centers of pixels low and low + 1.
    low = (place - 0.5).floor()
    inside = (low >= 0) & (low + 1 < line_count(~in_row, view))
    # The surface lies on the side that the outline's sense says: left or right, above or below.
    inner_is_high = torch.where(in_row, -rise[edge], run[edge]) * outlines.side[edge] > 0
    found = (part[inside] for part in (edge, in_row, line, low.long(), inner_is_high))
    return _number_crossings(outlines, view, *found)


def axis(in_row: Bool[Tensor, "K"]) -> Int[Tensor, "K 1"]:
    """Return the coordinate that numbers lines: y for rows, x for columns."""
    return in_row.long()[:, None]


def line_count(in_row: Bool[Tensor, "K"], view: View) -> Int[Tensor, "K"]:
    """Return how many rows, or else columns, a picture has."""
    return torch.where(in_row, view.height, view.width)


def _lines_between(
    start: Float[Tensor, "S"], end: Float[Tensor, "S"], n_lines: Int[Tensor, "S"], wanted: Bool[Tensor, "S"]
) -> tuple[Int[Tensor, "K"], Int[Tensor, "K"]]:
    """Return (edge, line) for every line whose center lies between start and end, the lower one included."""
    # Half-open: a corner shared by two edges is crossed once.
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    first, stop = ((x - 0.5).ceil().clamp(min=0).minimum(n_lines.to(low)) for x in (low, high))
    # As many entries as lines, without a loop over edges.
    count = torch.where(wanted, stop - first, torch.zeros_like(first)).long()
    edge = torch.arange(len(count), device=count.device).repeat_interleave(count)
    # The number of an entry within its edge says which line it is.
    before = (count.cumsum(0) - count)[edge]
    return edge, first[edge].long() + torch.arange(len(edge), device=edge.device) - before


def _crossing_place(
    p0: Float[Tensor, "K 2"], p1: Float[Tensor, "K 2"], in_row: Bool[Tensor, "K"], line: Int[Tensor, "K"]
) -> Float[Tensor, "K"]:
    """Return where, on the other axis, the edge p0 p1 meets the line."""
    along, across = axis(in_row), axis(~in_row)
    # Centers of pixels are at halves.
    share = (line[:, None] + 0.5 - p0.gather(1, along)) / (p1 - p0).gather(1, along)
    return (p0 + share * (p1 - p0)).gather(1, across).squeeze(1)


def _number_crossings(
    outlines: Silhouettes,
    view: View,
    edge: Tensor,
    in_row: Tensor,
    line: Tensor,
    low: Tensor,
    inner_is_high: Tensor,
) -> Crossings:
    """Return crossings between pixels ``low`` and ``low + 1`` of lines."""
    which = outlines.view[edge]
    first = which * (view.height * view.width)
    step = torch.where(in_row, 1, view.width)
    # Pixels are numbered view by view, row by row.
    lower = first + torch.where(in_row, line * view.width + low, low * view.width + line)
    inner, outer = lower + step * inner_is_high, lower + step * ~inner_is_high
    return Crossings(which, outlines.ends[edge], in_row, inner, outer)


@dataclass(frozen=True)
class CrossingPoints:
    """Crossings as points: in the picture (pixels), their depth, and their distance from the inner pixel's center."""

    pixels: Float[Tensor, "K 2"]
    depth: Float[Tensor, "K"]
    alpha: Float[Tensor, "K"]


def _depth_between(depth0: Tensor, depth1: Tensor, share: Tensor, perspective: bool) -> Tensor:
    """Return the depth at a share of the way along a projected edge, where its inverse is linear, not depth."""
    if perspective:
        return 1 / ((1 - share) / depth0 + share / depth1)
    return depth0 + share * (depth1 - depth0)


def crossing_points(vertices: Float[Tensor, "V 3"], found: Crossings, view: View) -> CrossingPoints:
    """Locate the crossings; differentiable by vertices and cameras. alpha is in [0, 1], 1 at the outer pixel."""
    (p0, depth0), (p1, depth1) = (
        view.project(vertices.index_select(0, ends), found.view) for ends in found.ends.unbind(1)
    )
    # Measured from the inner pixel towards the outer one, whichever way that is.
    center, outward = _center(found.inner, view), _center(found.outer, view) - _center(found.inner, view)
    along, across = axis(found.in_row), axis(~found.in_row)
    # Computed again with gradients: the scan had none, and no gradient may pass through its choices.
    share = (center - p0).gather(1, along) / (p1 - p0).gather(1, along)
    pixels = p0 + share * (p1 - p0)
    alpha = ((pixels - center) * outward).gather(1, across).squeeze(1)
    return CrossingPoints(pixels, _depth_between(depth0, depth1, share.squeeze(1), view.perspective), alpha)


def _center(pixel: Int[Tensor, "K"], view: View) -> Float[Tensor, "K 2"]:
    x, y = pixel % view.width, pixel.div(view.width, rounding_mode="floor") % view.height
    return torch.stack([x, y], -1) + 0.5


def _is_visible(
    tracer: Tracer, found: Crossings, view: View, distance: Float[Tensor, "N"]
) -> Bool[Tensor, "K"]:
    """Return where nothing hides the edge and its two pixels lie on the two sides of a step in depth."""
    at = crossing_points(tracer.vertices, found, view)
    outward = _center(found.outer, view) - _center(found.inner, view)
    # Just beside the outline the ray must meet what is behind, not the surface itself.
    origins, through = view.rays_through(at.pixels + BESIDE_PX * outward.to(at.pixels), found.view)
    behind = tracer.cast(origins, through)[1]
    length = through.norm(dim=-1)
    # Halfway between both surfaces: robust where a pixel's center is some way from the crossing.
    border = 0.5 * (at.depth + behind) * length
    # A fold within one surface has no gap, and blending there would only blur.
    gap = behind > at.depth * (1 + LEAST_GAP)
    return gap & (distance[found.inner] < border) & (distance[found.outer] >= border)


def _outermost(found: Crossings, alpha: Float[Tensor, "K"]) -> Crossings:
    """Return of several crossings between the same two pixels the one nearest to the outer pixel."""
    # Sorted by place, then stably by segment: the outermost of each segment comes last.
    order = alpha.argsort()
    # The lower pixel and the direction name a segment.
    segment = 2 * torch.minimum(found.inner, found.outer) + found.in_row
    order = order[segment[order].argsort(stable=True)]
    last = torch.ones_like(order, dtype=torch.bool)
    last[:-1] = segment[order[1:]] != segment[order[:-1]]
    return found.select(order[last])


def antialias(
    picture: Float[Tensor, "B H W C"], vertices: Float[Tensor, "V 3"], found: Crossings, view: View
) -> Float[Tensor, "B H W C"]:
    """Blend the picture across its silhouettes. Differentiable by the picture and by vertices (and cameras)."""
    alpha = crossing_points(vertices, found, view).alpha.to(picture)
    rows = picture.reshape(-1, picture.shape[-1])
    # Rows first, then columns: a pixel may be blended with a neighbor of each kind.
    for chosen in (found.in_row, ~found.in_row):
        index = chosen.nonzero().squeeze(1)
        rows = _blend(rows, found.inner[index], found.outer[index], alpha[index] - 0.5)
    return rows.view_as(picture)


def _blend(
    rows: Float[Tensor, "N C"], inner: Int[Tensor, "K"], outer: Int[Tensor, "K"], beyond: Float[Tensor, "K"]
) -> Float[Tensor, "N C"]:
    """Blend pixels; ``beyond`` in [-1/2, 1/2] is how far the inner surface reaches over the pixels' border."""
    # Where the surface reaches beyond the border it colors its neighbor, else the neighbor colors it.
    grows = beyond > 0
    to, source = torch.where(grows, outer, inner), torch.where(grows, inner, outer)
    change = rows.index_select(0, source) - rows.index_select(0, to)
    return rows.index_add(0, to, beyond.abs()[:, None] * change)
