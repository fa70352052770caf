"""Sphere tracing of toys: pictures with alpha, depth and normals, and signed distance, on the CPU or CUDA.

``toy_distance`` (a Warp function) and ``signed_distance_torch`` are the same formulas twice. Distances are exact
outside unions of everything but ellipsoids (a close lower bound), and never larger than the truth otherwise.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.kernels.runtime import Split, find_warp, launch
from usd.math.camera import Cameras
from usd.toybox.scene import RADIUS, ROW, Toy

wp = find_warp()

EDGE_RAYS = 3
"""Pixels on an edge are averaged over EDGE_RAYS x EDGE_RAYS rays."""


@dataclass(frozen=True)
class Light:
    """A light fixed to the world, so that colour does not depend on the view. ``direction`` points to the light."""

    direction: tuple[float, float, float] = (0.35, 0.55, 0.76)
    diffuse: float = 0.45
    ambient: float = 0.57
    sky: float = 0.12
    """How much brighter a surface that looks up is than one that looks down, to either side of ``ambient``."""


@dataclass(frozen=True)
class Pictures:
    """B pictures. ``rgb`` is straight (not premultiplied), 0 where ``alpha`` is; ``depth`` along the ray, 0 at misses."""

    rgb: Float[Tensor, "B H W 3"]
    alpha: Float[Tensor, "B H W"]
    depth: Float[Tensor, "B H W"]
    normal: Float[Tensor, "B H W 3"]

    def over_white(self) -> Float[Tensor, "B 3 H W"]:
        alpha = self.alpha[..., None]
        return (self.rgb * alpha + (1 - alpha)).permute(0, 3, 1, 2)

    def rgba8(self) -> np.ndarray:
        """(B, H, W, 4) bytes."""
        rgba = torch.cat([self.rgb, self.alpha[..., None]], -1)
        return (rgba.clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()


@wp.func
def primitive_distance(rows: wp.array2d(dtype=wp.float32), i: int, world: wp.vec3) -> float:
    d = world - wp.vec3(rows[i, 17], rows[i, 18], rows[i, 19])
    p = wp.vec3(
        rows[i, 8] * d[0] + rows[i, 9] * d[1] + rows[i, 10] * d[2],
        rows[i, 11] * d[0] + rows[i, 12] * d[1] + rows[i, 13] * d[2],
        rows[i, 14] * d[0] + rows[i, 15] * d[1] + rows[i, 16] * d[2],
    )
    safety = float(1.0)
    twist = rows[i, 30]
    taper = rows[i, 31]
    if twist != 0.0 or taper != 0.0:
        c = wp.cos(twist * p[2])
        s = wp.sin(twist * p[2])
        shrink = 1.0 / wp.max(1.0 + taper * p[2], 0.3)
        p = wp.vec3((c * p[0] + s * p[1]) * shrink, (c * p[1] - s * p[0]) * shrink, p[2])
        safety = 0.5
    kind = int(rows[i, 0])
    a = rows[i, 4]
    b = rows[i, 5]
    c3 = rows[i, 6]
    out = float(0.0)
    if kind == 0:
        k0 = wp.length(wp.vec3(p[0] / a, p[1] / b, p[2] / c3))
        k1 = wp.length(wp.vec3(p[0] / (a * a), p[1] / (b * b), p[2] / (c3 * c3)))
        low = wp.min(a, wp.min(b, c3))
        if k1 < 1.0e-6:
            out = -low
        else:
            out = k0 * (k0 - 1.0) / k1
        if k0 > 1.0 and low < 0.5 * wp.max(a, wp.max(b, c3)):
            out = out * 0.7
    elif kind == 1:
        qx = wp.abs(p[0]) - a
        qy = wp.abs(p[1]) - b
        qz = wp.abs(p[2]) - c3
        out = wp.length(wp.vec3(wp.max(qx, 0.0), wp.max(qy, 0.0), wp.max(qz, 0.0))) + wp.min(
            wp.max(qx, wp.max(qy, qz)), 0.0
        )
    elif kind == 2:
        qx = wp.sqrt(p[0] * p[0] + p[1] * p[1]) - a
        qz = wp.abs(p[2]) - b
        ox = wp.max(qx, 0.0)
        oz = wp.max(qz, 0.0)
        out = wp.sqrt(ox * ox + oz * oz) + wp.min(wp.max(qx, qz), 0.0)
    elif kind == 3:
        q = wp.sqrt(p[0] * p[0] + p[1] * p[1])
        limit = b
        if p[2] < 0.0:
            limit = a
        ax = q - wp.min(q, limit)
        ay = wp.abs(p[2]) - c3
        kx = b - a
        ky = 2.0 * c3
        along = wp.clamp(((b - q) * kx + (c3 - p[2]) * ky) / (kx * kx + ky * ky), 0.0, 1.0)
        bx = q - b + kx * along
        by = p[2] - c3 + ky * along
        sign = float(1.0)
        if bx < 0.0 and ay < 0.0:
            sign = -1.0
        out = sign * wp.sqrt(wp.min(ax * ax + ay * ay, bx * bx + by * by))
    elif kind == 4:
        q = wp.sqrt(p[0] * p[0] + p[1] * p[1]) - a
        out = wp.sqrt(q * q + p[2] * p[2]) - b
    else:
        pz = p[2] - wp.clamp(p[2], -b, b)
        out = wp.sqrt(p[0] * p[0] + p[1] * p[1] + pz * pz) - a
    return (out - rows[i, 3]) * safety


@wp.func
def toy_distance(
    rows: wp.array2d(dtype=wp.float32), start: int, count: int, mask: wp.uint64, p: wp.vec3
) -> wp.vec2:
    """Signed distance and the index of the primitive that decides it, among those in ``mask``."""
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
                k = rows[i, 2]
                closer = d < best
                if k > 0.0:
                    h = wp.max(k - wp.abs(d - best), 0.0) / k
                    best = wp.min(d, best) - h * h * k * 0.25
                else:
                    best = wp.min(d, best)
                if closer:
                    owner = i
    return wp.vec2(best, float(owner))


@wp.func
def ray_mask(rows: wp.array2d(dtype=wp.float32), start: int, count: int, o: wp.vec3, d: wp.vec3, slack: float) -> wp.uint64:
    """Bits of the primitives whose bounding ball the ray comes near."""
    mask = wp.uint64(0)
    for j in range(count):
        i = start + j
        c = wp.vec3(rows[i, 17], rows[i, 18], rows[i, 19]) - o
        along = wp.dot(c, d)
        r = rows[i, 20] + slack
        if wp.dot(c, c) - along * along < r * r:
            mask = mask | (wp.uint64(1) << wp.uint64(j))
    return mask


@wp.func
def paint_color(rows: wp.array2d(dtype=wp.float32), i: int, world: wp.vec3) -> wp.vec3:
    first = wp.vec3(rows[i, 21], rows[i, 22], rows[i, 23])
    second = wp.vec3(rows[i, 24], rows[i, 25], rows[i, 26])
    pattern = int(rows[i, 27])
    if pattern == 0:
        return first
    d = world - wp.vec3(rows[i, 17], rows[i, 18], rows[i, 19])
    f = rows[i, 28]
    x = (rows[i, 8] * d[0] + rows[i, 9] * d[1] + rows[i, 10] * d[2]) * f
    y = (rows[i, 11] * d[0] + rows[i, 12] * d[1] + rows[i, 13] * d[2]) * f
    z = (rows[i, 14] * d[0] + rows[i, 15] * d[1] + rows[i, 16] * d[2]) * f + rows[i, 29]
    mix = float(0.0)
    if pattern == 1:
        if z - wp.floor(z) > 0.5:
            mix = 1.0
    elif pattern == 2:
        cell = int(wp.floor(x)) + int(wp.floor(y)) + int(wp.floor(z))
        if (cell & 1) == 1:
            mix = 1.0
    elif pattern == 3:
        u = wp.vec3(x - wp.floor(x) - 0.5, y - wp.floor(y) - 0.5, z - wp.floor(z) - 0.5)
        if wp.length(u) < 0.33:
            mix = 1.0
    else:
        mix = wp.clamp(0.5 + 0.25 * z, 0.0, 1.0)
    return first * (1.0 - mix) + second * mix


@wp.func
def trace(
    rows: wp.array2d(dtype=wp.float32), start: int, count: int, mask: wp.uint64, o: wp.vec3, d: wp.vec3, radius: float
) -> wp.vec2:
    """Distance to the surface along the ray (negative: missed) and the primitive hit."""
    along = -wp.dot(o, d)
    miss = wp.dot(o, o) - along * along
    if mask == wp.uint64(0) or miss > radius * radius:
        return wp.vec2(-1.0, -1.0)
    half = wp.sqrt(radius * radius - miss)
    t = wp.max(along - half, 0.0)
    end = along + half
    for _step in range(96):
        hit = toy_distance(rows, start, count, mask, o + t * d)
        if hit[0] < 4.0e-4:
            return wp.vec2(t, hit[1])
        t += wp.max(hit[0], 8.0e-4)
        if t > end:
            return wp.vec2(-1.0, -1.0)
    return wp.vec2(-1.0, -1.0)


@wp.func
def toy_normal(rows: wp.array2d(dtype=wp.float32), start: int, count: int, mask: wp.uint64, p: wp.vec3) -> wp.vec3:
    """Gradient of the distance by four samples on a tetrahedron."""
    e = 5.0e-4
    a = toy_distance(rows, start, count, mask, p + wp.vec3(e, -e, -e))[0]
    b = toy_distance(rows, start, count, mask, p + wp.vec3(-e, -e, e))[0]
    c = toy_distance(rows, start, count, mask, p + wp.vec3(-e, e, -e))[0]
    d = toy_distance(rows, start, count, mask, p + wp.vec3(e, e, e))[0]
    return wp.normalize(wp.vec3(a - b - c + d, -a - b + c + d, -a + b - c + d))


@wp.func
def pixel_direction(c2w: wp.mat44, tan_half: float, height: int, width: int, x: float, y: float) -> wp.vec3:
    scale = 2.0 * tan_half / float(height)
    lx = (x - 0.5 * float(width)) * scale
    ly = (0.5 * float(height) - y) * scale
    return wp.normalize(
        wp.vec3(
            c2w[0, 0] * lx + c2w[0, 1] * ly - c2w[0, 2],
            c2w[1, 0] * lx + c2w[1, 1] * ly - c2w[1, 2],
            c2w[2, 0] * lx + c2w[2, 1] * ly - c2w[2, 2],
        )
    )


@wp.func
def shade(color: wp.vec3, normal: wp.vec3, lights: wp.array2d(dtype=wp.float32), view: int) -> wp.vec3:
    toward = wp.vec3(lights[view, 0], lights[view, 1], lights[view, 2])
    level = lights[view, 4] + lights[view, 5] * normal[2] + lights[view, 3] * wp.max(wp.dot(normal, toward), 0.0)
    return wp.vec3(
        wp.clamp(color[0] * level, 0.0, 1.0), wp.clamp(color[1] * level, 0.0, 1.0), wp.clamp(color[2] * level, 0.0, 1.0)
    )


@wp.kernel
def first_pass(
    first: int,
    rows: wp.array2d(dtype=wp.float32),
    spans: wp.array2d(dtype=wp.int32),
    poses: wp.array(dtype=wp.mat44),
    tans: wp.array(dtype=wp.float32),
    lights: wp.array2d(dtype=wp.float32),
    height: int,
    width: int,
    radius: float,
    rgb: wp.array(dtype=wp.vec3),
    depth: wp.array(dtype=wp.float32),
    normal: wp.array(dtype=wp.vec3),
    owner: wp.array(dtype=wp.int32),
):
    index = first + wp.tid()
    view = index // (height * width)
    pixel = index - view * height * width
    y = pixel // width
    x = pixel - y * width
    start = spans[view, 0]
    count = spans[view, 1]
    c2w = poses[view]
    o = wp.vec3(c2w[0, 3], c2w[1, 3], c2w[2, 3])
    d = pixel_direction(c2w, tans[view], height, width, float(x) + 0.5, float(y) + 0.5)
    mask = ray_mask(rows, start, count, o, d, 2.0e-3)
    hit = trace(rows, start, count, mask, o, d, radius)
    owner[index] = int(hit[1])
    if hit[0] >= 0.0:
        p = o + hit[0] * d
        n = toy_normal(rows, start, count, mask, p)
        rgb[index] = shade(paint_color(rows, int(hit[1]), p), n, lights, view)
        depth[index] = hit[0]
        normal[index] = n


@wp.func
def differs(
    i: int, j: int, owner: wp.array(dtype=wp.int32), normal: wp.array(dtype=wp.vec3), rgb: wp.array(dtype=wp.vec3)
) -> bool:
    if owner[i] != owner[j]:
        return True
    if owner[i] < 0:
        return False
    return wp.dot(normal[i], normal[j]) < 0.8 or wp.length(rgb[i] - rgb[j]) > 0.15


@wp.kernel
def edge_pass(
    first: int,
    rows: wp.array2d(dtype=wp.float32),
    spans: wp.array2d(dtype=wp.int32),
    poses: wp.array(dtype=wp.mat44),
    tans: wp.array(dtype=wp.float32),
    lights: wp.array2d(dtype=wp.float32),
    height: int,
    width: int,
    radius: float,
    side: int,
    rgb: wp.array(dtype=wp.vec3),
    normal: wp.array(dtype=wp.vec3),
    owner: wp.array(dtype=wp.int32),
    out_rgb: wp.array(dtype=wp.vec3),
    out_alpha: wp.array(dtype=wp.float32),
):
    index = first + wp.tid()
    view = index // (height * width)
    pixel = index - view * height * width
    y = pixel // width
    x = pixel - y * width
    edge = bool(False)
    if x > 0:
        edge = edge or differs(index, index - 1, owner, normal, rgb)
    if x < width - 1:
        edge = edge or differs(index, index + 1, owner, normal, rgb)
    if y > 0:
        edge = edge or differs(index, index - width, owner, normal, rgb)
    if y < height - 1:
        edge = edge or differs(index, index + width, owner, normal, rgb)
    if not edge or side <= 1:
        out_rgb[index] = rgb[index]
        if owner[index] >= 0:
            out_alpha[index] = 1.0
        return
    start = spans[view, 0]
    count = spans[view, 1]
    c2w = poses[view]
    o = wp.vec3(c2w[0, 3], c2w[1, 3], c2w[2, 3])
    slack = 2.0e-3 + 2.0 * tans[view] / float(height) * wp.length(o)
    mask = ray_mask(rows, start, count, o, pixel_direction(c2w, tans[view], height, width, float(x) + 0.5, float(y) + 0.5), slack)
    total = wp.vec3(0.0, 0.0, 0.0)
    hits = float(0.0)
    for s in range(side * side):
        v = s // side
        u = s - v * side
        d = pixel_direction(
            c2w, tans[view], height, width,
            float(x) + (float(u) + 0.5) / float(side), float(y) + (float(v) + 0.5) / float(side),
        )
        hit = trace(rows, start, count, mask, o, d, radius)
        if hit[0] >= 0.0:
            p = o + hit[0] * d
            total += shade(paint_color(rows, int(hit[1]), p), toy_normal(rows, start, count, mask, p), lights, view)
            hits += 1.0
    if hits > 0.0:
        out_rgb[index] = total / hits
        out_alpha[index] = hits / float(side * side)


@wp.kernel
def distance_kernel(
    first: int,
    rows: wp.array2d(dtype=wp.float32), points: wp.array(dtype=wp.vec3),
    out: wp.array(dtype=wp.float32), owner: wp.array(dtype=wp.int32),
):
    index = first + wp.tid()
    hit = toy_distance(rows, 0, rows.shape[0], wp.uint64(0xFFFFFFFFFFFFFFFF), points[index])
    out[index] = hit[0]
    owner[index] = int(hit[1])


def light_table(lights: list[Light]) -> Float[Tensor, "L 6"]:
    """One row a light, as the kernels read it."""
    rows = [[*light.direction, light.diffuse, light.ambient, light.sky] for light in lights]
    table = torch.tensor(rows, dtype=torch.float32)
    return torch.cat([torch.nn.functional.normalize(table[:, :3], dim=-1), table[:, 3:]], 1)


def pack(toys: list[Toy]) -> tuple[np.ndarray, np.ndarray]:
    """All primitives in one array (P, ROW), and for each toy its (start, count)."""
    counts = np.array([len(toy.primitives) for toy in toys], np.int32)
    if counts.max(initial=0) > 64:
        raise ValueError(f"a toy may have at most 64 primitives, got {counts.max()}")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int32)
    return np.concatenate([toy.primitives for toy in toys]), np.stack([starts, counts], 1)


def render(
    toys: list[Toy],
    cameras: Cameras,
    which: Int[Tensor, "B"] | None = None,
    lights: list[Light] | None = None,
    edge_rays: int = EDGE_RAYS,
) -> Pictures:
    """Pictures of toys, one a camera. ``which`` says the toy of each camera (default: all see the first).

    ``lights`` is one for all cameras, or one each. Computed on the cameras' device.
    """
    device = cameras.device
    rows, spans = pack(toys)
    chosen = np.zeros(len(cameras), np.int64) if which is None else which.cpu().numpy()
    wanted = lights or [Light()]
    table = light_table(wanted)
    scene = (
        wp.from_torch(torch.from_numpy(rows).to(device)),
        wp.from_torch(torch.from_numpy(spans[chosen]).to(device)),
        wp.from_torch(cameras.c2w.float().contiguous(), dtype=wp.mat44),
        wp.from_torch(torch.tan(0.5 * cameras.fov_y.float()).contiguous()),
        wp.from_torch(table.expand(len(cameras), -1).contiguous().to(device)),
        cameras.height,
        cameras.width,
        RADIUS * 1.1,
    )
    return _trace_pictures(scene, cameras, edge_rays)


def _trace_pictures(scene: tuple, cameras: Cameras, edge_rays: int) -> Pictures:
    n = len(cameras) * cameras.height * cameras.width
    shape = (len(cameras), cameras.height, cameras.width)

    def zeros(*tail: int) -> Tensor:
        return torch.zeros(n, *tail, device=cameras.device)

    rgb, depth, normal, out_rgb, alpha = zeros(3), zeros(), zeros(3), zeros(3), zeros()
    owner = torch.zeros(n, dtype=torch.int32, device=cameras.device)
    colors, normals, owners = wp.from_torch(rgb, dtype=wp.vec3), wp.from_torch(normal, dtype=wp.vec3), wp.from_torch(owner)
    launch(first_pass, Split((n,)), [*scene, colors, wp.from_torch(depth), normals, owners], cameras.device)
    finish = [*scene, edge_rays, colors, normals, owners, wp.from_torch(out_rgb, dtype=wp.vec3), wp.from_torch(alpha)]
    launch(edge_pass, Split((n,)), finish, cameras.device)
    return Pictures(out_rgb.view(*shape, 3), alpha.view(shape), depth.view(shape), normal.view(*shape, 3))


def signed_distance(toy: Toy, points: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, "N"], Int[Tensor, "N"]]:
    """Signed distance (negative inside) and the deciding primitive of each point."""
    out = torch.zeros(len(points), device=points.device)
    owner = torch.zeros(len(points), dtype=torch.int32, device=points.device)
    rows = torch.from_numpy(toy.primitives).to(points.device)
    where = wp.from_torch(points.contiguous(), dtype=wp.vec3)
    arguments = [wp.from_torch(rows), where, wp.from_torch(out), wp.from_torch(owner)]
    launch(distance_kernel, Split((len(points),)), arguments, points.device)
    return out, owner


@wp.kernel
def color_kernel(
    first: int,
    rows: wp.array2d(dtype=wp.float32), points: wp.array(dtype=wp.vec3), owners: wp.array(dtype=wp.int32),
    normals: wp.array(dtype=wp.vec3), lights: wp.array2d(dtype=wp.float32), out: wp.array(dtype=wp.vec3),
):
    i = first + wp.tid()
    out[i] = shade(paint_color(rows, owners[i], points[i]), normals[i], lights, 0)


def lit_colors(
    toy: Toy, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"], light: Light
) -> Float[Tensor, "N 3"]:
    """The colour that a picture shows at surface points."""
    _, owner = signed_distance(toy, points)
    out = torch.zeros_like(points)
    rows = torch.from_numpy(toy.primitives).to(points.device)
    vectors = [wp.from_torch(t.contiguous(), dtype=wp.vec3) for t in (points, normals)]
    arguments = [wp.from_torch(rows), vectors[0], wp.from_torch(owner.clamp_min(0)), vectors[1]]
    lights = wp.from_torch(light_table([light]).to(points.device))
    launch(color_kernel, Split((len(points),)), [*arguments, lights, wp.from_torch(out, dtype=wp.vec3)], points.device)
    return out
