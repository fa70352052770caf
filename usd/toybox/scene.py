"""A toy: a list of solid primitives with colors, and the builder that shapes are written with.

A primitive lives in its own frame (axis of revolution along local z) and is packed into one row of ``ROW`` floats,
so that a kernel can read a whole batch of toys from one array:

    0 kind | 1 operation | 2 blend radius | 3 rounding | 4-7 size | 8-16 world-to-local rotation, row-major
    17-19 center | 20 bounding radius | 21-23 color | 24-26 second color | 27 pattern | 28 frequency | 29 phase
    30 twist (radians per unit of z) | 31 taper
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

ROW = 32
ELLIPSOID, BOX, CYLINDER, CONE, TORUS, CAPSULE = range(6)
UNION, SUBTRACT = range(2)
PLAIN, STRIPES, CHECKER, DOTS, GRADIENT = range(5)
RADIUS = 0.48
"""Every toy is scaled into a ball of this radius around the origin: it fits the reference camera from any side."""

Number = float | int
Vector = Sequence[Number]


@dataclass(frozen=True)
class Paint:
    """A color in [0, 1], and a second one laid over it in a pattern."""

    color: tuple[float, float, float]
    second: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pattern: int = PLAIN
    frequency: Number = 20.0
    phase: Number = 0.0


@dataclass(frozen=True)
class Toy:
    """One object: packed primitives (P, ROW) float32, its caption, category and the turn of its front (radians)."""

    primitives: np.ndarray
    caption: str
    category: str
    yaw: float
    symmetric: bool


@dataclass(frozen=True)
class PrimitiveOptions:
    """Rotation of a primitive (degrees about x, then y, then z), its rounding, blending and bending."""

    rx: Number = 0.0
    ry: Number = 0.0
    rz: Number = 0.0
    rounding: Number = 0.0
    blend: Number = 0.0
    subtract: Number = 0.0
    twist: Number = 0.0
    taper: Number = 0.0


@dataclass
class Builder:
    """Collects primitives in the shape's own frame: front towards +y, up +z, any scale."""

    rows: list[np.ndarray] = field(default_factory=list)

    def ellipsoid(self, radii: Vector, at: Vector, paint: Paint, **options: Number) -> None:
        """Add an ellipsoid of three radii."""
        self._add(ELLIPSOID, radii, at, paint, max(radii), **options)

    def ball(self, radius: Number, at: Vector, paint: Paint, **options: Number) -> None:
        """Add a ball."""
        self.ellipsoid((radius, radius, radius), at, paint, **options)

    def box(self, half: Vector, at: Vector, paint: Paint, **options: Number) -> None:
        """Add a box of three half sides."""
        self._add(BOX, half, at, paint, math.hypot(*half), **options)

    def cylinder(self, radius: Number, half: Number, at: Vector, paint: Paint, **options: Number) -> None:
        """Add a cylinder of a radius and half its height."""
        self._add(CYLINDER, (radius, half, 0), at, paint, math.hypot(radius, half), **options)

    def cone(
        self, bottom: Number, top: Number, half: Number, at: Vector, paint: Paint, **options: Number
    ) -> None:
        """Add a capped cone of two radii and half its height."""
        self._add(CONE, (bottom, top, half), at, paint, math.hypot(max(bottom, top), half), **options)

    def torus(self, major: Number, minor: Number, at: Vector, paint: Paint, **options: Number) -> None:
        """Add a ring of a major and a minor radius."""
        self._add(TORUS, (major, minor, 0), at, paint, major + minor, **options)

    def capsule(self, radius: Number, half: Number, at: Vector, paint: Paint, **options: Number) -> None:
        """Add a capsule of a radius and half the length between its ends' centers."""
        self._add(CAPSULE, (radius, half, 0), at, paint, radius + half, **options)

    def rod(self, radius: Number, start: Vector, end: Vector, paint: Paint) -> None:
        """Add a capsule between two points."""
        a, b = np.asarray(start, float), np.asarray(end, float)
        x, y, z = b - a
        length = float(np.linalg.norm(b - a))
        tilt, turn = math.degrees(math.acos(z / length)), math.degrees(math.atan2(y, x))
        self.capsule(radius, length / 2, tuple((a + b) / 2), paint, ry=tilt, rz=turn)

    def _add(
        self, kind: int, size: Vector, at: Vector, paint: Paint, bound: Number, **options: Number
    ) -> None:
        o = PrimitiveOptions(**options)
        row = np.zeros(ROW, np.float64)
        row[0], row[1], row[2], row[3] = kind, SUBTRACT if o.subtract else UNION, o.blend, o.rounding
        row[4 : 4 + len(size)] = size
        row[8:17] = euler_deg(o.rx, o.ry, o.rz).T.ravel()
        row[17:20] = at
        row[20] = bound * (1 + abs(o.taper)) + o.rounding + o.blend
        row[21:24], row[24:27] = paint.color, paint.second
        row[27], row[28], row[29] = paint.pattern, paint.frequency, paint.phase
        row[30], row[31] = o.twist, o.taper
        self.rows.append(row)

    def finish(self, yaw: Number) -> np.ndarray:
        """Return the packed primitives, turned by ``yaw``, centered and scaled into the ball of radius ``RADIUS``."""
        rows = np.stack(self.rows)
        points = np.concatenate([surface_points(row) for row in rows if row[1] == UNION])
        turn = euler_deg(0, 0, math.degrees(yaw))
        points = points @ turn.T
        center = (points.max(0) + points.min(0)) / 2
        scale = RADIUS / np.linalg.norm(points - center, axis=1).max()
        rows[:, 17:20] = (rows[:, 17:20] @ turn.T - center) * scale
        rows[:, 8:17] = (rows[:, 8:17].reshape(-1, 3, 3) @ turn.T).reshape(-1, 9)
        rows[:, 2:8] *= scale
        rows[:, 20] *= scale
        rows[:, 28] /= scale
        rows[:, 30:32] /= scale
        return rows.astype(np.float32)


def euler_deg(x: Number, y: Number, z: Number) -> np.ndarray:
    """Return the rotation (3, 3) that turns about x, then y, then z, in degrees."""
    a, b, c = np.radians([x, y, z])
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rz @ ry @ rx


def surface_points(row: np.ndarray) -> np.ndarray:
    """Return points (N, 3) that enclose a primitive, for bounds: rings of round ones, corners of boxes."""
    kind, size, rounding = int(row[0]), row[4:8], row[3]
    around = np.linspace(0, 2 * np.pi, 25)[:-1]
    ring = np.stack([np.cos(around), np.sin(around), np.zeros_like(around)], -1)
    if kind == BOX:
        local = np.stack(np.meshgrid(*[(-1.0, 1.0)] * 3), -1).reshape(-1, 3) * (size[:3] + rounding)
    elif kind == ELLIPSOID:
        lift = np.linspace(-np.pi / 2, np.pi / 2, 13)[:, None, None]
        local = (ring * np.cos(lift) + np.array([0, 0, 1]) * np.sin(lift)).reshape(-1, 3) * size[:3]
    elif kind == TORUS:
        local = np.concatenate(
            [ring * (size[0] + size[1]), ring * size[0] + [0, 0, size[1]], ring * size[0] - [0, 0, size[1]]]
        )
    elif kind == CONE:
        local = np.concatenate([ring * size[0] - [0, 0, size[2]], ring * size[1] + [0, 0, size[2]]])
    else:
        reach = size[1] + (size[0] if kind == CAPSULE else 0)
        local = np.concatenate(
            [
                ring * size[0] + [0, 0, size[1]],
                ring * size[0] - [0, 0, size[1]],
                [[0, 0, reach], [0, 0, -reach]],
            ]
        )
    if row[30] or row[31]:
        local = local * (1 + abs(row[31]) * np.abs(local[:, 2:]).max())
    return local @ row[8:17].reshape(3, 3) + row[17:20]
