"""The named toys. Each function builds one category in its own frame: front towards +y, up +z, right hand +x.

Proportions, parts, colors and patterns are drawn from the generator, so every seed is another object. A function
returns the phrase for its caption, of which the words are all in the vocabulary of the embedded text model.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from usd.toybox.scene import CHECKER, DOTS, GRADIENT, STRIPES, Builder, Number, Paint

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.10),
    "orange": (0.98, 0.50, 0.08),
    "yellow": (0.98, 0.83, 0.12),
    "green": (0.16, 0.62, 0.22),
    "teal": (0.08, 0.58, 0.58),
    "blue": (0.13, 0.28, 0.85),
    "purple": (0.50, 0.18, 0.68),
    "pink": (0.98, 0.52, 0.70),
    "brown": (0.48, 0.27, 0.12),
    "gray": (0.52, 0.53, 0.56),
    "white": (0.93, 0.92, 0.90),
    "black": (0.10, 0.10, 0.12),
}
PATTERNS = {"striped": STRIPES, "checkered": CHECKER, "dotted": DOTS, "shaded": GRADIENT}
INK = Paint((0.06, 0.06, 0.07))
SNOW = Paint((0.95, 0.95, 0.96))
WOOD = Paint((0.50, 0.32, 0.17))
STEEL = Paint((0.62, 0.64, 0.68))


@dataclass(frozen=True)
class Draw:
    """Random choices of one object."""

    rng: np.random.Generator

    def between(self, low: Number, high: Number) -> float:
        """Draw a number between two."""
        return float(self.rng.uniform(low, high))

    def chance(self, p: float) -> bool:
        """Return True with probability ``p``."""
        return bool(self.rng.random() < p)

    def one(self, *options: str) -> str:
        """Draw one of the options."""
        return str(self.rng.choice(options))

    def count(self, low: int, high: int) -> int:
        """Draw a whole number from ``low`` to ``high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def color(self, *avoid: str) -> str:
        """Draw the name of a color."""
        return self.one(*[name for name in COLORS if name not in avoid])

    def plain(self, name: str) -> Paint:
        """Return a color without pattern, slightly off its name."""
        jitter = self.rng.normal(0, 0.02, 3)
        r, g, b = np.clip(np.array(COLORS[name]) + jitter, 0.02, 0.98)
        return Paint((float(r), float(g), float(b)))

    def paint(self, name: str, size: Number = 1.0, p_pattern: float = 0.25) -> tuple[Paint, str]:
        """Return a color, sometimes with a pattern over it, and words for both; ``size`` is the painted part's."""
        base = self.plain(name)
        if not self.chance(p_pattern):
            return base, name
        word, other = self.one(*PATTERNS), self.color(name)
        frequency = self.between(2.0, 3.5) / size
        second = self.plain(other).color
        return Paint(
            base.color, second, PATTERNS[word], frequency, self.between(0, 1)
        ), f"{word} {name} and {other}"


Shape = Callable[[Builder, Draw], str]


def snowman(b: Builder, d: Draw) -> str:
    """Build a snowman; return its caption phrase."""
    hat, scarf, body = (
        d.color("white"),
        d.color("white"),
        d.one("white", "white", "white", "gray", "teal", "pink"),
    )
    snow, low, mid, head = d.plain(body), d.between(0.42, 0.52), d.between(0.30, 0.38), d.between(0.22, 0.28)
    z1 = low + 0.75 * (low + mid) * 0.8
    z2 = z1 + 0.8 * (mid + head)
    b.ball(low, (0, 0, low), snow)
    b.ball(mid, (0, 0, z1), snow)
    b.ball(head, (0, 0, z2), snow)
    b.torus(head * 0.85, 0.06, (0, 0, z2 - head * 0.75), d.plain(scarf))
    b.cone(0.05, 0.008, 0.14, (0, head + 0.1, z2), d.plain("orange"), rx=-90)
    for side in (-1, 1):
        b.ball(0.045, (side * 0.09, head * 0.9, z2 + 0.08), INK)
    for k in range(2):
        b.ball(0.045, (0, mid * 0.97, z1 - 0.06 + 0.16 * k), INK)
    b.cylinder(head * 1.15, 0.025, (0, 0, z2 + head * 0.72), d.plain(hat))
    b.cylinder(head * 0.75, d.between(0.1, 0.2), (0, 0, z2 + head * 0.72 + 0.15), d.plain(hat))
    if d.chance(0.6):
        for side in (-1, 1):
            b.rod(
                0.03, (side * mid * 0.9, 0, z1), (side * (mid + 0.35), 0.05, z1 + d.between(0.1, 0.3)), WOOD
            )
    return f"{body} snowman with a {hat} hat and a {scarf} scarf"


def mushroom(b: Builder, d: Draw) -> str:
    """Build a mushroom; return its caption phrase."""
    cap, stem, spots = d.color(), d.one("white", "gray", "brown", "yellow"), d.chance(0.7)
    r, h, s = d.between(0.5, 0.7), d.between(0.3, 0.55), d.between(0.13, 0.24)
    lift = d.between(0.25, 0.45)
    foot, paint = d.plain(stem), d.plain(cap)
    b.ellipsoid((r, r, lift), (0, 0, 2 * h), paint)
    b.cylinder(r * 0.9, lift * 0.6, (0, 0, 2 * h - lift * 0.75), d.plain(stem), subtract=1)
    b.cone(s * 1.2, s, h, (0, 0, h), foot)  # after the cut, which would take its top
    if spots:
        dot = d.plain(d.color(cap))
        for k in range(d.count(4, 7)):
            a, u = 2.4 * k + d.between(0, 0.5), d.between(0.25, 0.8)
            top = lift * np.sqrt(max(0.0, 1 - u * u))
            b.ball(d.between(0.06, 0.11), (r * u * np.cos(a), r * u * np.sin(a), 2 * h + top), dot)
    return f"{cap} mushroom with a {stem} stem" + (" and spots" if spots else "")


def chair(b: Builder, d: Draw) -> str:
    """Build a chair; return its caption phrase."""
    seat, legs = d.color(), d.color()
    paint, words = d.paint(seat, 0.8, 0.3)
    w, deep, h, back = (
        d.between(0.36, 0.48),
        d.between(0.36, 0.46),
        d.between(0.4, 0.55),
        d.between(0.4, 0.62),
    )
    metal = d.plain(legs)
    b.box((w, deep, 0.05), (0, 0, 2 * h * 0.85), paint, rounding=0.02)
    seat_z = 2 * h * 0.85
    tilt = d.between(-2, 14)
    if d.chance(0.65):
        b.box((w, 0.05, back * 0.9), (0, -deep - 0.1, seat_z + back * 0.85), paint, rx=tilt, rounding=0.02)
    else:
        for k in range(3):
            b.box((w, 0.03, 0.07), (0, -deep, seat_z + back * (0.5 + 0.5 * k)), paint)
        for side in (-1, 1):
            b.box((0.04, 0.04, back), (side * (w - 0.04), -deep, seat_z + back * 0.8), metal)
    for x in (-1, 1):
        for y in (-1, 1):
            b.cylinder(0.05, seat_z / 2, (x * (w - 0.06), y * (deep - 0.06), seat_z / 2), metal)
    arms = d.chance(0.35)
    if arms:
        for x in (-1, 1):
            b.box((0.04, deep, 0.03), (x * w, 0, seat_z + 0.32), metal)
            b.box((0.03, 0.03, 0.16), (x * w, deep * 0.8, seat_z + 0.16), metal)
    return f"{words} chair with {legs} legs" + (" and arms" if arms else "")


def table(b: Builder, d: Draw) -> str:
    """Build a table; return its caption phrase."""
    top, legs, round_top = d.color(), d.color(), d.chance(0.4)
    paint, words = d.paint(top, 1.2, 0.25)
    w, deep, h = d.between(0.5, 0.8), d.between(0.35, 0.55), d.between(0.3, 0.5)
    metal = d.plain(legs)
    if round_top:
        b.cylinder(w * 0.9, 0.05, (0, 0, 2 * h), paint)
        b.cylinder(0.07, h, (0, 0, h), metal)
        b.cone(w * 0.5, 0.07, 0.05, (0, 0, 0.05), metal)
    else:
        b.box((w, deep, 0.05), (0, 0, 2 * h), paint)
        for x in (-1, 1):
            for y in (-1, 1):
                b.box((0.05, 0.05, h), (x * (w - 0.08), y * (deep - 0.08), h), metal)
        if d.chance(0.4):
            b.box((w * 0.35, deep * 0.9, 0.13), (-w * 0.5, 0, 2 * h - 0.17), d.plain(legs))
    return f"{'round ' if round_top else ''}{words} table with {legs} legs"


def car(b: Builder, d: Draw) -> str:
    """Build a car; return its caption phrase."""
    body, cabin = d.color(), d.color()
    paint, words = d.paint(body, 1.0, 0.2)
    length, w, h = d.between(0.75, 0.95), d.between(0.36, 0.45), d.between(0.14, 0.22)
    r = d.between(0.16, 0.22)
    b.box((w, length, h), (0, 0, r + h * 0.9), paint, rounding=0.06)
    cab = d.between(0.32, 0.5)
    place = d.between(-0.3, -0.05)
    b.box((w * 0.85, cab, 0.15), (0, place, r + 2 * h + 0.14), d.plain(cabin), rounding=0.06)
    b.box((w * 0.75, 0.02, 0.1), (0, place + cab + 0.06, r + 2 * h + 0.15), Paint((0.6, 0.8, 0.92)), rx=20)
    for x in (-1, 1):
        for y in (-0.58, 0.58):
            b.cylinder(r, 0.08, (x * w, y * length, r), INK, ry=90)
            b.cylinder(r * 0.5, 0.09, (x * w, y * length, r), STEEL, ry=90)
        b.ball(0.075, (x * w * 0.65, length + 0.04, r + h * 1.1), Paint((1.0, 0.9, 0.35)))
        b.box((0.08, 0.02, 0.04), (x * w * 0.65, -length - 0.06, r + h * 1.1), Paint((0.8, 0.05, 0.05)))
    return f"{words} car with a {cabin} roof"


def house(b: Builder, d: Draw) -> str:
    """Build a house; return its caption phrase."""
    wall, roof, door = d.color(), d.color(), d.color()
    paint, words = d.paint(wall, 1.4, 0.2)
    w, deep, h = d.between(0.45, 0.6), d.between(0.38, 0.55), d.between(0.28, 0.45)
    b.box((w, deep, h), (0, 0, h), paint)
    pitch = d.between(28, 45)
    slope = (w + 0.08) / np.cos(np.radians(pitch))
    tiles = d.plain(roof)
    for side in (-1, 1):
        x, z = side * (w + 0.08) / 2, 2 * h + 0.5 * (w - 0.08) * np.tan(np.radians(pitch))
        b.box((slope / 2, deep + 0.1, 0.04), (x, 0, z), tiles, ry=side * pitch)
    b.box((w * 0.5, deep * 0.96, 0.16), (0, 0, 2 * h + 0.05), paint)
    b.box((0.1, 0.02, 0.19), (d.between(-0.15, 0.15), deep + 0.01, 0.19), d.plain(door))
    glass = Paint((0.55, 0.78, 0.92))
    for x in (-1, 1):
        b.box((0.02, 0.11, 0.1), (x * (w + 0.005), 0, h * 1.1), glass)
        b.box((0.08, 0.02, 0.08), (x * w * 0.68, deep + 0.005, h * 1.25), glass)
    chimney = d.chance(0.7)
    if chimney:
        b.box((0.08, 0.08, 0.22), (w * 0.5, -deep * 0.4, 2 * h + w * 0.6), d.plain("red"))
    return f"{words} house with a {roof} roof" + (" and a chimney" if chimney else "")


def pine(b: Builder, d: Draw) -> str:
    """Build a pine; return its caption phrase."""
    leaf, layers = d.one("green", "green", "green", "teal", "white", "blue"), d.count(2, 4)
    paint, z, r = d.plain(leaf), 0.3, d.between(0.45, 0.6)
    b.cylinder(d.between(0.08, 0.14), 0.2, (0, 0, 0.18), d.plain("brown"))
    for k in range(layers):
        h = d.between(0.28, 0.36)
        b.cone(r * (1 - k / (layers + 1.0)), 0.03, h, (0, 0, z + h), paint)
        z += h * 0.95
    if d.chance(0.4):
        for k in range(7):
            a, u = 2.4 * k, 0.3 + k * 0.15
            out = r * 0.85 * (1 - u / 1.6)
            b.ball(0.06, (out * np.cos(a), out * np.sin(a), 0.25 + u), d.plain(d.color(leaf)))
        return f"{leaf} pine with colored balls"
    return f"{leaf} pine"


def tree(b: Builder, d: Draw) -> str:
    """Build a tree; return its caption phrase."""
    leaf, trunk = d.one("green", "green", "orange", "red", "yellow", "pink"), d.one("brown", "gray", "black")
    paint, h = d.plain(leaf), d.between(0.35, 0.55)
    b.cone(d.between(0.1, 0.16), 0.07, h, (0, 0, h), d.plain(trunk))
    for k in range(d.count(3, 5)):
        a, out = 2.4 * k + d.between(0, 1), d.between(0.1, 0.32)
        b.ball(d.between(0.24, 0.38), (out * np.cos(a), out * np.sin(a), 2 * h + d.between(0.05, 0.4)), paint)
    fruit = d.chance(0.4)
    for k in range(5 if fruit else 0):
        x, y = 0.42 * np.cos(1.3 * k), 0.42 * np.sin(1.3 * k)
        b.ball(0.07, (x, y, 2 * h + d.between(0.1, 0.35)), d.plain("red"))
    return f"{leaf} tree with a {trunk} trunk" + (" and fruit" if fruit else "")


def rocket(b: Builder, d: Draw) -> str:
    """Build a rocket; return its caption phrase."""
    body, nose, fins = d.color(), d.color(), d.color()
    paint, words = d.paint(body, 0.8, 0.35)
    r, h, n = d.between(0.18, 0.26), d.between(0.4, 0.6), d.count(3, 4)
    b.cylinder(r, h, (0, 0, h + 0.2), paint)
    tip = d.between(0.18, 0.3)
    b.cone(r, 0.02, tip, (0, 0, 2 * h + 0.2 + tip), d.plain(nose))
    b.cone(r * 0.6, r * 0.8, 0.08, (0, 0, 0.13), STEEL)
    fin = d.plain(fins)
    for a in (90 + 360 * k / n for k in range(n)):
        x, y = np.cos(np.radians(a)), np.sin(np.radians(a))
        b.box((d.between(0.1, 0.14), 0.025, 0.2), (x * (r + 0.08), y * (r + 0.08), 0.25), fin, rz=a)
    b.ball(r * 0.5, (0, r * 0.75, h * 1.5 + 0.2), Paint((0.6, 0.82, 0.95)))
    b.torus(r * 0.5, 0.03, (0, r * 0.98, h * 1.5 + 0.2), STEEL, rx=90)
    return f"{words} rocket with a {nose} nose and {fins} fins"


def lamp(b: Builder, d: Draw) -> str:
    """Build a lamp; return its caption phrase."""
    shade, foot = d.color(), d.color()
    paint, words = d.paint(shade, 0.7, 0.25)
    h, r = d.between(0.4, 0.6), d.between(0.32, 0.45)
    metal = d.plain(foot)
    b.cylinder(d.between(0.22, 0.32), 0.04, (0, 0, 0.04), metal)
    bend = d.chance(0.5)
    if bend:
        b.rod(0.035, (0, -0.1, 0.05), (0, -0.3, h * 1.4), metal)
        b.rod(0.035, (0, -0.3, h * 1.4), (0, 0.25, 2 * h), metal)
        b.cone(r * 0.8, r * 0.3, 0.2, (0, 0.3, 2 * h - 0.08), paint, rx=d.between(15, 40))
    else:
        b.cylinder(0.04, h, (0, 0, h), metal)
        b.cone(r, r * d.between(0.4, 0.8), d.between(0.2, 0.3), (0, 0, 2 * h), paint)
    return f"{words} {'desk ' if bend else ''}lamp with a {foot} foot"


def mug(b: Builder, d: Draw) -> str:
    """Build a mug; return its caption phrase."""
    body, handle, drink = d.color(), d.color(), d.one("brown", "brown", "yellow", "green", "white")
    paint, words = d.paint(body, 0.9, 0.35)
    r, h = d.between(0.34, 0.44), d.between(0.34, 0.5)
    b.torus(h * 0.55, 0.075, (r + 0.06, 0.0, h), d.plain(handle), rx=90)
    b.cone(r * d.between(0.8, 1.0), r, h, (0, 0, h), paint)
    b.cylinder(r * 0.85, 0.2, (0, 0, 2 * h), paint, subtract=1)
    b.cylinder(r * 0.84, 0.02, (0, 0, 2 * h - 0.16), d.plain(drink))
    return f"{words} mug with a {handle} handle"


def duck(b: Builder, d: Draw) -> str:
    """Build a duck; return its caption phrase."""
    body, beak = d.one("yellow", "yellow", *COLORS), d.one("orange", "red", "yellow")
    paint, head = d.plain(body), d.between(0.25, 0.32)
    w, length, h = d.between(0.36, 0.44), d.between(0.5, 0.62), d.between(0.32, 0.4)
    b.ellipsoid((w, length, h), (0, 0, h), paint)
    z, y = h * 1.7 + head * 0.75, length * 0.5
    b.ball(head, (0, y, z), paint, blend=0.12)
    b.ellipsoid((0.16, 0.18, 0.05), (0, y + head + 0.06, z - 0.05), d.plain(beak))
    b.cone(0.2, 0.03, 0.18, (0, -length * 0.95, h * 1.4), paint, rx=50, blend=0.08)
    wing = d.color()
    for side in (-1, 1):
        b.ball(0.05, (side * 0.14, y + head * 0.82, z + 0.08), INK)
        b.ellipsoid((0.08, 0.3, 0.2), (side * w * 0.92, -0.08, h * 1.1), d.plain(wing))
    return f"{body} duck with a {beak} beak and {wing} wings"


def robot(b: Builder, d: Draw) -> str:
    """Build a robot; return its caption phrase."""
    body, limbs = d.color(), d.color()
    paint, words = d.paint(body, 0.8, 0.3)
    skin = d.plain(limbs)
    w, h, head = d.between(0.28, 0.38), d.between(0.28, 0.38), d.between(0.2, 0.28)
    hip = d.between(0.35, 0.45)
    b.box((w, 0.2, h), (0, 0, hip + h), paint, rounding=0.03)
    top = hip + 2 * h
    b.box((head, 0.2, head * 0.8), (0, 0, top + head * 0.95), skin, rounding=0.03)
    eye = Paint((1.0, 0.9, 0.2))
    for side in (-1, 1):
        b.ball(0.065, (side * head * 0.45, 0.22, top + head * 1.1), eye)
        b.box((0.09, 0.1, hip / 2), (side * w * 0.55, 0, hip / 2), skin)
        b.box((0.08, 0.1, d.between(0.22, 0.3)), (side * (w + 0.13), 0, hip + h), skin, rounding=0.02)
        b.box((0.1, 0.15, 0.05), (side * w * 0.55, 0.06, 0.05), INK)
    b.box((head * 0.5, 0.02, 0.03), (0, 0.23, top + head * 0.55), INK)
    b.box((0.1, 0.02, 0.1), (0, 0.23, hip + h * 1.2), d.plain(d.color(body)))
    antenna = d.chance(0.6)
    if antenna:
        b.cylinder(0.02, 0.12, (0, 0, top + head * 1.8 + 0.1), STEEL)
        b.ball(0.05, (0, 0, top + head * 1.8 + 0.24), eye)
    return f"{words} robot with {limbs} arms" + (" and an antenna" if antenna else "")


def boat(b: Builder, d: Draw) -> str:
    """Build a boat; return its caption phrase."""
    hull, sail = d.color(), d.color()
    paint, length, w = d.plain(hull), d.between(0.6, 0.8), d.between(0.26, 0.36)
    b.ellipsoid((w, length, 0.32), (0, 0, 0.3), paint)
    b.box((1.0, 1.0, 0.3), (0, 0, 0.62), d.plain("brown"), subtract=1)
    if d.chance(0.55):
        b.cylinder(0.03, 0.6, (0, 0.05, 0.85), WOOD)
        cloth, words = d.paint(sail, 0.8, 0.3)
        b.box((0.015, d.between(0.22, 0.34), d.between(0.32, 0.42)), (0, -0.3, 0.95), cloth)
        b.box((0.015, 0.14, 0.25), (0, 0.24, 0.8), cloth)
        return f"{hull} boat with a {words} sail"
    b.box((w * 0.6, length * 0.35, 0.16), (0, -0.15, 0.45), d.plain(sail), rounding=0.02)
    b.box((w * 0.4, length * 0.2, 0.1), (0, -0.1, 0.7), SNOW, rounding=0.02)
    b.cylinder(0.09, 0.22, (0, -0.35, 0.85), d.plain("red"))
    return f"{hull} boat with a {sail} cabin"


def icecream(b: Builder, d: Draw) -> str:
    """Build an ice cream; return its caption phrase."""
    scoops = [d.color() for _ in range(d.count(1, 3))]
    r, cone = d.between(0.26, 0.34), d.between(0.38, 0.5)
    waffle = Paint((0.85, 0.62, 0.32), (0.72, 0.48, 0.22), CHECKER, 9.0)
    b.cone(0.04, r * 0.9, cone, (0, 0, cone), waffle)
    z = 2 * cone + r * 0.35
    for k, name in enumerate(scoops):
        size = r * (1 - 0.13 * k)
        b.ball(size, (d.between(-0.04, 0.04), d.between(-0.04, 0.04), z), d.plain(name))
        z += size * 1.15
    cherry = d.chance(0.5)
    if cherry:
        b.ball(0.09, (0.02, 0, z + 0.02), d.plain("red"))
    b.rod(0.04, (0.12, -0.08, z - 0.25), (0.3, -0.2, z + 0.2), WOOD)
    return f"{' and '.join(scoops)} icecream" + (" with a cherry" if cherry else "")


def airplane(b: Builder, d: Draw) -> str:
    """Build an airplane; return its caption phrase."""
    body, wings = d.color(), d.color()
    paint, words = d.paint(body, 0.9, 0.25)
    length, r, span = d.between(0.65, 0.85), d.between(0.13, 0.19), d.between(0.6, 0.85)
    b.ellipsoid((r, length, r), (0, 0, 0.4), paint)
    wing = d.plain(wings)
    z = 0.4 + d.between(-0.05, 0.05)
    b.box((span, 0.15, 0.025), (0, d.between(0, 0.15), z), wing)
    b.box((0.26, 0.09, 0.02), (0, -length * 0.88, 0.44), wing)
    b.box((0.02, 0.1, 0.15), (0, -length * 0.88, 0.58), wing)
    b.ellipsoid((r * 0.7, 0.18, 0.1), (0, length * 0.4, 0.4 + r * 0.8), Paint((0.6, 0.82, 0.95)))
    if d.chance(0.5):
        b.box((0.26, 0.015, 0.035), (0, length + 0.02, 0.4), INK, ry=35)
        b.ball(0.05, (0, length + 0.02, 0.4), STEEL)
    else:
        for x in (-1, 1):
            b.capsule(0.07, 0.12, (x * span * 0.5, 0.15, z - 0.08), STEEL, rx=90)
    return f"{words} airplane with {wings} wings"


def bottle(b: Builder, d: Draw) -> str:
    """Build a bottle; return its caption phrase."""
    glass, label, cap = d.color(), d.color(), d.color()
    r, h, neck = d.between(0.2, 0.28), d.between(0.34, 0.46), d.between(0.07, 0.11)
    paint = d.plain(glass)
    b.cylinder(r, h, (0, 0, h), paint, rounding=0.02)
    b.cone(r, neck, 0.1, (0, 0, 2 * h + 0.1), paint)
    b.cylinder(neck, 0.12, (0, 0, 2 * h + 0.3), paint)
    b.cylinder(neck * 1.25, 0.05, (0, 0, 2 * h + 0.44), d.plain(cap))
    b.box((r * 0.7, 0.03, h * 0.45), (0, r * 0.95, h), d.paint(label, 0.5, 0.4)[0])
    return f"{glass} bottle with a {label} label and a {cap} cap"


def cake(b: Builder, d: Draw) -> str:
    """Build a cake; return its caption phrase."""
    base, icing, candles = d.color(), d.color(), d.count(1, 4)
    paint, words = d.paint(base, 0.8, 0.3)
    r, h = d.between(0.45, 0.6), d.between(0.15, 0.25)
    b.cylinder(r * 1.2, 0.03, (0, 0, 0.03), SNOW)
    b.cylinder(r, h, (0, 0, h + 0.05), paint)
    b.cylinder(r * 1.02, 0.06, (0, 0, 2 * h + 0.05), d.plain(icing), rounding=0.02)
    z = 2 * h + 0.12
    if d.chance(0.5):
        b.cylinder(r * 0.62, h * 0.7, (0, 0, z + h * 0.6), paint)
        z += 1.3 * h
    for k in range(candles):
        a = 2 * np.pi * k / candles + 0.6
        x, y = 0.25 * np.cos(a) * (candles > 1), 0.25 * np.sin(a) * (candles > 1)
        b.cylinder(0.035, 0.13, (x, y, z + 0.12), d.plain(d.color()))
        b.ball(0.045, (x, y, z + 0.28), Paint((1.0, 0.75, 0.15)))
    if d.chance(0.5):
        b.box((0.7, 0.7, 0.8), (0.72, 0.72, 0.9), d.plain("brown"), subtract=1)
    return f"{words} cake with {icing} icing and candles"


def owl(b: Builder, d: Draw) -> str:
    """Build an owl; return its caption phrase."""
    body, belly = d.color("black"), d.color()
    paint, r, h = d.plain(body), d.between(0.36, 0.44), d.between(0.45, 0.56)
    b.ellipsoid((r, r * 0.9, h), (0, 0, h), paint)
    b.ellipsoid((r * 0.7, r * 0.4, h * 0.65), (0, r * 0.6, h * 0.8), d.paint(belly, 0.6, 0.4)[0])
    eye = d.between(0.12, 0.16)
    for side in (-1, 1):
        b.ball(eye, (side * eye * 1.05, r * 0.62, h * 1.45), SNOW)
        b.ball(eye * 0.5, (side * eye * 1.0, r * 0.62 + eye * 0.72, h * 1.45), INK)
        b.cone(0.12, 0.01, 0.13, (side * r * 0.5, 0, 2 * h - 0.04), paint, ry=side * 15)
        b.ellipsoid((0.08, 0.22, h * 0.6), (side * r * 0.95, -0.05, h * 0.85), d.plain(belly))
        b.ellipsoid((0.09, 0.13, 0.05), (side * 0.15, r * 0.6, 0.04), d.plain("orange"))
    b.cone(0.07, 0.01, 0.1, (0, r * 0.85 + 0.06, h * 1.28), d.plain("orange"), rx=-110)
    return f"{body} owl with a {belly} belly"


def kettle(b: Builder, d: Draw) -> str:
    """Build a kettle; return its caption phrase."""
    body, lid = d.color(), d.color()
    paint, words = d.paint(body, 0.9, 0.3)
    r, h = d.between(0.42, 0.52), d.between(0.3, 0.4)
    b.ellipsoid((r, r, h), (0, 0, h), paint)
    b.cylinder(r * 0.7, 0.03, (0, 0, 0.03), paint)
    metal = d.plain(lid)
    b.cone(r * 0.55, r * 0.2, 0.06, (0, 0, 2 * h - 0.01), metal)
    b.ball(0.08, (0, 0, 2 * h + 0.1), metal)
    b.rod(0.085, (0.3, 0, h * 0.8), (r + 0.32, 0, h * 1.7), paint)
    b.torus(h * 0.62, 0.05, (-r - 0.02, 0, h * 1.05), metal, rx=90)
    return f"{words} kettle with a {lid} lid"


def dog(b: Builder, d: Draw) -> str:
    """Build a dog; return its caption phrase."""
    coat, collar = d.color(), d.color()
    paint, words = d.paint(coat, 0.7, 0.3)
    length, r, leg = d.between(0.4, 0.55), d.between(0.2, 0.27), d.between(0.3, 0.42)
    z = leg + r * 0.7
    b.capsule(r, length, (0, 0, z), paint, rx=90)
    head, y = d.between(0.22, 0.28), length + r * 0.9
    b.ball(head, (0, y, z + 0.3), paint)
    b.ellipsoid((0.12, 0.18, 0.1), (0, y + head, z + 0.24), paint)
    b.ball(0.05, (0, y + head + 0.17, z + 0.27), INK)
    b.torus(0.17, 0.05, (0, y - 0.06, z + 0.1), d.plain(collar), rx=-35)
    ear = d.plain(d.color(coat))
    for x in (-1, 1):
        b.ball(0.04, (x * 0.1, y + head * 0.88, z + 0.38), INK)
        b.ellipsoid((0.05, 0.09, 0.17), (x * head * 0.95, y, z + 0.27), ear)
        for end in (-1, 1):
            b.cylinder(0.08, leg / 2, (x * r * 0.65, end * length * 0.9, leg / 2), paint)
    b.rod(0.05, (0, -length - r * 0.8, z + 0.05), (0, -length - r - 0.2, z + d.between(0.15, 0.4)), paint)
    return f"{words} dog with a {collar} collar"


def fish(b: Builder, d: Draw) -> str:
    """Build a fish; return its caption phrase."""
    body, fins = d.color(), d.color()
    paint, words = d.paint(body, 0.8, 0.5)
    w, length, h = d.between(0.16, 0.24), d.between(0.5, 0.65), d.between(0.28, 0.42)
    b.ellipsoid((w, length, h), (0, 0, 0.5), paint)
    fin = d.plain(fins)
    b.cone(0.3, 0.03, 0.2, (0, -length - 0.1, 0.5), fin, rx=-90)
    b.box((0.4, 0.8, 0.8), (0.45, -length - 0.2, 0.5), fin, subtract=1)
    b.box((0.4, 0.8, 0.8), (-0.45, -length - 0.2, 0.5), fin, subtract=1)
    b.box((0.025, 0.22, 0.12), (0, -0.05, 0.5 + h), fin, rx=-12)
    for x in (-1, 1):
        b.ball(0.065, (x * w * 0.62, length * 0.7, 0.58), SNOW)
        b.ball(0.035, (x * (w * 0.62 + 0.045), length * 0.73, 0.58), INK)
        b.box((0.15, 0.08, 0.02), (x * (w + 0.08), 0.1, 0.4), fin, ry=x * 30)
    return f"{words} fish with {fins} fins"


def sofa(b: Builder, d: Draw) -> str:
    """Build a sofa; return its caption phrase."""
    cloth, pillow = d.color(), d.color()
    paint, words = d.paint(cloth, 0.9, 0.3)
    w, deep, back = d.between(0.55, 0.85), d.between(0.32, 0.4), d.between(0.28, 0.4)
    b.box((w, deep, 0.14), (0, 0, 0.22), paint, rounding=0.04)
    b.box((w, 0.08, back), (0, -deep, 0.22 + back * 0.8), paint, rounding=0.05, rx=6)
    for x in (-1, 1):
        b.box((0.08, deep, 0.2), (x * w, 0, 0.32), paint, rounding=0.05)
        b.box((0.14, 0.05, 0.13), (x * w * 0.55, -deep * 0.5, 0.52), d.plain(pillow), rx=-12, rounding=0.04)
        for y in (-1, 1):
            b.cylinder(0.04, 0.06, (x * w * 0.85, y * deep * 0.8, 0.03), WOOD)
    return f"{words} sofa with {pillow} pillows"


SHAPES: dict[str, Shape] = {
    f.__name__: f
    for f in (
        snowman,
        mushroom,
        chair,
        table,
        car,
        house,
        pine,
        tree,
        rocket,
        lamp,
        mug,
        duck,
        robot,
        boat,
        icecream,
        airplane,
        bottle,
        cake,
        owl,
        kettle,
        dog,
        fish,
        sofa,
    )
}
SYMMETRIC = frozenset({"mushroom", "pine", "tree", "bottle", "table", "lamp", "icecream", "rocket", "cake"})
"""Categories whose silhouette hardly tells the azimuth; pose retrieval is judged on the others."""
