"""The reference picture: any file in, a square picture with alpha out, framed the way the model expects.

Three questions are answered here, and each answer is a sentence in ``Reference.notes`` for the log:

- *What is object?* The file's alpha if it has one; otherwise a plain background is assumed and removed.
- *Where is it?* ``framing: keep`` leaves the object where it is (the picture was taken by the reference camera);
  ``recenter`` centers its bounding box and scales its longest side to ``fraction`` of the picture.
  ``auto`` (the default) keeps a square cut-out whose object already sits as in the training pictures - centered within
  20 %, longest side between 35 % and 98 % of the picture, not cut off by the border - and recenters everything else.
- *How big?* Source pixels are kept; a consumer asks for the size it wants.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor

from usd.core.config import UserError, option
from usd.data.pictures import over, read_rgba, resize_rgba, to_bytes

VISIBLE = 0.1  # alpha from which a pixel counts as object when the bounding box is taken


@dataclass(frozen=True)
class ReferenceConfig:
    """How a picture file becomes a reference."""

    framing: Literal["auto", "keep", "recenter"] = option(
        "auto",
        "keep: as is; recenter: centred and scaled to `fraction`; auto: keep only what is framed already",
    )
    fraction: float = option(
        0.78, "longest side of the object over the picture's side after recentring", gt=0, le=1
    )
    background: Literal["auto", "alpha", "remove"] = option(
        "auto",
        "alpha: trust the file's alpha; remove: flood-fill a plain border colour; auto: alpha if there is any",
    )
    tolerance: float = option(
        0.08, "how far a background pixel may be from the border colour, of 1", gt=0, lt=1
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
        return max(self.right - self.left, self.bottom - self.top)


@dataclass(frozen=True)
class Reference:
    """A square picture with straight alpha, where it came from, and what was assumed."""

    rgba: Float[Tensor, "4 S S"]
    source: Float[Tensor, "4 H W"]
    notes: tuple[str, ...]

    def at(self, height: int, width: int) -> Float[Tensor, "4 h w"]:
        """The picture at another size, straight alpha."""
        return resize_rgba(self.rgba, height, width)

    def over(self, size: int, background: float = 1.0) -> Float[Tensor, "1 3 s s"]:
        """The picture in front of a plain gray level, as diffusion models take it."""
        return over(self.at(size, size), background)[None]


def load_reference(path: str | Path, config: ReferenceConfig, where: str = "image_path") -> Reference:
    """Read, cut out and frame a picture. Raises UserError for files nothing can be made of; ``where`` is blamed."""
    source = read_rgba(path, where)
    name = f"{where}: {path}"
    if min(source.shape[-2:]) < 8:
        raise UserError(f"{name}: is {source.shape[-1]} x {source.shape[-2]} pixels; expected at least 8 x 8")
    cut, cut_note = cut_out(source, config, name)
    if not (cut[3] > VISIBLE).any():
        raise UserError(f"{name}: is fully transparent; expected a visible object")
    framed, frame_note = frame(cut, config)
    return Reference(framed, cut, (cut_note, frame_note))


def cut_out(
    rgba: Float[Tensor, "4 H W"], config: ReferenceConfig, name: str
) -> tuple[Float[Tensor, "4 H W"], str]:
    """The object with alpha, and one sentence about where the alpha came from."""
    has_alpha = bool((rgba[3] < 0.5).any())
    if has_alpha and config.background != "remove":
        return rgba, f"alpha taken from the file ({_percent(rgba[3].mean())} of the picture)"
    if config.background == "alpha":
        raise UserError(
            f"{name}: has no transparency; expected a cut-out, or `background: auto` for a plain background"
        )
    return remove_plain_background(over(rgba, 1.0), config.tolerance, name)


def remove_plain_background(
    rgb: Float[Tensor, "3 H W"], tolerance: float, name: str
) -> tuple[Float[Tensor, "4 H W"], str]:
    """Cut out what is not connected to the border through pixels of the border's median color.

    Holes of the object that show the background but do not reach the border stay object. Raises UserError when the
    border is not plain, or when nothing but background was found.
    """
    pixels = rgb.permute(1, 2, 0).numpy()
    colour = np.median(_border(pixels), axis=0)
    flat = np.abs(pixels - colour).max(-1) < tolerance
    agreement = float(_border(flat[..., None]).mean())
    if agreement < 0.7:
        raise UserError(
            f"{name}: has no alpha and no plain background ({agreement:.0%} of its border is near {_hex(colour)}); "
            "expected a cut-out with alpha, or a plain background"
        )
    mask = _without_specks(~_connected_to_border(flat))
    if mask.mean() < 5e-4:
        raise UserError(
            f"{name}: nothing remains after removing the background {_hex(colour)}; expected a visible object"
        )
    note = f"no alpha: assumed a plain background {_hex(colour)} ({agreement:.0%} of the border), "
    return _unmixed(pixels, mask, colour), note + f"{mask.mean():.0%} of the picture is object"


def _border(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])


def _connected_to_border(flat: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    labels, _ = ndimage.label(flat)
    outside = np.unique(_border(labels[..., None]))
    return np.isin(labels, outside[outside > 0])


def _without_specks(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Drop parts smaller than a hundredth of the largest."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return np.isin(labels, np.flatnonzero(areas >= 0.01 * areas.max())) & mask


def _unmixed(pixels: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> Float[Tensor, "4 H W"]:
    """Straight RGBA: rim pixels are a mixture of the background and the nearest inner color; solve for its share.

    The rim is two pixels wide; parts too thin to have an inside are left as they are.
    """
    inner = ndimage.binary_erosion(mask, iterations=2, border_value=1)
    alpha, rgb = mask.astype(np.float32), pixels.copy()
    if inner.any():
        away, (rows, columns) = ndimage.distance_transform_edt(~inner, return_indices=True)
        rim = mask & (away > 0) & (away <= 3)
        near = pixels[rows, columns][rim]
        axis = near - colour
        share = ((pixels[rim] - colour) * axis).sum(-1) / np.maximum((axis**2).sum(-1), 1e-6)
        alpha[rim], rgb[rim] = np.clip(share, 0.0, 1), near
    rgba = np.concatenate([rgb, alpha[..., None]], -1).astype(np.float32)
    return torch.from_numpy(rgba).permute(2, 0, 1).contiguous()


def bounding_box(alpha: Float[Tensor, "H W"]) -> Box:
    """Where alpha is visible; the caller has made sure that it is somewhere."""
    rows, columns = torch.nonzero(alpha > VISIBLE, as_tuple=True)
    return Box(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)


def is_framed(alpha: Float[Tensor, "H W"]) -> bool:
    """Whether the object sits in a square picture about as in the training pictures (see the module's head)."""
    height, width = alpha.shape
    box = bounding_box(alpha)
    whole = box.left > 0 and box.top > 0 and box.right < width and box.bottom < height
    off_x = abs(box.left + box.right - width) / (2 * width)
    off_y = abs(box.top + box.bottom - height) / (2 * height)
    return height == width and whole and max(off_x, off_y) <= 0.2 and 0.35 <= box.longest / width <= 0.98


def frame(rgba: Float[Tensor, "4 H W"], config: ReferenceConfig) -> tuple[Float[Tensor, "4 S S"], str]:
    """A square picture, and one sentence about the framing. No pixel is resampled."""
    height, width = rgba.shape[-2:]
    if config.framing == "keep" or (config.framing == "auto" and is_framed(rgba[3])):
        side = max(height, width)
        return _window(rgba, width // 2 - side // 2, height // 2 - side // 2, side), "framing kept"
    box = bounding_box(rgba[3])
    side = max(round(box.longest / config.fraction), box.longest)
    left, top = (box.left + box.right - side) // 2, (box.top + box.bottom - side) // 2
    note = f"recentred: longest side {config.fraction:.0%} of the picture (was {box.longest} px of {width} x {height})"
    return _window(rgba, left, top, side), note


def _window(rgba: Float[Tensor, "4 H W"], left: int, top: int, side: int) -> Float[Tensor, "4 S S"]:
    """The square window whose corner is (left, top); transparent where it leaves the picture."""
    height, width = rgba.shape[-2:]
    return torch.nn.functional.pad(rgba, (-left, left + side - width, -top, top + side - height)).contiguous()


def overlay(reference: Reference, size: int = 256) -> Image.Image:
    """What was understood, to look at: left the cut-out over its tinted surroundings, right the framed picture."""
    left = Image.fromarray(to_bytes(_tinted(reference.source)))
    left.thumbnail((size, size))
    right = Image.fromarray(to_bytes(_tinted(reference.at(size, size))))
    box = bounding_box(reference.at(size, size)[3])
    ImageDraw.Draw(right).rectangle((box.left, box.top, box.right - 1, box.bottom - 1), outline=(255, 64, 64))
    sheet = Image.new("RGB", (2 * size + 4, size), "white")
    sheet.paste(left, ((size - left.width) // 2, (size - left.height) // 2))
    sheet.paste(right, (size + 4, 0))
    return sheet


def _tinted(rgba: Float[Tensor, "4 H W"]) -> Float[Tensor, "3 H W"]:
    """Over a checkerboard of two blue grays, so that white objects and holes are seen."""
    rows, columns = torch.arange(rgba.shape[1])[:, None] // 8, torch.arange(rgba.shape[2])[None] // 8
    level = 0.72 + 0.12 * ((rows + columns) % 2)
    board = torch.stack([0.85 * level, 0.95 * level, level]).to(rgba)
    return rgba[:3] * rgba[3:] + board * (1 - rgba[3:])


def _percent(value: Tensor) -> str:
    return f"{float(value):.0%}"


def _hex(colour: np.ndarray) -> str:
    return "#" + "".join(f"{round(float(c) * 255):02x}" for c in colour)
