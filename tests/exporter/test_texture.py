"""New textures in a file of the user's: what they show, and that nothing else in the file changes."""

import io
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.report.trials import textured_cube
from usd.app.improve import MeshPlacement, Target, fit_placement, main, require_textured
from usd.core.config import spec
from usd.core.errors import UserError
from usd.core.registry import build
from usd.core.types import Mesh
from usd.exporter import Exporter
from usd.exporter.reference_projection import GRAZING, Evidence, ReferenceProjection, Sight, rim_between
from usd.exporter.texture import difference, encoded_like, texels_per_unit
from usd.geometry import Geometry
from usd.kernels.rasterize import Tracer
from usd.material import Material
from usd.math.camera import orbit_cameras_deg
from usd.mesh_io.gltf_rewrite import BinaryGltf, EncodedPicture
from usd.mesh_io.images import decode_image
from usd.mesh_io.pictures import pictures
from usd.mesh_io.read import read_mesh

CAMERA = orbit_cameras_deg(0.0, 90.0, 2.0, 40.0, 32)


@pytest.fixture
def cube(tmp_path) -> Path:
    file = tmp_path / "cube.glb"
    file.write_bytes(textured_cube())
    return file


def gray_object(file: Path, level: float) -> tuple[Geometry, Material]:
    """The file's mesh, all of one gray level."""
    geometry = build(
        spec("geometry", "custom-mesh", {"shape_init": f"mesh:{file}", "n_feature_dims": 3}), Geometry
    )
    with torch.no_grad():
        for parameter in geometry.feature_network.parameters():
            parameter.zero_()
    material = build(spec("material", "no-material", {"color_activation": "sigmoid"}), Material)
    raw = math.log(level / (1 - level))
    geometry.features = lambda x: torch.full((len(x), 3), raw)
    return geometry, material


def new_texture(file: Path, folder: Path, **options: object) -> Path:
    exporter = build(spec("exporter", "texture-exporter", {"source": str(file), **options}), Exporter)
    return exporter.export(*gray_object(file, 0.25), folder)[0]


def everything_but_pictures(file: Path) -> list[object]:
    model = BinaryGltf(file)
    pictures = {image["bufferView"] for image in model.images}
    views = [model.document.view_bytes(i) for i in range(len(model.tree["bufferViews"])) if i not in pictures]
    return [views, *(model.tree[key] for key in ("accessors", "meshes", "materials", "nodes", "textures"))]


def test_texels_get_the_colors_of_the_object_and_all_else_stays_bit_for_bit(cube, tmp_path):
    out = new_texture(cube, tmp_path / "out")
    assert everything_but_pictures(out) == everything_but_pictures(cube)
    before, after = (decode_image(BinaryGltf(file).image_bytes(0)) for file in (cube, out))
    assert before.shape == after.shape and torch.equal(before[..., 3], after[..., 3])
    assert torch.all(after[8:-8, 8:-8, :3] == 64), "0.25 of 255"
    assert torch.equal(after[0], before[0]), "no face covers the border"


def trained(file: Path, before: float, after: float) -> tuple[Geometry, Material]:
    """The file's mesh whose colors a training changed everywhere, from one gray level to another."""
    options = {"shape_init": f"mesh:{file}", "n_feature_dims": 3, "keep_start": True}
    geometry = build(spec("geometry", "custom-mesh", options), Geometry)
    material = build(spec("material", "no-material", {"color_activation": "sigmoid"}), Material)
    for level in (before, after):
        geometry.feature_network = Gray(math.log(level / (1 - level)))
        if level == before:
            geometry.keep_start()
    return geometry, material


class Gray(torch.nn.Module):
    """Features that are one number everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor([value]))

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        return self.value.expand(len(encoded), 3)


@pytest.mark.parametrize(("before", "after", "share"), [(0.4, 0.4, 1.0), (0.4, 0.6, 0.5), (0.6, 0.4, 1.0)])
def test_a_share_of_the_training_s_change_is_added_to_the_given_texels(cube, tmp_path, before, after, share):
    """Whatever the field itself is: where it did not change, the texture is the same bit for bit."""
    options = {"source": str(cube), "change_share": share, "elevation_range": (-90.0, 90.0)}
    made = build(spec("exporter", "texture-exporter", options), Exporter)
    out = made.export(*trained(cube, before, after), tmp_path / "out")[0]
    given, found = (
        decode_image(BinaryGltf(file).image_bytes(0))[8:-8, 8:-8, :3].int() for file in (cube, out)
    )
    if before == after:
        assert torch.equal(given, found)
    wanted = given + share * (after - before) * 255
    clear = (wanted > 2) & (wanted < 253)
    assert clear.any() and float((found - wanted).abs()[clear].median()) < 2


def test_a_picture_that_shows_what_the_texture_holds_changes_nothing(cube, tmp_path):
    rgba = pictures(read_mesh(cube, "y"), CAMERA)[0]
    assert float(difference(rgba, rgba)[:3, rgba[3] == 1].abs().max()) < 1e-6
    half = torch.cat([rgba[:3] * 0.5, rgba[3:]])
    mask = difference(half, rgba)[3]
    assert torch.equal(mask, rgba[3])


def test_texels_are_counted_per_unit_of_the_surface(cube):
    mesh = read_mesh(cube, "y")
    side = float(mesh.vertices.amax() - mesh.vertices.amin())
    assert texels_per_unit(mesh) == pytest.approx(0.9 * 64 / side), (
        "a side of the cube has nine tenths of the picture"
    )


@pytest.mark.parametrize("size", [24, 256])
def test_a_picture_leads_over_a_kept_texture_too_whether_it_is_coarser_or_finer(cube, tmp_path, size):
    """A finer one is painted over, of a coarser one the difference is added: white either way."""
    camera = orbit_cameras_deg(0.0, 90.0, 2.0, 40.0, size)
    alpha = pictures(read_mesh(cube, "y"), camera)[0, 3:]
    file = tmp_path / "white.png"
    Image.fromarray((torch.cat([alpha > 0.5] * 4) * 255).byte().permute(1, 2, 0).numpy(), "RGBA").save(file)
    where = {"elevation_deg": 0.0, "azimuth_deg": 90.0, "camera_distance": 2.0, "fovy_deg": 40.0}
    options = {"source": str(cube), "picture": str(file), "reference": {"framing": "keep"}, **where}
    made = build(spec("exporter", "texture-exporter", options), Exporter)
    out = made.export(*trained(cube, 0.4, 0.4), tmp_path / "out")[0]
    given, found = (
        decode_image(BinaryGltf(f).image_bytes(0))[24:40, 24:40, :3].float().mean() / 255 for f in (cube, out)
    )
    assert float(found) == pytest.approx((5 * float(given) + 1) / 6, abs=0.03)


def disk(radius: float) -> torch.Tensor:
    line = torch.arange(128) + 0.5 - 64
    return ((line[:, None] ** 2 + line**2).sqrt() < radius).float()


def test_the_rim_is_as_wide_as_outlines_are_apart_and_none_where_they_agree():
    assert rim_between(disk(40), disk(40)) == 0
    assert rim_between(disk(40), disk(41)) == pytest.approx(2 * 1 / 128, rel=0.15)
    assert rim_between(disk(40), disk(60)) == 0.03, "a picture that fits badly is not shrunk to nothing"


def test_a_picture_is_believed_at_a_slant_where_a_model_s_view_is_not():
    square = torch.tensor([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]])
    tracer = Tracer(square, torch.tensor([[0, 1, 2], [0, 2, 3]]))
    # A line of sight that makes 78 degrees with the normal: its cosine is 0.21.
    camera = orbit_cameras_deg(0.0, 12.0, 2.0, 40.0, 8)
    at = torch.zeros(1, 3), torch.tensor([[0.0, 1, 0]])
    assert float(Sight(camera, tracer)(*at)) == 0 and float(Sight(camera, tracer, GRAZING)(*at)) > 0.3


def test_evidence_is_what_some_view_shows_squarely():
    square = torch.tensor([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    cameras = orbit_cameras_deg([0.0, 0.0], [90.0, 80.0], 2.0, 40.0, 8)
    evidence = Evidence(cameras, Tracer(square, faces))
    x = torch.tensor([[0.0, 0, 0], [0, -0.5, 0]])
    normal = torch.tensor([[0.0, 1, 0], [0, 1, 0]])
    assert evidence(x, normal)[:, 0].tolist() == [pytest.approx(1.0), 0.0], (
        "the second is hidden by the square"
    )


def test_the_picture_leads_where_it_shows_the_surface_and_nowhere_else(cube, tmp_path):
    """Every side of the cube lies on the whole texture: a texel is the mean of six sides, of which one is seen."""
    shown = pictures(read_mesh(cube, "y"), CAMERA)[0]
    white = torch.where(shown[3:] > 0.5, torch.ones(4, 1, 1), torch.zeros(4, 1, 1))
    picture = tmp_path / "white.png"
    Image.fromarray((white * 255).byte().permute(1, 2, 0).numpy(), "RGBA").save(picture)
    camera = {"elevation_deg": 0.0, "azimuth_deg": 90.0, "camera_distance": 2.0, "fovy_deg": 40.0}
    options = {"picture": str(picture), "reference": {"framing": "keep"}, **camera}
    after = decode_image(BinaryGltf(new_texture(cube, tmp_path / "out", **options)).image_bytes(0))
    middle = float(after[24:40, 24:40, :3].float().mean()) / 255
    assert middle == pytest.approx((5 * 0.25 + 1.0) / 6, abs=0.02)


def test_a_picture_says_nothing_of_what_is_hidden_turned_away_or_at_the_rim():
    square = torch.tensor([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    both = Mesh(torch.cat([square, square - torch.tensor([0, 0.5, 0])]), torch.cat([faces, faces + 4]))
    rgba = torch.ones(4, 32, 32)
    projection = ReferenceProjection(rgba, CAMERA, Tracer(both.vertices, both.faces))
    x = torch.tensor([[0.0, 0, 0], [0, -0.5, 0], [0, 0, 0]])
    normal = torch.tensor([[0.0, 1, 0], [0, 1, 0], [1, 0, 0]])
    color, weight = projection(x, normal)
    assert weight[:, 0].tolist() == [pytest.approx(1.0), 0.0, 0.0]
    assert torch.allclose(color[0], torch.ones(3))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_texture_keeps_its_format(form):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 200, 30)).save(buffer, form)
    pixels = torch.full((8, 8, 4), 255, dtype=torch.uint8)
    again = encoded_like(buffer.getvalue(), pixels)
    assert again.media == f"image/{form.lower()}"
    assert torch.equal(decode_image(again.content), pixels)


def test_a_picture_that_several_entries_share_is_replaced_in_one_of_them(cube):
    model = BinaryGltf(cube)
    model.tree["images"].append(dict(model.tree["images"][0]))
    cube.write_bytes(model.replace_images({0: EncodedPicture(b"new", "image/png")}))
    again = BinaryGltf(cube)
    assert again.image_bytes(0) == b"new" and decode_image(again.image_bytes(1)).shape == (64, 64, 4)


def lying_box(file: Path) -> Path:
    """A long box in a file whose up is +x, ten times as large."""
    import trimesh

    box = trimesh.creation.box((8.0, 2.0, 4.0))
    uv = box.vertices[:, :2] * 0 + 0.5
    box.visual = trimesh.visual.TextureVisuals(uv, image=Image.new("RGB", (4, 4), (200, 30, 30)))
    file.write_bytes(box.export(file_type="glb"))
    return file


def test_axes_and_scale_of_a_file_are_fitted_to_a_picture(tmp_path):
    file = lying_box(tmp_path / "box.glb")
    upright = MeshPlacement("+x", "+y", 0.4)
    from usd.app.improve import view_of

    blank = Target(torch.zeros(4, 48, 48), orbit_cameras_deg(15.0, 90.0, 1.5, 40.0, 48), 0.6)
    target = Target(view_of(file, upright, blank), blank.camera, 0.6)
    fit = fit_placement(file, target)
    assert fit.placement.up[1] == "x" and fit.score > 0.95
    assert fit.placement.size == pytest.approx(0.4, rel=0.04)


@pytest.mark.parametrize(
    ("name", "message"),
    [("chair.obj", "expected a .glb"), ("chair.glb", "no such file")],
)
def test_a_file_that_cannot_be_improved_is_refused_before_anything_is_trained(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        require_textured(tmp_path / name)


def test_the_mesh_itself_is_never_overwritten(cube, capsys):
    assert main([str(cube), "--picture", "x.png", "--out", str(cube)]) == 2
    assert "is the mesh itself" in capsys.readouterr().err
    assert main([str(cube), "--picture", "x.png", "--out", f"{cube}/out.glb"]) == 2
    assert "could not be written" in capsys.readouterr().err
