"""Which words go with a camera: pure functions of its place.

Azimuths are measured from the object's front, counter-clockwise seen from above. Degrees, as in the configuration.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.math.camera import Cameras
from usd.toybox.objects import view_words

DIRECTIONS = ("side", "front", "back", "overhead")  # a later one wins where several apply
SIDE, FRONT, BACK, OVERHEAD = range(4)

Decay = tuple[float, float, float]
"""(a, b, c) of a exp(-b r) + c."""


def azimuth_elevation_deg(
    cameras: Cameras, front_azimuth: float | int = 0.0
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """Return azimuth from the object's front, in [-180, 180), and elevation of each camera, in degrees."""
    place = cameras.spherical
    azimuth = (place.azimuth.rad2deg() - front_azimuth + 180).remainder(360) - 180
    return azimuth, place.elevation.rad2deg()


def direction_index(
    cameras: Cameras,
    front_deg: float | int,
    back_deg: float | int,
    overhead_deg: float | int,
    front_azimuth: float | int = 0.0,
) -> Int[Tensor, "B"]:
    """Return the number in ``DIRECTIONS`` of each camera: front and back are cones of azimuth around 0 and 180."""
    azimuth, elevation = azimuth_elevation_deg(cameras, front_azimuth)
    away = azimuth.abs()
    index = torch.full_like(away, SIDE, dtype=torch.long)
    for number, applies in (
        (FRONT, away < front_deg),
        (BACK, away > 180 - back_deg),
        (OVERHEAD, elevation > overhead_deg),
    ):
        index = torch.where(applies, number, index)
    return index


def phrases() -> tuple[str, ...]:
    """Return every phrase for a view that the embedded models were trained with: eight sides, each at three heights."""
    heights = [math.radians(degrees) for degrees in (10, 60, -20)]
    return tuple(view_words(turn * math.pi / 4, height) for height in heights for turn in range(8))


def phrase_index(cameras: Cameras, front_azimuth: float | int = 0.0) -> Int[Tensor, "B"]:
    """Return the number in ``phrases()`` of each camera's phrase."""
    known = phrases()
    places = zip(*(x.deg2rad().tolist() for x in azimuth_elevation_deg(cameras, front_azimuth)), strict=True)
    return torch.tensor([known.index(view_words(*place)) for place in places], device=cameras.device)


@dataclass(frozen=True)
class Mixture:
    """Perp-Neg's conditions of B views, by their numbers in ``DIRECTIONS``.

    ``first`` is moved towards ``second`` by ``share``, against ``negatives`` with ``weights`` (not positive).
    """

    first: Int[Tensor, "B"]
    second: Int[Tensor, "B"]
    share: Float[Tensor, "B"]
    negatives: Int[Tensor, "2 B"]
    weights: Float[Tensor, "2 B"]


@dataclass(frozen=True)
class Decays:
    """Weights that push a direction away as the view nears another one (threestudio's names and values)."""

    sb: Decay  # the side's, between side and back
    fsb: Decay  # the front's, between side and back
    fs: Decay  # the front's, between front and side
    sf: Decay  # the side's, between front and side


def mixture(
    azimuth: Float[Tensor, "B"], elevation: Float[Tensor, "B"], overhead_deg: float | int, decays: Decays
) -> Mixture:
    """Return Perp-Neg's interpolation between views (arXiv 2304.04968, section 4.3).

    From the front (r = 1) to the side (r = 0) the words are mixed, and the front is pushed away the more the nearer
    the side is; likewise from side to back. Seen from overhead nothing is mixed or pushed away.
    """
    away = azimuth.abs()
    ahead, above = away < 90, elevation > overhead_deg
    r = torch.where(ahead, 1 - away / 90, 2 - away / 90)

    def choose(front_half: int, back_half: int) -> Tensor:
        return torch.where(ahead, front_half, back_half)

    ahead_weights = torch.stack([_decay(decays.fs, r), _decay(decays.sf, 1 - r)])
    behind_weights = torch.stack([_decay(decays.sb, r), _decay(decays.fsb, r)])
    weights = -torch.where(ahead, ahead_weights, behind_weights).clamp_min(0)
    return Mixture(
        torch.where(above, OVERHEAD, choose(FRONT, SIDE)),
        torch.where(above, OVERHEAD, choose(SIDE, BACK)),
        1 - r,
        torch.stack([choose(FRONT, SIDE), choose(SIDE, FRONT)]),
        torch.where(above, torch.zeros_like(weights), weights),
    )


def _decay(numbers: Decay, r: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    a, b, c = numbers
    return a * torch.exp(-b * r) + c
