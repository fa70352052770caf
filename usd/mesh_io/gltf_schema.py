"""The parts of a glTF 2.0 document that are read here, as types (section 5 of the specification).

Files come from everywhere, so nothing but these types is promised: what a file has in another form raises where it is
used, and the reader says so in one line.
"""

from typing import Required, TypedDict


class MeshoptView(TypedDict, total=False):
    """``EXT_meshopt_compression`` of a buffer view."""

    buffer: Required[int]
    byteOffset: int
    byteLength: Required[int]
    byteStride: Required[int]
    count: Required[int]
    mode: Required[str]
    filter: str


class ViewExtensions(TypedDict, total=False):
    """Extensions of a buffer view."""

    EXT_meshopt_compression: MeshoptView


class BufferView(TypedDict, total=False):
    """Bytes of a buffer."""

    buffer: Required[int]
    byteOffset: int
    byteLength: Required[int]
    byteStride: int
    extensions: ViewExtensions


class BufferFile(TypedDict, total=False):
    """The file of a buffer's bytes; without ``uri`` in the binary chunk."""

    uri: str


class SparseIndices(TypedDict, total=False):
    """Indices of the elements of a sparse accessor that differ."""

    bufferView: Required[int]
    byteOffset: int
    componentType: Required[int]


class SparseValues(TypedDict, total=False):
    """Values of the elements of a sparse accessor that differ."""

    bufferView: Required[int]
    byteOffset: int


class Sparse(TypedDict):
    """Elements of an accessor that differ from its buffer view."""

    count: int
    indices: SparseIndices
    values: SparseValues


class Accessor(TypedDict, total=False):
    """Numbers in a buffer view."""

    bufferView: int
    byteOffset: int
    componentType: Required[int]
    normalized: bool
    count: Required[int]
    type: Required[str]
    sparse: Sparse


class TextureTransform(TypedDict, total=False):
    """``KHR_texture_transform``."""

    offset: list[float]
    rotation: float
    scale: list[float]
    texCoord: int


class TextureInfoExtensions(TypedDict, total=False):
    """Extensions of a material's texture."""

    KHR_texture_transform: TextureTransform


class TextureInfo(TypedDict, total=False):
    """A texture and the coordinates it is laid by."""

    index: Required[int]
    texCoord: int
    extensions: TextureInfoExtensions


class MetallicRoughness(TypedDict, total=False):
    """The base color of a material."""

    baseColorFactor: list[float]
    baseColorTexture: TextureInfo


class SpecularGlossiness(TypedDict, total=False):
    """``KHR_materials_pbrSpecularGlossiness``: the diffuse color of a material."""

    diffuseFactor: list[float]
    diffuseTexture: TextureInfo


class MaterialExtensions(TypedDict, total=False):
    """Extensions of a material."""

    KHR_materials_pbrSpecularGlossiness: SpecularGlossiness


class GltfMaterial(TypedDict, total=False):
    """A material."""

    name: str
    alphaMode: str
    alphaCutoff: float
    pbrMetallicRoughness: MetallicRoughness
    extensions: MaterialExtensions


class ImageReference(TypedDict):
    """An image by number, where an extension names one."""

    source: int


class GltfTexture(TypedDict, total=False):
    """An image and how it is sampled."""

    source: int
    sampler: int
    extensions: dict[str, ImageReference]


class GltfImage(TypedDict, total=False):
    """An image: the file or the buffer view with its bytes."""

    uri: str
    bufferView: int


class GltfSampler(TypedDict, total=False):
    """The wrapping modes with which a texture is looked up."""

    wrapS: int
    wrapT: int
    magFilter: int


class DracoData(TypedDict):
    """``KHR_draco_mesh_compression`` of a primitive."""

    bufferView: int
    attributes: dict[str, int]


class PrimitiveExtensions(TypedDict, total=False):
    """Extensions of a primitive."""

    KHR_draco_mesh_compression: DracoData
    KHR_gaussian_splatting: object


class GltfPrimitive(TypedDict, total=False):
    """Faces of one material."""

    attributes: Required[dict[str, int]]
    indices: int
    material: int
    mode: int
    targets: list[dict[str, int]]
    extensions: PrimitiveExtensions


class GltfMesh(TypedDict, total=False):
    """Primitives, and the weights of their morph targets."""

    primitives: Required[list[GltfPrimitive]]
    weights: list[float]


class NodeVisibility(TypedDict, total=False):
    """``KHR_node_visibility``."""

    visible: bool


class Instances(TypedDict):
    """``EXT_mesh_gpu_instancing``."""

    attributes: dict[str, int]


class NodeExtensions(TypedDict, total=False):
    """Extensions of a node."""

    KHR_node_visibility: NodeVisibility
    EXT_mesh_gpu_instancing: Instances


class Transform(TypedDict, total=False):
    """A node's own place: a matrix by columns, or translation, rotation (x, y, z, w) and scale."""

    matrix: list[float]
    translation: list[float]
    rotation: list[float]
    scale: list[float]


class GltfNode(Transform, total=False):
    """A place in the scene, and what is there."""

    children: list[int]
    mesh: int
    skin: int
    weights: list[float]
    extensions: NodeExtensions


class GltfSkin(TypedDict, total=False):
    """The joints that move a mesh."""

    joints: Required[list[int]]
    inverseBindMatrices: int


class GltfScene(TypedDict, total=False):
    """The roots of a scene."""

    nodes: list[int]


class Asset(TypedDict, total=False):
    """Facts about a file."""

    version: str


class GltfTree(TypedDict, total=False):
    """A whole document."""

    asset: Asset
    extensionsUsed: list[str]
    extensionsRequired: list[str]
    accessors: list[Accessor]
    animations: list[object]
    buffers: list[BufferFile]
    bufferViews: list[BufferView]
    images: list[GltfImage]
    materials: list[GltfMaterial]
    meshes: list[GltfMesh]
    nodes: list[GltfNode]
    samplers: list[GltfSampler]
    scene: int
    scenes: list[GltfScene]
    skins: list[GltfSkin]
    textures: list[GltfTexture]
