"""Colors of one part of a mesh file at its vertices, as displayed: from a texture, from vertices, from a material.

glTF shows the product of those that are there, as light (glTF 2.0, section 3.9.2); of other formats the first counts.
"""

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from trimesh.visual.color import uv_to_color
from trimesh.visual.material import PBRMaterial, SimpleMaterial
from trimesh.visual.texture import TextureVisuals

from usd.math.color import linear_from_srgb, srgb_from_linear

Colors = Float[Tensor, "V 3"]
STAND_IN = (2, 2)  # size of the picture that trimesh puts where an OBJ names none


def part_colors(part: trimesh.Trimesh, gltf: bool) -> Colors | None:
    """In [0, 1]; None where the file says nothing of colors. glTF's are linear in the file, textures excepted."""
    written = [_of_vertices(part), _of_material(part)]
    shown = [c if c is None or not gltf else srgb_from_linear(c) for c in written]
    found = [c for c in (_of_texture(part), *shown) if c is not None]
    if not gltf or len(found) < 2:
        return found[0] if found else None
    return srgb_from_linear(torch.stack([linear_from_srgb(c) for c in found]).prod(0))


def _of_texture(part: trimesh.Trimesh) -> Colors | None:
    visual = part.visual
    if not isinstance(visual, TextureVisuals) or visual.uv is None or len(visual.uv) != len(part.vertices):
        return None
    picture = _picture(visual.material)
    return None if picture is None else _values(uv_to_color(np.asarray(visual.uv), picture))


def _picture(material: object) -> Image.Image | None:
    if isinstance(material, PBRMaterial):
        found = material.baseColorTexture
    elif isinstance(material, SimpleMaterial):
        found = material.image
        if isinstance(found, Image.Image) and found.size == STAND_IN and not material.kwargs:
            return None
    else:
        found = None
    return found if isinstance(found, Image.Image) else None


def _of_vertices(part: trimesh.Trimesh) -> Colors | None:
    """Vertex colors, also those that trimesh keeps aside where there is a material too."""
    visual = part.visual
    if isinstance(visual, TextureVisuals):
        stored = visual.vertex_attributes.get("color", part.vertex_attributes.get("color"))
    else:
        stored = visual.vertex_colors if visual is not None and visual.defined else None
    return None if stored is None or len(stored) != len(part.vertices) else _values(stored)


def _of_material(part: trimesh.Trimesh) -> Colors | None:
    """The one color of a material that names one."""
    material = part.visual.material if isinstance(part.visual, TextureVisuals) else None
    if isinstance(material, PBRMaterial) and material.baseColorFactor is not None:
        stored = material.baseColorFactor
    elif isinstance(material, SimpleMaterial) and "kd" in material.kwargs:
        stored = material.diffuse
    else:
        return None
    return _values(np.asarray(stored)[None]).expand(len(part.vertices), 3)


def _values(stored: object) -> Colors:
    """Numbers in [0, 1] of what is stored: bytes, larger integers, or such numbers."""
    values = np.asarray(stored)
    scale = float(np.iinfo(values.dtype).max) if values.dtype.kind in "ui" else 1.0
    return torch.from_numpy(np.array(values[:, :3], np.float32) / np.float32(scale)).clamp(0, 1)
