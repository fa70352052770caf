"""Colors that a reference picture gives to points of a surface, and how far it is to be believed at each of them."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from usd.kernels.rasterize import Tracer, whole
from usd.math.camera import Cameras

Slant = tuple[float, float]
"""Cosines between normal and line of sight below which a picture says nothing, and above which it leads."""
SQUARE: Slant = (0.25, 0.6)
GRAZING: Slant = (0.1, 0.35)
"""Of a picture that is known to be right: stretched as it is at the outline, it says more than no picture."""
RIM = 0.015
"""Share of the picture's side by which the object's outline is narrowed: on its rim colors mix with what is behind."""
GAPS, WIDEST_RIM = 2.0, 0.03
"""Where it is measured how far two outlines are apart, the rim is so many times as wide, and at most this share."""
DEPTH = 0.01
"""A point is hidden by what is nearer to the camera by more than this share of their distance."""

FAR = 1e6
EDGE_SLACK = 1.5
"""How much nearer a slanted surface may be within a rim than it is on a straight line: across corners, and curved."""


@dataclass(frozen=True)
class Sight:
    """A camera's view of a surface: how well it sees each point of it."""

    camera: Cameras
    tracer: Tracer
    slant: Slant = SQUARE

    def __call__(self, x: Float[Tensor, "N 3"], normal: Float[Tensor, "N 3"]) -> Float[Tensor, "N 1"]:
        """Return weights in [0, 1]: 0 for points that are turned away or hidden, 1 for those seen squarely."""
        return self._facing(x, normal) * self._visible(x)

    def _facing(self, x: Float[Tensor, "N 3"], normal: Float[Tensor, "N 3"]) -> Float[Tensor, "N 1"]:
        """Return how squarely the camera sees points, smoothly from 0 to 1; a face is seen from both of its sides."""
        sight = torch.nn.functional.normalize(self.camera.position - x, dim=-1)
        cosine = (sight * normal).sum(-1, keepdim=True).abs()
        # Without a slope at either end, so that no line shows where the picture starts to lead.
        least, most = self.slant
        share = ((cosine - least) / (most - least)).clamp(0, 1)
        return share * share * (3 - 2 * share)

    def _visible(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 1"]:
        """Return 1 where nothing of the surface lies between a point and the camera, else 0."""
        origin = self.camera.position.expand_as(x)
        distance = (x - origin).norm(dim=-1, keepdim=True)
        _, nearest = self.tracer.cast(origin.contiguous(), ((x - origin) / distance).contiguous())
        # Relative, since rays meet the very surface that the points lie on, and rounding grows with the distance.
        return (nearest[:, None] >= distance * (1 - DEPTH)).to(x.dtype)


@dataclass(frozen=True)
class ReferenceProjection:
    """A picture with straight alpha, the camera that took it, and the surface that it shows.

    ``rim`` is the share of the picture's side by which the outline is narrowed; with ``edges`` that is done as well
    behind every edge of the surface that hides something.
    """

    rgba: Float[Tensor, "4 S S"]
    camera: Cameras
    tracer: Tracer
    rim: float = RIM
    slant: Slant = SQUARE
    edges: bool = False

    def __call__(
        self, x: Float[Tensor, "N 3"], normal: Float[Tensor, "N 3"]
    ) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 1"]]:
        """Return the picture's colors at points, and weights in [0, 1]: 0 where it does not show them."""
        size = self.rgba.shape[-1]
        camera = self.camera.resize(size, size)
        pixel, _ = whole(camera).project(x, torch.zeros(len(x), dtype=torch.long, device=x.device))
        # The grid of torch's sampling runs from -1 to 1 between the borders of the picture.
        grid = (pixel / size * 2 - 1).view(1, 1, -1, 2)
        found = torch.nn.functional.grid_sample(self._layers[None], grid, align_corners=False)[0, :, 0].T
        # Each doubt alone is enough to leave a point to the field: rim, slant, something in between.
        weight = found[:, 3:] * Sight(self.camera, self.tracer, self.slant)(x, normal)
        return found[:, :3], weight * self._apart_from_edges(x, normal, grid) if self.edges else weight

    @property
    def _reach(self) -> int:
        """Pixels by which outlines are narrowed."""
        return max(1, round(self.rim * self.rgba.shape[-1]))

    def _apart_from_edges(
        self, x: Float[Tensor, "N 3"], normal: Float[Tensor, "N 3"], grid: Float[Tensor, "1 1 N 2"]
    ) -> Float[Tensor, "N 1"]:
        """Return 0 for points that the picture shows within the rim of something nearer, else 1."""
        least, pixel = self._nearest
        nearest = torch.nn.functional.grid_sample(least, grid, mode="nearest", align_corners=False)[0, 0, 0]
        away = x - self.camera.position
        distance = away.norm(dim=-1)
        cosine = ((away * normal).sum(-1) / distance).abs().clamp(0.05, 1)
        # A slanted surface is nearer in the next pixel, too, the more the flatter it is seen.
        slope = (1 - cosine * cosine).sqrt() / cosine * pixel * distance * EDGE_SLACK * (self._reach + 1)
        return (nearest >= distance * (1 - DEPTH) - slope).to(x.dtype)[:, None]

    @cached_property
    def _nearest(self) -> tuple[Float[Tensor, "1 1 S S"], float]:
        """The least distance to the surface within the rim around each pixel, and a pixel's size at distance 1."""
        size = self.rgba.shape[-1]
        origins, directions = self.camera.resize(size, size).rays()
        middle = directions[0, size // 2, size // 2 - 1 : size // 2 + 1]
        _, t = self.tracer.cast(origins.reshape(-1, 3), directions.reshape(-1, 3).contiguous())
        t = t.clamp_max(FAR).view(1, 1, size, size)
        least = -torch.nn.functional.max_pool2d(-t, 2 * self._reach + 1, 1, self._reach)
        return least, float(middle.diff(dim=0).norm())

    @cached_property
    def _layers(self) -> Float[Tensor, "4 S S"]:
        """Colors, and the object's mask without its rim."""
        reach = self._reach
        # The least value around a pixel: a maximum of the negative, since there is no pooling by minimum.
        mask = -torch.nn.functional.max_pool2d(-self.rgba[None, 3:], 2 * reach + 1, 1, reach)[0]
        return torch.cat([self.rgba[:3], mask])


def rim_between(mask: Float[Tensor, "S S"], other: Float[Tensor, "S S"]) -> float:
    """Return how wide a rim two outlines of one object want, as a share of the side: ``GAPS`` times what is between."""
    # Crofton: what lines across the picture meet of an outline, times pi / 4, is its length.
    crossings = mask.diff(dim=0).abs().sum() + mask.diff(dim=1).abs().sum()
    length = float(crossings) * math.pi / 4
    # The area between two outlines is their distance times their length.
    gap = float((mask - other).abs().sum()) / max(length, 1.0)
    return min(GAPS * gap / len(mask), WIDEST_RIM)


@dataclass(frozen=True)
class Evidence:
    """The views that a training had of a surface, as a ring of cameras at each of a few elevations."""

    cameras: Cameras
    tracer: Tracer

    def __call__(self, x: Float[Tensor, "N 3"], normal: Float[Tensor, "N 3"]) -> Float[Tensor, "N 1"]:
        """Return weights in [0, 1]: 0 for points that no view shows, 1 for those that one shows squarely."""
        seen = torch.zeros_like(x[:, :1])
        for i in range(len(self.cameras)):
            seen = seen + Sight(self.cameras[i : i + 1], self.tracer)(x, normal)
        return seen.clamp(0, 1)
