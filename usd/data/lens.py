"""Lenses as real cameras have them, and pictures as a pinhole would have taken them.

A pinhole's principal point may be anywhere and its focal lengths apart (``usd.math.camera``), so only distortion makes
other pixels of a picture. A distorted picture is resampled once, as it is read, to that of the pinhole with the same
size, focal lengths and principal point. Where that one looks past the border of the picture, or past the largest angle
up to which a polynomial tells points apart, its pixels have no source and do not count.

A lens takes points (x, y) of the plane at depth 1 to others, by one of these models, and then to pixels by

    u = cx + fx x'        v = cy + fy y'        from the picture's top left corner, y down

    brown         OpenCV's (Brown 1966): k1 k2 p1 p2 k3 k4 k5 k6, with r^2 = x^2 + y^2,
                  x' = x (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2)
    fisheye       OpenCV's (Kannala and Brandt 2006): k1 k2 k3 k4; the angle a = atan r becomes the radius
                  a (1 + k1 a^2 + k2 a^4 + k3 a^6 + k4 a^8)
    fov           (Devernay and Faugeras 2001) w: r' = atan(2 r tan(w / 2)) / w
    thin-prism    COLMAP's THIN_PRISM_FISHEYE: k1 k2 p1 p2 k3 k4 s1 s2; brown without a denominator on (x, y) a / r,
                  plus s1 r^2 and s2 r^2
    rad-tan       COLMAP's RAD_TAN_THIN_PRISM_FISHEYE (project Aria's): k0 ... k5 p0 p1 s0 ... s3
    division      (Fitzgibbon 2001) k: r = r' / (1 + k r'^2)
    eucm          (Khomutenko et al. 2016) alpha beta: r' = r / (alpha sqrt(beta r^2 + 1) + 1 - alpha)
"""

import functools
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from usd.core.errors import UserError
from usd.data.pictures import unpremultiply

LensModel = Literal["brown", "fisheye", "fov", "thin-prism", "rad-tan", "division", "eucm"]
PROFILE = 512
"""Radii at which it is told whether a model still takes larger ones to larger ones."""
DIRECTIONS = 8
LEAST_SOURCE = 0.1
"""A lens that leaves fewer of a pinhole's pixels with a source is taken to be wrong."""


@dataclass(frozen=True)
class Intrinsics:
    """A lens in pixels: picture size, focal lengths, principal point (from the top left corner).

    ``distortion`` are the numbers of ``model``, as many as are known; empty for a pinhole.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()
    model: LensModel = "brown"

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy."""
        return self.fx, self.fy, self.cx, self.cy

    @property
    def distorted(self) -> bool:
        """True where straight lines come out bent: a fisheye's do whatever its numbers are."""
        return self.model in NEVER_PLAIN or any(abs(value) > 1e-9 for value in self.distortion)

    @property
    def square(self) -> bool:
        """True where pixels are square and the principal point is the picture's middle."""
        off = (self.fx / self.fy - 1, 2 * self.cx / self.width - 1, 2 * self.cy / self.height - 1)
        return max(map(abs, off)) < 1e-6

    def resized(self, height: int, width: int) -> "Intrinsics":
        """Return the same lens for pictures of another size."""
        right, down = width / self.width, height / self.height
        numbers = (self.fx * right, self.fy * down, self.cx * right, self.cy * down)
        return Intrinsics(width, height, *numbers, self.distortion, self.model)

    def project(self, points: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 2"]:
        """Return pixels of points in the camera's OpenCV axes: x right, y down, z ahead."""
        x, y = distort(points[..., 0] / points[..., 2], points[..., 1] / points[..., 2], self)
        return torch.stack([x * self.fx + self.cx, y * self.fy + self.cy], -1)


# ---------------------------------------------------------------------------------------------------------- models

Plane = tuple[Float[Tensor, "*N"], Float[Tensor, "*N"]]


class LensFunction(Protocol):
    """A model: points of the plane at depth 1, and its numbers, to points of the same plane."""

    def __call__(self, x: Tensor, y: Tensor, /, *numbers: float) -> Plane:
        """Return where the lens puts the points."""
        ...


def distort(x: Float[Tensor, "*N"], y: Float[Tensor, "*N"], lens: Intrinsics) -> Plane:
    """Return where a lens puts points of the plane at depth 1 (see the module's head)."""
    model, count = MODELS[lens.model]
    return model(x, y, *lens.distortion, *(count - len(lens.distortion)) * (0.0,))


def _brown(x: Tensor, y: Tensor, *numbers: float) -> Plane:
    k1, k2, p1, p2, k3, k4, k5, k6 = numbers
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    more_x, more_y = _tangential(x, y, p1, p2)
    return x * radial + more_x, y * radial + more_y


def _tangential(x: Tensor, y: Tensor, p1: float, p2: float) -> Plane:
    r2 = x * x + y * y
    return 2 * p1 * x * y + p2 * (r2 + 2 * x * x), p1 * (r2 + 2 * y * y) + 2 * p2 * x * y


def _by_angle(x: Tensor, y: Tensor) -> Plane:
    """Return the points with their angle from the axis in the place of their radius (equidistant projection)."""
    r = torch.sqrt(x * x + y * y)
    share = torch.where(r > 1e-8, torch.atan(r) / r.clamp_min(1e-8), 1.0)
    return x * share, y * share


def _fisheye(x: Tensor, y: Tensor, *numbers: float) -> Plane:
    k1, k2, k3, k4 = numbers
    x, y = _by_angle(x, y)
    a2 = x * x + y * y
    radial = 1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4)))
    return x * radial, y * radial


def _fov(x: Tensor, y: Tensor, *numbers: float) -> Plane:
    (angle,) = numbers
    if abs(angle) < 1e-6:
        return x, y
    r = torch.sqrt(x * x + y * y).clamp_min(1e-9)
    share = torch.atan(2 * r * float(np.tan(angle / 2))) / (angle * r)
    return x * share, y * share


def _thin_prism(x: Tensor, y: Tensor, *numbers: float) -> Plane:
    k1, k2, p1, p2, k3, k4, s1, s2 = numbers
    x, y = _by_angle(x, y)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    more_x, more_y = _tangential(x, y, p1, p2)
    return x * radial + more_x + s1 * r2, y * radial + more_y + s2 * r2


def _rad_tan(x: Tensor, y: Tensor, *numbers: float) -> Plane:
    *radial_numbers, p0, p1, s0, s1, s2, s3 = numbers
    x, y = _by_angle(x, y)
    a2 = x * x + y * y
    radial = torch.ones_like(a2)
    for power, k in enumerate(radial_numbers, 1):
        radial = radial + k * a2**power
    x, y = x * radial, y * radial
    # Its tangential and prism terms are of the radius after the radial polynomial, in the other order than Brown's.
    more_x, more_y = _tangential(x, y, p1, p0)
    r2 = x * x + y * y
    return x + more_x + r2 * (s0 + s1 * r2), y + more_y + r2 * (s2 + s3 * r2)


def _division(x: Tensor, y: Tensor, *numbers: float) -> Plane:
    (k,) = numbers
    under = 1 - 4 * k * (x * x + y * y)
    # Without a real root nothing is seen there; the NaN has no source.
    share = 2 / (1 + torch.sqrt(under))
    return x * share, y * share


def _eucm(x: Tensor, y: Tensor, *numbers: float) -> Plane:
    alpha, beta = numbers
    depth = alpha * torch.sqrt(beta * (x * x + y * y) + 1) + 1 - alpha
    return x / depth, y / depth


MODELS: dict[LensModel, tuple[LensFunction, int]] = {
    "brown": (_brown, 8),
    "fisheye": (_fisheye, 4),
    "fov": (_fov, 1),
    "thin-prism": (_thin_prism, 8),
    "rad-tan": (_rad_tan, 12),
    "division": (_division, 1),
    "eucm": (_eucm, 2),
}
"""The models, and how many numbers each has."""
NEVER_PLAIN = ("fisheye", "thin-prism", "rad-tan")


# -------------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class SourceMap:
    """Places in a distorted picture, in pixels, of each pixel of a pinhole's; ``valid`` where they lie inside."""

    x: Float[Tensor, "h w"]
    y: Float[Tensor, "h w"]
    valid: Bool[Tensor, "h w"]


@functools.lru_cache(maxsize=4)
def source_map(lens: Intrinsics) -> SourceMap:
    """Return the sources of the pixels of the pinhole with the lens's size, focal lengths and principal point."""
    rows = torch.arange(lens.height, dtype=torch.float64) + 0.5
    columns = torch.arange(lens.width, dtype=torch.float64) + 0.5
    y, x = torch.meshgrid((rows - lens.cy) / lens.fy, (columns - lens.cx) / lens.fx, indexing="ij")
    radius = torch.sqrt(x * x + y * y)
    found_x, found_y = distort(x, y, lens)
    u, v = found_x * lens.fx + lens.cx, found_y * lens.fy + lens.cy
    inside = (u >= 0) & (u <= lens.width) & (v >= 0) & (v <= lens.height)
    valid = inside & (radius < largest_radius(lens, float(radius.max())))
    return SourceMap(u.nan_to_num(0.0).float(), v.nan_to_num(0.0).float(), valid)


def largest_radius(lens: Intrinsics, reach: float) -> float:
    """Return the radius at depth 1 up to which points further out come out further out; infinite from ``reach`` on.

    Beyond it a polynomial folds the picture back onto itself, and its pixels would be shown twice.
    """
    radius = torch.linspace(0, reach * (1 + 1 / PROFILE), PROFILE + 1, dtype=torch.float64)
    turn = torch.arange(DIRECTIONS, dtype=torch.float64)[:, None] * (2 * torch.pi / DIRECTIONS)
    x, y = distort(radius * torch.cos(turn), radius * torch.sin(turn), lens)
    grows = (torch.sqrt(x * x + y * y).diff(dim=1) > 0).all(0)
    folded = (~grows).nonzero()
    return float(radius[int(folded[0])]) if len(folded) else torch.inf


def undistort(
    rgba: Float[Tensor, "4 h w"], lens: Intrinsics, name: str
) -> tuple[Float[Tensor, "4 h w"], Bool[Tensor, "h w"]]:
    """Return a picture as a pinhole takes it, transparent where it has no source, and which pixels have one.

    Raises ``UserError`` where hardly any has.
    """
    at = source_map(lens.resized(*rgba.shape[-2:]))
    if float(at.valid.float().mean()) < LEAST_SOURCE:
        raise UserError(
            f"{name}: its {lens.model} distortion ({', '.join(f'{value:.3g}' for value in lens.distortion)}) leaves "
            f"{float(at.valid.float().mean()):.0%} of the picture; expected a usual lens, or pictures that are "
            "undistorted already"
        )
    premultiplied = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
    sampled = remap(premultiplied, at, "cubic").clamp(0, 1) * at.valid
    return unpremultiply(sampled[:3], sampled[3:]), at.valid


def remap(
    values: Float[Tensor, "c h w"], at: SourceMap, kind: Literal["cubic", "nearest"]
) -> Float[Tensor, "c h w"]:
    """Return values taken from the sources by OpenCV; the border's are repeated beyond it."""
    import cv2

    # OpenCV counts from the middle of the first pixel.
    x, y = (np.ascontiguousarray(each.numpy() - np.float32(0.5)) for each in (at.x, at.y))
    pixels = np.ascontiguousarray(values.permute(1, 2, 0).numpy())
    flags = cv2.INTER_CUBIC if kind == "cubic" else cv2.INTER_NEAREST
    found = cv2.remap(pixels, x, y, flags, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(found.reshape(*found.shape[:2], -1)).permute(2, 0, 1).contiguous()


def without_distortion(lens: Intrinsics) -> Intrinsics:
    """Return the pinhole whose picture an undistorted one is."""
    return replace(lens, distortion=(), model="brown")


def refuse_shape(picture_size: tuple[int, int], lens: Intrinsics, name: str) -> None:
    """Raise ``UserError`` where a picture (width, height) has another shape than its camera's."""
    width, height = picture_size
    if abs(width * lens.height - height * lens.width) > max(lens.width, lens.height, width, height):
        raise UserError(
            f"{name}: is {width} x {height} pixels; expected the shape that its camera has, "
            f"{lens.width} x {lens.height}"
        )
