"""Pictures in files: reading anything Pillow opens into RGBA in [0, 1], writing RGBA, and laying pictures side by side.

Colors are sRGB and *straight*: a pixel's color is not multiplied by its alpha, and no background has been mixed in.
Only :func:`over` composites. Tensors are channel-first, ``4 H W``, row 0 on top.
"""

import functools
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from usd.core import files
from usd.core.config import UserError
from usd.data.decoding import plain_mode, rgba_of, srgb_of
from usd.data.file_names import nearby

Window = tuple[int, int, int, int]
HEIC = (".heic", ".heif")
"""Endings of files that need the extra package."""
RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")
"""Endings of what cameras store before it is a picture."""
ORIENTATION = 0x0112
"""The EXIF tag."""
EXIF_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientations, and what brings the stored picture upright."""
INVERSE_TURNS = {
    Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
    Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
}
"""What undoes a turn; the others undo themselves."""
SIDEWAYS = tuple(EXIF_TURNS[number] for number in (5, 6, 7, 8))
if Image.MAX_IMAGE_PIXELS is not None:
    # Pillow refuses pictures of twice as many; phones take some of 200 megapixels.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, 150_000_000)
OVERSAMPLING = 4
"""Pictures are read at this many times the size that they will be resampled to, at most."""


@dataclass(frozen=True)
class Picture:
    """A picture file as read: straight RGBA, the size of the whole picture in the file, and remarks.

    ``notes`` are phrases such as "colors converted from Display P3 to sRGB", for the log.
    """

    rgba: Float[Tensor, "4 H W"]
    width: int
    height: int
    notes: tuple[str, ...]


def read_rgba(path: str | Path, where: str = "picture") -> Float[Tensor, "4 H W"]:
    """Return the pixels as stored, in straight sRGB with alpha; opaque pictures get alpha 1.

    ``where`` is the configuration key to blame. Raise UserError when the file is missing or is not a readable picture.
    """
    return read_picture(path, where).rgba


def read_values(path: str | Path, where: str = "picture") -> Float[Tensor, "4 H W"]:
    """Return the numbers as stored, of a picture that is none: masks and normal maps have no color profile."""
    with open_picture(path, where) as file:
        return rgba_of(plain_mode(file.image))


def read_picture(
    path: str | Path,
    where: str = "picture",
    upright: bool = False,
    longest: int | None = None,
    window: Window | None = None,
) -> Picture:
    """Read palette, gray, 16-bit, CMYK and color-managed files as straight sRGB; of an animation the first frame.

    A picture that a camera belongs to is read as stored; ``upright`` turns a photograph as its EXIF orientation says.
    ``window`` (left, top, right, bottom) is the part to read, in pixels of the (turned) picture. A part with a side
    over ``longest`` is reduced to it. Raise UserError when the file is missing or is not a readable picture.
    """
    with open_picture(path, where) as file:
        turn = file.turn if upright else None
        size = _turned_size(file.image.size, turn)
        target = _reduced_size(size if window is None else _size_of(window), longest)
        pixels, note = srgb_of(_decode_reduced(file.image, turn, window, target), file.profile)
        notes = file.notes(upright, note)
        if window is None and target != size:
            notes.append(f"reduced from {size[0]} x {size[1]} to {target[0]} x {target[1]} pixels")
        return Picture(rgba_of(pixels), *size, tuple(notes))


def read_rgb_bytes(
    path: str | Path, where: str, upright: bool = False
) -> tuple[NDArray[np.uint8], tuple[str, ...]] | None:
    """Return the colors (H W 3) of a picture as the file's own bytes, and remarks: the quick way to opaque pictures.

    None for pictures that hold more than bytes or have transparency. Raise UserError as ``read_picture`` does.
    """
    with open_picture(path, where) as file:
        turn = file.turn if upright else None
        whole = _decode_reduced(file.image, turn, None, _turned_size(file.image.size, turn))
        pixels, note = srgb_of(whole, file.profile)
        if pixels.mode not in ("RGB", "L", "CMYK"):
            return None
        colors = pixels if pixels.mode == "RGB" else pixels.convert("RGB")
        return np.asarray(colors), tuple(file.notes(upright, note))


def read_pictures(
    paths: Sequence[Path], where: str, size: int | None = None
) -> tuple[list[Float[Tensor, "4 _ _"]], list[str]]:
    """Return pictures that cameras belong to, as stored, and remarks on them, each with a count.

    ``size`` is the longest side that they will be resampled to: much larger ones are reduced as they are read.
    """
    remarks: Counter[str] = Counter()
    pictures = []
    for path in paths:
        read = read_picture(path, where, longest=None if size is None else OVERSAMPLING * size)
        pictures.append(read.rgba)
        remarks.update(note for note in read.notes if not note.startswith("reduced"))
    return pictures, [f"{count} of {len(paths)} pictures: {note}" for note, count in remarks.items()]


@dataclass(frozen=True)
class StoredImage:
    """A file's image with its pixels as stored, and what the file says about them.

    ``turn`` brings it upright (None where it is), ``profile`` is an ICC profile's content.
    """

    image: Image.Image
    turn: Image.Transpose | None
    profile: bytes | None
    frames: int

    @classmethod
    def of(cls, file: Image.Image) -> "StoredImage":
        """Read what an opened file says about its pixels."""
        turn = EXIF_TURNS.get(orientation(file))
        profile, frames, image = file.info.get("icc_profile"), getattr(file, "n_frames", 1), file
        if file.format == "TIFF" and turn is not None:
            file.load()  # Pillow turns files of this format by itself
            image = file.transpose(INVERSE_TURNS.get(turn, turn))
        return cls(image, turn, profile, frames)

    def notes(self, upright: bool, conversion: str | None) -> list[str]:
        """Return remarks on what was done with the pixels: ``upright`` or as stored, and a conversion of colors."""
        turned = f"{'turned' if upright else 'not turned'} by its EXIF orientation"
        return [
            *([turned] if self.turn is not None else []),
            *([conversion] if conversion else []),
            *([f"the first of its {self.frames} frames taken"] if self.frames > 1 else []),
        ]


@contextmanager
def open_picture(path: str | Path, where: str) -> Iterator[StoredImage]:
    """Open a picture file; whatever is wrong with it, now or while its pixels are read, becomes a UserError."""
    path = Path(path)
    name = f"{where}: {path}"
    if path.suffix.lower() in HEIC:
        _register_heic(name)
    if not path.is_file():
        raise UserError(f"{name}: no such file; expected a picture (PNG, JPEG, WebP ...){nearby(path)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of much that is large or damaged; what matters becomes an error
            with Image.open(path) as file:
                yield StoredImage.of(file)
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise UserError(
            f"{name}: has more than {limit:.0f} megapixels; expected fewer: make it smaller first"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, struct.error, zlib.error) as error:
        if _is_pointer(path):
            raise UserError(
                f"{name}: is a Git LFS pointer, not the picture itself; fetch it with git lfs pull"
            ) from error
        raise UserError(f"{name}: cannot be read as a picture ({_why_unreadable(path, error)})") from error


def _why_unreadable(path: Path, error: Exception) -> str:
    """Return why a file cannot be read, with what may be done about it."""
    if path.stat().st_size == 0:
        return "it is empty"
    if path.suffix.lower() in RAW:
        return "it is a raw photograph; expected it developed, as JPEG, PNG or TIFF"
    if isinstance(error, UnidentifiedImageError):
        return "its content is none; expected PNG, JPEG, WebP, TIFF, AVIF ..."
    return " ".join(str(error).split())


@functools.cache
def _register_heic(name: str) -> None:
    """Let Pillow read the pictures of Apple's phones. Raises ``UserError`` without the package that can."""
    try:
        register = import_module("pillow_heif").register_heif_opener
    except ImportError as error:
        raise UserError(
            f"{name}: is a HEIC picture; expected the package pillow-heif: pip install 'usd[heic]'"
        ) from error
    register()


def _is_pointer(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(64).startswith(b"version https://git-lfs.github.com/spec")
    except OSError:
        return False


@dataclass(frozen=True)
class PictureHeader:
    """The header of a picture's file, known before its pixels are decoded.

    ``size`` is (width, height) as stored, ``upright_size`` after the turn of its EXIF orientation; ``alpha`` is whether
    it has a channel of transparency, or a color that counts as transparent.
    """

    size: tuple[int, int]
    upright_size: tuple[int, int]
    alpha: bool


def picture_header(path: str | Path, where: str) -> PictureHeader:
    """Return what a picture's file says. Raise UserError where the file is missing or no picture."""
    with open_picture(path, where) as file:
        size, alpha = file.image.size, file.image.mode in ("RGBA", "LA", "PA", "La", "RGBa")
        return PictureHeader(size, _turned_size(size, file.turn), alpha or "transparency" in file.image.info)


def picture_size(path: str | Path, where: str) -> tuple[int, int]:
    """Return width and height as stored. Raise UserError where the file is missing or no picture."""
    with open_picture(path, where) as file:
        return file.image.size


def orientation(file: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1, as stored, where the file says nothing that can be read."""
    try:
        said = file.getexif().get(ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1
    return said if isinstance(said, int) and said in EXIF_TURNS else 1


def same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether sizes have one shape, but for a side that was rounded to whole pixels."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one, *other)


def _turned_size(size: tuple[int, int], turn: Image.Transpose | None) -> tuple[int, int]:
    return size[::-1] if turn in SIDEWAYS else size


def _size_of(window: Window) -> tuple[int, int]:
    return window[2] - window[0], window[3] - window[1]


def _reduced_size(size: tuple[int, int], longest: int | None) -> tuple[int, int]:
    if longest is None or max(size) <= longest:
        return size
    return max(1, round(size[0] * longest / max(size))), max(1, round(size[1] * longest / max(size)))


def _decode_reduced(
    file: Image.Image, turn: Image.Transpose | None, window: Window | None, target: tuple[int, int]
) -> Image.Image:
    """Return the pixels in a plain mode, turned, cut and averaged down to ``target`` (width, height)."""
    if window is not None:
        whole = plain_mode(file)
        whole = whole if turn is None else whole.transpose(turn)
        return whole.resize(target, Image.Resampling.BOX, box=window)
    stored = _turned_size(target, turn)
    covered = (0.0, 0.0, float(file.size[0]), float(file.size[1]))
    if stored != file.size and (draft := file.draft(None, stored)) is not None:
        covered = draft[
            1
        ]  # a JPEG decoder leaves fine detail away; its last row may reach beyond the picture
    pixels = plain_mode(file)
    if stored != pixels.size:
        pixels = pixels.resize(stored, Image.Resampling.BOX, box=covered)
    return pixels if turn is None else pixels.transpose(turn)


def write_picture(path: str | Path, picture: Float[Tensor, "c H W"]) -> Path:
    """Write one, three or four channels in [0, 1] as an 8-bit PNG; the folder is made."""
    pixels = to_bytes(picture)
    with write_whole(path) as file:
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file)
    return Path(path)


@contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Yield a file to write to, which replaces ``path`` when all is written; the folder is made.

    A full disk or a missing permission becomes a UserError that names ``path``.
    """
    with files.writable(path), files.replace_atomically(path) as partial:
        yield partial


def to_bytes(picture: Float[Tensor, "c H W"]) -> NDArray[np.uint8]:
    """Return ``H W c`` bytes, rounded to nearest."""
    return (picture.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def over(rgba: Float[Tensor, "*B 4 H W"], background: float = 1.0) -> Float[Tensor, "*B 3 H W"]:
    """Return the picture in front of a plain gray level (1 is white)."""
    rgb, alpha = rgba[..., :3, :, :], rgba[..., 3:, :, :]
    return rgb * alpha + background * (1 - alpha)


def unpremultiply(
    foreground: Float[Tensor, "*B 3 H W"], opacity: Float[Tensor, "*B 1 H W"]
) -> Float[Tensor, "*B 4 H W"]:
    """Return straight RGBA from a premultiplied foreground; color is 0 where nothing is seen."""
    rgb = torch.where(opacity > 1e-4, foreground / opacity.clamp_min(1e-4), torch.zeros_like(foreground))
    return torch.cat([rgb.clamp(0, 1), opacity.clamp(0, 1)], dim=-3)


def resize_rgba(rgba: Float[Tensor, "4 H W"], height: int, width: int) -> Float[Tensor, "4 h w"]:
    """Resample, antialiased; colors of transparent pixels do not bleed into the object."""
    if rgba.shape[-2:] == (height, width):
        return rgba
    premultiplied = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
    small = torch.nn.functional.interpolate(
        premultiplied[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )[0]
    return unpremultiply(small[:3], small[3:])


def contact_sheet(
    pictures: Float[Tensor, "B c H W"], columns: int, gap: int = 2, background: float = 1.0
) -> Float[Tensor, "c h w"]:
    """Lay pictures in reading order on a plain sheet, ``gap`` pixels apart."""
    count, channels, height, width = pictures.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = pictures.new_full(
        (channels, rows * (height + gap) - gap, columns * (width + gap) - gap), background
    )
    for index, picture in enumerate(pictures):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = picture
    return sheet
