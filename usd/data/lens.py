"""Lenses as real cameras have them, and pictures as a plain pinhole would have taken them.

The cameras of this project have square pixels, their principal point in the middle and no distortion. A picture of
another one is undistorted, cropped about its principal point and, where its pixels are not square, resampled. The
distortion is OpenCV's (Brown 1966): with x, y on the plane at depth 1 and r^2 = x^2 + y^2,

    x' = x (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2)
    y' = y (the same) + p1 (r^2 + 2 y^2) + 2 p2 x y
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.data.pictures import resize_rgba, unpremultiply

LARGEST_ZOOM = 1.6
"""How much an undistorted picture may be enlarged so that it has no empty border."""


@dataclass(frozen=True)
class Intrinsics:
    """A lens in pixels: picture size, focal lengths, principal point (from the top left corner).

    ``distortion`` are OpenCV's k1, k2, p1, p2, k3, k4, k5, k6, as many as are known; empty for a pinhole.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()


def rectify(
    picture: Float[Tensor, "4 h w"], camera: Intrinsics, name: str
) -> tuple[Float[Tensor, "4 H W"], float]:
    """Return a picture as a plain pinhole takes it, and that one's vertical field of view (radians).

    Raises ``UserError`` where the picture has not the shape of the camera's, or the lens bends it too much.
    """
    if any(abs(value) > 1e-6 for value in camera.distortion):
        _refuse_shape(picture, camera, name)
        picture, camera = undistort(picture, camera, name)
    return center_principal_point(picture, camera, name)


def undistort(
    picture: Float[Tensor, "4 h w"], camera: Intrinsics, name: str
) -> tuple[Float[Tensor, "4 h w"], Intrinsics]:
    """Return a picture without distortion, and its lens: the old one with focal lengths that fill the picture.

    Raises ``UserError`` where no moderate enlargement fills it.
    """
    zoom = _filling_zoom(camera, name)
    plain = replace(camera, fx=camera.fx * zoom, fy=camera.fy * zoom, distortion=())
    height, width = picture.shape[-2:]
    v, u = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    found = _distorted_place(torch.stack([u, v], -1), plain, camera)
    premultiplied = torch.cat([picture[:3] * picture[3:], picture[3:]])
    sampled = torch.nn.functional.grid_sample(
        premultiplied[None], 2 * found[None] - 1, padding_mode="border", align_corners=False
    )[0]
    return unpremultiply(sampled[:3], sampled[3:]), plain


def _distorted_place(
    at: Float[Tensor, "*N 2"], plain: Intrinsics, camera: Intrinsics
) -> Float[Tensor, "*N 2"]:
    """Return where a distorted picture shows what the plain one shows at ``at``, both as shares of width and height."""
    x = (at[..., 0] * plain.width - plain.cx) / plain.fx
    y = (at[..., 1] * plain.height - plain.cy) / plain.fy
    x, y = distort(x, y, camera.distortion)
    return torch.stack(
        [(x * camera.fx + camera.cx) / camera.width, (y * camera.fy + camera.cy) / camera.height], -1
    )


def distort(
    x: Float[Tensor, "*N"], y: Float[Tensor, "*N"], distortion: tuple[float, ...]
) -> tuple[Float[Tensor, "*N"], Float[Tensor, "*N"]]:
    """Return where a lens puts points of the plane at depth 1 (see the module's head)."""
    k1, k2, p1, p2, k3, k4, k5, k6 = (*distortion, *(8 - len(distortion)) * (0.0,))
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    tangential_x = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    tangential_y = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return x * radial + tangential_x, y * radial + tangential_y


def _filling_zoom(camera: Intrinsics, name: str) -> float:
    """Return the least enlargement for which the border of the undistorted picture lies inside of the distorted one."""
    share = torch.linspace(0, 1, 33)
    zero, one = torch.zeros_like(share), torch.ones_like(share)
    border = torch.cat(
        [torch.stack(pair, -1) for pair in ((share, zero), (share, one), (zero, share), (one, share))]
    )
    for step in range(round((LARGEST_ZOOM - 1) * 200) + 1):
        zoom = 1 + step / 200
        found = _distorted_place(border, replace(camera, fx=camera.fx * zoom, fy=camera.fy * zoom), camera)
        if bool((found > -1e-3).all()) and bool((found < 1 + 1e-3).all()):
            return zoom
    raise UserError(
        f"{name}: its distortion ({', '.join(f'{value:.3g}' for value in camera.distortion)}) bends the picture beyond "
        "what can be straightened here; expected a usual lens, or pictures that are undistorted already"
    )


def _refuse_shape(picture: Float[Tensor, "4 h w"], camera: Intrinsics, name: str) -> None:
    height, width = picture.shape[-2:]
    if abs(width * camera.height - height * camera.width) > max(camera.width, camera.height):
        raise UserError(
            f"{name}: is {width} x {height} pixels; expected the shape that its camera has, "
            f"{camera.width} x {camera.height}"
        )


def center_principal_point(
    picture: Float[Tensor, "4 h w"], camera: Intrinsics, name: str
) -> tuple[Float[Tensor, "4 H W"], float]:
    """Crop a picture about its principal point, with square pixels; return it and its vertical field of view (radians).

    The picture may be a resampled copy of the camera's; the crop is rounded to whole pixels.
    """
    _refuse_shape(picture, camera, name)
    height, width = picture.shape[-2:]
    zoom = height / camera.height
    left, wide = _window_about(camera.cx * width / camera.width, width)
    top, high = _window_about(camera.cy * zoom, height)
    if min(wide, high) < 2:
        raise UserError(
            f"{name}: principal point ({camera.cx:g}, {camera.cy:g}) outside the picture; expected inside"
        )
    cut = picture[:, top : top + high, left : left + wide]
    focal_y, focal_x = camera.fy * zoom, camera.fx * width / camera.width
    square = (
        cut
        if abs(focal_x - focal_y) < 0.002 * focal_y
        else resize_rgba(cut, high, round(wide * focal_y / focal_x))
    )
    return square.contiguous(), 2 * float(torch.atan(torch.tensor(0.5 * high / focal_y, dtype=torch.float64)))


def _window_about(middle: float, size: int) -> tuple[int, int]:
    """Return first pixel and length of the largest window about ``middle``; the whole side within half a pixel."""
    if abs(middle - size / 2) <= 0.5:
        return 0, size
    half = min(middle, size - middle)
    return max(round(middle - half), 0), round(2 * half)


def is_plain(camera: Intrinsics) -> bool:
    """Return whether a camera is a plain pinhole, but for a pixel of its principal point."""
    middle = abs(camera.cx - camera.width / 2) <= 1 and abs(camera.cy - camera.height / 2) <= 1
    square = max(camera.fx, camera.fy) <= 1.01 * min(camera.fx, camera.fy)
    return middle and square and not any(camera.distortion)
