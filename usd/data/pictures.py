"""Pictures in files: reading anything Pillow opens into RGBA in [0, 1], writing RGBA, and laying pictures side by side.

Colors are *straight*: a pixel's color is not multiplied by its alpha, and no background has been mixed in. Only
:func:`over` composites. Tensors are channel-first, ``4 H W``, row 0 on top.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from usd.core.config import UserError


def read_rgba(path: str | Path, where: str = "picture") -> Float[Tensor, "4 H W"]:
    """The picture in ``path`` with straight alpha; opaque pictures get alpha 1.

    Palette, gray, 16-bit, CMYK and EXIF-rotated files are understood. ``where`` is the configuration key to blame.
    Raises UserError when the file is missing or is not a readable picture.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{where}: {path}: no such file; expected a picture (PNG, JPEG, WebP ...)")
    try:
        with Image.open(path) as picture:
            return _rgba(ImageOps.exif_transpose(picture))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: {path}: cannot be read as a picture ({error})") from error


def _rgba(picture: Image.Image) -> Float[Tensor, "4 H W"]:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        grey = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 65535).clamp(0, 1)
        return torch.stack([grey, grey, grey, torch.ones_like(grey)])
    if picture.mode == "F":
        picture = picture.convert("L")
    pixels = np.asarray(picture.convert("RGBA"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def write_picture(path: str | Path, picture: Float[Tensor, "c H W"]) -> Path:
    """Write one, three or four channels in [0, 1] as an 8-bit PNG; the folder is made."""
    pixels = to_bytes(picture)
    with writing(path) as file:
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file)
    return file


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Make the folder of ``path``; a full disk or a missing permission becomes a UserError that names the file."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror or error})") from error


def to_bytes(picture: Float[Tensor, "c H W"]) -> np.ndarray:
    """``H W c`` bytes, rounded to nearest."""
    return (picture.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def over(rgba: Float[Tensor, "*B 4 H W"], background: float = 1.0) -> Float[Tensor, "*B 3 H W"]:
    """The picture in front of a plain gray level (1 is white)."""
    rgb, alpha = rgba[..., :3, :, :], rgba[..., 3:, :, :]
    return rgb * alpha + background * (1 - alpha)


def straight(
    foreground: Float[Tensor, "*B 3 H W"], opacity: Float[Tensor, "*B 1 H W"]
) -> Float[Tensor, "*B 4 H W"]:
    """Straight RGBA from a premultiplied foreground; color is 0 where nothing is seen."""
    rgb = torch.where(opacity > 1e-4, foreground / opacity.clamp_min(1e-4), torch.zeros_like(foreground))
    return torch.cat([rgb.clamp(0, 1), opacity.clamp(0, 1)], dim=-3)


def resize_rgba(rgba: Float[Tensor, "4 H W"], height: int, width: int) -> Float[Tensor, "4 h w"]:
    """Antialiased resampling; colors of transparent pixels do not bleed into the object."""
    if rgba.shape[-2:] == (height, width):
        return rgba
    premultiplied = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
    small = torch.nn.functional.interpolate(
        premultiplied[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )[0]
    return straight(small[:3], small[3:])


def contact_sheet(
    pictures: Float[Tensor, "B c H W"], columns: int, gap: int = 2, background: float = 1.0
) -> Float[Tensor, "c h w"]:
    """Pictures in reading order on a plain sheet, ``gap`` pixels apart."""
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
