"""Meshes of the user: every format comes in upright, with its colors; what is no mesh is one clear line."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from tests.geometry.shapes import points, small, torus, torus_file
from usd.core.config import ConfigError, parse
from usd.core.errors import UserError
from usd.core.types import Mesh
from usd.geometry.custom_mesh import CustomMesh
from usd.geometry.mesh_input import MeshPlacement, file_rotation, read_initial_shape
from usd.math import mesh
from usd.math.color import srgb_from_linear

ASIS = MeshPlacement()


def custom(file: Path, **options: object) -> CustomMesh:
    return small("custom-mesh", shape_init=f"mesh:{file}", **options)


def is_the_torus(found: Mesh) -> bool:
    return mesh.is_closed(found.faces) and float(torus(found.vertices).abs().max()) < 0.01


@pytest.mark.parametrize("name", ["torus.ply", "torus.obj", "torus.glb", "torus.stl"])
def test_every_format_comes_in_upright_and_joined(tmp_path: Path, name: str) -> None:
    turned = name.endswith(("obj", "glb"))
    start = read_initial_shape(torus_file(tmp_path, name, turn=turned), ASIS, 1.0)
    assert is_the_torus(start.surface)
    assert float(mesh.volume(start.surface.vertices, start.surface.faces)) > 0
    if not name.endswith("stl"):
        found = start.colored
        assert found is not None and found.color is not None
        red = found.vertices[:, 0] > 0.02
        assert torch.allclose(found.color[red], torch.tensor([1.0, 0.0, 0.0]), atol=1e-5)


def test_axes_are_named_as_published(tmp_path: Path) -> None:
    """up and front are the file's axes that become +z and +x; both make a rotation."""
    file = tmp_path / "any.ply"
    axes = [sign + axis for sign in "+-" for axis in "xyz"]
    for up, front in [(u, f) for u in axes for f in axes if u[1] != f[1]]:
        rotation = file_rotation(MeshPlacement(up, front), file)
        assert float(torch.linalg.det(rotation)) == 1
        for axis, to in ((up, 2), (front, 0)):
            vector = torch.eye(3, dtype=torch.float64)["xyz".index(axis[1])] * (1 if axis[0] == "+" else -1)
            assert torch.equal(rotation @ vector, torch.eye(3, dtype=torch.float64)[to])
    found = read_initial_shape(torus_file(tmp_path, turn=True), MeshPlacement("+y", "+x"), 1.0).surface
    assert is_the_torus(found)
    with pytest.raises(UserError, match=r"shape_init_mesh_front: '\+y' is along shape_init_mesh_up '-y'"):
        file_rotation(MeshPlacement("-y", "+y"), file)


def test_a_size_centers_and_scales(tmp_path: Path) -> None:
    file = tmp_path / "box.stl"
    trimesh.creation.box(extents=(200, 100, 50)).apply_translation((1e3, -2e3, 10)).export(file)
    found = read_initial_shape(file, MeshPlacement(size=0.8), 1.0).surface
    assert torch.allclose(found.vertices.amax(0), torch.tensor([0.8, 0.4, 0.2]), atol=1e-5)
    assert torch.allclose(found.vertices.amin(0), -found.vertices.amax(0), atol=1e-5)
    with pytest.raises(UserError, match=r"is 200 large and reaches to 2050.*shape_init_params=0\.75"):
        read_initial_shape(file, ASIS, 1.0)
    with pytest.raises(UserError, match="shape_init_params: 3 is beyond"):
        read_initial_shape(file, MeshPlacement(size=3.0), 1.0)


def test_a_texture_gives_its_colors_and_seams_are_closed(tmp_path: Path) -> None:
    """A box whose faces have their own vertices, textured red and blue, becomes one closed box of eight vertices."""
    box = trimesh.creation.box(extents=(1, 1, 1))
    corners, faces = box.vertices[box.faces].reshape(-1, 3), np.arange(36).reshape(-1, 3)
    picture = Image.new("RGB", (8, 8), (255, 0, 0))
    picture.paste((0, 0, 255), (4, 0, 8, 8))
    uv = np.stack([np.where(corners[:, 0] > 0, 0.9, 0.1), np.full(36, 0.5)], -1)
    visual = trimesh.visual.TextureVisuals(
        uv=uv, material=trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
    )
    trimesh.Trimesh(corners, faces, visual=visual, process=False).export(tmp_path / "box.glb")
    start = read_initial_shape(tmp_path / "box.glb", ASIS, 1.0)
    assert len(start.surface.vertices) == 8 and mesh.is_closed(start.surface.faces)
    found = start.colored
    assert found is not None and found.color is not None
    blue, red = found.vertices[:, 0] > 0.49, found.vertices[:, 0] < -0.49
    assert torch.allclose(found.color[blue], torch.tensor([0.0, 0.0, 1.0]), atol=1e-5)
    assert torch.allclose(found.color[red], torch.tensor([1.0, 0.0, 0.0]), atol=1e-5)


RED, HALF = (255, 0, 0, 255), (128, 128, 128, 255)


def box_part(vertex: tuple | None, factor: tuple | None, picture: tuple | None) -> trimesh.Trimesh:
    """A box with vertex colors, a material's base color, and a texture of one color, of which each may be missing."""
    box = trimesh.creation.box(extents=(1, 1, 1))
    image = Image.new("RGB", (4, 4), picture[:3]) if picture else None
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=image, baseColorFactor=factor)
    uv = np.full((len(box.vertices), 2), 0.5) if picture else None
    visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    if vertex:
        visual.vertex_attributes["color"] = np.tile(np.array(vertex, np.uint8), (len(box.vertices), 1))
    box.visual = visual
    return box


@pytest.mark.parametrize(
    ("vertex", "factor", "picture", "light"),
    [
        (RED, None, None, (1, 0, 0)),
        (HALF, HALF, None, (0.252, 0.252, 0.252)),
        (None, HALF, None, (0.502, 0.502, 0.502)),
        (RED, None, HALF, (0.216, 0, 0)),
        (None, RED, HALF, (0.216, 0, 0)),
    ],
)
def test_colors_beside_a_material_are_kept(
    tmp_path: Path, vertex: tuple | None, factor: tuple | None, picture: tuple | None, light: tuple
) -> None:
    """Vertex colors, base color and texture of a GLB multiply as light; the texture alone is stored as displayed."""
    box_part(vertex, factor, picture).export(tmp_path / "box.glb")
    found = read_initial_shape(tmp_path / "box.glb", ASIS, 1.0).colored
    expected = srgb_from_linear(torch.tensor(light, dtype=torch.float32))
    assert found is not None and found.color is not None
    assert torch.allclose(found.color, expected, atol=3e-3)


def test_every_part_keeps_its_place_and_colors(tmp_path: Path) -> None:
    """A mirrored part still faces outside, and one without colors is white beside one that has them."""
    scene, mirror = trimesh.Scene(), np.diag([-1.0, 1, 1, 1])
    mirror[0, 3] = -2
    scene.add_geometry(box_part(RED, None, None))
    scene.add_geometry(trimesh.creation.box(extents=(1, 1, 1)), transform=mirror)
    scene.export(tmp_path / "two.glb")
    start = read_initial_shape(tmp_path / "two.glb", MeshPlacement(size=0.9), 1.0)
    assert float(mesh.volume(start.surface.vertices, start.surface.faces)) == pytest.approx(
        2 * (1.8 / 3) ** 3, rel=1e-4
    )
    found = start.colored
    assert found is not None and found.color is not None
    red = found.vertices[:, 0] > 0
    assert torch.allclose(found.color[red], torch.tensor([1.0, 0, 0]), atol=1e-5)
    assert torch.allclose(found.color[~red], torch.ones(3), atol=1e-5)


@pytest.mark.parametrize(("colored", "expected"), [(True, (0.0, 0.5, 1.0)), (False, (1.0, 0.0, 0.0))])
def test_an_obj_has_vertex_colors_before_its_material(tmp_path: Path, colored: bool, expected: tuple) -> None:
    (tmp_path / "a.mtl").write_text("newmtl a\nKd 1 0 0\n")
    more = " 0 0.5 1" if colored else ""
    corners = "".join(f"v {x} {y} {z}{more}\n" for x, y, z in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)))
    (tmp_path / "a.obj").write_text(f"mtllib a.mtl\n{corners}usemtl a\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n")
    found = read_initial_shape(tmp_path / "a.obj", ASIS, 1.0).colored
    assert (
        found is not None
        and found.color is not None
        and torch.allclose(found.color, torch.tensor(expected).expand(4, 3))
    )


def test_linear_light_is_shown_as_display_values() -> None:
    linear = torch.tensor([[0.0, 0.0031308, 1.0], [0.2140411, 0.5, 0.001]])
    shown = srgb_from_linear(linear)
    assert torch.allclose(shown[0], torch.tensor([0.0, 0.04045, 1.0]), atol=1e-5)
    assert float(shown[1, 0]) == pytest.approx(0.5, abs=1e-5)


def broken(folder: Path, kind: str) -> Path:
    file = folder / f"{kind}.ply"
    vertices, faces = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]])
    if kind == "nan":
        vertices[0, 0] = np.nan
    if kind == "point":
        vertices[:] = 0.5
    if kind == "cloud":
        trimesh.PointCloud(vertices).export(file)
    elif kind == "text":
        file.write_text("not a mesh")
    elif kind != "missing":
        trimesh.Trimesh(vertices, faces, process=False).export(file)
    return file


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such mesh file"),
        ("text", "has no PLY header"),
        ("cloud", "has no faces"),
        ("nan", "1 of its vertices are not numbers"),
        ("point", "all its faces have collapsed"),
    ],
)
def test_what_is_no_mesh_is_one_line(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_initial_shape(broken(tmp_path, kind), ASIS, 1.0)
    assert "\n" not in str(caught.value) and f"{kind}.ply" in str(caught.value)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"not a mesh file; expected \.glb"):
        read_initial_shape(tmp_path / "a.png", ASIS, 1.0)


def test_the_surface_is_the_file_and_only_features_are_trained(tmp_path: Path) -> None:
    made = custom(torus_file(tmp_path))
    assert is_the_torus(made.surface()) and is_the_torus(made.export_mesh())
    assert {name.split(".")[0] for name, _ in made.named_parameters()} == {"encoding", "feature_network"}
    assert made.features(points()).shape == (64, 3)
    start = made.initialize()
    assert start is not None and start.color is not None


def test_vertices_move_where_allowed(tmp_path: Path) -> None:
    made = custom(torus_file(tmp_path), fix_geometry=False)
    made.surface().vertices.sum().backward()
    assert made.offset is not None and torch.equal(made.offset.grad, torch.ones_like(made.offset))
    with torch.no_grad():
        made.offset += 0.25
    again = custom(torus_file(tmp_path), fix_geometry=False)
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.surface().vertices, made.surface().vertices)


@pytest.mark.parametrize("shape", [None, "sphere", "torus.ply"])
def test_it_needs_a_file(shape: str | None) -> None:
    with pytest.raises(ConfigError, match="custom-mesh needs mesh:FILE"):
        small("custom-mesh", shape_init=shape).initialize()


def test_a_mesh_is_found_as_every_path_is(tmp_path: Path) -> None:
    """Beside the configuration file or, typed by hand, in the working directory."""
    from usd.core.loading import ValueOrigin

    torus_file(tmp_path)
    origins = {"shape_init": ValueOrigin(tmp_path)}
    config = parse(CustomMesh.Config, {"shape_init": "mesh:torus.ply"}, "", origins)
    assert config.shape_init == f"mesh:{tmp_path / 'torus.ply'}"
