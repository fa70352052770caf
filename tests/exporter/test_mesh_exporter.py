"""Export and read back: the same object, the right axes, the colors as rendered, no half-written files."""

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from tests.exporter.solids import AsIs, Painted, sphere
from usd.core.config import ConfigError, parse
from usd.core.errors import UserError
from usd.core.types import Field
from usd.exporter.mesh import MeshExporter, vertex_colors
from usd.geometry import Volumetric
from usd.material.no_material import NoMaterial
from usd.math.color import linear_from_srgb
from usd.mesh_io.axes import y_up_from_z_up

LOWER, UPPER = torch.tensor([-0.5, -0.3, -0.2]), torch.tensor([0.1, 0.6, 0.7])


class Box(Volumetric):
    """A box off the center, red where x is positive, blue elsewhere, with a small crumb beside it."""

    def __init__(self) -> None:
        super().__init__(
            parse(Volumetric.Config, {"isosurface_resolution": 64, "isosurface_threshold": 10.0})
        )
        self.n_features = 3
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def density(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        depth = torch.minimum(x - LOWER, UPPER - x).amin(-1)
        crumb = 0.06 - (x - 0.85).norm(dim=-1)
        return 10 + 100 * torch.maximum(depth, crumb).clamp(-0.1, 0.1)

    def query(self, x: Float[Tensor, "N 3"], needs: frozenset[str]) -> Field:
        red = torch.tensor([2.0, -2.0, 0.5])
        return Field(self.density(x), torch.where(x[:, :1] > 0, red, red.flip(0)))


PLAIN = {"save_texture": False, "save_uv": False, "save_report": False, "target_faces": None}


def exporter(**options: object) -> MeshExporter:
    return MeshExporter(parse(MeshExporter.Config, {**PLAIN, **options}, "exporter"))


def export(folder: Path, **options: object) -> list[Path]:
    return exporter(**options).export(Box(), NoMaterial(parse(NoMaterial.Config, {})), folder)


def read(path: Path) -> trimesh.Trimesh:
    return trimesh.load(path, force="mesh", process=False)


@pytest.mark.parametrize("fmt", ["glb", "obj", "ply"])
def test_the_mesh_read_back_is_the_object_upright(tmp_path: Path, fmt: str) -> None:
    """GLB and OBJ are y-up: our (x, y, z) stands at (x, z, -y). PLY keeps our axes."""
    (path,) = export(tmp_path, fmt=fmt)
    mesh = read(path)
    corners = torch.stack([LOWER, UPPER])
    expected = (corners if fmt == "ply" else y_up_from_z_up(corners)).sort(0).values
    assert np.allclose(mesh.bounds, expected.numpy(), atol=0.02)
    assert mesh.is_watertight and mesh.volume == pytest.approx(0.6 * 0.9 * 0.9, rel=0.05)


def test_turning_up_is_a_rotation() -> None:
    turned = y_up_from_z_up(torch.eye(3))
    assert float(torch.linalg.det(turned)) == pytest.approx(1)
    assert torch.equal(y_up_from_z_up(torch.tensor([[0.0, 0.0, 1.0]])), torch.tensor([[0.0, 1.0, 0.0]]))


RED = torch.tensor([2.0, -2.0, 0.5]).sigmoid().numpy()
ON_TOP = torch.tensor([[0.048, 0.15, 0.7]])  # on the upper side of the red part


def nearest(vertices: np.ndarray, point: Tensor) -> int:
    return int(np.linalg.norm(vertices - point.numpy(), axis=1).argmin())


@pytest.mark.parametrize("fmt", ["obj", "ply"])
def test_colors_are_display_values(tmp_path: Path, fmt: str) -> None:
    mesh = read(export(tmp_path, fmt=fmt)[0])
    top = nearest(mesh.vertices, ON_TOP if fmt == "ply" else y_up_from_z_up(ON_TOP))
    assert np.allclose(mesh.visual.vertex_colors[top, :3] / 255, RED, atol=0.005)


class Coated(Box):
    """Dense blue from a tenth below the top on, under a red veil."""

    def query(self, x: Float[Tensor, "N 3"], needs: frozenset[str]) -> Field:
        veil = x[:, 2] > UPPER[2] - 0.1
        color = torch.where(veil[:, None], torch.tensor([9.0, -9.0, -9.0]), torch.tensor([-9.0, -9.0, 9.0]))
        inside = x[:, 2] < UPPER[2]
        return Field(inside * torch.where(veil, torch.tensor(5.0), torch.tensor(500.0)), color)


def test_colors_are_what_a_camera_sees_through_a_veil() -> None:
    """Optical depth 0.5 of red, then blue: the red's share is 1 - exp(-0.5)."""
    geometry = Coated()
    mesh = geometry.export_mesh(128)
    colors = vertex_colors(mesh, geometry, NoMaterial(parse(NoMaterial.Config, {})))
    seen = colors[nearest(mesh.vertices.numpy(), torch.tensor([[-0.2, 0.15, 0.7]]))]
    share = 1 - math.exp(-0.5)
    assert torch.allclose(seen, torch.tensor([share, 0.0, 1 - share]), atol=0.08)


def glb_arrays(path: Path) -> dict[str, np.ndarray]:
    content = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", content[:12])
    assert (magic, version, length) == (b"glTF", 2, len(content))
    size = struct.unpack("<I", content[12:16])[0]
    tree, data = json.loads(content[20 : 20 + size]), content[28 + size :]
    names = tree["meshes"][0]["primitives"][0]["attributes"]
    views = {name: tree["bufferViews"][index] for name, index in names.items()}
    return {
        name: np.frombuffer(data[v["byteOffset"] : v["byteOffset"] + v["byteLength"]], np.float32).reshape(
            -1, 3
        )
        for name, v in views.items()
    }


def test_glb_colors_are_linear_so_that_viewers_show_display_values(tmp_path: Path) -> None:
    arrays = glb_arrays(export(tmp_path, fmt="glb")[0])
    linear = arrays["COLOR_0"][nearest(arrays["POSITION"], y_up_from_z_up(ON_TOP))]
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.allclose(shown, RED, atol=1e-3)
    assert np.allclose(np.linalg.norm(arrays["NORMAL"], axis=1), 1, atol=1e-4)


def test_linear_light_at_known_values() -> None:
    values = linear_from_srgb(torch.tensor([[0.0, 0.04045, 0.5], [0.735357, 1.0, 0.02]]))
    expected = torch.tensor([[0.0, 0.0031308, 0.2140411], [0.5, 1.0, 0.02 / 12.92]])
    assert torch.allclose(values, expected, atol=1e-5)


def test_several_formats_and_names(tmp_path: Path) -> None:
    paths = export(tmp_path / "new", fmt=["ply", "glb"], save_name="duck", resolution=24, save_color=False)
    assert [path.name for path in paths] == ["duck.ply", "duck.glb"]
    assert set(glb_arrays(paths[1])) == {"POSITION", "NORMAL"}
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["duck.glb", "duck.ply"]


def test_unlit_says_so(tmp_path: Path) -> None:
    (path,) = export(tmp_path, unlit=True, resolution=24)
    assert b"KHR_materials_unlit" in path.read_bytes()


def test_the_crumb_is_dropped(tmp_path: Path) -> None:
    assert read(export(tmp_path, resolution=96)[0]).body_count == 1


def test_an_empty_surface_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="largest density"):
        export(tmp_path, threshold=1e6)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"model\.glb: could not be written \("):
        export(tmp_path / "taken", resolution=16)


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"exporter\.fmt: .*glb"):
        exporter(fmt="fbx")


def test_a_crop_leaves_what_is_inside_the_box(tmp_path: Path) -> None:
    whole = read(export(tmp_path / "whole", fmt="ply")[0])
    part = read(export(tmp_path / "part", fmt="ply", crop=[-0.2, -1, -1, 0.05, 1, 1])[0])
    np.testing.assert_allclose(part.bounds[:, 0], [-0.2, 0.05], atol=1e-5)
    np.testing.assert_allclose(part.bounds[:, 1:], whole.bounds[:, 1:], atol=1e-5)
    assert whole.is_watertight and not part.is_watertight
    with pytest.raises(UserError, match=r"exporter.crop: nothing of the surface is in \[0.5"):
        export(tmp_path, crop=[0.5, -0.1, -0.1, 0.6, 0.0, 0.0])
    with pytest.raises(ConfigError, match="is no box; expected least before largest corner"):
        exporter(crop=[0.0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize("size", [1024, 2048, 4096, 8192])
def test_textures_of_1k_to_8k_are_offered(size):
    assert exporter(texture_size=size).config.texture_size == size


@pytest.mark.parametrize("size", [15, 8193, 0])
def test_other_texture_sizes_are_refused_in_one_line(size):
    with pytest.raises(ConfigError, match=rf"^exporter\.texture_size: .*{size}.*") as error:
        exporter(texture_size=size)
    assert "\n" not in str(error.value)


def test_a_texture_has_the_size_that_was_asked_for(tmp_path):
    exporter(fmt="obj-mtl", texture_size=1024, unwrap_time_limit=0, save_uv=True, save_texture=True).export(
        Painted(sphere(12)), AsIs(), tmp_path
    )
    with Image.open(tmp_path / "model_albedo.png") as picture:
        assert picture.size == (1024, 1024)
