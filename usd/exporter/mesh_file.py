"""Meshes with vertex colours as bytes of a file: GLB, OBJ and PLY, each with its own axes and colour space.

Our world is +z up and our colours are display values (sRGB), as pictures hold them.

format  axes                                            colours
glb     glTF: +y up, front +z; (x, y, z) -> (x, z, -y)  linear (glTF 2.0, section 3.7.2.1), float32 ``COLOR_0``
obj     +y up as importers assume; same turn            sRGB, three numbers after each vertex
ply     +z up, our own axes                             sRGB bytes

A viewer that follows glTF shows the linear values through the sRGB curve and so as we rendered them; with
``unlit`` (KHR_materials_unlit) also without its own lights. The turn is a rotation: nothing is mirrored.
"""

import json
import struct

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from torch import Tensor

from usd.core.types import Mesh
from usd.math.mesh import vertex_normals

FLOAT, UNSIGNED_INT, ARRAY_BUFFER, ELEMENT_BUFFER = 5126, 5125, 34962, 34963


def linear_from_srgb(color: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 3"]:
    """Linear light of display values (IEC 61966-2-1)."""
    return torch.where(color <= 0.04045, color / 12.92, ((color.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def y_up(points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """From +z up to +y up: a quarter turn about x."""
    x, y, z = points.unbind(-1)
    return torch.stack([x, z, -y], -1)


def glb_bytes(mesh: Mesh, unlit: bool = False) -> bytes:
    """A binary glTF 2.0 file."""
    normals = vertex_normals(mesh.vertices, mesh.faces)
    arrays = {"POSITION": y_up(mesh.vertices), "NORMAL": y_up(normals)}
    if mesh.color is not None:
        arrays["COLOR_0"] = linear_from_srgb(mesh.color.clamp(0, 1))
    return _glb(
        {name: _array(a, np.float32) for name, a in arrays.items()}, _array(mesh.faces, np.uint32), unlit
    )


def obj_bytes(mesh: Mesh) -> bytes:
    """A Wavefront OBJ file with colours behind the coordinates."""
    turned = _trimesh(Mesh(y_up(mesh.vertices), mesh.faces, mesh.color))
    return trimesh.exchange.obj.export_obj(
        turned, include_color=mesh.color is not None, include_texture=False
    ).encode()


def ply_bytes(mesh: Mesh) -> bytes:
    """A binary PLY file."""
    return trimesh.exchange.ply.export_ply(_trimesh(mesh))


def _trimesh(mesh: Mesh) -> trimesh.Trimesh:
    color = (
        None
        if mesh.color is None
        else (_array(mesh.color.clamp(0, 1), np.float32) * 255).round().astype(np.uint8)
    )
    faces, vertices = _array(mesh.faces, np.int64), _array(mesh.vertices, np.float32)
    return trimesh.Trimesh(vertices, faces, vertex_colors=color, process=False)


def _array(tensor: Tensor, dtype: type) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy().astype(dtype))


def _glb(attributes: dict[str, np.ndarray], faces: np.ndarray, unlit: bool) -> bytes:
    """One mesh of one primitive; every array has its own view of the one buffer. All sizes are multiples of four."""
    arrays = [*attributes.values(), faces.reshape(-1)]
    sizes = [array.nbytes for array in arrays]
    targets = [ARRAY_BUFFER] * len(attributes) + [ELEMENT_BUFFER]
    material: dict = {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}
    tree: dict = {
        "asset": {"version": "2.0", "generator": "usd"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "object"}],
        "meshes": [{"primitives": [{"attributes": dict(zip(attributes, range(9))), "material": 0}]}],
        "materials": [material],
        "buffers": [{"byteLength": sum(sizes)}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": sum(sizes[:i]), "byteLength": size, "target": target}
            for i, (size, target) in enumerate(zip(sizes, targets))
        ],
        "accessors": [_accessor(i, array) for i, array in enumerate(arrays)],
    }
    tree["meshes"][0]["primitives"][0]["indices"] = len(attributes)
    if unlit:
        material["extensions"], tree["extensionsUsed"] = {"KHR_materials_unlit": {}}, ["KHR_materials_unlit"]
    return _container(json.dumps(tree, separators=(",", ":")).encode(), b"".join(a.tobytes() for a in arrays))


def _accessor(view: int, array: np.ndarray) -> dict:
    if array.ndim == 1:
        return {"bufferView": view, "componentType": UNSIGNED_INT, "count": len(array), "type": "SCALAR"}
    bounds = {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
    return {"bufferView": view, "componentType": FLOAT, "count": len(array), "type": "VEC3", **bounds}


def _container(text: bytes, data: bytes) -> bytes:
    text += b" " * (-len(text) % 4)
    chunks = (
        struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x004E4942) + data
    )
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
