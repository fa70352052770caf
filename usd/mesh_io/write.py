"""Meshes as bytes of a file: GLB, OBJ with MTL, PLY and STL, each with its own axes and color space.

Our world is +z up and our colors are display values (sRGB), as pictures hold them.

format  axes                                            colors
glb     glTF: +y up; (x, y, z) -> (x, z, -y)            texture: sRGB as it is (glTF 2.0, section 3.9.2);
                                                        vertices: linear (section 3.7.2.1), float32 ``COLOR_0``
obj     +y up as importers assume; same turn            texture: sRGB; vertices: sRGB, three numbers behind each
ply     +z up, our own axes                             sRGB bytes
stl     +z up, our own axes                             none

So nothing is encoded twice: the bytes of a texture are the colors as rendered, and a viewer that follows glTF
decodes them, lights them and encodes them again. With ``unlit`` (KHR_materials_unlit) it does not light them, and shows
what was rendered. The turn is a rotation: nothing is mirrored.
"""

import io
import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from usd.core.types import Mesh
from usd.math.color import linear_from_srgb
from usd.mesh_io.atlas import Atlas
from usd.mesh_io.gltf_rewrite import MEDIA, WEBP, container

PictureFormat = Literal["png", "jpg", "webp"]

FLOAT, UNSIGNED_INT, ARRAY_BUFFER, ELEMENT_BUFFER = 5126, 5125, 34962, 34963
LINEAR, MIPMAPS, CLAMP = 9729, 9987, 33071
UNLIT = "KHR_materials_unlit"
ROWS = 1024  # of a picture, turned into bytes at once


@dataclass(frozen=True)
class ExportMesh:
    """A closed shell ready to be written, in the axes and units of its file.

    ``texture`` is the base color picture (an encoded PNG, JPEG or WebP) for the coordinates in ``atlas``. ``finish``
    holds roughness in its green and metallic in its blue channel, as glTF wants them; None where a material has
    neither.
    """

    mesh: Mesh
    normals: Float[Tensor, "V 3"]
    atlas: Atlas | None = None
    texture: bytes | None = None
    picture_format: PictureFormat = "png"
    unlit: bool = False
    finish: Float[Tensor, "h w 3"] | None = None


def picture_bytes(picture: Float[Tensor, "H W 3"], fmt: PictureFormat) -> bytes:
    """Return an encoded picture of values in [0, 1]."""
    # By rows: a copy of a large texture in floats takes four times the memory of its bytes.
    rows = [_array((part.clamp(0, 1) * 255).round(), np.uint8) for part in picture.split(ROWS)]
    pixels = np.concatenate(rows)
    buffer = io.BytesIO()
    if fmt == "png":
        Image.fromarray(pixels).save(buffer, "PNG")
    elif fmt == "webp":
        # Without loss: with it, WebP halves the colors, which would run over the borders of charts.
        Image.fromarray(pixels).save(buffer, "WEBP", lossless=True)
    else:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def finish_picture(values: Float[Tensor, "H W C"]) -> Float[Tensor, "H W 3"] | None:
    """Return roughness and metallic of baked values (color, metallic, roughness) in a picture's green and blue."""
    if values.shape[2] < 5:
        return None
    return torch.cat([torch.ones_like(values[..., :1]), values[..., 4:5], values[..., 3:4]], -1)


def finish_maps(name: str, finish: Float[Tensor, "H W 3"] | None) -> dict[str, tuple[str, bytes]]:
    """Return the same as an MTL file refers to it: word -> (file, content)."""
    if finish is None:
        return {}
    parts = {"map_Pr": ("roughness", finish[..., 1:2]), "map_Pm": ("metallic", finish[..., 2:3])}
    return {
        word: (f"{name}_{what}.png", picture_bytes(gray.expand(-1, -1, 3), "png"))
        for word, (what, gray) in parts.items()
    }


# ------------------------------------------------------------------------------------------------------------- glb


def glb_bytes(surface: ExportMesh) -> bytes:
    """Return a binary glTF 2.0 file. Vertices at seams of the texture are doubled, as the format wants it."""
    mesh, atlas = surface.mesh, surface.atlas
    faces, vertex = mesh.faces.cpu(), torch.arange(len(mesh.vertices))
    arrays = {}
    if atlas is not None:
        faces, vertex, point = split_at_seams(faces, atlas)
        arrays["TEXCOORD_0"] = _array(atlas.uv[point], np.float32)
    arrays["POSITION"] = _array(mesh.vertices.cpu()[vertex], np.float32)
    arrays["NORMAL"] = _array(surface.normals.cpu()[vertex], np.float32)
    if mesh.color is not None and surface.texture is None:
        arrays["COLOR_0"] = _array(linear_from_srgb(mesh.color.cpu().clamp(0, 1))[vertex], np.float32)
    return _glb(arrays, _array(faces, np.uint32), surface)


def split_at_seams(
    faces: Int[Tensor, "F 3"], atlas: Atlas
) -> tuple[Int[Tensor, "F 3"], Int[Tensor, "W"], Int[Tensor, "W"]]:
    """Return faces over W corners, each a vertex of the mesh and a point of the atlas, and those two."""
    n = len(atlas.uv)
    key, corner = torch.unique(faces * n + atlas.faces, return_inverse=True)
    return corner.view(-1, 3), key // n, key % n


def _glb(attributes: dict[str, np.ndarray], faces: np.ndarray, surface: ExportMesh) -> bytes:
    """Return a file of one mesh of one primitive; each array and picture has its own view of the one buffer."""
    arrays = [*attributes.values(), faces.reshape(-1)]
    maps = _glb_pictures(surface)
    blobs = [array.tobytes() for array in arrays] + [content for content, _ in maps]
    padded = [blob + b"\0" * (-len(blob) % 4) for blob in blobs]
    starts = np.cumsum([0, *map(len, padded)]).tolist()
    targets = [*[ARRAY_BUFFER for _ in attributes], ELEMENT_BUFFER, *[None for _ in maps]]
    primitive = {"attributes": dict(zip(attributes, range(9))), "indices": len(attributes), "material": 0}
    tree: dict = {
        "asset": {"version": "2.0", "generator": "usd"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "object"}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [_gltf_material(surface)],
        "buffers": [{"byteLength": starts[-1]}],
        "bufferViews": [
            {
                "buffer": 0,
                "byteOffset": start,
                "byteLength": len(blob),
                **({"target": target} if target else {}),
            }
            for start, blob, target in zip(starts, blobs, targets)
        ],
        "accessors": [_accessor(i, array) for i, array in enumerate(arrays)],
    }
    if maps:
        tree["images"] = [
            {"bufferView": len(arrays) + i, "mimeType": mime} for i, (_, mime) in enumerate(maps)
        ]
        tree["samplers"] = [{"magFilter": LINEAR, "minFilter": MIPMAPS, "wrapS": CLAMP, "wrapT": CLAMP}]
        tree["textures"] = [_gltf_texture(i, mime) for i, (_, mime) in enumerate(maps)]
    # Without WebP a reader has no picture at all, so it must be known; unlit surfaces may be lit.
    required = [WEBP] if any(mime == MEDIA["webp"] for _, mime in maps) else []
    if used := [*([UNLIT] if surface.unlit else []), *required]:
        tree["extensionsUsed"] = used
    if required:
        tree["extensionsRequired"] = required
    return container(json.dumps(tree, separators=(",", ":")).encode(), b"".join(padded))


def _glb_pictures(surface: ExportMesh) -> list[tuple[bytes, str]]:
    """Return encoded pictures and their media types: base color, then finish."""
    if not surface.texture:
        return []
    mime = MEDIA[surface.picture_format]
    finish = [] if surface.finish is None else [(picture_bytes(surface.finish, "png"), "image/png")]
    return [(surface.texture, mime), *finish]


def _gltf_texture(image: int, mime: str) -> dict:
    """Return a texture of a picture; one of WebP is named by its extension alone."""
    source = {"source": image}
    return {"sampler": 0, **({"extensions": {WEBP: source}} if mime == MEDIA["webp"] else source)}


def _gltf_material(surface: ExportMesh) -> dict:
    """Return a metallic-roughness material; dull and not metallic unless its finish says otherwise."""
    finished = bool(surface.texture) and surface.finish is not None
    metallic: dict = {"metallicFactor": 1.0 if finished else 0.0, "roughnessFactor": 1.0}
    if surface.texture:
        metallic["baseColorTexture"] = {"index": 0}
    if finished:
        metallic["metallicRoughnessTexture"] = {"index": 1}
    extensions: dict = {"extensions": {UNLIT: {}}} if surface.unlit else {}
    return {"name": "surface", "pbrMetallicRoughness": metallic, **extensions}


def _accessor(view: int, array: np.ndarray) -> dict:
    if array.ndim == 1:
        return {"bufferView": view, "componentType": UNSIGNED_INT, "count": len(array), "type": "SCALAR"}
    bounds = {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
    kind = f"VEC{array.shape[1]}"
    return {"bufferView": view, "componentType": FLOAT, "count": len(array), "type": kind, **bounds}


# ------------------------------------------------------------------------------------------------------------- obj


def obj_bytes(surface: ExportMesh, library: str | None = None, normals: bool = False) -> bytes:
    """Return a Wavefront OBJ file: seams are in the texture coordinates alone, so the mesh stays in one piece.

    ``library`` is the MTL file's name; without one, vertex colors stand behind the coordinates.
    """
    mesh, atlas = surface.mesh, surface.atlas
    rows = _array(mesh.vertices, np.float64)
    if mesh.color is not None and library is None:
        rows = np.concatenate([rows, _array(mesh.color.clamp(0, 1), np.float64)], 1)
    lines = [f"mtllib {library}"] * (library is not None) + _obj_lines("v", rows)
    corners = [_array(mesh.faces, np.int64) + 1]
    if atlas is not None:
        lines += _obj_lines("vt", _array(atlas.uv, np.float64) * [1, -1] + [0, 1])
        corners.append(_array(atlas.faces, np.int64) + 1)
    if normals:
        lines += _obj_lines("vn", _array(surface.normals, np.float64))
        corners.append(corners[0])
    lines += ["usemtl surface", "s 1"] if library else []
    return ("\n".join([*lines, *_face_lines(corners, normals and atlas is None)]) + "\n").encode()


def _obj_lines(word: str, rows: np.ndarray) -> list[str]:
    form = word + " %.7g" * rows.shape[1]
    return [form % tuple(row) for row in rows.tolist()]


def _face_lines(corners: list[np.ndarray], gap: bool) -> list[str]:
    """Return lines ``f v/vt/vn``; ``gap`` leaves the middle one out."""
    one = ("/" * (2 if gap else 1)).join(["%d"] * len(corners))
    form = f"f {one} {one} {one}"
    return [form % tuple(row) for row in np.stack(corners, 2).reshape(len(corners[0]), -1).tolist()]


def mtl_bytes(maps: dict[str, str]) -> bytes:
    """Return a material library with one material: white, dull, times its pictures (word -> file)."""
    lines = ["newmtl surface", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "d 1", "illum 1"]
    return ("\n".join([*lines, *[f"{word} {file}" for word, file in maps.items()]]) + "\n").encode()


# ----------------------------------------------------------------------------------------------------- ply and stl


def ply_bytes(surface: ExportMesh, normals: bool = False) -> bytes:
    """Return a binary PLY file."""
    from trimesh.exchange.ply import export_ply

    return export_ply(_trimesh(surface), vertex_normal=normals)


def stl_bytes(surface: ExportMesh) -> bytes:
    """Return a binary STL file: the shape alone."""
    from trimesh.exchange.stl import export_stl

    return export_stl(_trimesh(surface))


def _trimesh(surface: ExportMesh) -> object:
    """Return the surface as trimesh has it."""
    import trimesh

    mesh = surface.mesh
    color = None if mesh.color is None else _array((mesh.color.clamp(0, 1) * 255).round(), np.uint8)
    faces, vertices = _array(mesh.faces, np.int64), _array(mesh.vertices, np.float32)
    normals = _array(surface.normals, np.float32)
    return trimesh.Trimesh(vertices, faces, vertex_normals=normals, vertex_colors=color, process=False)


def _array(tensor: Tensor, dtype: type) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy().astype(dtype))
