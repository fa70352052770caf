"""What of a picture is object: from its alpha, or by removing a plain background.

Neither believes what a few pixels say. A dead pixel is no transparency; specks far from the object, and an even veil of
alpha over the whole picture, are no object; bars that pad a photograph to a square are no background.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from usd.core.config import UserError
from usd.data.pictures import over

VISIBLE = 0.1
"""Alpha from which a pixel counts as object when bounds are taken."""
TRANSPARENT_SHARE = 1e-3
"""Share of transparent pixels from which a picture has alpha: less is damage."""
SPECK_SHARE = 0.01
"""Parts with a smaller share of the largest part's area are specks."""
RIM = 2
"""Width in pixels of lines along the border that scans and screenshots have."""
SPECK_REACH = 2
"""Specks further from the object than this many times their own size do not belong to it."""
EVEN = 0.06
"""How far pixels of a padding bar may be from its color, of 1: lossy compression changes them."""

Floats = NDArray[np.float32]
Array = TypeVar("Array", NDArray[np.float32], NDArray[np.int32], NDArray[np.bool_])
Pixels = Float[Floats, "H W 3"]


@dataclass(frozen=True)
class Cutout:
    """An object with straight alpha, and sentences about how it was found.

    ``background`` is the color that was removed (None where the file's alpha was taken) and ``veil`` the level of alpha
    that was: with these a part of the same picture is cut alike.
    """

    rgba: Float[Tensor, "4 H W"]
    notes: tuple[str, ...]
    background: Float[Floats, "3"] | None = None
    veil: float = 0.0

    def again(self, rgba: Float[Tensor, "4 h w"], tolerance: float) -> Float[Tensor, "4 h w"]:
        """Return the same object in another reading of a part of the picture."""
        if self.background is None:
            return without_stray_specks(without_veil(rgba, self.veil))[0]
        return cut_by_color(_pixels(over(rgba)), self.background, tolerance)


def _pixels(rgb: Float[Tensor, "3 H W"]) -> Pixels:
    return rgb.permute(1, 2, 0).numpy()


# ----------------------------------------------------------------------------------------------------------- alpha


def has_alpha(rgba: Float[Tensor, "4 H W"]) -> bool:
    """Return whether a share of the picture that is no accident is transparent."""
    return float((rgba[3] < 0.5).float().mean()) > TRANSPARENT_SHARE


def cut_by_alpha(rgba: Float[Tensor, "4 H W"], tolerance: float, name: str, padded: bool = True) -> Cutout:
    """Return the object that the file's alpha says, without a veil and stray specks.

    With ``padded``, transparent bars beside an opaque photograph say nothing, if it has a plain background of its own:
    it is cut like one without alpha.
    """
    inner = find_padding(rgba[3:].permute(1, 2, 0).numpy()) if padded else None
    if inner is not None and bool((_inside_bars(rgba, inner)[3] > 1 - EVEN).all()):
        with suppress(UserError):
            return _cut_padded(rgba[:3], inner, tolerance, name)
    veil = veil_of(rgba[3])
    cut, strays = without_stray_specks(without_veil(rgba, veil))
    notes = [f"alpha taken from the file ({float(cut[3].mean()):.0%} of the picture)"]
    notes += [f"an even veil of alpha {veil:.1%} removed"] * (veil > 0)
    notes += [f"{strays} stray speck{'s' * (strays != 1)} left out"] * (strays > 0)
    return Cutout(cut, (*notes, *_suspicions(cut[3])), veil=veil)


def veil_of(alpha: Float[Tensor, "H W"]) -> float:
    """Return the level of alpha that nearly all of the border has and that is no object; 0 for a clean cut-out."""
    border = _border(alpha[..., None].numpy())[:, 0]
    level = float(np.median(border))
    spread = 1.4826 * float(np.median(np.abs(border - level)))
    return min(level + 3 * spread, 0.5) if 0 < level < 0.5 else 0.0


def without_veil(rgba: Float[Tensor, "4 H W"], veil: float) -> Float[Tensor, "4 H W"]:
    """Return the picture with alpha from ``veil`` to 1 stretched to 0 to 1; the very same where there is none."""
    if veil <= 0:
        return rgba
    return torch.cat([rgba[:3], ((rgba[3:] - veil) / (1 - veil)).clamp(0, 1)])


def without_stray_specks(rgba: Float[Tensor, "4 H W"]) -> tuple[Float[Tensor, "4 H W"], int]:
    """Return the picture without specks far from the object, and how many there were."""
    from scipy import ndimage

    labels, count = ndimage.label(rgba[3].numpy() > VISIBLE, structure=np.ones((3, 3)))
    if count < 2:
        return rgba, 0
    strays = _stray_labels(labels)
    if not len(strays):
        return rgba, 0
    # What is fainter than visible about a speck belongs to it.
    around = ndimage.binary_dilation(np.isin(labels, strays), iterations=2) & ~(
        ndimage.binary_dilation((labels > 0) & ~np.isin(labels, strays), iterations=2)
    )
    return torch.where(torch.from_numpy(around), torch.zeros(()), rgba), len(strays)


def _stray_labels(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return numbers of the small parts that are far from the box of the large ones, measured by their own size.

    Lines along the picture's border, which are no wider than ``RIM``, belong to no object however long they are.
    """
    from scipy import ndimage

    areas = np.bincount(labels.ravel())[1:]
    inner = np.bincount(labels[RIM:-RIM, RIM:-RIM].ravel(), minlength=len(areas) + 1)[1:]
    lines = (inner == 0) & (inner.max() > 0)
    small = (areas < SPECK_SHARE * areas.max(where=~lines, initial=1)) | lines
    boxes = np.array([[(s.start, s.stop) for s in found] for found in ndimage.find_objects(labels)])
    low, high = boxes[~small, :, 0].min(0), boxes[~small, :, 1].max(0)
    gap = np.maximum(np.maximum(low - boxes[..., 1], boxes[..., 0] - high), 0).max(-1)
    return np.flatnonzero(lines | small & (gap > SPECK_REACH * np.sqrt(areas))) + 1


# ------------------------------------------------------------------------------------------------------ background


def cut_opaque(rgb: Float[Tensor, "3 H W"], tolerance: float, name: str) -> Cutout:
    """Cut out what is not plain background, after bars that pad a photograph are put aside.

    Raises UserError when the border is not plain, or when nothing but background was found.
    """
    inner = find_padding(_pixels(rgb))
    return (
        remove_plain_background(rgb, tolerance, name)
        if inner is None
        else _cut_padded(rgb, inner, tolerance, name)
    )


def _cut_padded(rgb: Float[Tensor, "3 H W"], inner: "PhotoBounds", tolerance: float, name: str) -> Cutout:
    """Return the object of the photograph inside the bars, in its place; the bars are transparent."""
    photo = _inside_bars(rgb, inner)
    said = f"a photograph of {photo.shape[2]} x {photo.shape[1]} pixels padded {inner.sides}"
    cut = remove_plain_background(photo, tolerance, f"{name}: {said}")
    height, width = rgb.shape[-2:]
    around = (inner.left, width - inner.right, inner.top, height - inner.bottom)
    whole = torch.nn.functional.pad(cut.rgba, around).contiguous()
    return Cutout(
        whole, (f"{said}: the bars are put aside (background=remove keeps them)", *cut.notes), cut.background
    )


def remove_plain_background(rgb: Float[Tensor, "3 H W"], tolerance: float, name: str) -> Cutout:
    """Cut out what is not connected to the border through pixels of the border's median color.

    Holes of the object that show the background but do not reach the border stay object. Raises UserError when the
    border is not plain, or when nothing but background was found.
    """
    pixels = _pixels(rgb)
    color = np.median(_border(pixels), axis=0)
    agreement = float((np.abs(_border(pixels) - color).max(-1) < tolerance).mean())
    if agreement < 0.7:
        raise UserError(
            f"{name}: has no alpha and no plain background ({agreement:.0%} of its border is near {_hex(color)}); "
            "expected a cut-out with alpha, or a plain background"
        )
    rgba = cut_by_color(pixels, color, tolerance)
    share = float((rgba[3] > 0).float().mean())
    if share < 5e-4:
        raise UserError(
            f"{name}: nothing remains after removing the background {_hex(color)}; expected a visible object"
        )
    note = f"no alpha: assumed a plain background {_hex(color)} ({agreement:.0%} of the border), "
    notes = (note + f"{share:.0%} of the picture is object", *_suspicions(rgba[3]))
    return Cutout(rgba, notes, color)


def _suspicions(alpha: Float[Tensor, "H W"]) -> list[str]:
    """Return a warning where an object is an upright rectangle, as it may be a photograph in a frame."""
    solid = alpha > 0.5
    rows, columns = solid.any(1), solid.any(0)
    area = int(rows.sum()) * int(columns.sum())
    framed = area > 0.2 * solid.numel() and int(solid.sum()) > 0.995 * area
    return ["what was found is a rectangle: if it is a photograph in a frame, crop it"] if framed else []


def cut_by_color(pixels: Pixels, color: Float[Floats, "3"], tolerance: float) -> Float[Tensor, "4 H W"]:
    """Return the object in front of a background of one color that reaches the border."""
    flat = np.abs(pixels - color).max(-1) < tolerance
    return _unmix_rim(pixels, _without_specks(~_connected_to_border(flat)), color)


def _border(pixels: Array) -> Array:
    return np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])


def _connected_to_border(flat: Bool[NDArray[np.bool_], "H W"]) -> Bool[NDArray[np.bool_], "H W"]:
    from scipy import ndimage

    labels, _ = ndimage.label(flat)
    outside = np.unique(_border(labels[..., None]))
    return np.isin(labels, outside[outside > 0])


def _without_specks(mask: Bool[NDArray[np.bool_], "H W"]) -> Bool[NDArray[np.bool_], "H W"]:
    """Drop parts smaller than a hundredth of the largest."""
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return np.isin(labels, np.flatnonzero(areas >= SPECK_SHARE * areas.max())) & mask


def _unmix_rim(
    pixels: Pixels, mask: Bool[NDArray[np.bool_], "H W"], color: Float[Floats, "3"]
) -> Float[Tensor, "4 H W"]:
    """Return straight RGBA: rim pixels mix the background and the nearest inner color; solve for its share.

    The rim is two pixels wide; parts too thin to have an inside are left as they are.
    """
    from scipy import ndimage

    inner = ndimage.binary_erosion(mask, iterations=2, border_value=1)
    alpha, rgb = mask.astype(np.float32), pixels.copy()
    if inner.any():
        away, (rows, columns) = ndimage.distance_transform_edt(~inner, return_indices=True)
        rim = mask & (away > 0) & (away <= 3)
        near = pixels[rows, columns][rim]
        axis = near - color
        share = ((pixels[rim] - color) * axis).sum(-1) / np.maximum((axis**2).sum(-1), 1e-6)
        alpha[rim], rgb[rim] = np.clip(share, 0.0, 1), near
    rgba = np.concatenate([rgb, alpha[..., None]], -1).astype(np.float32)
    return torch.from_numpy(rgba).permute(2, 0, 1).contiguous()


def _hex(color: Float[Floats, "3"]) -> str:
    return "#" + "".join(f"{round(float(c) * 255):02x}" for c in color)


# --------------------------------------------------------------------------------------------------------- padding


@dataclass(frozen=True)
class PhotoBounds:
    """The photograph inside padding bars, right and bottom exclusive; ``sides`` says where the bars are."""

    left: int
    top: int
    right: int
    bottom: int
    sides: str


def _inside_bars(picture: Float[Tensor, "c H W"], inner: PhotoBounds) -> Float[Tensor, "c h w"]:
    return picture[:, inner.top : inner.bottom, inner.left : inner.right]


def find_padding(pixels: Float[Floats, "H W c"]) -> PhotoBounds | None:
    """Return the photograph between two even bars (or beside one) that reach across the whole picture; None for others.

    An object in front of a plain background has that color on all its sides. A padded photograph does not have it
    along its own edges: it ends at the bars in straight lines and fills the picture between them.
    """
    height, width = pixels.shape[:2]
    columns = _between_bars(pixels)
    if columns is not None:
        return PhotoBounds(columns[0], 0, columns[1], height, _sides("left", "right", columns, width))
    rows = _between_bars(pixels.swapaxes(0, 1))
    return rows and PhotoBounds(
        0, rows[0], width, rows[1], _sides("at the top", "at the bottom", rows, height)
    )


def _sides(first: str, last: str, ends: tuple[int, int], length: int) -> str:
    return " and ".join([first] * (ends[0] > 0) + [last] * (ends[1] < length))


def _between_bars(pixels: Float[Floats, "H W c"]) -> tuple[int, int] | None:
    """Return first column and end of what stands between bars left and right, without blurred edge columns."""
    width = pixels.shape[1]
    for edge in (0, -1):
        color = np.median(pixels[:, edge], axis=0)
        near = np.abs(pixels - color).max(-1) < EVEN
        (filled,) = np.nonzero(near.mean(0) < 0.99)
        if not len(filled):
            return None
        first, end = int(filled[0]), int(filled[-1]) + 1
        bars = first + width - end
        rim = _border(near[:, first:end, None])
        if bars >= 0.02 * width and end - first >= 8 and rim.mean() < 0.3:
            blurred = max(2, width // 200)
            return first + blurred * (first > 0), end - blurred * (end < width)
    return None
