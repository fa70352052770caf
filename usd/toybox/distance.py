"""Signed distance of toys: one formula a primitive, as Warp functions that run on CPU and CUDA, and once more in torch.

Distances are negative inside. They are exact outside unions of all primitives but ellipsoids, twisted and tapered ones;
for those, and where parts are cut away or blended, they are lower bounds, so sphere tracing never steps too far.
"""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.kernels.runtime import Split, import_warp, launch
from usd.toybox.scene import BOX, CAPSULE, CONE, CYLINDER, ELLIPSOID, SUBTRACT, TORUS, Toy

wp = import_warp()
ALL = 0xFFFFFFFFFFFFFFFF
"""The mask of all primitives."""
BENT_SAFETY = 0.5
"""Factor on the distance of twisted and tapered primitives, whose formulas stretch space by less than two."""


@wp.func
@no_type_check
def local_point(rows: wp.array2d(dtype=wp.float32), i: int, world: wp.vec3) -> wp.vec3:
    """Return a world point in the frame of primitive i."""
    d = world - wp.vec3(rows[i, 17], rows[i, 18], rows[i, 19])
    return wp.vec3(
        rows[i, 8] * d[0] + rows[i, 9] * d[1] + rows[i, 10] * d[2],
        rows[i, 11] * d[0] + rows[i, 12] * d[1] + rows[i, 13] * d[2],
        rows[i, 14] * d[0] + rows[i, 15] * d[1] + rows[i, 16] * d[2],
    )


@wp.func
@no_type_check
def unbend(p: wp.vec3, twist: float, taper: float) -> wp.vec3:
    """Undo the twist and taper of a primitive."""
    c = wp.cos(twist * p[2])
    s = wp.sin(twist * p[2])
    shrink = 1.0 / wp.max(1.0 + taper * p[2], 0.3)
    return wp.vec3((c * p[0] + s * p[1]) * shrink, (c * p[1] - s * p[0]) * shrink, p[2])


@wp.func
@no_type_check
def ellipsoid_distance(p: wp.vec3, a: float, b: float, c: float) -> float:
    """Return a lower bound of the distance to an ellipsoid of radii a, b, c."""
    k0 = wp.length(wp.vec3(p[0] / a, p[1] / b, p[2] / c))
    k1 = wp.length(wp.vec3(p[0] / (a * a), p[1] / (b * b), p[2] / (c * c)))
    low = wp.min(a, wp.min(b, c))
    if k1 < 1.0e-6:
        return -low
    out = k0 * (k0 - 1.0) / k1
    if k0 > 1.0 and low < 0.5 * wp.max(a, wp.max(b, c)):
        return out * 0.7
    return out


@wp.func
@no_type_check
def box_distance(p: wp.vec3, a: float, b: float, c: float) -> float:
    """Return the distance to a box of half sides a, b, c."""
    x = wp.abs(p[0]) - a
    y = wp.abs(p[1]) - b
    z = wp.abs(p[2]) - c
    outside = wp.length(wp.vec3(wp.max(x, 0.0), wp.max(y, 0.0), wp.max(z, 0.0)))
    return outside + wp.min(wp.max(x, wp.max(y, z)), 0.0)


@wp.func
@no_type_check
def cylinder_distance(q: float, z: float, radius: float, half: float) -> float:
    """Return the distance to a cylinder from distance q off its axis and height z."""
    x = q - radius
    y = wp.abs(z) - half
    ox = wp.max(x, 0.0)
    oy = wp.max(y, 0.0)
    return wp.sqrt(ox * ox + oy * oy) + wp.min(wp.max(x, y), 0.0)


@wp.func
@no_type_check
def cone_distance(q: float, z: float, bottom: float, top: float, half: float) -> float:
    """Return the distance to a capped cone: the nearer of its flat ends and its slope, in the plane of the axis."""
    limit = top
    if z < 0.0:
        limit = bottom
    ax = q - wp.min(q, limit)
    ay = wp.abs(z) - half
    kx = top - bottom
    ky = 2.0 * half
    along = wp.clamp(((top - q) * kx + (half - z) * ky) / (kx * kx + ky * ky), 0.0, 1.0)
    bx = q - top + kx * along
    by = z - half + ky * along
    sign = float(1.0)
    if bx < 0.0 and ay < 0.0:
        sign = -1.0
    return sign * wp.sqrt(wp.min(ax * ax + ay * ay, bx * bx + by * by))


@wp.func
@no_type_check
def solid_distance(kind: int, p: wp.vec3, a: float, b: float, c: float) -> float:
    """Return the distance to a primitive in its own frame."""
    if kind == 0:
        return ellipsoid_distance(p, a, b, c)
    if kind == 1:
        return box_distance(p, a, b, c)
    q = wp.sqrt(p[0] * p[0] + p[1] * p[1])
    if kind == 2:
        return cylinder_distance(q, p[2], a, b)
    if kind == 3:
        return cone_distance(q, p[2], a, b, c)
    if kind == 4:
        return wp.sqrt((q - a) * (q - a) + p[2] * p[2]) - b
    z = p[2] - wp.clamp(p[2], -b, b)
    return wp.sqrt(q * q + z * z) - a


@wp.func
@no_type_check
def primitive_distance(rows: wp.array2d(dtype=wp.float32), i: int, world: wp.vec3) -> float:
    """Return the distance of a world point to primitive i, bent and rounded as its row says."""
    p = local_point(rows, i, world)
    safety = float(1.0)
    if rows[i, 30] != 0.0 or rows[i, 31] != 0.0:
        p = unbend(p, rows[i, 30], rows[i, 31])
        safety = wp.static(BENT_SAFETY)
    return (solid_distance(int(rows[i, 0]), p, rows[i, 4], rows[i, 5], rows[i, 6]) - rows[i, 3]) * safety


@wp.func
@no_type_check
def toy_distance(
    rows: wp.array2d(dtype=wp.float32), start: int, count: int, mask: wp.uint64, p: wp.vec3
) -> wp.vec2:
    """Return the signed distance and the index of the primitive that decides it, among those in ``mask``."""
    best = float(1.0e3)
    owner = int(-1)
    for j in range(count):
        if (mask >> wp.uint64(j)) & wp.uint64(1):
            i = start + j
            d = primitive_distance(rows, i, p)
            if rows[i, 1] > 0.5:
                if -d > best:
                    best = -d
                    owner = i
            else:
                if d < best:
                    owner = i
                k = rows[i, 2]
                h = float(0.0)
                if k > 0.0:
                    h = wp.max(k - wp.abs(d - best), 0.0) / k
                best = wp.min(d, best) - h * h * k * 0.25
    return wp.vec2(best, float(owner))


@wp.kernel
@no_type_check
def distance_kernel(
    first: int,
    rows: wp.array2d(dtype=wp.float32),
    points: wp.array(dtype=wp.vec3),
    out: wp.array(dtype=wp.float32),
    owner: wp.array(dtype=wp.int32),
):
    """Evaluate ``toy_distance`` at each point."""
    index = first + wp.tid()
    hit = toy_distance(rows, 0, rows.shape[0], wp.uint64(wp.static(ALL)), points[index])
    out[index] = hit[0]
    owner[index] = int(hit[1])


def signed_distance(toy: Toy, points: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, "N"], Int[Tensor, "N"]]:
    """Return signed distance and deciding primitive of each point, on the points' device."""
    out = torch.zeros(len(points), device=points.device)
    owner = torch.zeros(len(points), dtype=torch.int32, device=points.device)
    rows = wp.from_torch(torch.from_numpy(toy.primitives).to(points.device))
    where = wp.from_torch(points.contiguous(), dtype=wp.vec3)
    arguments = [rows, where, wp.from_torch(out), wp.from_torch(owner)]
    launch(distance_kernel, Split((len(points),)), arguments, points.device)
    return out, owner


# ------------------------------------------------------------------------------------------------------- in torch


def signed_distance_torch(
    toy: Toy, points: Float[Tensor, "N 3"]
) -> tuple[Float[Tensor, "N"], Int[Tensor, "N"]]:
    """Compute ``signed_distance`` in plain torch: the reference that tests compare the kernel with."""
    best = torch.full((len(points),), 1e3, device=points.device, dtype=points.dtype)
    owner = torch.full((len(points),), -1, device=points.device, dtype=torch.int32)
    for index, row in enumerate(toy.primitives):
        d = _primitive_torch(row, points)
        closer = (-d > best) if row[1] == SUBTRACT else (d < best)
        owner = torch.where(closer, torch.full_like(owner, index), owner)
        best = torch.maximum(best, -d) if row[1] == SUBTRACT else _blend(best, d, float(row[2]))
    return best, owner


def _blend(best: Tensor, d: Tensor, blend: float) -> Tensor:
    """Return the union of two bodies by their distances, rounded where they meet by a width of ``blend``."""
    h = (blend - (d - best).abs()).clamp_min(0) / blend if blend else torch.zeros_like(d)
    return torch.minimum(d, best) - h.square() * blend * 0.25


def _primitive_torch(row: np.ndarray, points: Tensor) -> Tensor:
    rotation = torch.from_numpy(row[8:17].reshape(3, 3)).to(points)
    p = (points - torch.from_numpy(row[17:20]).to(points)) @ rotation.T
    bent = row[30] != 0 or row[31] != 0
    if bent:
        c, s = torch.cos(float(row[30]) * p[:, 2]), torch.sin(float(row[30]) * p[:, 2])
        shrink = 1 / (1 + float(row[31]) * p[:, 2]).clamp_min(0.3)
        turned = [(c * p[:, 0] + s * p[:, 1]) * shrink, (c * p[:, 1] - s * p[:, 0]) * shrink, p[:, 2]]
        p = torch.stack(turned, -1)
    a, b, c3, _ = map(float, row[4:8])
    return (_SOLIDS[int(row[0])](p, a, b, c3) - float(row[3])) * (BENT_SAFETY if bent else 1.0)


def _ellipsoid(p: Tensor, a: float, b: float, c: float) -> Tensor:
    radii = p.new_tensor([a, b, c])
    k0, k1 = (p / radii).norm(dim=-1), (p / radii**2).norm(dim=-1)
    out = k0 * (k0 - 1) / k1.clamp_min(1e-6)
    flat = min(a, b, c) < 0.5 * max(a, b, c)
    out = torch.where((k0 > 1) & flat, out * 0.7, out)
    return torch.where(k1 < 1e-6, torch.full_like(out, -min(a, b, c)), out)


def _box(p: Tensor, a: float, b: float, c: float) -> Tensor:
    q = p.abs() - p.new_tensor([a, b, c])
    return q.clamp_min(0).norm(dim=-1) + q.amax(-1).clamp_max(0)


def _cylinder(p: Tensor, radius: float, half: float, _: float) -> Tensor:
    q = torch.stack([p[:, :2].norm(dim=-1) - radius, p[:, 2].abs() - half], -1)
    return q.clamp_min(0).norm(dim=-1) + q.amax(-1).clamp_max(0)


def _cone(p: Tensor, bottom: float, top: float, half: float) -> Tensor:
    q, z = p[:, :2].norm(dim=-1), p[:, 2]
    limit = torch.where(z < 0, torch.full_like(z, bottom), torch.full_like(z, top))
    ends = torch.stack([q - torch.minimum(q, limit), z.abs() - half], -1)
    slope = p.new_tensor([top - bottom, 2 * half])
    corner = torch.stack([q - top, z - half], -1)
    along = ((-corner * slope).sum(-1) / slope.square().sum()).clamp(0, 1)
    side = corner + along[:, None] * slope
    inside = (side[:, 0] < 0) & (ends[:, 1] < 0)
    distance = torch.minimum(ends.square().sum(-1), side.square().sum(-1)).sqrt()
    return torch.where(inside, -distance, distance)


def _torus(p: Tensor, major: float, minor: float, _: float) -> Tensor:
    return torch.stack([p[:, :2].norm(dim=-1) - major, p[:, 2]], -1).norm(dim=-1) - minor


def _capsule(p: Tensor, radius: float, half: float, _: float) -> Tensor:
    z = p[:, 2] - p[:, 2].clamp(-half, half)
    return torch.stack([p[:, 0], p[:, 1], z], -1).norm(dim=-1) - radius


_SOLIDS = {
    ELLIPSOID: _ellipsoid,
    BOX: _box,
    CYLINDER: _cylinder,
    CONE: _cone,
    TORUS: _torus,
    CAPSULE: _capsule,
}
