"""Sphere tracing of toys: pictures with alpha, depth and normals, any number of toys and cameras in one launch."""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.kernels.runtime import Split, launch
from usd.math.camera import Cameras
from usd.toybox.distance import local_point, signed_distance, toy_distance, wp
from usd.toybox.scene import RADIUS, Toy

EDGE_RAYS = 3
"""Pixels on an edge are averaged over EDGE_RAYS x EDGE_RAYS rays."""
STEPS = 96
NEAR_ENOUGH = 4e-4
NORMAL_STEP = 5e-4


@dataclass(frozen=True)
class Light:
    """A light fixed to the world, so that color does not depend on the view. ``direction`` points to the light."""

    direction: tuple[float, float, float] = (0.35, 0.55, 0.76)
    diffuse: float = 0.45
    ambient: float = 0.57
    sky: float = 0.12
    """How much brighter a surface that looks up is than one that looks down, to either side of ``ambient``."""


@dataclass(frozen=True)
class Pictures:
    """B pictures. ``rgb`` is straight (not premultiplied); it and ``depth`` (along the ray) are 0 at misses."""

    rgb: Float[Tensor, "B H W 3"]
    alpha: Float[Tensor, "B H W"]
    depth: Float[Tensor, "B H W"]
    normal: Float[Tensor, "B H W 3"]

    def rgba(self) -> Float[Tensor, "B 4 H W"]:
        """Return straight RGBA, channel-first."""
        return torch.cat([self.rgb, self.alpha[..., None]], -1).permute(0, 3, 1, 2)

    def over_white(self) -> Float[Tensor, "B 3 H W"]:
        """Return the pictures over white, channel-first."""
        alpha = self.alpha[..., None]
        return (self.rgb * alpha + (1 - alpha)).permute(0, 3, 1, 2)


# -------------------------------------------------------------------------------------------------------- kernels


@wp.struct
@no_type_check
class ToyScene:
    """Toys, cameras and lights. View v sees spans[v, 1] primitives from spans[v, 0] on, under lights[v].

    spans_y[v] is the world height of an orthographic picture, 0 for a pinhole. centers[v] is where the optical axis
    meets the picture, and scales[v] the size of a pixel at depth 1.
    """

    rows: wp.array2d(dtype=wp.float32)
    spans: wp.array2d(dtype=wp.int32)
    poses: wp.array(dtype=wp.mat44)
    tans: wp.array(dtype=wp.float32)
    centers: wp.array(dtype=wp.vec2)
    scales: wp.array(dtype=wp.vec2)
    spans_y: wp.array(dtype=wp.float32)
    lights: wp.array2d(dtype=wp.float32)
    height: int
    width: int
    radius: float


@wp.struct
@no_type_check
class Frames:
    """Rendered pixels of all views, one entry each; ``owner`` is the primitive seen, -1 for none."""

    rgb: wp.array(dtype=wp.vec3)
    depth: wp.array(dtype=wp.float32)
    normal: wp.array(dtype=wp.vec3)
    owner: wp.array(dtype=wp.int32)
    smooth: wp.array(dtype=wp.vec3)
    alpha: wp.array(dtype=wp.float32)


@wp.func
@no_type_check
def view_mask(scene: ToyScene, view: int, o: wp.vec3, d: wp.vec3, slack: float) -> wp.uint64:
    """Return a bit for each primitive whose bounding ball the ray comes near."""
    mask = wp.uint64(0)
    for j in range(scene.spans[view, 1]):
        i = scene.spans[view, 0] + j
        c = wp.vec3(scene.rows[i, 17], scene.rows[i, 18], scene.rows[i, 19]) - o
        along = wp.dot(c, d)
        r = scene.rows[i, 20] + slack
        if wp.dot(c, c) - along * along < r * r:
            mask = mask | (wp.uint64(1) << wp.uint64(j))
    return mask


@wp.func
@no_type_check
def trace(scene: ToyScene, view: int, mask: wp.uint64, o: wp.vec3, d: wp.vec3) -> wp.vec2:
    """Return the distance to the surface along the ray (negative: missed) and the primitive hit."""
    along = -wp.dot(o, d)
    room = scene.radius * scene.radius - (wp.dot(o, o) - along * along)
    missed = wp.vec2(-1.0, -1.0)
    if mask == wp.uint64(0) or room < 0.0:
        return missed
    t = wp.max(along - wp.sqrt(room), 0.0)
    end = along + wp.sqrt(room)
    for _step in range(wp.static(STEPS)):
        hit = toy_distance(scene.rows, scene.spans[view, 0], scene.spans[view, 1], mask, o + t * d)
        if hit[0] < wp.static(NEAR_ENOUGH):
            return wp.vec2(t, hit[1])
        t += wp.max(hit[0], 2.0 * wp.static(NEAR_ENOUGH))
        if t > end:
            return missed
    return missed


@wp.func
@no_type_check
def normal_at(scene: ToyScene, view: int, mask: wp.uint64, p: wp.vec3) -> wp.vec3:
    """Return the unit gradient of the distance by four samples on a tetrahedron."""
    total = wp.vec3(0.0, 0.0, 0.0)
    for corner in range(4):
        x = 2.0 * float(((corner + 3) >> 1) & 1) - 1.0
        y = 2.0 * float((corner >> 1) & 1) - 1.0
        z = 2.0 * float(corner & 1) - 1.0
        e = wp.vec3(x, y, z)
        q = p + e * wp.static(NORMAL_STEP)
        total += e * toy_distance(scene.rows, scene.spans[view, 0], scene.spans[view, 1], mask, q)[0]
    return wp.normalize(total)


@wp.func
@no_type_check
def pattern_share(pattern: int, x: float, y: float, z: float) -> float:
    """Return the second color's share at a point of pattern space: stripes, checker, dots, gradient."""
    if pattern == 1:
        return wp.where(z - wp.floor(z) > 0.5, 1.0, 0.0)
    if pattern == 2:
        cell = int(wp.floor(x)) + int(wp.floor(y)) + int(wp.floor(z))
        return float(cell & 1)
    if pattern == 3:
        u = wp.vec3(x - wp.floor(x) - 0.5, y - wp.floor(y) - 0.5, z - wp.floor(z) - 0.5)
        return wp.where(wp.length(u) < 0.33, 1.0, 0.0)
    return wp.clamp(0.5 + 0.25 * z, 0.0, 1.0)


@wp.func
@no_type_check
def paint_color(rows: wp.array2d(dtype=wp.float32), i: int, world: wp.vec3) -> wp.vec3:
    """Return the color of primitive i at a world point."""
    base = wp.vec3(rows[i, 21], rows[i, 22], rows[i, 23])
    pattern = int(rows[i, 27])
    if pattern == 0:
        return base
    p = local_point(rows, i, world) * rows[i, 28]
    share = pattern_share(pattern, p[0], p[1], p[2] + rows[i, 29])
    return base * (1.0 - share) + wp.vec3(rows[i, 24], rows[i, 25], rows[i, 26]) * share


@wp.func
@no_type_check
def shade(color: wp.vec3, normal: wp.vec3, lights: wp.array2d(dtype=wp.float32), view: int) -> wp.vec3:
    """Return a color under the light of a view."""
    toward = wp.vec3(lights[view, 0], lights[view, 1], lights[view, 2])
    level = (
        lights[view, 4] + lights[view, 5] * normal[2] + lights[view, 3] * wp.max(wp.dot(normal, toward), 0.0)
    )
    lit = color * level
    return wp.vec3(wp.clamp(lit[0], 0.0, 1.0), wp.clamp(lit[1], 0.0, 1.0), wp.clamp(lit[2], 0.0, 1.0))


@wp.func
@no_type_check
def eye(scene: ToyScene, view: int, x: float, y: float) -> wp.vec3:
    """Return the origin of the ray through the picture position (x, y) in pixels."""
    c2w = scene.poses[view]
    scale = scene.spans_y[view] / float(scene.height)
    lx = (x - 0.5 * float(scene.width)) * scale
    ly = (0.5 * float(scene.height) - y) * scale
    return wp.vec3(
        c2w[0, 3] + c2w[0, 0] * lx + c2w[0, 1] * ly,
        c2w[1, 3] + c2w[1, 0] * lx + c2w[1, 1] * ly,
        c2w[2, 3] + c2w[2, 0] * lx + c2w[2, 1] * ly,
    )


@wp.func
@no_type_check
def direction(scene: ToyScene, view: int, x: float, y: float) -> wp.vec3:
    """Return the unit direction through the picture position (x, y) in pixels."""
    c2w = scene.poses[view]
    lx = (x - scene.centers[view][0]) * scene.scales[view][0]
    ly = (scene.centers[view][1] - y) * scene.scales[view][1]
    return wp.normalize(
        wp.vec3(
            c2w[0, 0] * lx + c2w[0, 1] * ly - c2w[0, 2],
            c2w[1, 0] * lx + c2w[1, 1] * ly - c2w[1, 2],
            c2w[2, 0] * lx + c2w[2, 1] * ly - c2w[2, 2],
        )
    )


@wp.kernel
@no_type_check
def first_pass(first: int, scene: ToyScene, frames: Frames):
    """Trace one ray through the middle of each pixel."""
    index = first + wp.tid()
    view = index // (scene.height * scene.width)
    pixel = index - view * scene.height * scene.width
    y = pixel // scene.width
    o = eye(scene, view, float(pixel - y * scene.width) + 0.5, float(y) + 0.5)
    d = direction(scene, view, float(pixel - y * scene.width) + 0.5, float(y) + 0.5)
    mask = view_mask(scene, view, o, d, 2.0e-3)
    hit = trace(scene, view, mask, o, d)
    frames.owner[index] = int(hit[1])
    if hit[0] >= 0.0:
        p = o + hit[0] * d
        n = normal_at(scene, view, mask, p)
        frames.rgb[index] = shade(paint_color(scene.rows, int(hit[1]), p), n, scene.lights, view)
        frames.depth[index] = hit[0]
        frames.normal[index] = n


@wp.func
@no_type_check
def differs(frames: Frames, i: int, j: int) -> bool:
    """Return whether an edge runs between two pixels: another part, a crease, or a change of color."""
    if frames.owner[i] != frames.owner[j]:
        return True
    if frames.owner[i] < 0:
        return False
    return wp.dot(frames.normal[i], frames.normal[j]) < 0.8 or wp.length(frames.rgb[i] - frames.rgb[j]) > 0.15


@wp.func
@no_type_check
def on_edge(scene: ToyScene, frames: Frames, index: int, x: int, y: int) -> bool:
    """Return whether an edge runs between a pixel and one of its four neighbors."""
    found = bool(False)
    if x > 0:
        found = differs(frames, index, index - 1)
    if not found and x < scene.width - 1:
        found = differs(frames, index, index + 1)
    if not found and y > 0:
        found = differs(frames, index, index - scene.width)
    if not found and y < scene.height - 1:
        found = differs(frames, index, index + scene.width)
    return found


@wp.kernel
@no_type_check
def edge_pass(first: int, scene: ToyScene, frames: Frames, side: int):
    """Average side x side rays over pixels on an edge; copy the others."""
    index = first + wp.tid()
    view = index // (scene.height * scene.width)
    pixel = index - view * scene.height * scene.width
    y = pixel // scene.width
    x = pixel - y * scene.width
    if side <= 1 or not on_edge(scene, frames, index, x, y):
        frames.smooth[index] = frames.rgb[index]
        frames.alpha[index] = wp.where(frames.owner[index] >= 0, 1.0, 0.0)
        return
    o = eye(scene, view, float(x) + 0.5, float(y) + 0.5)
    wide = 2.0 * scene.tans[view] * wp.length(o) + scene.spans_y[view]
    slack = 2.0e-3 + wide / float(scene.height)
    mask = view_mask(scene, view, o, direction(scene, view, float(x) + 0.5, float(y) + 0.5), slack)
    total = wp.vec3(0.0, 0.0, 0.0)
    hits = float(0.0)
    for s in range(side * side):
        v = s // side
        u = s - v * side
        px = float(x) + (float(u) + 0.5) / float(side)
        py = float(y) + (float(v) + 0.5) / float(side)
        start = eye(scene, view, px, py)
        d = direction(scene, view, px, py)
        hit = trace(scene, view, mask, start, d)
        if hit[0] >= 0.0:
            p = start + hit[0] * d
            n = normal_at(scene, view, mask, p)
            total += shade(paint_color(scene.rows, int(hit[1]), p), n, scene.lights, view)
            hits += 1.0
    if hits > 0.0:
        frames.smooth[index] = total / hits
        frames.alpha[index] = hits / float(side * side)


@wp.kernel
@no_type_check
def color_kernel(
    first: int,
    scene: ToyScene,
    points: wp.array(dtype=wp.vec3),
    owners: wp.array(dtype=wp.int32),
    normals: wp.array(dtype=wp.vec3),
    out: wp.array(dtype=wp.vec3),
):
    """Shade surface points under the first light."""
    i = first + wp.tid()
    out[i] = shade(paint_color(scene.rows, owners[i], points[i]), normals[i], scene.lights, 0)


# ----------------------------------------------------------------------------------------------------------- host


def light_table(lights: list[Light]) -> Float[Tensor, "L 6"]:
    """Return one row (6) a light: unit direction, diffuse, ambient, sky."""
    rows = [[*light.direction, light.diffuse, light.ambient, light.sky] for light in lights]
    table = torch.tensor(rows, dtype=torch.float32)
    return torch.cat([torch.nn.functional.normalize(table[:, :3], dim=-1), table[:, 3:]], 1)


def pack(toys: list[Toy]) -> tuple[np.ndarray, np.ndarray]:
    """Pack all primitives into one array (P, ROW), with each toy's (start, count)."""
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
    """Render toys, one picture a camera. ``which`` is the toy of each camera (default: all see the first).

    ``lights`` is one for all cameras, or one each. Computed on the cameras' device.
    """
    rows, spans = pack(toys)
    chosen = np.zeros(len(cameras), np.int64) if which is None else which.cpu().numpy()
    table = light_table(lights or [Light()]).expand(len(cameras), -1)
    scene = _toy_scene(torch.from_numpy(rows), table, cameras, torch.from_numpy(spans[chosen]))
    return _trace_pictures(scene, cameras, edge_rays)


def _toy_scene(rows: Tensor, lights: Tensor, cameras: Cameras, spans: Tensor) -> object:
    device = cameras.device
    scene = ToyScene()
    scene.rows = wp.from_torch(rows.to(device))
    scene.spans = wp.from_torch(spans.to(device))
    scene.poses = wp.from_torch(cameras.c2w.float().contiguous(), dtype=wp.mat44)
    tans = torch.tan(0.5 * cameras.fov_y.float()).contiguous()
    scales = (
        (2 * tans / cameras.height)[:, None].expand(-1, 2)
        if cameras.intrinsics is None
        else 1 / cameras.focals
    )
    scene.tans = wp.from_torch(tans)
    scene.scales = wp.from_torch(scales.float().contiguous(), dtype=wp.vec2)
    scene.centers = wp.from_torch(cameras.principal_point.float().contiguous(), dtype=wp.vec2)
    spans_y = torch.zeros_like(cameras.fov_y) if cameras.span_y is None else cameras.span_y
    scene.spans_y = wp.from_torch(spans_y.float().contiguous())
    scene.lights = wp.from_torch(lights.to(device).contiguous())
    scene.height, scene.width, scene.radius = cameras.height, cameras.width, RADIUS * 1.1
    return scene


def _trace_pictures(scene: object, cameras: Cameras, edge_rays: int) -> Pictures:
    shape = (len(cameras), cameras.height, cameras.width)
    n, device = shape[0] * shape[1] * shape[2], cameras.device
    rgb, normal, smooth = (torch.zeros(n, 3, device=device) for _ in range(3))
    depth, alpha = (torch.zeros(n, device=device) for _ in range(2))
    frames = Frames()
    frames.rgb, frames.normal, frames.smooth = (
        wp.from_torch(t, dtype=wp.vec3) for t in (rgb, normal, smooth)
    )
    frames.depth, frames.alpha = wp.from_torch(depth), wp.from_torch(alpha)
    frames.owner = wp.from_torch(torch.zeros(n, dtype=torch.int32, device=device))
    launch(first_pass, Split((n,)), [scene, frames], device)
    launch(edge_pass, Split((n,)), [scene, frames, edge_rays], device)
    return Pictures(smooth.view(*shape, 3), alpha.view(shape), depth.view(shape), normal.view(*shape, 3))


def lit_colors(
    toy: Toy, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"], light: Light
) -> Float[Tensor, "N 3"]:
    """Return the color that a picture shows at surface points."""
    device = points.device
    _, owner = signed_distance(toy, points)
    out = torch.zeros_like(points)
    scene = ToyScene()
    scene.rows = wp.from_torch(torch.from_numpy(toy.primitives).to(device))
    scene.lights = wp.from_torch(light_table([light]).to(device))
    where, facing = (wp.from_torch(t.contiguous(), dtype=wp.vec3) for t in (points, normals))
    owners = wp.from_torch(owner.clamp_min(0))
    arguments = [scene, where, owners, facing, wp.from_torch(out, dtype=wp.vec3)]
    launch(color_kernel, Split((len(points),)), arguments, device)
    return out
