"""From a seed to a toy, and from a toy and a camera to words."""

import math

import numpy as np
from torch import Tensor

from usd.math.camera import Cameras
from usd.toybox import REFERENCE_AZIMUTH_DEG
from usd.toybox.scene import Builder, Toy
from usd.toybox.shapes import SHAPES, SYMMETRIC, Draw
from usd.toybox.uncaptioned import uncaptioned

UNCAPTIONED_SHARE = 0.15
UNCAPTIONED = "shapes"
NORMALS_OF = "normals of "
MAX_YAW_DEG = 50.0
"""The front of a named toy stays within this angle of the reference camera, as in a picture somebody took."""

VIEWS = ("front", "front left", "left", "back left", "back", "back right", "right", "front right")


def make_toy(seed: int, uncaptioned_share: float = UNCAPTIONED_SHARE, category: str | None = None) -> Toy:
    """Return the toy of a seed. ``uncaptioned_share`` in [0, 1]; ``category`` forces a named one."""
    if seed < 0:
        raise ValueError(f"toybox seed: {seed} is negative; expected a whole number from 0 up")
    rng = np.random.default_rng([seed, 20231211, *map(ord, category or "")])
    is_uncaptioned, choice = rng.random() < uncaptioned_share, rng.integers(len(SHAPES))
    yaw = float(rng.uniform(-1, 1)) * math.radians(MAX_YAW_DEG)
    builder, draw = Builder(), Draw(rng)
    if category is None and is_uncaptioned:
        phrase, name = uncaptioned(builder, draw), UNCAPTIONED
    else:
        name = category or list(SHAPES)[choice]
        if name not in SHAPES:
            raise ValueError(f"toybox category: {name!r} is unknown; expected one of {', '.join(SHAPES)}")
        phrase = SHAPES[name](builder, draw)
    return Toy(builder.finish(yaw), f"{_article(phrase)} {phrase}", name, yaw, name in SYMMETRIC)


def _article(phrase: str) -> str:
    if phrase.endswith(UNCAPTIONED):
        return "some"
    return "an" if phrase[0] in "aeio" else "a"


def normal_caption(caption: str) -> str:
    """Return the caption of a toy's normal map, colors included: prompts for normals name colors, too."""
    return f"{NORMALS_OF}{caption}"


def says_normals(caption: str) -> bool:
    """Return whether a caption asks for a normal map."""
    return caption.startswith(NORMALS_OF)


def facing(toy: Toy, cameras: Cameras) -> Tensor:
    """Return the azimuth (B,) at which each camera sees the toy, relative to its front, in (-pi, pi]."""
    turn = cameras.spherical.azimuth - math.radians(REFERENCE_AZIMUTH_DEG) - toy.yaw
    return (turn + math.pi).remainder(2 * math.pi) - math.pi


def view_words(azimuth: float, elevation: float) -> str:
    """Return the phrase for a view ``azimuth`` radians round from the front (counter-clockwise seen from above).

    Left and right are the viewer's: seen from the "left" is from where the toy's own right hand is.
    """
    side = VIEWS[round(azimuth / (math.pi / 4)) % 8]
    height = (
        " and above" if elevation > math.radians(35) else " and below" if elevation < math.radians(-8) else ""
    )
    return f"from the {side}{height}"
