"""The reference picture: any file in, a square picture with alpha out, framed the way the model expects.

Three questions are answered here, and each answer is a sentence in ``Reference.notes`` for the log:

- *What is object?* The file's alpha if it has one; otherwise a plain background is assumed and removed. Bars that pad a
  photograph are put aside first, and so are specks and an even veil of alpha.
- *Where is it?* ``framing: keep`` leaves the object where it is (the picture was taken by the reference camera);
  ``recenter`` centers its bounding box and scales its longest side to ``fraction`` of the picture.
  ``auto`` (the default) keeps a square cut-out whose object already sits as in the training pictures - centered within
  20 %, longest side between 35 % and 98 % of the picture, not cut off by the border - and recenters everything else.
- *How big?* Source pixels are kept up to ``LONGEST``; a consumer asks for the size it wants. A small object in a larger
  photograph is read once more from the file, in the detail that it has there.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from usd.core.config import UserError, option
from usd.data.cutting import VISIBLE, Cutout, cut_by_alpha, cut_opaque, has_alpha, remove_plain_background
from usd.data.pictures import Picture, Window, over, read_picture, resize_rgba, to_bytes
from usd.data.reference_maps import Square, read_map, resize_map

LONGEST = 1536
"""Pixels a side to which larger pictures are reduced as they are read: models see 512 of them, fields hardly more."""
DETAILED = 640
"""Longest side of an object, in pixels, from which it is not read again in more detail."""


@dataclass(frozen=True)
class ReferenceConfig:
    """Options of reading, cutting out and framing a reference picture."""

    framing: Literal["auto", "keep", "recenter"] = option(
        "auto",
        "framing. keep: as is; recenter: centered, scaled to `fraction`; auto: keep what is framed already",
    )
    fraction: float = option(
        0.78, "longest side of the object over the picture's side after recentering", gt=0, le=1
    )
    background: Literal["auto", "alpha", "remove"] = option(
        "auto",
        "separation of the object. alpha: the file's alpha; remove: flood-fill of a plain border color, whatever alpha "
        "and padding bars say; "
        "auto: alpha if there is any, without the bars of a padded photograph",
    )
    tolerance: float = option(
        0.08, "largest distance of a background pixel from the border color, of 1", gt=0, lt=1
    )
    requires_depth: bool = option(
        False, "whether a depth map is read: X_depth.png beside X.png or X_rgba.png"
    )
    requires_normal: bool = option(
        False, "whether a normal map is read: X_normal.png beside X.png or X_rgba.png"
    )


@dataclass(frozen=True)
class Box:
    """Pixel bounds, right and bottom exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def longest(self) -> int:
        """Length of the longer side in pixels."""
        return max(self.right - self.left, self.bottom - self.top)


@dataclass(frozen=True)
class Reference:
    """A square picture with straight alpha, where it came from, and what was assumed.

    ``depth`` and ``normal``, where they were asked for, are framed as the picture, in pixels of their own size.
    """

    rgba: Float[Tensor, "4 S S"]
    source: Float[Tensor, "4 H W"]
    notes: tuple[str, ...]
    depth: Float[Tensor, "1 D D"] | None = None
    normal: Float[Tensor, "3 N N"] | None = None
    _sizes: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def at(self, height: int, width: int) -> Float[Tensor, "4 h w"]:
        """Return the picture at another size, straight alpha; each size is made once."""
        if (height, width) not in self._sizes:
            self._sizes[height, width] = resize_rgba(self.rgba, height, width)
        return self._sizes[height, width]

    def depth_at(self, height: int, width: int) -> Float[Tensor, "1 h w"] | None:
        """Return the depth map at another size; None where there is none."""
        return None if self.depth is None else resize_map(self.depth, height, width)

    def normal_at(self, height: int, width: int) -> Float[Tensor, "3 h w"] | None:
        """Return the normal map at another size, values as stored; None where there is none."""
        return None if self.normal is None else resize_map(self.normal, height, width)

    def over(self, size: int, background: float = 1.0) -> Float[Tensor, "1 3 s s"]:
        """Return the picture in front of a plain gray level, as diffusion models take it."""
        return over(self.at(size, size), background)[None]


def load_reference(path: str | Path, config: ReferenceConfig, where: str = "image_path") -> Reference:
    """Read, cut out and frame a picture. Raises ``UserError``, blaming ``where``, where nothing can be made of it."""
    picture = read_picture(path, where, upright=True, longest=LONGEST)
    name = f"{where}: {path}"
    if min(picture.width, picture.height) < 8:
        raise UserError(f"{name}: is {picture.width} x {picture.height} pixels; expected at least 8 x 8")
    cut = cut_out(picture.rgba, config, name)
    if not (cut.rgba[3] > VISIBLE).any():
        raise UserError(f"{name}: is fully transparent; expected a visible object")
    square, frame_note = framing_square(cut.rgba[3], config)
    framed, square = square.cut(cut.rgba), square.scaled(picture.width / cut.rgba.shape[2])
    window = closer_window(picture, cut.rgba[3], config)
    if window is not None:
        near = read_picture(path, where, upright=True, longest=2 * DETAILED, window=window)
        again = cut.again(near.rgba, config.tolerance)
        # Recentered, whatever the window happens to look like.
        square, _ = framing_square(again[3], replace(config, framing="recenter"))
        framed = square.cut(again)
        square = square.scaled((window[2] - window[0]) / again.shape[2], *window[:2])
    depth, normal = (
        read_map(Path(path), kind, picture, square, where) if wanted else None
        for kind, wanted in (("depth", config.requires_depth), ("normal", config.requires_normal))
    )
    notes = (*cut.notes, frame_note, *picture.notes)
    return Reference(framed, cut.rgba, notes, None if depth is None else depth[:1], normal)


def closer_window(picture: Picture, alpha: Float[Tensor, "H W"], config: ReferenceConfig) -> Window | None:
    """Return the part of the file about an object that was reduced to few pixels; None where all is seen already."""
    zoom = picture.width / alpha.shape[1]
    box = bounding_box(alpha)
    if zoom <= 1 or box.longest >= DETAILED or is_kept(alpha, config):
        return None
    margin = 0.15 * box.longest + 2
    left, top = (max(0, int(zoom * (low - margin))) for low in (box.left, box.top))
    right = min(picture.width, round(zoom * (box.right + margin)))
    return left, top, right, min(picture.height, round(zoom * (box.bottom + margin)))


def cut_out(rgba: Float[Tensor, "4 H W"], config: ReferenceConfig, name: str) -> Cutout:
    """Return the object with alpha, and sentences about where the alpha came from. Raises UserError for a busy one."""
    if has_alpha(rgba) and config.background != "remove":
        return cut_by_alpha(rgba, config.tolerance, name, padded=config.background == "auto")
    if config.background == "alpha":
        raise UserError(
            f"{name}: has no transparency; expected a cut-out, or `background: auto` for a plain background"
        )
    cut = remove_plain_background if config.background == "remove" else cut_opaque
    return cut(over(rgba, 1.0), config.tolerance, name)


def bounding_box(alpha: Float[Tensor, "H W"]) -> Box:
    """Return the box where alpha is visible; the caller has made sure that it is somewhere."""
    rows, columns = torch.nonzero(alpha > VISIBLE, as_tuple=True)
    return Box(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)


def is_framed(alpha: Float[Tensor, "H W"]) -> bool:
    """Return whether the object sits in a square picture about as in the training pictures (see the module's head)."""
    height, width = alpha.shape
    box = bounding_box(alpha)
    whole = box.left > 0 and box.top > 0 and box.right < width and box.bottom < height
    off_x = abs(box.left + box.right - width) / (2 * width)
    off_y = abs(box.top + box.bottom - height) / (2 * height)
    return height == width and whole and max(off_x, off_y) <= 0.2 and 0.35 <= box.longest / width <= 0.98


def is_kept(alpha: Float[Tensor, "H W"], config: ReferenceConfig) -> bool:
    """Return whether the object stays where it is."""
    return config.framing == "keep" or (config.framing == "auto" and is_framed(alpha))


def framing_square(alpha: Float[Tensor, "H W"], config: ReferenceConfig) -> tuple[Square, str]:
    """Return the window that becomes the reference, in whole pixels, and one sentence about it."""
    height, width = alpha.shape
    if is_kept(alpha, config):
        side = max(height, width)
        return Square(width // 2 - side // 2, height // 2 - side // 2, side), "framing kept"
    box = bounding_box(alpha)
    side = max(round(box.longest / config.fraction), box.longest)
    left, top = (box.left + box.right - side) // 2, (box.top + box.bottom - side) // 2
    note = f"recentered: longest side {config.fraction:.0%} of the picture (was {box.longest} px of {width} x {height})"
    return Square(left, top, side), note


def overlay(reference: Reference, size: int = 256) -> Image.Image:
    """Return a sheet to look at: left the cut-out over its tinted surroundings, right the framed picture."""
    left = Image.fromarray(to_bytes(_over_checkerboard(reference.source)))
    left.thumbnail((size, size))
    right = Image.fromarray(to_bytes(_over_checkerboard(reference.at(size, size))))
    box = bounding_box(reference.at(size, size)[3])
    ImageDraw.Draw(right).rectangle((box.left, box.top, box.right - 1, box.bottom - 1), outline=(255, 64, 64))
    sheet = Image.new("RGB", (2 * size + 4, size), "white")
    sheet.paste(left, ((size - left.width) // 2, (size - left.height) // 2))
    sheet.paste(right, (size + 4, 0))
    return sheet


def _over_checkerboard(rgba: Float[Tensor, "4 H W"]) -> Float[Tensor, "3 H W"]:
    """Lay a picture over a checkerboard of two blue grays, so that white objects and holes are seen."""
    rows, columns = torch.arange(rgba.shape[1])[:, None] // 8, torch.arange(rgba.shape[2])[None] // 8
    level = 0.72 + 0.12 * ((rows + columns) % 2)
    board = torch.stack([0.85 * level, 0.95 * level, level]).to(rgba)
    return rgba[:3] * rgba[3:] + board * (1 - rgba[3:])
