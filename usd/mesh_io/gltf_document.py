"""A glTF 2.0 file's tree, buffers and accessors (sections 3.6 and 4 of the specification)."""

import base64
import json
import struct
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import numpy as np

from usd.core.errors import UserError
from usd.mesh_io.files import LFS_POINTER, decode_text, find_neighbor
from usd.mesh_io.gltf_schema import GltfTree, Sparse
from usd.mesh_io.meshopt import decode_view

TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
MESHOPT: Final = "EXT_meshopt_compression"
JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942
MAGIC = b"glTF"


class MissingFileError(UserError):
    """A file that the document names is not there."""


class Document:
    """The tree of a .gltf or .glb file and what its numbers mean. ``notes`` collects what was assumed."""

    def __init__(self, path: Path, content: bytes) -> None:
        text, self.binary = _chunks(path, content)
        self.path, self.notes = path, list[str]()
        try:
            self.tree: GltfTree = json.loads(decode_text(text))
        except ValueError as error:
            raise UserError(f"{path}: cannot be read as a mesh: its JSON is broken ({error})") from error
        self._buffers: dict[int, bytes] = {}
        version = str(self.tree.get("asset", {}).get("version", "?"))
        if not version.startswith("2."):
            raise UserError(f"{path}: is glTF {version}; expected glTF 2.0")

    def resource(self, uri: str) -> bytes:
        """Return what a URI holds: data, or a file beside this one. Raises MissingFileError."""
        if uri.startswith("data:"):
            head, _, body = uri.partition(",")
            return base64.b64decode(body) if head.endswith(";base64") else unquote(body).encode("latin-1")
        tried = (find_neighbor(self.path.parent, name) for name in (uri, unquote(uri)))
        found = next((one for one in tried if one.path is not None), None)
        if found is None or found.path is None:
            raise MissingFileError(f"{self.path}: names '{unquote(uri)}', which is not there")
        self.notes += [found.note] if found.note else []
        content = found.path.read_bytes()
        if content.startswith(LFS_POINTER):
            raise MissingFileError(
                f"{self.path}: '{found.path.name}' is a Git LFS pointer; fetch it with git lfs pull"
            )
        return content

    def _buffer(self, index: int) -> bytes:
        if index not in self._buffers:
            uri = self.tree.get("buffers", [])[index].get("uri")
            self._buffers[index] = self.binary if uri is None else self.resource(uri)
        return self._buffers[index]

    def view_bytes(self, index: int) -> bytes:
        """Return the bytes of a buffer view, decompressed where it is compressed."""
        view = self.tree.get("bufferViews", [])[index]
        packed = view.get("extensions", {}).get(MESHOPT)
        source = packed or view
        start, size = source.get("byteOffset", 0), source["byteLength"]
        data = self._buffer(source["buffer"])[start : start + size]
        if len(data) < size:
            raise UserError(
                f"{self.path}: buffer view {index} reaches beyond its buffer; is the file cut off?"
            )
        if packed is None:
            return data
        name = packed.get("filter", "NONE")
        return decode_view(data, packed["count"], packed["byteStride"], packed["mode"], name)

    def numbers(self, index: int, normalize: bool = False) -> np.ndarray:
        """Return an accessor's values (count, width) as float64; normalized integers as the fractions they stand for.

        ``normalize`` takes integers as normalized whatever the accessor says.
        """
        accessor = self.tree.get("accessors", [])[index]
        width, code = WIDTHS[accessor["type"]], TYPES[accessor["componentType"]]
        if accessor.get("bufferView") is None:
            stored = np.zeros((accessor["count"], width), code)
        else:
            shape = (accessor["count"], width)
            stored = self._strided(accessor["bufferView"], accessor.get("byteOffset", 0), shape, code)
        if "sparse" in accessor:
            stored = self._with_sparse(stored, accessor["sparse"])
        return fractions(stored, normalize or accessor.get("normalized", False))

    def _strided(self, view: int, offset: int, shape: tuple[int, int], code: str) -> np.ndarray:
        """Return (count, width) numbers of a buffer view."""
        size = np.dtype(code).itemsize
        stride = self.tree.get("bufferViews", [])[view].get("byteStride", size * shape[1])
        data = self.view_bytes(view)
        if shape[0] and offset + stride * (shape[0] - 1) + size * shape[1] > len(data):
            raise UserError(f"{self.path}: an accessor of {shape[0]} elements reaches beyond its buffer view")
        return np.ndarray(shape, code, data, offset, (stride, size))

    def _with_sparse(self, stored: np.ndarray, sparse: Sparse) -> np.ndarray:
        where, what, count = sparse["indices"], sparse["values"], sparse["count"]
        code, width = TYPES[where["componentType"]], stored.shape[1]
        rows = self._strided(where["bufferView"], where.get("byteOffset", 0), (count, 1), code)[:, 0]
        kind = stored.dtype.str
        values = self._strided(what["bufferView"], what.get("byteOffset", 0), (count, width), kind)
        out = stored.copy()
        out[rows] = values
        return out


def fractions(stored: np.ndarray, normalized: bool) -> np.ndarray:
    """Return float64 of stored numbers; normalized integers become [0, 1] or [-1, 1] (section 3.6.2.2)."""
    values = stored.astype(np.float64)
    if not normalized or stored.dtype.kind == "f":
        return values
    return np.maximum(values / np.iinfo(stored.dtype).max, -1.0)


def _chunks(path: Path, content: bytes) -> tuple[bytes, bytes]:
    """Return the JSON text and the binary chunk of a file of either form."""
    if not content.startswith(MAGIC):
        return content, b""
    if len(content) < 12:
        raise UserError(f"{path}: cannot be read as a mesh: the file is cut off")
    version, place, found = struct.unpack_from("<I", content, 4)[0], 12, dict[int, bytes]()
    if version != 2:
        raise UserError(f"{path}: is binary glTF {version}; expected glTF 2.0")
    while place + 8 <= len(content):
        size, kind = struct.unpack_from("<II", content, place)
        if place + 8 + size > len(content):
            raise UserError(f"{path}: cannot be read as a mesh: the file is cut off")
        found.setdefault(kind, content[place + 8 : place + 8 + size])
        place += 8 + size
    if JSON_CHUNK not in found:
        raise UserError(f"{path}: cannot be read as a mesh: has no JSON chunk")
    return found[JSON_CHUNK], found.get(BINARY_CHUNK, b"")
