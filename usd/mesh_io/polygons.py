"""Polygons as triangles: convex ones as a fan, others by clipping ears (Meisters 1975).

A list of polygons is a flat array of vertex numbers and how many belong to each polygon.
"""

import numpy as np
from jaxtyping import Float, Int

Points = Float[np.ndarray, "V 3"]


def triangulate(
    flat: Int[np.ndarray, "C"], counts: Int[np.ndarray, "P"], vertices: Points
) -> tuple[Int[np.ndarray, "T 3"], Int[np.ndarray, "T"]]:
    """Return the triangles of polygons as positions in ``flat``, and the polygon of each, in the polygons' order.

    Polygons of fewer than three corners have none.
    """
    starts = np.cumsum(counts) - counts
    corners, owners = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
    for size in np.unique(counts[counts >= 3]).tolist():
        polygon = np.flatnonzero(counts == size)
        loops = starts[polygon][:, None] + np.arange(size)
        order = _triangles_of_loops(vertices[flat[loops]])
        corners.append(np.take_along_axis(loops[:, None, :].repeat(size - 2, 1), order, 2).reshape(-1, 3))
        owners.append(polygon.repeat(size - 2))
    corner, owner = np.concatenate(corners), np.concatenate(owners)
    rank = np.argsort(owner, kind="stable")
    return corner[rank], owner[rank]


def _triangles_of_loops(x: Float[np.ndarray, "P n 3"]) -> Int[np.ndarray, "P t 3"]:
    """Return corner numbers of the n - 2 triangles of each polygon of n corners."""
    count, size = x.shape[:2]
    fan = np.stack([np.zeros(size - 2, int), np.arange(1, size - 1), np.arange(2, size)], -1)
    order = np.tile(fan, (count, 1, 1))
    if size == 3:
        return order
    # In the plane of the polygon's area vector a convex polygon turns the same way at all its corners.
    local = x - x.mean(1, keepdims=True)
    normal = np.cross(local, np.roll(local, -1, 1)).sum(1)
    edge = np.roll(local, -1, 1) - local
    turn = (np.cross(np.roll(edge, 1, 1), edge) * normal[:, None]).sum(-1)
    tolerance = 1e-12 * np.abs(turn).max(1, keepdims=True)
    for index in np.flatnonzero((turn < -tolerance).any(1)).tolist():
        order[index] = clip_ears(_flatten(local[index], normal[index]))
    return order


def _flatten(x: Float[np.ndarray, "n 3"], normal: Float[np.ndarray, "3"]) -> Float[np.ndarray, "n 2"]:
    """Return coordinates in the plane that ``normal`` stands on, in which the polygon turns counter-clockwise."""
    axis = int(np.abs(normal).argmax())
    first, second = [(1, 2), (2, 0), (0, 1)][axis]
    flat = x[:, [first, second]]
    return flat if normal[axis] > 0 else flat * [-1.0, 1.0]


def clip_ears(x: Float[np.ndarray, "n 2"]) -> Int[np.ndarray, "t 3"]:
    """Return n - 2 triangles of a polygon in the plane that turns counter-clockwise and does not cross itself."""
    left, triangles = list(range(len(x))), []
    while len(left) > 3:
        ear = next((i for i in range(len(left)) if _is_ear(x, left, i)), 0)
        triangles.append([left[ear - 1], left[ear], left[(ear + 1) % len(left)]])
        del left[ear]
    return np.array([*triangles, left])


def _is_ear(x: np.ndarray, left: list[int], i: int) -> bool:
    """Return whether corner i turns left and its triangle holds no other corner that is left."""
    before, here, after = left[i - 1], left[i], left[(i + 1) % len(left)]
    a, b, c = x[before], x[here], x[after]
    if _cross(b - a, c - b) <= 0:
        return False
    rest = x[[j for j in left if j not in (before, here, after)]]
    sides = [_cross(q - p, rest - p) for p, q in ((a, b), (b, c), (c, a))]
    inside = (sides[0] >= 0) & (sides[1] >= 0) & (sides[2] >= 0)
    same = (rest == a).all(1) | (rest == b).all(1) | (rest == c).all(1)
    return not bool((inside & ~same).any())


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray | np.float64:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
