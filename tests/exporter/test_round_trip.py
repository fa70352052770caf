"""What is written, read again by trimesh: the same surface, the same colors in every format, and figures that are true."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from tests.exporter.solids import AsIs, Painted, exporter, plane, sphere, torus, two_spheres
from usd.core.config import ConfigError
from usd.core.errors import UserError
from usd.core.types import Mesh
from usd.material import BakedSurface
from usd.math.camera import Cameras, orbit_cameras_deg
from usd.math.mesh import is_closed
from usd.mesh_io.pictures import pictures
from usd.mesh_io.read import read_mesh

CAMERAS = orbit_cameras_deg([-20.0, 30.0, 60.0], [10.0, 130.0, 250.0], 2.5, 40.0, 64)


def over_white(rgba: Float[Tensor, "B 4 H W"]) -> Float[Tensor, "B 3 H W"]:
    return rgba[:, :3] + 1 - rgba[:, 3:]


def truth(mesh: Mesh, cameras: Cameras = CAMERAS) -> Float[Tensor, "B 3 H W"]:
    """Pictures whose every pixel is colored at the surface point it shows."""
    from usd.kernels.rasterize import Tracer, barycentric, interpolate, rasterize, whole

    tracer, view = Tracer(mesh.vertices, mesh.faces), whole(cameras.resize(192, 192))
    seen = rasterize(tracer, view)
    weights, _ = barycentric(mesh.vertices, mesh.faces, view, seen)
    x = interpolate(mesh.vertices, mesh.faces, seen, weights)
    color = 0.5 + 0.4 * torch.sin(4 * x)
    rgba = seen.picture(torch.cat([color, torch.ones(len(x), 1)], 1)).permute(0, 3, 1, 2)
    return over_white(torch.nn.functional.avg_pool2d(rgba, 3))


def psnr(a: Float[Tensor, "B c H W"], b: Float[Tensor, "B c H W"]) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


def written(folder: Path, mesh: Mesh, **options: object) -> list[Path]:
    return exporter(**options).export(Painted(mesh), AsIs(), folder)


@pytest.mark.parametrize("fmt", ["glb", "obj-mtl"])
@pytest.mark.parametrize("texture_format", ["png", "jpg"])
def test_a_textured_file_looks_like_the_object(tmp_path: Path, fmt: str, texture_format: str) -> None:
    mesh = torus(20)
    files = written(tmp_path, mesh, fmt=fmt, texture_format=texture_format, texture_size=256)
    loaded = read_mesh(files[0])
    (texture,) = [color.texture for color in loaded.colors]
    assert texture is not None and texture.pixels.shape == (256, 256, 4)
    assert psnr(over_white(pictures(loaded, CAMERAS, 3)), truth(mesh)) > 38


@pytest.mark.parametrize("fmt", ["glb", "obj", "ply"])
def test_vertex_colors_look_like_the_object_too(tmp_path: Path, fmt: str) -> None:
    mesh = torus(48)
    files = written(tmp_path, mesh, fmt=fmt, save_uv=False)
    loaded = read_mesh(files[0])
    assert loaded.has_colors and all(color.texture is None for color in loaded.colors)
    assert psnr(over_white(pictures(loaded, CAMERAS, 3)), truth(mesh)) > 38


def test_xatlas_and_boxes_look_alike(tmp_path: Path) -> None:
    mesh = sphere(16)
    looks = [
        pictures(read_mesh(written(tmp_path / str(limit), mesh, unwrap_time_limit=limit)[0]), CAMERAS)
        for limit in (0, 120)
    ]
    assert psnr(*looks) > 38


def test_decimated_and_textured_still_looks_like_the_object(tmp_path: Path) -> None:
    mesh = torus(48)
    files = written(tmp_path, mesh, target_faces=1000, texture_size=256)
    report = json.loads(files[-1].read_text())
    assert report["faces"] <= 1000 < report["faces_before"] == len(mesh.faces)
    assert psnr(over_white(pictures(read_mesh(files[0]), CAMERAS, 3)), truth(mesh)) > 30


def test_a_gamma_too_much_would_be_seen(tmp_path: Path) -> None:
    """The texture's bytes are the colors as rendered."""
    mesh = plane(4)
    files = written(tmp_path, mesh, fmt="obj-mtl")
    picture = np.asarray(Image.open(next(f for f in files if f.suffix == ".png"))) / 255
    colors = 0.5 + 0.4 * np.sin(4 * np.linspace(0, 1, 64))
    assert abs(np.median(picture[..., 0]) - np.median(colors)) < 0.06
    assert picture[..., 2] == pytest.approx(0.5, abs=0.004)  # z is 0 all over


def test_the_obj_stays_in_one_piece_across_seams(tmp_path: Path) -> None:
    mesh = torus(20)
    files = written(tmp_path, mesh, fmt="obj-mtl", save_normal=True)
    lines = files[0].read_text().splitlines()
    count = {word: sum(line.startswith(word + " ") for line in lines) for word in ("v", "vt", "vn", "f")}
    assert count["v"] == count["vn"] == len(mesh.vertices) < count["vt"] and count["f"] == len(mesh.faces)
    faces = torch.tensor(
        [[int(c.split("/")[0]) - 1 for c in line.split()[1:]] for line in lines if line[:2] == "f "]
    )
    assert torch.equal(faces, mesh.faces)
    assert [f.name for f in files[:3]] == ["model.obj", "model.mtl", "model_albedo.png"]
    assert "map_Kd model_albedo.png" in files[1].read_text() and "mtllib model.mtl" in lines[0]


def test_the_glb_is_one_piece_once_seams_are_joined(tmp_path: Path) -> None:
    mesh = torus(20)
    loaded = read_mesh(written(tmp_path, mesh)[0])
    assert len(loaded.vertices) == len(mesh.vertices) and is_closed(loaded.faces)


def test_several_formats_share_one_texture(tmp_path: Path) -> None:
    files = written(tmp_path, sphere(12), fmt=["glb", "obj-mtl", "ply", "stl"], save_name="duck")
    names = [
        "duck.glb",
        "duck.obj",
        "duck.mtl",
        "duck_albedo.png",
        "duck.ply",
        "duck.stl",
        "duck-report.json",
    ]
    assert [f.name for f in files] == names
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    assert all(f.stat().st_size > 50 for f in files)


@pytest.mark.parametrize(
    ("axes", "fmt", "up"), [("format", "stl", 2), ("y-up", "stl", 1), ("z-up", "glb", 2)]
)
def test_axes_and_scale(tmp_path: Path, axes: str, fmt: str, up: int) -> None:
    mesh = sphere(16)
    tall = Mesh(mesh.vertices * torch.tensor([0.2, 0.2, 1.0]), mesh.faces)
    files = written(tmp_path, tall, axes=axes, fmt=fmt, scale=100.0)
    extent = trimesh.load(files[0], force="mesh").extents
    assert int(extent.argmax()) == up and extent.max() == pytest.approx(100, rel=0.02)
    assert json.loads(files[-1].read_text())["extent"][2] == pytest.approx(extent.max(), rel=1e-3)


@pytest.mark.parametrize(
    ("fmt", "unit", "largest"),
    [("obj", "mm", 100.0), ("ply", "cm", 10.0), ("stl", "in", 0.1 / 0.0254), ("glb", "mm", 0.1)],
)
def test_units_of_coordinates(tmp_path: Path, fmt: str, unit: str, largest: float) -> None:
    """An object of 10 cm; glTF is in meters whatever is said."""
    files = written(tmp_path, sphere(16), fmt=fmt, unit=unit, scale=0.1, save_uv=False, save_texture=False)
    extent = trimesh.load(files[0], force="mesh").extents
    assert extent.max() == pytest.approx(largest * extent_of(sphere(16)), rel=0.02)


def extent_of(mesh: Mesh) -> float:
    return float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).amax())


@pytest.mark.parametrize(("axes", "up"), [("format", "Y"), ("z-up", "Z")])
def test_a_usdz_says_its_axes_and_unit_and_has_its_texture(tmp_path: Path, axes: str, up: str) -> None:
    files = written(tmp_path, sphere(16), fmt="usdz", axes=axes, unit="cm", texture_size=64)
    with zipfile.ZipFile(files[0]) as archive:
        assert archive.namelist() == ["model.usda", "textures/color.png"]
        layer = archive.read("model.usda").decode()
    assert f'upAxis = "{up}"' in layer and "metersPerUnit = 0.01\n" in layer


def test_webp_is_refused_where_a_format_cannot_hold_it() -> None:
    with pytest.raises(ConfigError, match="is webp, which usdz cannot hold; expected png or jpg"):
        exporter(fmt="usdz", texture_format="webp")


@pytest.mark.parametrize(("make", "parts", "genus"), [(sphere, 1, 0), (torus, 1, 1), (two_spheres, 2, 0)])
def test_the_report_is_true(tmp_path: Path, make, parts: int, genus: int) -> None:
    mesh = make()
    report = json.loads(written(tmp_path, mesh)[-1].read_text())
    assert (report["components"], report["genus"], report["watertight"]) == (parts, genus, True)
    assert (report["faces"], report["vertices"]) == (len(mesh.faces), len(mesh.vertices))
    texture = report["texture"]
    assert texture["method"] == "boxes" and 0.2 < texture["used"] < 1
    expected = (texture["used"] * 128**2 / report["area"]) ** 0.5
    assert texture["texels_per_unit"] == pytest.approx(expected, rel=1e-3)
    assert 0 < texture["low_texels_per_unit"] < texture["texels_per_unit"]


def test_an_open_mesh_has_no_genus(tmp_path: Path) -> None:
    report = json.loads(written(tmp_path, plane())[-1].read_text())
    assert report["genus"] is None and not report["watertight"]


def test_the_comparison_is_printed_and_added_to_the_report(tmp_path: Path) -> None:
    mesh = torus(20)
    made = exporter(fmt=["ply", "glb"], texture_size=256, scale=3.0)
    files = made.export(Painted(mesh), AsIs(), tmp_path)
    line = made.compare(files, CAMERAS, truth(mesh))
    agreement = json.loads(files[-1].read_text())["agreement"]
    assert agreement["file"] == "model.ply" and agreement["views"] == 3 and agreement["psnr"] > 30
    assert f"PSNR {agreement['psnr']:.1f} dB" in line
    worse = made.compare(files, CAMERAS, truth(mesh).flip(0))
    assert json.loads(files[-1].read_text())["agreement"]["psnr"] < 25 and worse != line


def test_nothing_is_compared_where_no_colors_are() -> None:
    assert exporter(fmt="stl").comparison is None
    assert exporter(check_views=0).comparison is None
    assert exporter().comparison is not None


BROKEN = {
    "the mesh has no faces": Mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.long)),
    "1 of 3 vertices are not numbers": Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, float("nan"), 0]]), torch.tensor([[0, 1, 2]])),
    "is 0 units large": Mesh(torch.ones(3, 3), torch.tensor([[0, 1, 2]])),
    "units large; expected a finite size": Mesh(torch.eye(3) * 1e30, torch.tensor([[0, 1, 2]])),
}  # fmt: skip


@pytest.mark.parametrize("message", BROKEN)
def test_what_cannot_be_a_file_is_one_clear_line_and_no_file(tmp_path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        written(tmp_path / "out", BROKEN[message])
    assert list(tmp_path.iterdir()) == []


def test_a_single_triangle_and_a_non_manifold_fan_are_written(tmp_path: Path) -> None:
    points = torch.tensor([[0.0, 0, 0], [0, 0, 1], [1, 0, 0], [-1, 0, 0], [0, 1, 0]])
    fan = Mesh(points, torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4]]))
    for i, mesh in enumerate((Mesh(points, fan.faces[:1]), fan)):
        files = written(tmp_path / str(i), mesh, unwrap_time_limit=60)
        assert len(read_mesh(files[0]).faces) == len(mesh.faces)


def test_published_options_are_understood() -> None:
    made = exporter(
        fmt="obj-mtl", save_name="model", save_normal=False, save_uv=True, save_texture=True, texture_size=1024,
        texture_format="jpg", xatlas_chart_options={}, xatlas_pack_options={"padding": 2}, context_type="gl",
    )  # fmt: skip
    assert made.formats == ("obj-mtl",)


def test_one_file_cannot_be_two() -> None:
    with pytest.raises(ConfigError, match=r"exporter\.fmt: obj and obj-mtl are one file"):
        exporter(fmt=["obj", "obj-mtl"])


def test_the_picture_in_the_glb_is_the_texture(tmp_path: Path) -> None:
    path = written(tmp_path, sphere(12))[0]
    material = trimesh.load(path, force="mesh").visual.material
    assert (material.metallicFactor, material.roughnessFactor) == (0, 1)
    assert material.baseColorTexture.size == (128, 128)
    content = path.read_bytes()
    start = content.index(b"\x89PNG")
    assert Image.open(io.BytesIO(content[start:])).size == (128, 128)
    assert b"KHR_materials_unlit" in content  # the colors hold their light already


class Polished(AsIs):
    """A lit material: metallic where z is high, rough where x is."""

    needs_normal = True

    def bake(
        self, features: Float[Tensor, "N F"], positions: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> BakedSurface:
        return BakedSurface(features, 0.25 + 0.0 * positions[:, 2], (positions[:, 0] + 1) / 2)


def test_metallic_and_roughness_have_their_picture(tmp_path: Path) -> None:
    made = exporter(fmt=["glb", "obj-mtl"])
    files = made.export(Painted(sphere(16)), Polished(), tmp_path)
    mesh = trimesh.load(files[0], force="mesh", process=False)
    material = mesh.visual.material
    assert (material.metallicFactor, material.roughnessFactor) == (1, 1)
    picture = np.asarray(material.metallicRoughnessTexture)
    column, row = (mesh.visual.uv * [1, -1] + [0, 1]).T * 128 - 0.5
    found = picture[row.round().astype(int).clip(0, 127), column.round().astype(int).clip(0, 127)] / 255
    assert np.allclose(found[:, 2], 0.25, atol=0.01)
    assert np.abs(found[:, 1] - (mesh.vertices[:, 0] + 1) / 2).mean() < 0.02
    assert b"KHR_materials_unlit" not in files[0].read_bytes()
    assert {"model_roughness.png", "model_metallic.png"} <= {f.name for f in files}
    assert "map_Pr model_roughness.png" in (tmp_path / "model.mtl").read_text()
    assert made.comparison is None
