"""glTF files feature by feature: the right color, the right place, or the line that names what is missing."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.mesh_io.gltf_files import QUAD, QUAD_FACES, QUAD_UV, Gltf, display, picture, plain, shown
from usd.core.errors import UserError
from usd.mesh_io.read import read_mesh

HALF = 0.2140411  # light of a displayed half
RED_LEFT = picture([[(255, 0, 0)] * 2 + [(0, 0, 255)] * 2] * 4)


def near(found: list[float], expected: list[float], tolerance: float = 3e-3) -> bool:
    return max(abs(a - b) for a, b in zip(found, expected, strict=True)) < tolerance


# ----------------------------------------------------------------------------------------------------------- color


def test_factor_texture_and_vertex_colors_multiply_as_light(tmp_path: Path) -> None:
    file = Gltf()
    texture = file.texture(plain(188, 188, 188))  # 0.5029 of the light
    material = file.material(baseColorFactor=[0.5, 0.25, 1, 1], baseColorTexture=texture)
    color = np.tile(np.array([[0.8, 1, 0.5, 1]], np.float32), (4, 1))
    file.primitive(material=material, TEXCOORD_0=QUAD_UV, COLOR_0=color)
    assert near(shown(file.read(tmp_path)), display(0.5029 * 0.4, 0.5029 * 0.25, 0.5029 * 0.5))


def test_the_factor_alone_is_light(tmp_path: Path) -> None:
    file = Gltf()
    file.primitive(material=file.material(baseColorFactor=[HALF, 0, 1, 1]))
    assert near(shown(file.read(tmp_path)), [0.5, 0, 1])


def test_every_part_keeps_its_texture(tmp_path: Path) -> None:
    file = Gltf()
    for x, color in ((0, (255, 0, 0)), (2, (0, 128, 0))):
        material = file.material(baseColorTexture=file.texture(plain(*color)))
        file.primitive((QUAD + [x, 0, 0]).astype(np.float32), material=material, TEXCOORD_0=QUAD_UV)
    mesh = file.read(tmp_path)
    assert shown(mesh, 0.5) == [1, 0, 0] and near(shown(mesh, 2.5), [0, 128 / 255, 0])
    assert sum(color.texture is not None for color in mesh.colors) == 2


def integers(values: np.ndarray, kind: str) -> np.ndarray:
    return np.round(values * np.iinfo(kind).max).astype(kind)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_normalized_integers_are_fractions(tmp_path: Path, kind: str) -> None:
    file = Gltf()
    made = file.primitive(material=file.material(baseColorTexture=file.texture(RED_LEFT)))
    uv = integers(QUAD_UV * 0.25, kind)  # the left quarter alone: red
    made["attributes"]["TEXCOORD_0"] = file.accessor(uv, normalized=True)
    made["attributes"]["COLOR_0"] = file.accessor(integers(np.full((4, 3), 0.5), kind), normalized=True)
    assert near(shown(file.read(tmp_path), 0.5), display(0.5, 0, 0), 5e-3)


def test_integer_coordinates_are_fractions_unless_quantization_says_otherwise(tmp_path: Path) -> None:
    file = Gltf()
    made = file.primitive(material=file.material(baseColorTexture=file.texture(RED_LEFT)))
    made["attributes"]["TEXCOORD_0"] = file.accessor(integers(QUAD_UV, "uint8"))
    mesh = file.read(tmp_path)
    assert shown(mesh, 0.25) == [1, 0, 0] and shown(mesh, 0.75) == [0, 0, 1]
    file.require("KHR_mesh_quantization")
    assert shown(file.read(tmp_path), 0.25) == [0, 0, 1]  # u = 255 / 4: the right half of a repeated picture


def test_the_texture_lies_as_its_coordinates_say(tmp_path: Path) -> None:
    file = Gltf()
    rows = picture([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]])
    file.primitive(material=file.material(baseColorTexture=file.texture(rows)), TEXCOORD_0=QUAD_UV)
    mesh = file.read(tmp_path)
    corners = [(0.25, 0.75), (0.75, 0.75), (0.25, 0.25), (0.75, 0.25)]
    assert [shown(mesh, *at) for at in corners] == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"offset": [0.5, 0]}, [0, 0, 1]),
        ({"scale": [2.0, 1]}, [0, 0, 1]),
        ({"rotation": np.pi, "offset": [1.0, 1.0]}, [0, 0, 1]),
        ({"texCoord": 1}, [0, 0, 1]),
        ({}, [1, 0, 0]),
    ],
)
def test_texture_transform(tmp_path: Path, change: dict, expected: list) -> None:
    file = Gltf()
    info: dict[str, Any] = file.texture(RED_LEFT)
    file.require("KHR_texture_transform")
    info["extensions"] = {"KHR_texture_transform": change}
    other = np.tile(np.array([[0.75, 0.5]], np.float32), (4, 1))
    file.primitive(material=file.material(baseColorTexture=info), TEXCOORD_0=QUAD_UV, TEXCOORD_1=other)
    assert near(shown(file.read(tmp_path), 0.375), expected, 1e-4)


def test_a_quarter_turn_of_a_texture_is_counter_clockwise(tmp_path: Path) -> None:
    """Coordinates (1, 0) become (0, -1), v down: the left end of the picture's top row shows at the right."""
    file = Gltf()
    info: dict[str, Any] = file.texture(picture([[(255, 0, 0)] * 4, *[[(0, 0, 255)] * 4] * 3]))
    info["extensions"] = {"KHR_texture_transform": {"rotation": np.pi / 2, "offset": [0.0, 1.0]}}
    file.primitive(material=file.material(baseColorTexture=info), TEXCOORD_0=QUAD_UV)
    mesh = file.read(tmp_path)
    assert shown(mesh, 0.875, 0.5) == [1, 0, 0] and shown(mesh, 0.125, 0.5) == [0, 0, 1]


def test_the_second_coordinates_are_used_where_named(tmp_path: Path) -> None:
    file = Gltf()
    texture = {**file.texture(RED_LEFT), "texCoord": 1}
    blue = np.tile(np.array([[0.75, 0.5]], np.float32), (4, 1))
    file.primitive(material=file.material(baseColorTexture=texture), TEXCOORD_0=QUAD_UV, TEXCOORD_1=blue)
    assert shown(file.read(tmp_path), 0.2) == [0, 0, 1]


@pytest.mark.parametrize(("wrap", "expected"), [(10497, [1, 0, 0]), (33071, [0, 0, 1]), (33648, [0, 0, 1])])
def test_wrap_modes(tmp_path: Path, wrap: int, expected: list) -> None:
    """At u = 1.25 a repeated picture shows its left, a clamped one its rim, a mirrored one its right."""
    file = Gltf()
    file.tree["samplers"] = [{"wrapS": wrap, "wrapT": wrap, "magFilter": 9728}]
    texture = file.texture(RED_LEFT, sampler=0)
    uv = (QUAD_UV * [0, 1] + [1.25, 0]).astype(np.float32)
    file.primitive(material=file.material(baseColorTexture=texture), TEXCOORD_0=uv)
    assert shown(file.read(tmp_path)) == expected


def test_specular_glossiness_is_read_by_its_diffuse_color(tmp_path: Path) -> None:
    file = Gltf()
    file.require("KHR_materials_pbrSpecularGlossiness")
    glossy = {"diffuseFactor": [0, HALF, 0, 1], "diffuseTexture": file.texture(plain(255, 255, 255))}
    file.tree["materials"].append({"extensions": {"KHR_materials_pbrSpecularGlossiness": glossy}})
    file.primitive(material=0, TEXCOORD_0=QUAD_UV)
    assert near(shown(file.read(tmp_path)), [0, 0.5, 0])


def test_a_webp_texture_is_read(tmp_path: Path) -> None:
    file = Gltf()
    file.require("EXT_texture_webp")
    file.texture(picture(np.full((4, 4, 3), 128), "WEBP"))
    file.tree["textures"] = [{"extensions": {"EXT_texture_webp": {"source": 0}}}]
    file.primitive(material=file.material(baseColorTexture={"index": 0}), TEXCOORD_0=QUAD_UV)
    assert near(shown(file.read(tmp_path)), [128 / 255] * 3)


def test_basisu_is_refused_by_name_unless_there_is_another_picture(tmp_path: Path) -> None:
    file = Gltf()
    texture = file.texture(plain(0, 255, 0), extensions={"KHR_texture_basisu": {"source": 0}})
    file.primitive(material=file.material(baseColorTexture=texture), TEXCOORD_0=QUAD_UV)
    assert shown(file.read(tmp_path)) == [0, 1, 0]
    del file.tree["textures"][0]["source"]
    file.require("KHR_texture_basisu")
    with pytest.raises(
        UserError, match=r"a\.glb: its texture needs KHR_texture_basisu, which is not supported"
    ):
        file.read(tmp_path)


def test_cut_out_places_are_seen_through(tmp_path: Path) -> None:
    from usd.math.camera import orbit_cameras_deg
    from usd.mesh_io.pictures import pictures

    file = Gltf()
    holes = picture([[(255, 0, 0, 255)] * 2 + [(255, 0, 0, 0)] * 2] * 4)
    cut = file.material(baseColorTexture=file.texture(holes))
    file.tree["materials"][cut] |= {"alphaMode": "MASK", "alphaCutoff": 0.4}
    half = (QUAD - 0.5).astype(np.float32)
    file.primitive(half, material=cut, TEXCOORD_0=QUAD_UV)
    back = (half - [0, 0, 0.3]).astype(np.float32)
    file.primitive(back, material=file.material(baseColorFactor=[0, 0, 1, 1]))
    mesh = file.read(tmp_path)
    assert mesh.has_cutouts
    front = pictures(mesh, orbit_cameras_deg(0.0, [-90.0], 4.0, 20.0, 16))[0]
    assert torch.allclose(front[:3, 8, 5], torch.tensor([1.0, 0, 0]), atol=1e-5)
    assert torch.allclose(front[:3, 8, 10], torch.tensor([0, 0, 1.0]), atol=1e-5)


def test_transparency_is_said(tmp_path: Path) -> None:
    file = Gltf()
    file.primitive(material=file.material(baseColorFactor=[1, 0, 0, 0.3]))
    file.tree["materials"][0]["alphaMode"] = "BLEND"
    assert "transparent materials (alphaMode BLEND) are taken as opaque" in file.read(tmp_path).notes


def test_a_file_without_materials_has_no_colors_and_white_parts_beside_colored_ones(tmp_path: Path) -> None:
    file = Gltf()
    file.primitive()
    assert not file.read(tmp_path).has_colors
    file.primitive(
        (QUAD + [2, 0, 0]).astype(np.float32), material=file.material(baseColorFactor=[1, 0, 0, 1])
    )
    mesh = file.read(tmp_path)
    assert mesh.has_colors and shown(mesh, 0.5) == [1, 1, 1] and shown(mesh, 2.5) == [1, 0, 0]


def test_a_picture_that_is_not_there_is_said_and_not_measured(tmp_path: Path) -> None:
    file = Gltf()
    file.texture(b"")
    file.tree["images"] = [{"uri": "gone.png"}]
    file.primitive(material=file.material(baseColorTexture={"index": 0}), TEXCOORD_0=QUAD_UV)
    mesh = file.read(tmp_path)
    assert not mesh.has_colors and any("names 'gone.png', which is not there" in note for note in mesh.notes)


def test_a_texture_without_coordinates_is_said_and_not_measured(tmp_path: Path) -> None:
    file = Gltf()
    file.primitive(material=file.material(baseColorTexture=file.texture(RED_LEFT)))
    mesh = file.read(tmp_path)
    assert not mesh.has_colors and "a texture has no coordinates (TEXCOORD_0): no colors" in mesh.notes


# ----------------------------------------------------------------------------------------------------------- shape


def extent(file: Gltf, folder: Path) -> list[list[float]]:
    """Corners of the box in the file's own axes."""
    vertices = read_mesh(file.glb(folder / "a.glb"), "z").vertices
    return [[round(v, 4) for v in part.tolist()] for part in (vertices.amin(0), vertices.amax(0))]


def test_quantized_positions(tmp_path: Path) -> None:
    file = Gltf()
    file.require("KHR_mesh_quantization")
    made = file.primitive()
    made["attributes"]["POSITION"] = file.accessor(integers(QUAD, "int16"), normalized=True)
    assert extent(file, tmp_path) == [[0, 0, 0], [1, 1, 0]]
    made["attributes"]["POSITION"] = file.accessor((QUAD * 1000).astype(np.uint16))
    file.tree["nodes"][0]["scale"] = [0.001] * 3
    assert extent(file, tmp_path) == [[0, 0, 0], [1, 1, 0]]


def test_nodes_are_placed_and_mirrored_ones_keep_their_outside(tmp_path: Path) -> None:
    file = Gltf()
    file.primitive()
    s = 0.5**0.5
    file.tree["scenes"][0]["nodes"] = [1]
    file.tree["nodes"] += [
        {"children": [2], "translation": [10, 0, 0]},
        {"mesh": 0, "rotation": [0, 0, s, s], "scale": [-2, 1, 1]},
    ]
    assert extent(file, tmp_path) == [[9, -2, 0], [10, 0, 0]]
    mesh = read_mesh(tmp_path / "a.glb", "z")
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    assert (torch.linalg.cross(b - a, c - a)[:, 2] > 0).all()


def test_instances_are_all_there(tmp_path: Path) -> None:
    file = Gltf()
    file.require("EXT_mesh_gpu_instancing")
    file.primitive()
    moves = file.accessor(np.array([[0, 0, 0], [5, 0, 0], [0, 7, 0]], np.float32))
    file.tree["nodes"][0]["extensions"] = {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": moves}}}
    assert extent(file, tmp_path) == [[0, 0, 0], [6, 8, 0]] and len(file.read(tmp_path).faces) == 6


def test_skins_and_morph_targets_are_seen_at_rest(tmp_path: Path) -> None:
    """The joint stands at x = 3 and its inverse bind matrix takes 1 off; the skinned node's own place does not count."""
    file = Gltf()
    bind = np.eye(4, dtype=np.float32)
    bind[0, 3] = -1
    made = file.primitive(
        JOINTS_0=np.zeros((4, 4), np.uint8), WEIGHTS_0=np.tile(np.array([[1, 0, 0, 0]], np.float32), (4, 1))
    )
    made["targets"] = [{"POSITION": file.accessor(np.tile(np.array([[0, 0, 4]], np.float32), (4, 1)))}]
    file.tree["meshes"][0]["weights"] = [0.5]
    inverse = file.accessor(bind.T.reshape(1, 16))
    file.tree["skins"] = [{"joints": [1], "inverseBindMatrices": inverse}]
    file.tree["nodes"] = [{"mesh": 0, "skin": 0, "translation": [100, 0, 0]}, {"translation": [3, 0, 0]}]
    file.tree["scenes"][0]["nodes"] = [0, 1]
    assert extent(file, tmp_path) == [[2, 0, 2], [3, 1, 2]]


def test_interleaved_views_and_sparse_accessors(tmp_path: Path) -> None:
    file = Gltf()
    row = np.zeros(4, np.dtype([("p", "<f4", 3), ("t", "<u2", 2), ("pad", "u1", 4)]))
    row["p"], row["t"] = QUAD, integers(QUAD_UV, "uint16")
    view = file.view(row.tobytes(), byteStride=row.dtype.itemsize)
    made = file.primitive(material=file.material(baseColorTexture=file.texture(RED_LEFT)))
    made["attributes"]["POSITION"] = file.accessor(QUAD, view)
    made["attributes"]["TEXCOORD_0"] = file.accessor(row["t"].copy(), view, normalized=True, byteOffset=12)
    mesh = file.read(tmp_path)
    assert shown(mesh, 0.25) == [1, 0, 0] and shown(mesh, 0.75) == [0, 0, 1]
    at, to = (
        file.view(np.array([2], np.uint16).tobytes()),
        file.view(np.array([[1, 9, 0]], np.float32).tobytes()),
    )
    file.tree["accessors"][made["attributes"]["POSITION"]]["sparse"] = {
        "count": 1, "indices": {"bufferView": at, "componentType": 5123}, "values": {"bufferView": to}
    }  # fmt: skip
    assert extent(file, tmp_path) == [[0, 0, 0], [1, 9, 0]]


@pytest.mark.parametrize(("mode", "order"), [(4, [0, 1, 2, 0, 2, 3]), (5, [0, 1, 3, 2]), (6, [0, 1, 2, 3])])
def test_lists_strips_and_fans_face_the_same_way(tmp_path: Path, mode: int, order: list) -> None:
    file = Gltf()
    file.primitive(faces=np.array(order, np.uint8), mode=mode)
    mesh = read_mesh(file.glb(tmp_path / "a.glb"), "z")
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    cross = torch.linalg.cross(b - a, c - a)
    assert len(cross) == 2 and torch.equal(cross, torch.tensor([[0, 0, 1.0]]).double().expand(2, 3))


def test_lines_beside_faces_are_said_and_alone_refused(tmp_path: Path) -> None:
    file = Gltf()
    file.primitive()
    file.primitive(mode=1)
    assert "1 primitives of points or lines are left out" in file.read(tmp_path).notes
    del file.tree["meshes"][0]["primitives"][0]
    with pytest.raises(
        UserError, match=r"a\.glb: has no faces, points and lines only; expected a triangle mesh"
    ):
        file.read(tmp_path)


def test_a_primitive_without_indices(tmp_path: Path) -> None:
    file = Gltf()
    file.primitive(QUAD[QUAD_FACES], None)
    mesh = file.read(tmp_path)
    assert len(mesh.faces) == 2 and len(mesh.vertices) == 4


def test_buffers_and_pictures_beside_the_file_and_in_it(tmp_path: Path) -> None:
    file = Gltf()
    file.primitive(material=file.material(baseColorTexture={"index": 0}), TEXCOORD_0=QUAD_UV)
    (tmp_path / "my data.BIN").write_bytes(file.data)
    (tmp_path / "Tex.png").write_bytes(plain(0, 0, 255))
    tree = {**file.tree, "images": [{"uri": "tex.PNG"}], "textures": [{"source": 0}]}
    tree["buffers"] = [{"byteLength": len(file.data), "uri": "my%20data.bin"}]
    (tmp_path / "b.gltf").write_text(json.dumps(tree), encoding="utf-8-sig")
    mesh = read_mesh(tmp_path / "b.gltf")
    assert shown(mesh) == [0, 0, 1] and "'tex.PNG' is read from Tex.png" in mesh.notes
    tree["buffers"] = [{"byteLength": len(file.data), "uri": file.data_uri()}]
    tree["images"] = [{"uri": "data:image/png;base64," + base64.b64encode(plain(255, 0, 0)).decode()}]
    (tmp_path / "b.gltf").write_text(json.dumps(tree))
    assert shown(read_mesh(tmp_path / "b.gltf")) == [1, 0, 0]
    tree["buffers"] = [{"byteLength": len(file.data), "uri": "gone.bin"}]
    (tmp_path / "b.gltf").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"b\.gltf: names 'gone\.bin', which is not there"):
        read_mesh(tmp_path / "b.gltf")
    (tmp_path / "gone.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"b\.gltf: 'gone\.bin' is a Git LFS pointer"):
        read_mesh(tmp_path / "b.gltf")


# ------------------------------------------------------------------------------------------------------ compression

ATTRIBUTES = (
    "oB8A5gdJjpaJ2qXFD6TMQ5bRs08syfXW7u2JEJmbTHVA/f//AABL1W/aXMiGjR8AKbaV7yzzxjBG5m9jy4bf8Nn0n2Arn9jN6Sib"
    "Gt8Ubf//AADXwcfHgiAlVB8ASLA/nhCnOLPQwahDkjCzMrcpRKRJhlC/LL1oP6BPeP//AAByyybB5K+aVRUweDwefv/6Bv8PB4PB"
    "/AT//ATg8AAA//wEHwBlAGVmZsvNy83LZWVnZWVlZWdlZczOzM7MzM7MzszM//8AAM7MzszMzszOHwBnAGVmaM3LzcvLZ2VlZWVn"
    "ZWVlZczMzszOzMzOzM7M//8AAMzOzM7MzM7MKwBn/5pmaDI0MjQ0GBoaGhr///zOzszs7BgaGhoazs7M7AAAAAAFOCAAAHgAgAAA"
    "HwCLXoyLuV1bugAA6ItejIu5XVu6AADoi16Mi7ldW7oAP/8AAOiLXoyLuV0fAC+LMC/njIzoAABbL4swL+eMjOgAAFsvizAv54yM"
    "6AA//wAAWy+LMC/njB8ARNJFuV4u0Vv//4xE0kW5Xi7RW///jETSRbleLtFb////AAD/jETSRbleLhU2GXfYfgR7fmXfYZcEe34E"
    "fYYAAHt+AAAVPPPPPP/////////////zzzzz///////////////PPAAA//////8fAIJ+/4J+/4J+/4J+/4J+/4J+/4J+/4J+/4J+"
    "/4J+/4L//wAAfv+Cfv+Cfv8AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACAvw=="
)
TRIANGLES = "4fD8/Pz8/Pz8/Pz8/Pz8/Pz8/Pz/nwoMAHaHVmd4qYZliWiYAWkAAA=="
INDICES = "0QAEBAAEBAAEBAAEBAAEBAAEBAAEBAAEBAAEBAAEBAAEBAAEBAAEBAAEBAAEBAAEBAAEBAAEBAAEBBVlSwAAAAA="
EXPONENTIAL = (
    "oB8ATmv5dCkpv6zRYpvun9wbn7jJcsnYFhgLgcbBgvfAGf//AAA6BGHQuZLaqCoKMBc3pqME03pqMBc3pqMBc3pqMAAAAAAVABAg"
    "BAgBAgBAgAAAFRhhhjwDBGGGGGGGGAAAHwBmADT/mTRnzjI0NDIAZjSZ/zQAZjSYMTLLyzIxmDRmP/8AADT/mTRnzjIpAAJNPAQI"
    "B0MEEEMGUGUmUGUIcAAAAAAAFRhhhjwDBGGGGGGGGAAAHwAuAOeLuue6i+cALuddjOeKW+ktXunn5+leLelbiufo/P8AALnnLueL"
    "uucqCnQnYFQDRBEUMUEUHJPJGnGnQnYAAAAAABUYYYY8AwRhhhhhhhgAAAAqCI+I+I+I+I8PDw8PD4j4j4j4j4j4Dw8PDw+PiPiP"
    "AAAAAA8PDxUhhhhhhhhhhhhhAAAVGGGGPAMEYYYYYYYYAAAAAAAAAAAAAAAAAAAAAAAAAAAA9gAAAPYAAAD2APz/9g=="
)


def compressed_vertices() -> np.ndarray:
    """What the two attribute streams hold: 40 elements of four numbers."""
    i = np.arange(40)
    return np.stack([np.sin(i * 0.7), i / 40, (i * 7 % 11) / 11, i % 3 - 1.0], -1).astype(np.float32)


def compressed_triangles() -> np.ndarray:
    """What the two streams of indices hold."""
    i = 2 * np.arange(20)
    return np.concatenate([np.stack([i % 38, (i + 1) % 38, (i + 2) % 40], -1)[:19], [[5, 30, 11]]])


@pytest.mark.parametrize(("stream", "mode"), [(TRIANGLES, "TRIANGLES"), (INDICES, "INDICES")])
def test_meshopt_compression(tmp_path: Path, stream: str, mode: str) -> None:
    """Streams made once by meshoptimizer 1.3.0's encoder."""
    file = Gltf()
    file.require("EXT_meshopt_compression")
    made = file.primitive()
    for target, text, count, kind in (
        ("POSITION", ATTRIBUTES, 40, "ATTRIBUTES"),
        ("indices", stream, 60, mode),
    ):
        content = base64.b64decode(text)
        stride = 16 if kind == "ATTRIBUTES" else 4
        packed = {"byteLength": len(content), "byteStride": stride, "count": count, "mode": kind}
        view = file.view(content)
        packed |= {"buffer": 0, "byteOffset": file.tree["bufferViews"][view]["byteOffset"]}
        file.tree["bufferViews"][view] |= {
            "byteLength": count * stride,
            "extensions": {"EXT_meshopt_compression": packed},
        }
        if kind == "ATTRIBUTES":
            file.tree["bufferViews"][view]["byteStride"] = 16
            made["attributes"][target] = file.accessor(compressed_vertices()[:, :3].copy(), view)
        else:
            made[target] = file.accessor(np.zeros(60, np.uint32), view)
    mesh = read_mesh(file.glb(tmp_path / "a.glb"), "z")
    expected = compressed_vertices()[compressed_triangles()][..., :3].astype(np.float64)
    found = mesh.vertices[mesh.faces].numpy()
    assert sorted(map(corner_set, found)) == sorted(map(corner_set, expected))


def corner_set(corners: np.ndarray) -> list[tuple]:
    """A triangle's corners, the smallest first, in the order of turning."""
    rows = [tuple(row) for row in corners]
    first = rows.index(min(rows))
    return rows[first:] + rows[:first]


def test_meshopts_exponential_filter() -> None:
    from usd.mesh_io.meshopt import decode_view

    content = decode_view(base64.b64decode(EXPONENTIAL), 40, 16, "ATTRIBUTES", "EXPONENTIAL")
    found = np.frombuffer(content, np.float32).reshape(40, 4)
    assert np.abs(found - compressed_vertices()).max() < 1e-3


def test_draco_compression(tmp_path: Path) -> None:
    draco = pytest.importorskip("DracoPy")
    file = Gltf()
    file.require("KHR_draco_mesh_compression")
    color = np.tile(np.array([[255, 0, 0, 255]], np.uint8), (4, 1))
    faces = QUAD_FACES.reshape(-1, 3).astype(np.uint32)
    content = draco.encode(QUAD, faces, colors=color, tex_coord=QUAD_UV.astype(float), preserve_order=True)
    ids = {part["attribute_type"]: part["unique_id"] for part in draco.decode(content).attributes}
    made = file.primitive(TEXCOORD_0=QUAD_UV, material=file.material(baseColorTexture=file.texture(RED_LEFT)))
    made["attributes"]["COLOR_0"] = file.accessor(color, normalized=True)
    for entry in file.tree["accessors"]:
        del entry["bufferView"]
    names = {"POSITION": ids[0], "COLOR_0": ids[2], "TEXCOORD_0": ids[3]}
    made["extensions"] = {
        "KHR_draco_mesh_compression": {"bufferView": file.view(content), "attributes": names}
    }
    mesh = file.read(tmp_path)
    assert len(mesh.faces) == 2 and float(mesh.vertices.amax()) == pytest.approx(1, abs=1e-3)
    assert near(shown(mesh, 0.2), [1, 0, 0]) and near(shown(mesh, 0.8), [0, 0, 0])


def test_draco_without_its_package_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "DracoPy", None)
    file = Gltf()
    file.require("KHR_draco_mesh_compression")
    made = file.primitive()
    del file.tree["accessors"][0]["bufferView"]
    made["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}}
    with pytest.raises(UserError, match=r"KHR_draco_mesh_compression.*pip install DracoPy"):
        file.read(tmp_path)


# ---------------------------------------------------------------------------------------------------------- refusal


def test_required_extensions_are_refused_by_name(tmp_path: Path) -> None:
    file = Gltf()
    file.primitive()
    file.require("KHR_materials_unlit", "KHR_materials_clearcoat", "ACME_bricks")
    with pytest.raises(
        UserError, match=r"a\.glb: requires ACME_bricks, which is not supported; expected .*meshopt"
    ):
        file.read(tmp_path)
    file.require("KHR_materials_unlit", "KHR_materials_clearcoat")
    assert len(file.read(tmp_path).faces) == 2


def break_index(file: Gltf) -> None:
    file.tree["meshes"][0]["primitives"][0]["indices"] = file.accessor(
        np.array([0, 1, 2, 0, 2, 9], np.uint16)
    )


def break_position(file: Gltf) -> None:
    wrong = QUAD.copy()
    wrong[3] = np.nan
    file.tree["meshes"][0]["primitives"][0]["attributes"]["POSITION"] = file.accessor(wrong)


def break_version(file: Gltf) -> None:
    file.tree["asset"]["version"] = "1.0"


def break_view(file: Gltf) -> None:
    file.tree["bufferViews"][0]["byteLength"] = 10**6


def break_count(file: Gltf) -> None:
    file.tree["accessors"][0]["count"] = 999


def make_splat(file: Gltf) -> None:
    file.tree["meshes"][0]["primitives"][0] |= {"mode": 0, "extensions": {"KHR_gaussian_splatting": {}}}


BROKEN = {
    break_index: "mesh 0, primitive 0: face 1 names vertex 9; expected 0 to 3",
    break_position: r"1 of its vertices are not numbers \(first in face 1\); expected finite coordinates",
    break_version: r"is glTF 1\.0; expected glTF 2\.0",
    break_view: "buffer view 0 reaches beyond its buffer; is the file cut off",
    break_count: "an accessor of 999 elements reaches beyond its buffer view",
    make_splat: "is a Gaussian splat; expected a triangle mesh",
}


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: change.__name__)
def test_broken_files_are_one_line(tmp_path: Path, change: Any) -> None:
    file = Gltf()
    file.primitive()
    change(file)
    with pytest.raises(UserError, match=BROKEN[change]) as caught:
        file.read(tmp_path)
    assert "\n" not in str(caught.value) and "a.glb" in str(caught.value)


def test_a_texture_that_names_no_picture_is_said_and_not_measured(tmp_path: Path) -> None:
    file = Gltf()
    file.tree["textures"] = [{}]
    file.primitive(material=file.material(baseColorTexture={"index": 0}), TEXCOORD_0=QUAD_UV)
    mesh = file.read(tmp_path)
    assert not mesh.has_colors and any("it names no picture" in note for note in mesh.notes)
