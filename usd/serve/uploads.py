"""Pictures and meshes from outside: limited in size, and decoded once before anything else sees them."""

import io
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from usd.core.errors import UserError

MESH = "mesh.glb"
"""Name of an uploaded mesh in its job's folder, whatever the upload was called."""
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


def check_mesh(content: bytes) -> bytes:
    """Return an upload as a mesh whose texture can be made anew. Raises ``UserError`` for anything else."""
    from usd.mesh_io.gltf_rewrite import require_textured
    from usd.mesh_io.read import read_mesh

    with tempfile.TemporaryDirectory(prefix="usd-serve-") as folder:
        path = Path(folder) / MESH
        path.write_bytes(content)
        try:
            require_textured(path)
            read_mesh(path)
        except UserError as error:
            raise UserError(str(error).replace(str(path), "mesh")) from error
    return content


def _image_of(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=list(SUFFIXES))
