"""Files as text inside a page: pictures made small, binary glTF with small textures, videos that are short enough."""

import base64
import io
from pathlib import Path

from PIL import Image

from usd.core.errors import UserError
from usd.mesh_io.gltf_rewrite import BinaryGltf, EncodedPicture

QUALITY = 86
UNLIT = "KHR_materials_unlit"
TEXTURE = 1024
"""Texels a side of a texture inside a page, at most; the file beside it keeps its own."""
MOST_BYTES = 1_900_000
"""Of a model or video inside a page: what is larger would make the page slow to open."""


def data_uri(content: bytes, media: str) -> str:
    """Return bytes as a URI that holds them."""
    return f"data:{media};base64,{base64.b64encode(content).decode()}"


def webp(picture: Image.Image, longest: int) -> bytes:
    """Return a picture as WebP, its longer side ``longest`` pixels at most."""
    small = picture.convert("RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB")
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=4)
    return buffer.getvalue()


def picture_uri(file: Path, longest: int = 512) -> str:
    """Return a picture file as a small WebP inside a URI."""
    with Image.open(file) as picture:
        return data_uri(webp(picture, longest), "image/webp")


def video_uri(file: Path) -> str | None:
    """Return a video inside a URI; None where it is too large for a page."""
    return data_uri(file.read_bytes(), "video/mp4") if file.stat().st_size <= MOST_BYTES else None


def model_uri(file: Path) -> str | None:
    """Return a binary glTF inside a URI, its textures made small; None where it is still too large for a page."""
    content = small_model(file)
    return data_uri(content, "model/gltf-binary") if len(content) <= MOST_BYTES else None


def environment_uri(file: Path) -> str | None:
    """Return the picture of the surroundings that a viewer shows a model in; None: the viewer's own.

    A model without light shows none of them, and a blank picture spares the viewer from computing its own, which
    takes a phone longer than all the rest.
    """
    try:
        materials = BinaryGltf(file).tree.get("materials", [])
    except (UserError, OSError):
        return None
    if not materials or any(UNLIT not in str(material.get("extensions")) for material in materials):
        return None
    buffer = io.BytesIO()
    Image.new("RGB", (4, 2), "white").save(buffer, "PNG")
    return data_uri(buffer.getvalue(), "image/png")


def small_model(file: Path) -> bytes:
    """Return a binary glTF with textures of ``TEXTURE`` texels a side at most, as JPEG where nothing is see-through."""
    try:
        model = BinaryGltf(file)
        return model.replace_images(
            {i: small_texture(model.image_bytes(i)) for i in range(len(model.images))}
        )
    except (UserError, OSError):
        return file.read_bytes()


def small_texture(content: bytes) -> EncodedPicture:
    """Return a texture as a small JPEG, or as PNG where parts of it are see-through."""
    with Image.open(io.BytesIO(content)) as picture:
        picture.thumbnail((TEXTURE, TEXTURE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        if "A" in picture.getbands() or "transparency" in picture.info:
            picture.convert("RGBA").save(buffer, "PNG", optimize=True)
            return EncodedPicture(buffer.getvalue(), "image/png")
        picture.convert("RGB").save(buffer, "JPEG", quality=QUALITY + 4)
        return EncodedPicture(buffer.getvalue(), "image/jpeg")
