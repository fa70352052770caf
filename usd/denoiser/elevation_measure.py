"""How high above the object a picture was taken, when nobody says: two ways, by what the picture model knows.

*turn*: Zero-1-to-3 knows only how far to turn, yet its views of a turn differ with the height it believes the picture
was taken from. Views at small turns are sampled, and the height is searched for at which they agree with each other
(``usd.math.silhouette_consistency``; One-2-3-45, arXiv 2306.16928, triangulates matches to the same end). Any model
will do that is given relative cameras alone.
*read*: a model with a view volume makes its views *for* the height it is given, so that they agree with whatever was
assumed. There a small network trained on the toys reads the height off the picture (``elevation_reader``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from usd.core.errors import UserError
from usd.denoiser import ViewDenoiser
from usd.denoiser.elevation_reader import load_reader
from usd.denoiser.sample import Sampler, sample_views
from usd.math.camera import Cameras, orbit_cameras_deg
from usd.math.silhouette_consistency import disagreement

Method = Literal["auto", "read", "turn"]
WAYS = {
    "read": "read off the picture by a network trained on toys",
    "turn": "the one at which the model's turned views agree",
}

TURNS_DEG = (-40.0, -20.0, 0.0, 20.0, 40.0)  # 0 is the picture itself
HEIGHTS_DEG = tuple(float(e) for e in range(-30, 81, 10))
NOMINAL_DEG = 20.0  # what the cameras of the turned views are written with; only their turns matter
SIZE = 48  # of the pictures that are compared
WHITE = 0.94
UNSURE_DEG = 20.0


@dataclass(frozen=True)
class Elevation:
    """An estimate and its standard deviation, in degrees; ``method`` says how it was found."""

    degrees: float
    spread: float
    method: Literal["read", "turn"]

    def line(self) -> str:
        """Return the estimate in words."""
        text = f"elevation {self.degrees:.0f} degrees, give or take {self.spread:.0f} ({WAYS[self.method]})"
        return f"{text}; a guess: give data.reference_elevation_deg if you know it" if self.unsure else text

    @property
    def unsure(self) -> bool:
        """Return whether the estimate is little more than a guess."""
        return self.spread > UNSURE_DEG


@dataclass(frozen=True)
class Lens:
    """The known part of the reference camera: its distance (world units) and vertical field of view (degrees)."""

    distance: float
    fov_deg: float

    def cameras(self, elevation_deg: float | int, azimuth_deg: tuple[float, ...], size: int) -> Cameras:
        """Return cameras at this elevation and these azimuths, which see pictures of ``size`` pixels."""
        return orbit_cameras_deg(float(elevation_deg), azimuth_deg, self.distance, self.fov_deg, size)

    @property
    def radius(self) -> float:
        """Radius of the ball around the origin that fits the picture, world units."""
        return self.distance * float(np.sin(np.radians(self.fov_deg) / 2))


def estimate_elevation(
    model: ViewDenoiser,
    rgba: Float[Tensor, "1 4 H W"],
    lens: Lens,
    generator: torch.Generator,
    method: Method = "auto",
    where: str = "elevation",
) -> Elevation:
    """Return the height of the camera that took a prepared reference picture (straight alpha), on the picture's device.

    Raises UserError, blaming ``where``, when the picture shows nothing or the views cannot tell.
    """
    if not bool((rgba[:, 3] > 0.5).any()):
        raise UserError(f"{where}: the picture shows no object; expected one with some pixels of it")
    if method == "turn" and model.assumes_elevation:
        raise UserError(
            f"{where}: the views of '{model.name}' agree with any elevation assumed; expected method read or auto"
        )
    if method == "read" or (method == "auto" and model.assumes_elevation):
        return read_elevation(over_white(rgba))
    return elevation_from_turns(sample_turns(model, rgba, lens, generator), rgba, lens, where)


def over_white(rgba: Float[Tensor, "B 4 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Return pictures with straight alpha over white."""
    return rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]


def read_elevation(rgb: Float[Tensor, "1 3 H W"]) -> Elevation:
    """Return what the stored network reads off a picture over white."""
    mean, spread = load_reader().to(rgb.device).read(rgb)
    return Elevation(float(mean.rad2deg()), float(spread.rad2deg()), "read")


# ---------------------------------------------------------------------------------------------------- turned views


def sample_turns(
    model: ViewDenoiser,
    rgba: Float[Tensor, "1 4 H W"],
    lens: Lens,
    generator: torch.Generator,
    elevation_deg: float | int = NOMINAL_DEG,
) -> Float[Tensor, "V 3 S S"]:
    """Return the model's views at the turns of ``TURNS_DEG``, without the picture itself.

    ``elevation_deg`` matters only to a model that assumes it.
    """
    turns = tuple(turn for turn in TURNS_DEG if turn != 0)
    size = rgba.shape[-1]
    reading = model.encode_reference(
        over_white(rgba), lens.cameras(elevation_deg, (0.0,), size).to(rgba.device)
    )
    cameras = lens.cameras(elevation_deg, turns, size).to(rgba.device)
    return sample_views(model, reading, cameras, Sampler(steps=30, scale=3.0), generator)


def elevation_from_turns(
    views: Float[Tensor, "V 3 S S"], rgba: Float[Tensor, "1 4 H W"], lens: Lens, where: str = "elevation"
) -> Elevation:
    """Return the height at which the views at ``TURNS_DEG`` and the picture between them agree best."""
    middle = TURNS_DEG.index(0.0)
    masks, small = object_masks(views), _shrink(views)
    if float(masks.mean(dim=(1, 2, 3)).amin()) < 0.005:
        raise UserError(
            f"{where}: the model's turned views show no object; expected degrees in data.reference_elevation_deg"
        )
    own, own_mask = _shrink(over_white(rgba)), _shrink(rgba[:, 3:])
    pictures = torch.cat([small[:middle], own, small[middle:]])
    shapes = torch.cat([_shrink(masks[:middle]), own_mask, _shrink(masks[middle:])])
    return search_elevation(lambda e: _disagreement_at(e, pictures, shapes, lens))


def _disagreement_at(elevation_deg: float, pictures: Tensor, masks: Tensor, lens: Lens) -> float:
    cameras = lens.cameras(elevation_deg, TURNS_DEG, SIZE).to(pictures.device)
    return float(disagreement(pictures, masks, cameras, samples=24, radius=lens.radius))


def search_elevation(score: Callable[[float], float], heights: tuple[float, ...] = HEIGHTS_DEG) -> Elevation:
    """Return the height with the lowest score: the best of a coarse search, then a parabola through finer neighbors.

    The spread is that of the coarse heights weighted by exp(-4 (score - best) / best), a convention: what disagrees
    half as much again as the best is taken to be hardly likely. Views that agree at all heights leave it wide.
    """
    scores = np.array([score(height) for height in heights])
    shares = np.exp(-4 * (scores - scores.min()) / max(float(scores.min()), 1e-4))
    best = heights[int(scores.argmin())]
    step = (heights[1] - heights[0]) / 2
    below, at, above = score(best - step), float(scores.min()), score(best + step)
    bend = below - 2 * at + above
    shift = 0.5 * (below - above) / bend if bend > 1e-12 else 0.0
    found = best + step * min(1.0, max(-1.0, shift))
    apart = np.array(heights) - found
    return Elevation(found, float(np.sqrt((shares * apart**2).sum() / shares.sum())), "turn")


def object_masks(pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
    """Return 1 where pictures over white show something, enclosed white filled in."""
    from scipy.ndimage import binary_fill_holes  # not needed where the elevation is given

    dark = (pictures.amin(1) < WHITE).cpu().numpy()
    filled = np.stack([binary_fill_holes(mask) for mask in dark])
    return torch.from_numpy(filled).float()[:, None].to(pictures.device)


def _shrink(pictures: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C s s"]:
    """Return pictures at the size at which they are compared."""
    return interpolate(pictures, (SIZE, SIZE), mode="bilinear", antialias=True)
