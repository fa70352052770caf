"""Geometry, evaluation and the exporter's reading back see one color in one file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.mesh_io.gltf_files import Gltf, display, plain
from usd.evaluation.mesh_views import mesh_views, open_mesh
from usd.geometry.mesh_input import MeshPlacement, read_initial_shape
from usd.math.camera import orbit_cameras_deg
from usd.mesh_io.pictures import pictures
from usd.mesh_io.read import read_mesh

CUBE = np.array([[x, y, z] for x in (-0.4, 0.4) for y in (-0.4, 0.4) for z in (-0.4, 0.4)], np.float32)
CUBE_FACES = np.array(
    [
        0,
        1,
        3,
        0,
        3,
        2,
        4,
        6,
        7,
        4,
        7,
        5,
        0,
        4,
        5,
        0,
        5,
        1,
        2,
        3,
        7,
        2,
        7,
        6,
        0,
        2,
        6,
        0,
        6,
        4,
        1,
        5,
        7,
        1,
        7,
        3,
    ],
    np.uint16,
)
CAMERAS = orbit_cameras_deg(10.0, [20.0], 3.0, 40.0, 32)


def colorful_cube(folder: Path) -> Path:
    """Factor (0.5, 1, 0.25), a texture of light 0.5029 everywhere, vertex colors (0.8, 0.4, 1)."""
    file = Gltf()
    material = file.material(
        baseColorFactor=[0.5, 1, 0.25, 1], baseColorTexture=file.texture(plain(188, 188, 188))
    )
    color = np.tile(np.array([[0.8, 0.4, 1]], np.float32), (8, 1))
    file.primitive(
        CUBE, CUBE_FACES, material=material, TEXCOORD_0=np.full((8, 2), 0.5, np.float32), COLOR_0=color
    )
    return file.glb(folder / "cube.glb")


def test_factor_texture_and_vertex_colors_are_one_color_everywhere(tmp_path: Path) -> None:
    path = colorful_cube(tmp_path)
    expected = torch.tensor(display(0.5029 * 0.4, 0.5029 * 0.4, 0.5029 * 0.25))
    start = read_initial_shape(path, MeshPlacement(), 1.0)
    assert start.colored is not None and start.colored.color is not None
    assert torch.allclose(start.colored.color, expected, atol=3e-3)
    evaluated = mesh_views(open_mesh(path), CAMERAS).rgba[0, :3, 16, 16]
    read_back = pictures(read_mesh(path), CAMERAS)[0, :3, 16, 16]
    assert torch.allclose(evaluated, expected, atol=3e-3) and torch.allclose(read_back, expected, atol=3e-3)


def test_flat_materials_of_a_start_shape_stay_apart(tmp_path: Path) -> None:
    """Two faces of a tetrahedron red, two blue: no vertex of the colored start is mixed, the surface is closed."""
    (tmp_path / "a.mtl").write_text("newmtl r\nKd 1 0 0\nnewmtl b\nKd 0 0 1\n")
    corners = "v 0 0 0\nv 0.8 0 0\nv 0 0.8 0\nv 0 0 0.8\n"
    faces = "usemtl r\nf 1 3 2\nf 1 2 4\nusemtl b\nf 2 3 4\nf 1 4 3\n"
    (tmp_path / "a.obj").write_text(f"mtllib a.mtl\n{corners}{faces}")
    start = read_initial_shape(tmp_path / "a.obj", MeshPlacement(), 1.0)
    assert len(start.surface.vertices) == 4 and start.colored is not None and start.colored.color is not None
    of_faces = start.colored.color[start.colored.faces]
    assert torch.allclose(of_faces, of_faces[:, :1].expand(-1, 3, 3))
    colors = {tuple(color) for color in of_faces[:, 0].round().int().tolist()}
    assert colors == {(1, 0, 0), (0, 0, 1)} and len(start.colored.faces) == 4


def test_a_texture_colors_a_coarse_start_shape_between_its_vertices(tmp_path: Path) -> None:
    from tests.mesh_io.gltf_files import QUAD, QUAD_UV, picture

    file = Gltf()
    file.tree["samplers"] = [{"wrapS": 33071, "wrapT": 33071}]
    stripes = file.texture(picture([[(255, 0, 0)] * 8 + [(0, 0, 255)] * 8] * 16), sampler=0)
    file.primitive(
        QUAD * np.float32(0.8), material=file.material(baseColorTexture=stripes), TEXCOORD_0=QUAD_UV
    )
    start = read_initial_shape(file.glb(tmp_path / "a.glb"), MeshPlacement(), 1.0)
    found = start.colored
    assert len(start.surface.faces) == 2 and found is not None and found.color is not None
    left, right = found.vertices[:, 0] < 0.35, found.vertices[:, 0] > 0.45
    assert int(left.sum()) > 100 and torch.allclose(found.color[left], torch.tensor([1.0, 0, 0]), atol=1e-5)
    assert torch.allclose(found.color[right], torch.tensor([0.0, 0, 1]), atol=1e-5)


def test_what_was_repaired_in_a_start_shape_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from usd.math.mesh import volume

    file = Gltf()
    far = np.array([[1e5, 0, 0], [1e5, 1, 0], [1e5, 0, 1]], np.float32)
    file.primitive(CUBE, CUBE_FACES[::-1].copy())
    file.primitive(far, np.array([0, 1, 2], np.uint16))
    with caplog.at_level("WARNING"):
        start = read_initial_shape(file.glb(tmp_path / "a.glb"), MeshPlacement(size=0.5), 1.0)
    assert float(volume(start.surface.vertices, start.surface.faces)) == pytest.approx(1.0, rel=1e-5)
    assert start.colored is None
    said = " ".join(record.getMessage() for record in caplog.records)
    assert (
        "a.glb: it is turned inside out; righted" in said and "1 of 13 faces lie more than 50 times" in said
    )
