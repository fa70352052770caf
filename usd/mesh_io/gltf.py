"""glTF 2.0 and GLB files: nodes, skins, morph targets and primitives as parts of a mesh."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from usd.core.errors import UserError, listing
from usd.mesh_io.colored_mesh import BaseColor
from usd.mesh_io.gltf_color import Colors, coordinate_set, transform_coordinates
from usd.mesh_io.gltf_document import Document, fractions
from usd.mesh_io.gltf_schema import DracoData, GltfPrimitive, GltfSkin, Transform
from usd.mesh_io.primitive import Primitive, check_polygons

QUANTIZED: Final = "KHR_mesh_quantization"
DRACO: Final = "KHR_draco_mesh_compression"
INSTANCES: Final = "EXT_mesh_gpu_instancing"
SPLATS: Final = "KHR_gaussian_splatting"
SUPPORTED = {
    DRACO,
    INSTANCES,
    "EXT_meshopt_compression",
    "EXT_texture_avif",
    "EXT_texture_webp",
    "KHR_materials_pbrSpecularGlossiness",
    "KHR_materials_unlit",
    "KHR_materials_variants",
    QUANTIZED,
    "KHR_node_visibility",
    "KHR_texture_basisu",
    "KHR_texture_transform",
}
"""Extensions that change what is read. KHR_texture_basisu is refused where a texture has no other picture."""

HARMLESS = ("KHR_materials_", "EXT_materials_", "KHR_lights_", "EXT_lights_", "KHR_animation_", "KHR_xmp")
"""How the names of extensions begin that touch neither shape nor base color."""

TRIANGLES, STRIP, FAN = 4, 5, 6


def read_gltf(path: Path, content: bytes) -> tuple[list[Primitive], list[str]]:
    """Return the parts of a glTF scene in world coordinates, and what was assumed.

    Raises UserError for required extensions that are not supported, and where the scene has no triangles.
    """
    document = Document(path, content)
    required = document.tree.get("extensionsRequired", [])
    unknown = [name for name in required if name not in SUPPORTED and not name.startswith(HARMLESS)]
    if unknown:
        raise UserError(
            f"{path}: requires {listing(unknown)}, which is not supported; expected {listing(SUPPORTED, 20)}"
        )
    scene = _Scene(document)
    parts = [primitive for node in scene.visible() for primitive in scene.primitives(node)]
    if not parts:
        what = "points and lines only" if scene.skipped else "no mesh"
        raise UserError(f"{path}: has no faces, {what}; expected a triangle mesh")
    notes = document.notes
    if scene.skipped:
        notes.append(f"{scene.skipped} primitives of points or lines are left out")
    if document.tree.get("animations", []):
        notes.append("animations are left out: seen at rest")
    return parts, notes


class _Scene:
    """The nodes of a document's scene and their places."""

    def __init__(self, document: Document) -> None:
        self.document, self.colors, self.skipped = document, Colors(document), 0
        self.nodes = document.tree.get("nodes", [])
        children = {child for node in self.nodes for child in node.get("children", [])}
        roots = [index for index in range(len(self.nodes)) if index not in children]
        self.world: dict[int, np.ndarray] = {}
        for _ in self._walk(roots, hidden=True):
            pass
        scenes, number = document.tree.get("scenes", []), document.tree.get("scene", 0)
        self.roots: list[int] = scenes[number].get("nodes", []) if scenes else roots

    def visible(self) -> list[int]:
        """Return the scene's nodes, without what is hidden."""
        return list(self._walk(self.roots, hidden=False))

    def _walk(self, roots: list[int], hidden: bool) -> Iterator[int]:
        """Return nodes from the roots down; their places in the world are noted on the way."""
        stack = [(index, self.world.get(index)) for index in reversed(roots)]
        seen: set[int] = set()
        while stack:
            index, place = stack.pop()
            node = self.nodes[index]
            shown = node.get("extensions", {}).get("KHR_node_visibility", {}).get("visible", True)
            if index in seen or not (shown or hidden):
                continue
            seen.add(index)
            self.world.setdefault(index, local_matrix(node) if place is None else place)
            yield index
            for child in reversed(node.get("children", [])):
                stack.append((child, self.world[index] @ local_matrix(self.nodes[child])))

    def primitives(self, index: int) -> list[Primitive]:
        """Return the primitives of a node's mesh, once for each of its instances."""
        node = self.nodes[index]
        if "mesh" not in node:
            return []
        mesh = self.document.tree.get("meshes", [])[node["mesh"]]
        weights = [float(weight) for weight in node.get("weights") or mesh.get("weights") or []]
        found: list[Primitive] = []
        for number, primitive in enumerate(mesh["primitives"]):
            where = f"{self.document.path}: mesh {node['mesh']}, primitive {number}"
            part = self._primitive(primitive, weights, where)
            if part is not None:
                found += [_place_primitive(part, matrix) for matrix in self._places(index, primitive)]
        return found

    def _primitive(self, primitive: GltfPrimitive, weights: list[float], where: str) -> Primitive | None:
        """Return one primitive in its mesh's own coordinates; None for points and lines."""
        if SPLATS in primitive.get("extensions", {}):
            raise UserError(f"{where}: is a Gaussian splat; expected a triangle mesh")
        if primitive.get("mode", TRIANGLES) not in (TRIANGLES, STRIP, FAN):
            self.skipped += 1
            return None
        values = _Attributes(self.document, primitive, where)
        if "POSITION" not in values.names:
            raise UserError(f"{where}: has no POSITION; expected vertices")
        vertices = values.numbers("POSITION")
        for weight, target in zip(weights, primitive.get("targets", [])):
            if "POSITION" in target:
                vertices = vertices + weight * self.document.numbers(target["POSITION"])
        order = values.indices(len(vertices))
        faces = assemble_triangles(order, primitive.get("mode", TRIANGLES))
        check_polygons(faces.reshape(-1), np.full(len(faces), 3), len(vertices), where)
        color, uv = self._texture(primitive.get("material"), values, faces)
        return Primitive(vertices, faces, color, uv, _vertex_light(values, faces))

    def _texture(
        self, material: int | None, values: "_Attributes", faces: np.ndarray
    ) -> tuple[BaseColor, np.ndarray | None]:
        """Return a primitive's base color and its texture's coordinates at corners of faces."""
        color, info = self.colors.of(material), self.colors.texture_info(material)
        if info is None or color.texture is None:
            return color, None
        name = f"TEXCOORD_{coordinate_set(info)}"
        if name not in values.names:
            self.document.notes.append(f"a texture has no coordinates ({name}): no colors")
            return BaseColor(known=False), None
        return color, transform_coordinates(values.numbers(name), info)[faces]

    def _places(self, index: int, primitive: GltfPrimitive) -> list[np.ndarray]:
        """Return matrices (4, 4), or one for each vertex (V, 4, 4), that put a primitive into the world."""
        node = self.nodes[index]
        if "skin" in node and "JOINTS_0" in primitive["attributes"]:
            return [self._skin(self.document.tree.get("skins", [])[node["skin"]], primitive["attributes"])]
        several = node.get("extensions", {}).get(INSTANCES)
        if several is None:
            return [self.world[index]]
        return [self.world[index] @ matrix for matrix in self._instances(several["attributes"])]

    def _instances(self, names: dict[str, int]) -> list[np.ndarray]:
        known = {name: self.document.numbers(at) for name, at in names.items() if name in TRS}
        count = max((len(values) for values in known.values()), default=1)
        return [local_matrix(_instance({name: known[name][i] for name in known})) for i in range(count)]

    def _skin(self, skin: GltfSkin, names: dict[str, int]) -> np.ndarray:
        """Return each vertex's mean of its joints' motions (section 3.7.3.3); the node's own place does not count."""
        joints = np.stack([self.world[joint] for joint in skin["joints"]])
        if "inverseBindMatrices" in skin:
            stored = self.document.numbers(skin["inverseBindMatrices"]).reshape(-1, 4, 4)
            joints = joints @ stored[: len(joints)].transpose(0, 2, 1)
        sets = [i for i in range(8) if f"JOINTS_{i}" in names and f"WEIGHTS_{i}" in names]
        index = np.concatenate([self.document.numbers(names[f"JOINTS_{i}"]) for i in sets], 1).astype(int)
        share = np.concatenate([self.document.numbers(names[f"WEIGHTS_{i}"]) for i in sets], 1)
        share = share / np.maximum(share.sum(1, keepdims=True), 1e-12)
        return np.einsum("vj,vjab->vab", share, joints[index])


TRS = ("TRANSLATION", "ROTATION", "SCALE")


def _instance(values: Mapping[str, np.ndarray]) -> Transform:
    """Return the place of one instance from its attributes."""
    place: Transform = {}
    if "TRANSLATION" in values:
        place["translation"] = values["TRANSLATION"].tolist()
    if "ROTATION" in values:
        place["rotation"] = values["ROTATION"].tolist()
    if "SCALE" in values:
        place["scale"] = values["SCALE"].tolist()
    return place


class _Attributes:
    """A primitive's attributes, from its accessors or from Draco's data."""

    def __init__(self, document: Document, primitive: GltfPrimitive, where: str) -> None:
        self.document, self.names, self._where = document, primitive["attributes"], where
        self._accessors = document.tree.get("accessors", [])
        self._quantized = QUANTIZED in document.tree.get("extensionsUsed", [])
        self._indices: int | None = primitive.get("indices")
        packed = primitive.get("extensions", {}).get(DRACO)
        plain = "bufferView" in self._accessors[self.names["POSITION"]] if "POSITION" in self.names else True
        self._draco = None if packed is None or plain else _draco(document, packed, where)
        self._ids: dict[str, int] = {} if packed is None else packed["attributes"]

    def numbers(self, name: str) -> np.ndarray:
        """Return an attribute's values (count, width); integer colors and coordinates of textures as fractions."""
        whole = name.startswith("COLOR") or (name.startswith("TEXCOORD") and not self._quantized)
        if self._draco is None or name not in self._ids:
            return self.document.numbers(self.names[name], normalize=whole)
        accessor, stored = self._accessors[self.names[name]], self._draco[0][self._ids[name]]
        return fractions(stored, whole or accessor.get("normalized", False))

    def indices(self, count: int) -> np.ndarray:
        """Return vertex numbers in drawing order."""
        if self._draco is not None:
            return self._draco[1].reshape(-1).astype(np.int64)
        if self._indices is None:
            return np.arange(count)
        return self.document.numbers(self._indices)[:, 0].astype(np.int64)


def _draco(document: Document, packed: DracoData, where: str) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Return attributes by their number in the compressed data, and faces. Raises UserError without DracoPy."""
    try:
        import DracoPy
    except ImportError as error:
        raise UserError(
            f"{where}: is compressed ({DRACO}), for which the package DracoPy is needed: pip install DracoPy"
        ) from error
    mesh = DracoPy.decode(document.view_bytes(packed["bufferView"]))
    if not isinstance(mesh, DracoPy.DracoMesh):
        raise UserError(f"{where}: holds compressed points; expected faces")
    values = {part["unique_id"]: np.asarray(part["data"]) for part in mesh.attributes}
    return values, np.asarray(mesh.faces)


def _vertex_light(values: _Attributes, faces: np.ndarray) -> np.ndarray | None:
    """Return linear vertex colors and alpha at corners of faces (section 3.7.2.1)."""
    if "COLOR_0" not in values.names:
        return None
    stored = values.numbers("COLOR_0")
    return np.concatenate([stored, np.ones((len(stored), 4 - stored.shape[1]))], 1)[faces]


def assemble_triangles(order: np.ndarray, mode: int) -> np.ndarray:
    """Return the faces (F, 3) that vertices in drawing order make as a list, a strip or a fan (section 3.7.2.1)."""
    if mode == TRIANGLES:
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    count = max(len(order) - 2, 0)
    i = np.arange(count)
    if mode == FAN:
        return np.stack([order[i + 1], order[i + 2], np.full(count, order[0] if count else 0)], -1)
    return np.stack([order[i], order[i + 1 + i % 2], order[i + 2 - i % 2]], -1)


def local_matrix(node: Transform) -> np.ndarray:
    """Return a node's own matrix (4, 4): stored by columns, or translation x rotation (x, y, z, w) x scale."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", [0, 0, 0, 1.0])) / max(
        float(np.linalg.norm(node.get("rotation", [0, 0, 0, 1.0]))), 1e-12
    )
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn * np.array(node.get("scale", [1.0, 1.0, 1.0]))
    matrix[:3, 3] = node.get("translation", [0.0, 0.0, 0.0])
    return matrix


def _place_primitive(part: Primitive, matrix: np.ndarray) -> Primitive:
    """Return the primitive in the world. Faces of a mirrored one turn the other way round, to face outside."""
    vertices = np.einsum("...ab,...b->...a", matrix[..., :3, :3], part.vertices) + matrix[..., :3, 3]
    if matrix.ndim > 2 or np.linalg.det(matrix[:3, :3]) >= 0:
        return Primitive(vertices, part.faces, part.color, part.uv, part.light)
    uv, light = (None if values is None else values[:, ::-1] for values in (part.uv, part.light))
    return Primitive(vertices, part.faces[:, ::-1], part.color, uv, light)
