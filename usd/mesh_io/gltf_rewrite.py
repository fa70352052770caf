"""Binary glTF files with other pictures in them; every other byte that means something stays."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from usd.core.errors import UserError
from usd.mesh_io.gltf_document import BINARY_CHUNK, JSON_CHUNK, MAGIC, Document

ALIGNMENT = 4
WEBP = "EXT_texture_webp"
MEDIA = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}


@dataclass(frozen=True)
class EncodedPicture:
    """The bytes of a picture file and their media type, ``image/png``."""

    content: bytes
    media: str


class BinaryGltf:
    """The tree and the buffer views of a .glb file, whose pictures can be taken out and replaced.

    Accessors name buffer views by number, so views keep their numbers and contents; only where they lie may change.
    Raises ``UserError`` for what is no binary glTF.
    """

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        if not content.startswith(MAGIC):
            raise UserError(f"{path}: is no binary glTF; expected a .glb file")
        self.document = Document(path, content)
        self.tree = cast(dict[str, list[dict[str, object]]], self.document.tree)
        buffers = self.tree.get("buffers", [])
        if any("uri" in buffer for buffer in buffers) or len(buffers) != 1:
            raise UserError(
                f"{path}: keeps its numbers in other files; expected a .glb that holds them itself"
            )

    @property
    def images(self) -> list[dict[str, object]]:
        """The entries of the file's pictures."""
        return self.tree.get("images", [])

    def image_bytes(self, index: int) -> bytes:
        """Return the encoded picture ``index``, wherever it is kept. Raises ``UserError``."""
        image = self.images[index]
        if "uri" in image:
            return self.document.resource(str(image["uri"]))
        return self.document.view_bytes(cast(int, image["bufferView"]))

    def replace_images(self, pictures: Mapping[int, EncodedPicture]) -> bytes:
        """Return the file with other pictures in the place of those numbered."""
        views = [self._raw_view(index) for index in range(len(self.tree.get("bufferViews", [])))]
        for index, picture in pictures.items():
            image = self.images[index]
            image.pop("uri", None)
            if "bufferView" not in image or self._is_shared(index):
                self.tree.setdefault("bufferViews", []).append({"buffer": 0})
                image["bufferView"] = len(views)
                views.append(b"")
            views[cast(int, image["bufferView"])] = picture.content
            image["mimeType"] = picture.media
        return self._written(views)

    def _is_shared(self, index: int) -> bool:
        """Return whether another picture lies in the same buffer view."""
        place = self.images[index].get("bufferView")
        return sum(image.get("bufferView") == place for image in self.images) > 1

    def _raw_view(self, index: int) -> bytes:
        """Return a view's bytes as they are stored, compressed ones too."""
        view = self.tree["bufferViews"][index]
        start, size = cast(int, view.get("byteOffset", 0)), cast(int, view["byteLength"])
        return self.document.binary[start : start + size]

    def _written(self, views: list[bytes]) -> bytes:
        """Return a file of the tree and these views, one behind the other."""
        place, parts = 0, []
        for view, content in zip(self.tree.get("bufferViews", []), views, strict=True):
            view["byteOffset"], view["byteLength"] = place, len(content)
            parts.append(content + b"\0" * (-len(content) % ALIGNMENT))
            place += len(parts[-1])
        self.tree["buffers"][0]["byteLength"] = place
        return container(json.dumps(self.tree, separators=(",", ":")).encode(), b"".join(parts))


def container(text: bytes, data: bytes) -> bytes:
    """Return a .glb file of its two chunks (glTF 2.0, section 4.4)."""
    text += b" " * (-len(text) % ALIGNMENT)
    data += b"\0" * (-len(data) % ALIGNMENT)
    chunks = b"".join(
        struct.pack("<II", len(chunk), kind) + chunk
        for kind, chunk in ((JSON_CHUNK, text), (BINARY_CHUNK, data))
    )
    return struct.pack("<4sII", MAGIC, 2, 12 + len(chunks)) + chunks


def require_textured(path: Path) -> None:
    """Raise ``UserError`` for a file whose texture cannot be made anew, before anything is trained."""
    if path.suffix.lower() != ".glb":
        raise UserError(f"{path}: expected a .glb (Blender and others write them: File, Export, glTF Binary)")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if not BinaryGltf(path).images:
        raise UserError(f"{path}: has no texture; expected texture coordinates and a base color texture")
