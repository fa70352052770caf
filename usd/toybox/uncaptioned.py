"""Uncaptioned toys: random compositions of patterned primitives with unions, cuts, twists and tapers.

Training data of this kind was found enough for reconstruction models to generalize (LRM-Zero's Zeroverse, arXiv
2406.09371); here it keeps the embedded models from knowing only the named categories.
"""

from usd.toybox.scene import Builder
from usd.toybox.shapes import Draw


def uncaptioned(b: Builder, d: Draw) -> str:
    """Build overlapping parts around the origin, some cut away; return the caption phrase."""
    names = [d.color() for _ in range(d.count(2, 4))]
    for k in range(d.count(3, 7)):
        _add_primitive(b, d, names[k % len(names)], first=k == 0)
    for _ in range(d.count(0, 2)):
        _cut_away(b, d, d.one(*names))
    if d.chance(0.3):
        _mirrored_pair(b, d, names[0])
    words = list(dict.fromkeys(names))
    return f"{' and '.join(words)} shapes"


def _add_primitive(b: Builder, d: Draw, name: str, first: bool) -> None:
    reach = 0.0 if first else 0.42
    at = tuple(d.between(-reach, reach) for _ in range(3))
    size, paint = d.between(0.15, 0.36) * (1.25 if first else 1.0), d.paint(name, 0.6, 0.35)[0]
    turn = {"rx": d.between(0, 360), "ry": d.between(0, 360), "rz": d.between(0, 360)}
    bend = {"twist": d.between(-2, 2), "taper": d.between(-0.7, 0.7)} if d.chance(0.25) else {}
    kind = d.one("ellipsoid", "box", "cylinder", "cone", "torus", "capsule")
    if kind == "ellipsoid":
        b.ellipsoid([size * d.between(0.5, 1.2) for _ in range(3)], at, paint, **turn)
    elif kind == "box":
        b.box(
            [size * d.between(0.3, 1.1) for _ in range(3)],
            at,
            paint,
            rounding=d.between(0, 0.06),
            **turn,
            **bend,
        )
    elif kind == "cylinder":
        b.cylinder(size * d.between(0.3, 0.9), size * d.between(0.4, 1.4), at, paint, **turn, **bend)
    elif kind == "cone":
        b.cone(size, size * d.between(0.05, 0.7), size * d.between(0.5, 1.3), at, paint, **turn)
    elif kind == "torus":
        b.torus(size, size * d.between(0.2, 0.4), at, paint, **turn)
    else:
        b.capsule(size * d.between(0.25, 0.6), size * d.between(0.5, 1.4), at, paint, blend=0.05, **turn)


def _cut_away(b: Builder, d: Draw, name: str) -> None:
    at = tuple(d.between(-0.4, 0.4) for _ in range(3))
    size, paint = d.between(0.12, 0.25), d.plain(name)
    if d.chance(0.5):
        b.ball(size, at, paint, subtract=1)
    else:
        b.box((size, size, size), at, paint, subtract=1, rx=d.between(0, 90), rz=d.between(0, 90))


def _mirrored_pair(b: Builder, d: Draw, name: str) -> None:
    x, y, z = d.between(0.25, 0.5), d.between(-0.3, 0.3), d.between(-0.3, 0.3)
    size, paint = d.between(0.1, 0.2), d.plain(name)
    for side in (-1, 1):
        b.ellipsoid((size, size * 1.4, size * 0.7), (side * x, y, z), paint, rz=side * 30)
