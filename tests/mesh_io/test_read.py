"""PLY, STL and OFF files, and what no mesh file is."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.mesh_io.gltf_files import plain, shown
from usd.core.errors import UserError
from usd.mesh_io.read import read_mesh

SQUARE = [(0, 0), (1, 0), (1, 1), (0, 1)]
HEAD = "ply\nformat {form} 1.0\n{comment}element vertex 4\nproperty float x\nproperty double y\nproperty float z\n"
FACES = "element face {count}\n{more}property list uchar int vertex_indices\n"


def ascii_ply(
    folder: Path, vertex: str, face: str, rows: list[str], faces: list[str], comment: str = ""
) -> Path:
    head = HEAD.format(form="ascii", comment=comment) + vertex + FACES.format(count=len(faces), more=face)
    (folder / "a.ply").write_text(head + "end_header\n" + "\n".join([*rows, *faces]) + "\n")
    return folder / "a.ply"


@pytest.mark.parametrize(
    ("form", "order"), [("ascii", ""), ("binary_little_endian", "<"), ("binary_big_endian", ">")]
)
def test_ply_in_every_form(tmp_path: Path, form: str, order: str) -> None:
    colors = "property uchar red\nproperty uchar green\nproperty uchar blue\n"
    head = HEAD.format(form=form, comment="") + colors + FACES.format(count=2, more="") + "end_header\n"
    if order:
        data = b"".join(struct.pack(order + "fdfBBB", x, 0, y, 255, 128, 0) for x, y in SQUARE)
        data += struct.pack(order + "BiiiBiii", 3, 0, 1, 2, 3, 0, 2, 3)
    else:
        rows = [f"{x} 0 {y} 255 128 0" for x, y in SQUARE]
        data = "\n".join([*rows, "3 0 1 2", "3 0 2 3"]).encode()
    (tmp_path / "a.ply").write_bytes(head.encode() + data)
    mesh = read_mesh(tmp_path / "a.ply")
    assert shown(mesh) == [1, round(128 / 255, 4), 0] and mesh.vertices.amax(0).tolist() == [1, 0, 1]


def test_binary_ply_with_polygons_of_several_sizes(tmp_path: Path) -> None:
    head = (
        HEAD.format(form="binary_little_endian", comment="") + FACES.format(count=2, more="") + "end_header\n"
    )
    data = b"".join(struct.pack("<fdf", x, y, 0) for x, y in SQUARE)
    data += struct.pack("<Biiii", 4, 0, 1, 2, 3) + struct.pack("<Biii", 3, 0, 2, 1)
    (tmp_path / "a.ply").write_bytes(head.encode() + data)
    assert len(read_mesh(tmp_path / "a.ply").faces) == 3
    (tmp_path / "a.ply").write_bytes(head.encode() + data[:-3])
    with pytest.raises(UserError, match=r"a\.ply: cannot be read as a mesh: is the file cut off"):
        read_mesh(tmp_path / "a.ply")


@pytest.mark.parametrize(
    ("kind", "values"),
    [("float", "51 102 255"), ("float", "0.2 0.4 1"), ("int", "51 102 255"), ("ushort", "13107 26214 65535")],
)
def test_ply_colors_of_every_type(tmp_path: Path, kind: str, values: str) -> None:
    vertex = "".join(f"property {kind} {name}\n" for name in ("red", "green", "blue"))
    rows = [f"{x} 0 {y} {values}" for x, y in SQUARE]
    found = shown(read_mesh(ascii_ply(tmp_path, vertex, "", rows, ["4 0 1 2 3"])))
    assert found == pytest.approx([0.2, 0.4, 1], abs=1e-4)


def test_ply_colors_of_faces_stay_apart(tmp_path: Path) -> None:
    colors = "property uchar red\nproperty uchar green\nproperty uchar blue\n"
    rows = [f"{x} 0 {y}" for x, y in SQUARE]
    mesh = read_mesh(ascii_ply(tmp_path, "", colors, rows, ["255 0 0 3 0 1 2", "0 0 255 3 0 2 3"]))
    assert shown(mesh, 0.9, 0.2) == [1, 0, 0] and shown(mesh, 0.2, 0.9) == [0, 0, 1]


def test_a_ply_face_with_a_vertex_that_is_not_there_is_named(tmp_path: Path) -> None:
    rows = [f"{x} 0 {y}" for x, y in SQUARE]
    with pytest.raises(UserError, match=r"a\.ply: face 1 names vertex 9; expected 0 to 3"):
        read_mesh(ascii_ply(tmp_path, "", "", rows, ["4 0 1 2 3", "3 0 2 9"]))


def test_ply_textures(tmp_path: Path) -> None:
    (tmp_path / "T.png").write_bytes(plain(0, 255, 0))
    rows = [f"{x} 0 {y} {x} {y}" for x, y in SQUARE]
    vertex, comment = "property float s\nproperty float t\n", "comment TextureFile t.png\n"
    file = ascii_ply(tmp_path, vertex, "", rows, ["4 0 1 2 3"], comment)
    assert shown(read_mesh(file)) == [0, 1, 0]
    (tmp_path / "T.png").unlink()
    mesh = read_mesh(file)
    assert not mesh.has_colors and "its texture 't.png' is not there or no picture: no colors" in mesh.notes


def test_off_and_stl(tmp_path: Path) -> None:
    corners = "0 0 0\n1 0 0 # second\n0 0 1\n0 1 0\n"
    faces = "3 0 1 2 255 0 0\n3 0 2 3 255 0 0\n3 0 3 1 255 0 0\n3 1 3 2 255 0 0\n"
    (tmp_path / "a.off").write_text(f"OFF\n4 4 0\n{corners}{faces}")
    mesh = read_mesh(tmp_path / "a.off")
    assert len(mesh.faces) == 4 and len(mesh.vertices) == 4
    assert torch.allclose(
        mesh.display_colors(torch.arange(4), torch.full((4, 3), 1 / 3)), torch.tensor([1.0, 0, 0]), atol=1e-5
    )
    facet = "facet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 2 0 0\nvertex 0 1 0\nendloop\nendfacet\n"
    (tmp_path / "a.stl").write_text(f"solid x\n{facet}endsolid x\n")
    assert read_mesh(tmp_path / "a.stl").vertices.amax(0).tolist() == [2, 1, 0]


SPLAT = "".join(
    f"property float {name}\n" for name in ("f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "rot_0")
)
BROKEN = {
    "empty.glb": (b"", "the file is empty"),
    "blank.obj": (b" \n", "the file is empty"),
    "lfs.ply": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer"),
    "page.glb": (b"<!DOCTYPE html><html></html>", "is a web page"),
    "cloud.ply": ((HEAD.format(form="ascii", comment="") + "end_header\n" + "0 0 0\n" * 4).encode(), "has no faces, 4 points only"),
    "splat.ply": ((HEAD.format(form="ascii", comment="") + SPLAT + "end_header\n").encode(), "is a Gaussian splat"),
    "text.ply": (b"not a mesh", "has no PLY header"),
    "text.stl": (b"not a mesh", "stl: "),
    "text.off": (b"not a mesh", "is no ASCII OFF file"),
    "text.gltf": (b"not a mesh", "cannot be read as a mesh"),
    "points.off": (b"OFF\n1 0 0\n0 0 0\n", "has 0 of 0 faces, 1 points"),
    "index.off": (b"OFF\n3 2 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n3 0 1 7\n", "face 1 names vertex 7; expected 0 to 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_mesh_is_one_line(tmp_path: Path, name: str) -> None:
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_mesh(tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize("role", ["PRED", "--reference"])
@pytest.mark.parametrize("name", ["empty.glb", "lfs.ply", "cloud.ply", "splat.ply"])
def test_evaluation_refuses_them_in_both_roles(tmp_path: Path, name: str, role: str) -> None:
    from usd.evaluation.sources import open_source

    (tmp_path / name).write_bytes(BROKEN[name][0])
    with pytest.raises(UserError, match=f"{role}: .*{name}: .*{BROKEN[name][1]}"):
        open_source(str(tmp_path / name), role)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "chair.ply").write_text("x")
    with pytest.raises(
        UserError, match=r"chiar\.ply: no such mesh file; expected a mesh file\. Did you mean 'chair\.ply'"
    ):
        read_mesh(tmp_path / "chiar.ply")


def test_vertices_that_no_face_uses_do_not_count(tmp_path: Path) -> None:
    rows = [*(f"{x} {y} 0" for x, y in SQUARE[:3]), "nan 1e9 0"]
    mesh = read_mesh(ascii_ply(tmp_path, "", "", rows, ["3 0 1 2"]))
    assert len(mesh.vertices) == 3 and np.isfinite(mesh.vertices.numpy()).all()


def test_several_textures_of_a_ply_file_lie_where_faces_name_them(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(plain(255, 0, 0))
    (tmp_path / "blue.png").write_bytes(plain(0, 0, 255))
    more = "property list uchar float texcoord\nproperty int texnumber\n"
    rows = [f"{x} 0 {y}" for x, y in SQUARE]
    faces = ["6 0 0 1 0 1 1 0 3 0 1 2", "6 0 0 1 1 0 1 1 3 0 2 3"]
    path = ascii_ply(
        tmp_path, "", more, rows, faces, "comment TextureFile red.png\ncomment TextureFile blue.png\n"
    )
    mesh = read_mesh(path)
    assert shown(mesh, 0.8, 0.2) == [1, 0, 0] and shown(mesh, 0.2, 0.8) == [0, 0, 1] and not mesh.notes
    path.write_text(path.read_text().replace("1 3 0 2 3", "2 3 0 2 3"))
    assert not read_mesh(path).has_colors and "faces name none" in read_mesh(path).notes[0]


def stl(folder: Path, attribute: int, head: bytes = b"solid", tail: bytes = b"") -> Path:
    facets = [struct.pack("<12fH", 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, y, attribute) for y in (1, 2)]
    (folder / "a.stl").write_bytes(head.ljust(80) + struct.pack("<I", 2) + b"".join(facets) + tail)
    return folder / "a.stl"


@pytest.mark.parametrize(
    ("attribute", "head", "color"),
    [
        (0x8000 | 31 << 10, b"VisCAM", [1, 0, 0]),
        (31, b"COLOR=\x00\x00\xff\xff", [1, 0, 0]),
        (0x8000, b"COLOR=\x00\x00\xff\xff", [0, 0, 1]),
    ],
)
def test_colors_of_binary_stl(tmp_path: Path, attribute: int, head: bytes, color: list) -> None:
    mesh = read_mesh(stl(tmp_path, attribute, head))
    found = mesh.display_colors(torch.tensor([0]), torch.full((1, 3), 1 / 3))
    assert mesh.has_colors and found[0].tolist() == pytest.approx(color, abs=1e-4)


def test_binary_stl_of_every_kind_and_ascii_cut_off(tmp_path: Path) -> None:
    mesh = read_mesh(stl(tmp_path, 0, b"solid made by someone", b"what a program left behind"))
    assert len(mesh.faces) == 2 and not mesh.has_colors
    path = stl(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"a\.stl: .* has 1 of 2 faces: is the file cut off"):
        read_mesh(path)
    facet = "facet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 2 0 0\nvertex 0 1 0\nendloop\nendfacet\n"
    path.write_text(f"solid x\n{facet}endsolid x\nsolid y\n{facet}".replace("vertex", "VERTEX"))
    with pytest.raises(UserError, match=r"a\.stl: .*is the file cut off"):
        read_mesh(path)


@pytest.mark.parametrize(("name", "kind"), [("a.USDZ", "USDZ"), ("a.fbx", "FBX"), ("a.dae", "COLLADA")])
def test_other_mesh_formats_are_named_with_what_to_do(tmp_path, name, kind):
    said = f"{name}: is of a kind that is not read, {kind}; expected .glb, .* Blender reads most of them"
    with pytest.raises(UserError, match=said):
        read_mesh(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.obj", b"glTF\2\0\0\0", r"a\.obj: is a \.glb file with another ending; expected the name a\.glb"),
        (
            "a.stl",
            b'\xef\xbb\xbf {"asset": {"version": "2.0"}}',
            r"is a \.gltf file .* expected the name a\.gltf",
        ),
        ("a.glb", b"ply\nformat ascii 1.0\n", r"is a \.ply file .* expected the name a\.ply"),
        ("a.off", b"solid x\n", r"is a \.stl file .* expected the name a\.stl"),
        ("a.ply", b"Kaydara FBX Binary", "is of a kind that is not read, FBX; expected .* Blender reads"),
        ("a.obj", b"PK\3\4", r"not read, a zip archive \(USDZ and 3MF are some\)"),
    ],
)
def test_a_mesh_under_another_ending_is_told_by_its_first_bytes(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_mesh(tmp_path / name)


def test_the_head_of_a_binary_stl_may_say_anything(tmp_path):
    facet = struct.pack("<12fH", *[0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0], 0)
    (tmp_path / "a.stl").write_bytes(b"glTF to STL".ljust(80) + struct.pack("<I", 1) + facet)
    assert len(read_mesh(tmp_path / "a.stl").faces) == 1
