"""Pictures from outside: limited in size, and decoded once before anything else sees them."""

import io
import warnings
from dataclasses import dataclass

from PIL import Image

from usd.core.errors import UserError

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
"""Formats that are taken, by Pillow's name, and the ending each is stored with, whatever the upload was called."""
LARGEST_MB = 20
MOST_PIXELS = 64_000_000
"""Pixels of the largest picture; decoded it takes four bytes each."""


@dataclass(frozen=True)
class CheckedPicture:
    """An uploaded file that is a picture, and the ending of its format."""

    content: bytes
    suffix: str


def check_picture(content: bytes) -> CheckedPicture:
    """Return an upload as a picture. Raises ``UserError`` for what is none, is damaged, or is too large unpacked."""
    expected = "expected PNG, JPEG or WebP"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            image = _image_of(content)
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise UserError(
                    f"picture: has {width} x {height} pixels; expected at most {MOST_PIXELS / 1e6:.0f} million"
                )
            image.verify()  # checksums; it leaves the object unusable
            _image_of(content).load()  # what is cut off shows only here
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(
            f"picture: has too many pixels; expected at most {MOST_PIXELS / 1e6:.0f} million"
        ) from error
    except Exception as error:  # Pillow's decoders raise nearly anything for hostile bytes
        raise UserError(f"picture: cannot be read as a picture; {expected}") from error
    return CheckedPicture(content, SUFFIXES[str(image.format)])


def _image_of(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=list(SUFFIXES))
