"""Depth and normals of the reference picture, as other programs estimate them: pictures beside it, framed as it is.

    cup_rgba.png  cup_depth.png  cup_normal.png        (or cup.png beside the same)

Values stay as stored, in [0, 1]: what a depth means, and in which axes normals stand, is for the losses to say.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.data.pictures import Picture, read_values


@dataclass(frozen=True)
class Square:
    """A square window of a picture in its pixels; it may reach beyond the picture."""

    left: int | float
    top: int | float
    side: int | float

    def scaled(self, zoom: int | float, left: int | float = 0, top: int | float = 0) -> "Square":
        """Return the window in a picture ``zoom`` times as large, of which this one's was the part at (left, top)."""
        return Square(left + zoom * self.left, top + zoom * self.top, zoom * self.side)

    def cut(self, picture: Float[Tensor, "c H W"]) -> Float[Tensor, "c S S"]:
        """Return the window; zeros, transparent in a picture with alpha, where it leaves the picture."""
        height, width = picture.shape[-2:]
        left, top, side = round(self.left), round(self.top), max(1, round(self.side))
        borders = (-left, left + side - width, -top, top + side - height)
        return torch.nn.functional.pad(picture, borders).contiguous()


def read_map(path: Path, kind: str, picture: Picture, square: Square, where: str) -> Float[Tensor, "3 S S"]:
    """Read ``X_<kind>.png`` beside the picture and cut ``square`` (in the picture's pixels) out of it.

    Raises ``UserError`` where it is missing or of another shape than the picture.
    """
    file = path.with_name(f"{path.stem.removesuffix('_rgba')}_{kind}.png")
    if not file.is_file():
        raise UserError(f"{where}: {path}: has no {kind} map; expected it beside the picture: {file.name}")
    values = read_values(file, where)[:3]
    height, width = values.shape[-2:]
    if abs(height * picture.width - width * picture.height) > max(
        height, width, picture.height, picture.width
    ):
        raise UserError(
            f"{where}: {file}: is {width} x {height} pixels; expected the shape of its picture, "
            f"{picture.width} x {picture.height}"
        )
    return square.scaled(width / picture.width).cut(values)


def resize_map(values: Float[Tensor, "c H W"], height: int, width: int) -> Float[Tensor, "c h w"]:
    """Resample, antialiased."""
    if values.shape[-2:] == (height, width):
        return values
    return torch.nn.functional.interpolate(
        values[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )[0]
