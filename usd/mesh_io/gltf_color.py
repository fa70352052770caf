"""Base colors of glTF materials: factors, textures, their coordinates, samplers and cut-outs."""

import math
from typing import Final

import numpy as np
from PIL import UnidentifiedImageError

from usd.core.errors import UserError
from usd.mesh_io.colored_mesh import NO_COLOR, WHITE, BaseColor, Texture, Wrap
from usd.mesh_io.gltf_document import Document, MissingFileError
from usd.mesh_io.gltf_schema import GltfMaterial, GltfSampler, GltfTexture, TextureInfo
from usd.mesh_io.images import decode_image

WRAPS: dict[int, Wrap] = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
NEAREST = 9728
GLOSSY: Final = "KHR_materials_pbrSpecularGlossiness"
TRANSFORM: Final = "KHR_texture_transform"
PICTURES = ("EXT_texture_webp", "EXT_texture_avif")


class Colors:
    """The base colors of a document's materials, each made once."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._made: dict[int, BaseColor] = {}
        self._textures: dict[int, Texture] = {}

    def of(self, index: int | None) -> BaseColor:
        """Return a material's base color. Raises UserError where its texture needs an unsupported extension."""
        if index is None:
            return NO_COLOR
        if index not in self._made:
            self._made[index] = self._color(self.document.tree.get("materials", [])[index])
        return self._made[index]

    def texture_info(self, index: int | None) -> TextureInfo | None:
        """Return what a material says about its base color texture and the coordinates it is laid by."""
        return None if index is None else _base(self.document.tree.get("materials", [])[index])[1]

    def _color(self, material: GltfMaterial) -> BaseColor:
        factor, info = _base(material)
        mode, cutoff = material.get("alphaMode", "OPAQUE"), None
        if mode == "MASK":
            cutoff = float(material.get("alphaCutoff", 0.5))
        try:
            texture = None if info is None else self._texture(info["index"])
        except (MissingFileError, UnidentifiedImageError, OSError) as error:
            name = material.get("name", "unnamed")
            self.document.notes.append(
                f"material '{name}': its texture cannot be read ({_texture_error(error)}): no colors"
            )
            return BaseColor(known=False)
        clear = texture is not None and bool((texture.pixels[..., 3] < 255).any())
        if mode == "BLEND" and (factor[3] < 1 or clear):
            self.document.notes.append("transparent materials (alphaMode BLEND) are taken as opaque")
        r, g, b, a = factor
        return BaseColor((r, g, b, a), texture, cutoff)

    def _texture(self, index: int) -> Texture:
        if index not in self._textures:
            texture = self.document.tree.get("textures", [])[index]
            image = self.document.tree.get("images", [])[_source(self.document, texture)]
            view = image.get("bufferView")
            content = self.document.resource(image["uri"]) if view is None else self.document.view_bytes(view)
            samplers, number = self.document.tree.get("samplers", []), texture.get("sampler")
            sampler: GltfSampler = {} if number is None else samplers[number]
            wrap = (WRAPS[sampler.get("wrapS", 10497)], WRAPS[sampler.get("wrapT", 10497)])
            smooth = sampler.get("magFilter") != NEAREST
            self._textures[index] = Texture(decode_image(content), wrap, smooth)
        return self._textures[index]


def _texture_error(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no picture"
    return str(error).split(": ", 1)[-1]


def _base(material: GltfMaterial) -> tuple[list[float], TextureInfo | None]:
    """Return a material's base color factor and texture; the diffuse ones of specular-glossiness."""
    glossy = material.get("extensions", {}).get(GLOSSY)
    if glossy is not None:
        factor, info = glossy.get("diffuseFactor", WHITE), glossy.get("diffuseTexture")
    else:
        metallic = material.get("pbrMetallicRoughness", {})
        factor, info = metallic.get("baseColorFactor", WHITE), metallic.get("baseColorTexture")
    return [float(value) for value in factor], info


def _source(document: Document, texture: GltfTexture) -> int:
    """Return the image of a texture. Raises UserError that names the extension it cannot be read without."""
    extensions = texture.get("extensions", {})
    for name in PICTURES:
        if name in extensions:
            return extensions[name]["source"]
    if "source" in texture:
        return texture["source"]
    if not extensions:
        raise MissingFileError(f"{document.path}: it names no picture")
    names = ", ".join(extensions)
    raise UserError(
        f"{document.path}: its texture needs {names}, which is not supported;"
        " expected PNG, JPEG or WebP (gltf-transform can convert it)"
    )


def coordinate_set(info: TextureInfo) -> int:
    """Return the number of the texture coordinates that a texture is laid by."""
    return info.get("extensions", {}).get(TRANSFORM, {}).get("texCoord", info.get("texCoord", 0))


def transform_coordinates(uv: np.ndarray, info: TextureInfo) -> np.ndarray:
    """Return coordinates (N, 2) moved as KHR_texture_transform says: scaled, rotated counter-clockwise, shifted.

    Seen with v down, as glTF's is, counter-clockwise takes (1, 0) to (0, -1).
    """
    change = info.get("extensions", {}).get(TRANSFORM)
    if change is None:
        return uv
    c, s = math.cos(change.get("rotation", 0.0)), math.sin(change.get("rotation", 0.0))
    scaled = uv * change.get("scale", [1.0, 1.0])
    return scaled @ np.array([[c, -s], [s, c]]) + change.get("offset", [0.0, 0.0])
