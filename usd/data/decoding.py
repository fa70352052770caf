"""What the numbers of a decoded picture mean: bit depth, palette and color profile, brought to straight sRGB.

Pillow decodes files into images of many modes. Here they become ``4 H W`` floats in [0, 1]. Colors that an embedded ICC
profile describes (Display P3, Adobe RGB, gray and CMYK profiles) are converted to sRGB, which all else here assumes.
"""

import io
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms
from torch import Tensor

SPACES = {"L": "GRAY", "LA": "GRAY", "F": "GRAY", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}
"""The plain modes, and the color space that an ICC profile for them has."""
NEGLIGIBLE = 2
"""Of 255: a profile that changes no color by more than this is sRGB under some name."""
UNREADABLE = "color profile unreadable or of another color space: taken as sRGB"


def plain_mode(picture: Image.Image) -> Image.Image:
    """Return the image in one of the modes of ``SPACES``, which resampling and profiles know; F lies in [0, 1]."""
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture, dtype=np.float32) / 65535).clip(0, 1))
    if picture.mode == "F":
        levels = np.asarray(picture, dtype=np.float32)
        return Image.fromarray(np.nan_to_num(levels / (255 if levels.max() > 1 else 1)).clip(0, 1))
    if picture.mode in ("P", "PA") or "transparency" in picture.info:
        return picture.convert("RGBA")
    if picture.mode in SPACES:
        return picture
    return picture.convert({"1": "L", "La": "LA", "RGBa": "RGBA"}.get(picture.mode, "RGB"))


def rgba_of(picture: Image.Image) -> Float[Tensor, "4 H W"]:
    """Return straight RGBA in [0, 1] from an image in a plain mode; without transparency alpha is 1."""
    if picture.mode == "F":
        gray = torch.from_numpy(np.array(picture, dtype=np.float32))
        return torch.stack([gray, gray, gray, torch.ones_like(gray)])
    pixels = np.asarray(picture.convert("RGBA"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def srgb_of(picture: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    """Convert an image in a plain mode to sRGB by its ICC profile, and say so in a phrase; None where nothing was done.

    A profile that cannot be read, or belongs to another color space than the pixels, is put aside with a phrase.
    """
    if not profile:
        return picture, None
    try:
        conversion = ColorConversion.of(profile, SPACES[picture.mode])
        if conversion is None:
            return picture, UNREADABLE
        if not conversion.matters():
            return picture, None
        return _to_srgb(picture, conversion), f"colors converted from {conversion.name} to sRGB"
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture, UNREADABLE


@dataclass(frozen=True)
class ColorConversion:
    """A transform from the colors of a profile to sRGB. ``mode`` is what it takes: RGB, L or CMYK; it gives RGB."""

    transform: ImageCms.ImageCmsTransform
    mode: str
    name: str

    @classmethod
    def of(cls, content: bytes, space: str) -> "ColorConversion | None":
        """Return the conversion for pixels of a color space; None for a profile of another one."""
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        described = profile.profile.xcolor_space.strip()
        if described != space and (described, space) != ("RGB", "GRAY"):
            return None
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[described]
        intent = ImageCms.Intent(ImageCms.getDefaultIntent(profile))
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent)
        name = " ".join(ImageCms.getProfileDescription(profile).split()) or f"a {described} profile"
        return cls(transform, mode, name[:60])

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return the picture in sRGB."""
        changed = ImageCms.applyTransform(picture, self.transform)
        assert changed is not None
        return changed

    def matters(self) -> bool:
        """Return whether any color changes visibly, as told by a lattice of nine levels a channel."""
        if self.mode == "CMYK":
            return True
        levels = np.linspace(0, 255, 9).round().astype(np.uint8)
        lattice = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3)
        if self.mode == "L":
            lattice = np.repeat(levels[None, :, None], 3, axis=-1)
        given = Image.fromarray(lattice if self.mode == "RGB" else lattice[..., 0].copy())
        return bool(np.abs(np.asarray(self(given), dtype=int) - lattice).max() > NEGLIGIBLE)


def _to_srgb(picture: Image.Image, conversion: ColorConversion) -> Image.Image:
    """Return the image in sRGB, its transparency untouched."""
    if picture.mode == "F":
        # Profiles are applied to bytes; a ramp of all of them keeps the finer levels between two bytes.
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None]).convert(conversion.mode)
        curve = np.asarray(conversion(ramp), dtype=np.float32)[0].mean(-1)
        levels = np.interp(np.asarray(picture) * 255, np.arange(256), curve) / 255
        return Image.fromarray(levels.astype(np.float32))
    alpha = picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None
    result = conversion(picture.convert(conversion.mode))
    if alpha is not None:
        result.putalpha(alpha)
    return result
