"""OBJ files and their material libraries: names of every kind, options, what is missing is said and never a color."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.mesh_io.gltf_files import display, picture, plain, shown
from usd.core.errors import UserError
from usd.mesh_io.mtl import texture_line
from usd.mesh_io.read import read_mesh

QUAD = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
FACE = "f 1/1 2/2 3/3 4/4\n"


def obj(folder: Path, text: str, library: str | None = None, name: str = "a.mtl") -> Path:
    if library is not None:
        (folder / name).write_text(library)
    (folder / "a.obj").write_text(text)
    return folder / "a.obj"


@pytest.mark.parametrize(
    "statement",
    [
        "map_Kd wood.png",
        "map_Kd Wood.PNG",
        "map_Kd textures\\wood.png",
        "map_Kd C:\\Users\\me\\wood.png",
        "map_Kd ./wood.png",
        "map_Kd -s 1 1 1 wood.png",
        "map_Kd -blendu on -mm 0 1 -o 0 0 0 -clamp off wood.png # oak",
        "map_kd\twood.png",
        '  map_Kd   "wood.png"  ',
    ],
)
def test_a_texture_is_found_by_its_name(tmp_path: Path, statement: str) -> None:
    (tmp_path / "wood.png").write_bytes(plain(200, 100, 50))
    mesh = read_mesh(
        obj(tmp_path, f"mtllib a.mtl\n{QUAD}usemtl m\n{FACE}", f"newmtl m\nKd 1 1 1\n{statement}\n")
    )
    assert mesh.has_colors and shown(mesh) == [round(v / 255, 4) for v in (200, 100, 50)]


def test_names_with_spaces_and_subfolders(tmp_path: Path) -> None:
    (tmp_path / "Maps").mkdir()
    (tmp_path / "Maps/old wood.png").write_bytes(plain(0, 255, 0))
    library = "newmtl my oak\nmap_Kd maps/old wood.png\n"
    mesh = read_mesh(obj(tmp_path, f"mtllib my lib.mtl\n{QUAD}usemtl my oak\n{FACE}", library, "my lib.mtl"))
    assert shown(mesh) == [0, 1, 0] and "'maps/old wood.png' is read from old wood.png" in mesh.notes


def test_several_libraries_on_one_line_and_on_several(tmp_path: Path) -> None:
    for name, color in (("one", "1 0 0"), ("two", "0 1 0"), ("three", "0 0 1")):
        (tmp_path / f"{name}.mtl").write_text(f"newmtl {name}\nKd {color}\n")
    faces = "usemtl one\nf 1 2 3\nusemtl three\nf 1 3 4\nusemtl two\nv 5 5 0\nf -1 -2 -3\n"
    mesh = read_mesh(obj(tmp_path, f"mtllib one.mtl two.mtl\nmtllib three.mtl\n{QUAD}{faces}"))
    assert shown(mesh, 0.8, 0.2) == [1, 0, 0] and shown(mesh, 0.2, 0.8) == [0, 0, 1] and len(mesh.faces) == 3


def test_kd_multiplies_its_texture_as_light(tmp_path: Path) -> None:
    (tmp_path / "t.png").write_bytes(plain(188, 188, 188))
    library = "newmtl m\nKd 0.5 1 0\nmap_Kd t.png\n"
    found = shown(read_mesh(obj(tmp_path, f"mtllib a.mtl\n{QUAD}usemtl m\n{FACE}", library)))
    assert found == pytest.approx(display(0.5029 * 0.2140, 0.5029, 0), abs=3e-3)


def test_a_black_kd_beside_a_texture_is_said_and_taken_as_white(tmp_path: Path) -> None:
    (tmp_path / "t.png").write_bytes(plain(255, 0, 0))
    library = "newmtl m\nKd 0 0 0\nmap_Kd t.png\n"
    mesh = read_mesh(obj(tmp_path, f"mtllib a.mtl\n{QUAD}usemtl m\n{FACE}", library))
    assert shown(mesh) == [1, 0, 0] and any("its Kd is black beside a texture" in note for note in mesh.notes)


@pytest.mark.parametrize(
    ("text", "library", "note"),
    [
        ("mtllib a.mtl\nusemtl m\n", "newmtl m\nmap_Kd gone.png\n", "its texture 'gone.png' is not there"),
        ("mtllib a.mtl\nusemtl other\n", "newmtl m\nKd 1 0 0\n", "material 'other' is in no library"),
        ("mtllib gone.mtl\nusemtl m\n", None, "material library 'gone.mtl' is not there"),
        ("mtllib a.mtl\nusemtl m\n", "newmtl m\nmap_Kd a.obj\n", "its texture a.obj is no picture"),
    ],
)
def test_what_is_missing_is_said_and_is_no_color(
    tmp_path: Path, text: str, library: str | None, note: str
) -> None:
    mesh = read_mesh(obj(tmp_path, text + QUAD + FACE, library))
    assert not mesh.has_colors and any(note in line for line in mesh.notes)


def test_flat_materials_stay_apart_at_shared_vertices(tmp_path: Path) -> None:
    library = "newmtl r\nKd 1 0 0\nnewmtl b\nKd 0 0 1\n"
    mesh = read_mesh(obj(tmp_path, f"mtllib a.mtl\n{QUAD}usemtl r\nf 1 2 3\nusemtl b\nf 1 3 4\n", library))
    assert len(mesh.vertices) == 4
    assert shown(mesh, 0.9, 0.2) == [1, 0, 0] and shown(mesh, 0.2, 0.9) == [0, 0, 1]


def test_texture_options_move_the_picture(tmp_path: Path) -> None:
    (tmp_path / "t.png").write_bytes(picture([[(255, 0, 0)] * 2 + [(0, 0, 255)] * 2] * 4))
    library = "newmtl m\nmap_Kd -s 0.5 1 1 -o 0.5 t.png\n"  # the right half alone
    mesh = read_mesh(obj(tmp_path, f"mtllib a.mtl\n{QUAD}usemtl m\n{FACE}", library))
    assert shown(mesh, 0.25) == [0, 0, 1] and shown(mesh, 0.75) == [0, 0, 1]
    line = texture_line("-bm 2 -s 2 3 -clamp on a 1.png")
    assert (line.names[0], line.clamp, line.scale, line.offset) == ("a 1.png", True, (2.0, 3.0), (0.0, 0.0))


def test_vertex_colors_are_shown_as_they_stand(tmp_path: Path) -> None:
    """In [0, 1] or bytes; beside a texture they are left out, which is said."""
    rows = "".join(f"v {x} {y} 0 0.25 0.5 1\n" for x, y in ((0, 0), (1, 0), (1, 1)))
    assert shown(read_mesh(obj(tmp_path, rows + "f 1 2 3\n")), 0.7, 0.2) == pytest.approx(
        [0.25, 0.5, 1], abs=1e-4
    )
    rows = rows.replace("0.25 0.5 1", "51 102 255")
    mesh = read_mesh(obj(tmp_path, rows + "f 1 2 3\n"))
    assert shown(mesh, 0.7, 0.2) == pytest.approx([0.2, 0.4, 1], abs=1e-4)
    assert "vertex colors beyond 1 are taken as bytes" in mesh.notes


def test_a_concave_polygon_is_cut_by_its_ears(tmp_path: Path) -> None:
    """An L of six corners, whose fan from its first corner would cover what is outside."""
    corners = [(2, 1), (1, 1), (1, 3), (0, 3), (0, 0), (2, 0)]
    rows = "".join(f"v {x} {y} 0\n" for x, y in corners)
    mesh = read_mesh(obj(tmp_path, rows + "f 1 2 3 4 5 6\n"), "z")
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a)[:, 2] / 2
    assert len(area) == 4 and (area > 0).all() and float(area.sum()) == pytest.approx(4)
    middle = (a + b + c)[:, :2] / 3
    assert not ((middle[:, 0] > 1) & (middle[:, 1] > 1)).any()


def test_far_coordinates_keep_their_digits(tmp_path: Path) -> None:
    """UTM: half a million meters from the origin, a millimeter apart."""
    rows = "".join(
        f"v {x:.4f} {y:.4f} 0\n" for x, y in ((500000, 5400000), (500000.001, 5400000), (500000, 5400000.002))
    )
    mesh = read_mesh(obj(tmp_path, rows + "f 1 2 3\n"), "z")
    extent = (mesh.vertices.amax(0) - mesh.vertices.amin(0)).numpy()
    assert np.allclose(extent, [0.001, 0.002, 0], atol=1e-8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", r"line 4: the face names vertex 9; expected 1 to 3"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 0\n", r"line 4: the face names vertex 0; expected 1 to 3"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 -9\n", r"line 4: the face names vertex -5"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 x\n", r"line 4: 'f 1 2 x' cannot be read"),
        ("v 0 0 0\nv 1 0 0\n", "has no faces, 2 points only"),
        ("v 0 0\nf 1 1 1\n", "vertex 1 has 2 coordinates; expected three"),
        ("v 0 0 0\nv 1 nan 0\nv 0 1 0\nf 1 2 3\n", "1 of its vertices are not numbers"),
        ("v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n", "all its faces have collapsed"),
        ("v 0 0 0\nv 1 1 1\nv 2 2 2\nf 1 2 3\n", "all its faces have collapsed"),
        ("# nothing\n", "has no faces, nothing; expected a triangle mesh"),
    ],
)
def test_broken_files_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_mesh(obj(tmp_path, text))
    assert "\n" not in str(caught.value) and "a.obj" in str(caught.value)


def test_comments_behind_vertices_and_faces(tmp_path: Path) -> None:
    text = "v 0 0 0 # the first of all corners\nv 1 0 0 #x\nv 1 1 0\nv 0 1 0\nf 1 2 3 4 # a face of four\n"
    mesh = read_mesh(obj(tmp_path, text))
    assert len(mesh.faces) == 2 and not mesh.has_colors


def test_zbrush_colors_in_comments(tmp_path: Path) -> None:
    paint = "#MRGB ffff0000ffff0000\n#MRGB ffff0000ffff0000\n"
    assert shown(read_mesh(obj(tmp_path, f"{QUAD}{paint}{FACE}"))) == [1, 0, 0]
    assert not read_mesh(obj(tmp_path, f"{QUAD}#MRGB ffff0000\n{FACE}")).has_colors


def test_a_kd_that_darkens_its_texture_is_said(tmp_path: Path) -> None:
    (tmp_path / "t.png").write_bytes(plain(255, 0, 0))
    library = "newmtl m\nKd 0.4 0.4 0.4\nmap_Kd t.png\n"
    mesh = read_mesh(obj(tmp_path, f"mtllib a.mtl\n{QUAD}usemtl m\n{FACE}", library))
    assert mesh.notes == ("material 'm': its texture is multiplied by its Kd (0.4 0.4 0.4)",)
    assert shown(mesh) == pytest.approx([0.4, 0, 0], abs=1e-4)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_texts_of_every_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.mtl").write_bytes("newmtl grün\nKd 0 1 0\n".encode(encoding))
    (tmp_path / "a.obj").write_bytes(f"mtllib a.mtl\n{QUAD}usemtl grün\n{FACE}".encode(encoding))
    assert shown(read_mesh(tmp_path / "a.obj")) == [0, 1, 0]
