"""Mesh files made by hand: a builder of glTF files from arrays, and what a file's colors are."""

import base64
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from usd.math.color import srgb_from_linear
from usd.mesh_io.colored_mesh import ColoredMesh
from usd.mesh_io.read import read_mesh

CODES = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "uint32": 5125, "float32": 5126}
WIDTHS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
QUAD = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
QUAD_UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
QUAD_FACES = np.array([0, 1, 2, 0, 2, 3], np.uint16)


class Gltf:
    """A glTF file in the making: ``tree`` is its JSON, ``data`` its one buffer."""

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {
            "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": []}], "accessors": [], "bufferViews": [], "materials": [], "textures": [], "images": [],
        }  # fmt: skip
        self.data = b""

    def view(self, content: bytes, **more: object) -> int:
        self.data += b"\0" * (-len(self.data) % 4)
        self.tree["bufferViews"].append(
            {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content), **more}
        )
        self.data += content
        return len(self.tree["bufferViews"]) - 1

    def accessor(self, values: np.ndarray, view: int | None = None, **more: object) -> int:
        table = values.reshape(len(values), -1)
        entry = {
            "componentType": CODES[table.dtype.name],
            "count": len(table),
            "type": WIDTHS[table.shape[1]],
        }
        where = {"bufferView": self.view(table.tobytes()) if view is None else view}
        self.tree["accessors"].append({**where, **entry, **more})
        return len(self.tree["accessors"]) - 1

    def material(self, **look: object) -> int:
        self.tree["materials"].append({"pbrMetallicRoughness": look})
        return len(self.tree["materials"]) - 1

    def texture(self, content: bytes, **more: object) -> dict[str, int]:
        self.tree["images"].append({"bufferView": self.view(content), "mimeType": "image/png"})
        self.tree["textures"].append({"source": len(self.tree["images"]) - 1, **more})
        return {"index": len(self.tree["textures"]) - 1}

    def primitive(
        self, vertices: np.ndarray = QUAD, faces: np.ndarray | None = QUAD_FACES, **more: Any
    ) -> dict:
        """Add a primitive; arrays among ``more`` are attributes, other things stand beside them."""
        arrays = {name: value for name, value in more.items() if isinstance(value, np.ndarray)}
        made: dict[str, Any] = {"attributes": {"POSITION": self.accessor(vertices)}}
        made["attributes"] |= {name: self.accessor(value) for name, value in arrays.items()}
        made |= {name: value for name, value in more.items() if name not in arrays}
        if faces is not None:
            made["indices"] = self.accessor(faces)
        self.tree["meshes"][0]["primitives"].append(made)
        return made

    def require(self, *names: str) -> None:
        self.tree["extensionsUsed"] = self.tree["extensionsRequired"] = list(names)

    def glb(self, path: Path) -> Path:
        self.tree["buffers"] = [{"byteLength": len(self.data)}]
        text = json.dumps({key: value for key, value in self.tree.items() if value != []}).encode()
        text, data = text + b" " * (-len(text) % 4), self.data + b"\0" * (-len(self.data) % 4)
        chunks = (
            struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x4E4942) + data
        )
        path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
        return path

    def read(self, folder: Path) -> ColoredMesh:
        return read_mesh(self.glb(folder / "a.glb"))

    def data_uri(self) -> str:
        return "data:application/octet-stream;base64," + base64.b64encode(self.data).decode()


def picture(pixels: object, form: str = "PNG") -> bytes:
    """An encoded picture of rows of colors in bytes."""
    buffer = io.BytesIO()
    Image.fromarray(np.array(pixels, np.uint8)).save(
        buffer, form, **({"lossless": True} if form == "WEBP" else {})
    )
    return buffer.getvalue()


def plain(*color: int) -> bytes:
    """A picture of one color."""
    return picture(np.tile(np.array(color, np.uint8), (4, 4, 1)))


def shown(mesh: ColoredMesh, x: float = 0.5, y: float = 0.4) -> list[float]:
    """The color as displayed above the point (x, y) of a quad that lay in the file's x-y plane."""
    corners = mesh.vertices[mesh.faces][..., [0, 2]]  # the file's y is up
    a, b, c = corners.unbind(1)
    inverse = torch.linalg.inv(torch.stack([b - a, c - a], -1))
    v, w = (inverse @ (torch.tensor([x, y]).double() - a)[..., None])[..., 0].unbind(-1)
    weights = torch.stack([1 - v - w, v, w], -1)
    face = int((weights >= -1e-9).all(1).nonzero()[0])
    found = mesh.display_colors(torch.tensor([face]), weights[[face]].float())
    return [round(value, 4) for value in found[0].tolist()]


def display(*light: float) -> list[float]:
    """Displayed values of light."""
    return [round(value, 4) for value in srgb_from_linear(torch.tensor(light, dtype=torch.float32)).tolist()]
