"""An atlas that is always found, quickly: faces are laid flat along the axis they face most, and packed in rows.

Faces that share an edge and an axis make a chart. A chart may fold over itself; faces that would lie over others
become charts of their own, in the end one by one. It has more seams than xatlas's, but no texel is used twice.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from usd.core.errors import UserError
from usd.exporter.texels import covered_texels
from usd.math.mesh import directed_edges, face_cross
from usd.mesh_io.atlas import Atlas

PASSES = 4  # how often what overlaps is laid out anew before each of its faces is a chart
SEARCHES = 14


def box_atlas(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], size: int, padding: int = 2
) -> Atlas:
    """Return an atlas for a texture of ``size`` x ``size``.

    Raises ``UserError`` where that has too few texels.
    """
    vertices, faces = vertices.cpu(), faces.cpu()
    facing = facing_axis(vertices, faces)
    flat = flatten_faces(vertices[faces], facing)
    chart = group_faces(faces, facing)
    # Charts that fold over themselves are split, at last into single faces, which cannot overlap.
    for index in range(PASSES):
        corners = pack_charts(flat, chart, size, padding)
        over = overlapping_faces(corners, size)
        if index == PASSES - 1 or not bool(over.any()):
            break
        label = 2 * chart + over
        apart = group_faces(faces, label) if index < PASSES - 2 else torch.arange(len(faces))
        chart = torch.unique(torch.where(over, len(faces) + apart, chart), return_inverse=True)[1]
    # A vertex gets one texture coordinate in each chart that touches it.
    key, corner = torch.unique(chart[:, None] * len(vertices) + faces, return_inverse=True)
    uv = corners.new_zeros(len(key), 2).index_copy(0, corner.flatten(), corners.reshape(-1, 2))
    return Atlas(uv, corner.view(-1, 3), int(chart.max()) + 1, "boxes")


def facing_axis(vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> Int[Tensor, "F"]:
    """Return which of +x, +y, +z, -x, -y, -z (0 to 5) each face faces most."""
    cross = face_cross(vertices, faces)
    # At most 55 degrees lie between a normal and its axis, so areas shrink by less than the factor 0.58.
    axis = cross.abs().argmax(1)
    return axis + 3 * (cross.gather(1, axis[:, None])[:, 0] < 0)


def flatten_faces(corners: Float[Tensor, "F 3 3"], facing: Int[Tensor, "F"]) -> Float[Tensor, "F 3 2"]:
    """Return corners as seen along the axis that each face faces, with one orientation for all."""
    # The two other axes in cyclic order, mirrored where the face looks along a negative axis.
    axis = facing % 3
    pick = torch.stack([(axis + 1) % 3, (axis + 2) % 3], 1)[:, None, :].expand(-1, 3, -1)
    flat = corners.gather(2, pick)
    mirror = torch.where(facing >= 3, -1.0, 1.0)
    return torch.stack([flat[..., 0] * mirror[:, None], flat[..., 1]], -1)


def group_faces(faces: Int[Tensor, "F 3"], label: Int[Tensor, "F"]) -> Int[Tensor, "F"]:
    """Return a group number for each face: groups are connected by edges and have one label."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = int(faces.max()) + 1
    edges = directed_edges(faces).sort(1).values
    key, owner = edges[:, 0] * n + edges[:, 1], torch.arange(len(faces)).repeat(3)
    # Sorted by edge, the faces at one edge stand beside each other.
    order = key.argsort()
    key, owner = key[order], owner[order]
    near = (key[1:] == key[:-1]) & (label[owner[1:]] == label[owner[:-1]])
    a, b = owner[:-1][near].numpy(), owner[1:][near].numpy()
    graph = coo_matrix(([True] * len(a), (a, b)), shape=(len(faces), len(faces)))
    return torch.from_numpy(connected_components(graph, directed=False)[1]).long()


def pack_charts(
    flat: Float[Tensor, "F 3 2"], chart: Int[Tensor, "F"], size: int, padding: int
) -> Float[Tensor, "F 3 2"]:
    """Return texture coordinates: each chart's rectangle in rows, all at one scale, as large as fits.

    Raises ``UserError`` where they do not fit at any scale.
    """
    n = int(chart.max()) + 1
    low, high = _chart_bounds(flat, chart, n)
    extent = (high - low).tolist()
    # With very many charts the gaps alone fill the texture: they are narrowed before anybody gives up.
    for gap in sorted({padding, 1, 0}, reverse=True):
        scale, places = _largest_packing(extent, size, gap)
        if places is not None:
            # Half a texel in from the rectangle's corner, so that border texels are covered by their centers.
            at = torch.tensor(places, dtype=flat.dtype)[chart][:, None] + 0.5 * gap + 0.5
            return (at + (flat - low[chart][:, None]) * scale) / size
    raise UserError(f"exporter.texture_size: {size} is too small for {n} charts; expected more texels")


def _chart_bounds(flat: Tensor, chart: Tensor, n: int) -> tuple[Float[Tensor, "C 2"], Float[Tensor, "C 2"]]:
    """Return lower and upper corners of each chart's rectangle."""
    index = chart[:, None].expand(-1, 2)
    low = flat.new_full((n, 2), math.inf).scatter_reduce(0, index, flat.amin(1), "amin")
    high = flat.new_full((n, 2), -math.inf).scatter_reduce(0, index, flat.amax(1), "amax")
    return low, high


def _largest_packing(
    extent: list[list[float]], size: int, gap: int
) -> tuple[float, list[tuple[int, int]] | None]:
    """Return the largest scale (texels per world unit) at which all rectangles fit, and where they are then."""
    longest = max(max(pair) for pair in extent) or 1.0
    # Tallest first keeps the rows tight; a bisection over the scale finds the largest that still fits.
    order = sorted(range(len(extent)), key=lambda i: -extent[i][1])
    low, high = 0.0, size / longest
    best = pack_rows(extent, order, low, size, gap)
    for _ in range(SEARCHES if best is not None else 0):
        middle = 0.5 * (low + high)
        places = pack_rows(extent, order, middle, size, gap)
        low, high = (middle, high) if places is not None else (low, middle)
        best = places if places is not None else best
    return low, best


def pack_rows(
    extent: list[list[float]], order: list[int], scale: float, size: int, gap: int
) -> list[tuple[int, int]] | None:
    """Return upper left corners of rectangles set in rows, tallest first; None where they do not fit."""
    places = [(0, 0)] * len(extent)
    x = y = tall = 0
    for i in order:
        width, height = (math.ceil(side * scale) + gap + 1 for side in extent[i])
        # A full row ends: the next starts below its tallest rectangle.
        if x + width > size:
            x, y, tall = 0, y + tall, 0
        if width > size or y + height > size:
            return None
        places[i] = (x, y)
        x, tall = x + width, max(tall, height)
    return places


def overlapping_faces(corners: Float[Tensor, "F 3 2"], size: int) -> Bool[Tensor, "F"]:
    """Return which faces have a texel that belongs to a face of smaller number."""
    # Each texel belongs to the smallest face number that covers it; faces narrowed a little do not meet at edges.
    # Short integers, since all texels of a large texture are held at once.
    owner = torch.full((size * size,), len(corners), dtype=torch.int32)
    covered = covered_texels(corners * size, size, size, margin=-0.02)
    samples = [(part.face.int(), part.pixel.int()) for part in covered]
    for face, pixel in samples:
        owner.scatter_reduce_(0, pixel.long(), face, "amin")
    over = torch.zeros(len(corners), dtype=torch.bool)
    for face, pixel in samples:
        over[face[owner[pixel] != face]] = True
    return over
