"""Views in every layout we read: written and read back, with cameras checked against published numbers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from usd.core.errors import UserError
from usd.data import convert, syncdreamer, wonder3d, zero123_views
from usd.data.pictures import over, read_rgba, write_picture
from usd.data.toy_views import render_toy_views, sphere_cameras, toy_seed
from usd.data.transforms import read_transforms, write_transforms
from usd.data.view_readers import ViewOptions, read_views
from usd.data.view_set import ViewSet
from usd.evaluation.metrics import mask_iou, psnr
from usd.math.view_groups import wonder3d_cameras

SEED = 1_000_004


def options(**changes) -> ViewOptions:
    names = ViewOptions.__dataclass_fields__
    defaults = {key: field.default for key, field in names.items()}
    return ViewOptions(**{**defaults, **changes})


@pytest.fixture(scope="module")
def toys() -> dict[str, ViewSet]:
    """A toy seen by each layout's cameras, 48 pixels a side."""
    layouts = ("transforms", "syncdreamer", "wonder3d", "zero123")
    return {name: render_toy_views(SEED, convert.layout_cameras(name, 48, 90.0, 6)) for name in layouts}


def assert_same(found: ViewSet, truth: ViewSet, iou: float = 0.999, db: float = 45.0) -> None:
    assert len(found) == len(truth)
    assert torch.allclose(found.cameras.c2w, truth.cameras.c2w, atol=1e-4)
    assert torch.allclose(found.cameras.fov_y, truth.cameras.fov_y, atol=1e-4)
    assert (found.cameras.span_y is None) == (truth.cameras.span_y is None)
    assert mask_iou(found.rgba[:, 3:], truth.rgba[:, 3:]).min() >= iou
    assert psnr(over(found.rgba), over(truth.rgba)).min() > db


# ------------------------------------------------------------------------------------------------------ round trips


def test_our_own_layout_comes_back(toys, tmp_path):
    convert.write_layout(toys["transforms"], tmp_path, "transforms", 90.0)
    assert_same(read_views(tmp_path, options()), toys["transforms"])


def test_syncdreamers_strip_comes_back(toys, tmp_path):
    convert.write_layout(toys["syncdreamer"], tmp_path, "syncdreamer", 90.0)
    strip = read_rgba(tmp_path / "0.png")
    assert strip.shape == (4, 48, 16 * 48) and (strip[3] == 1).all()
    found = read_views(tmp_path, options(input_azimuth_deg=90.0))
    assert_same(found, toys["syncdreamer"], iou=0.85, db=28.0)  # its masks are guessed from white
    assert any("plain color" in note for note in found.notes)
    assert_same(
        read_views(tmp_path / "0.png", options(input_azimuth_deg=90.0)), toys["syncdreamer"], 0.85, 28.0
    )


def test_wonder3ds_scene_comes_back_with_world_normals(toys, tmp_path):
    truth = toys["wonder3d"]
    convert.write_layout(truth, tmp_path / "scene", "wonder3d", 90.0)
    for path in (tmp_path, tmp_path / "scene"):
        found = read_views(path, options(input_azimuth_deg=90.0))
        assert_same(found, truth)
    sure = (truth.rgba[:, 3] == 1) & (truth.normals.norm(dim=1) > 0.5)
    agreement = (found.normals * truth.normals).sum(1)[sure]
    assert agreement.min() > 0.98
    assert (found.normals.norm(dim=1)[truth.rgba[:, 3] == 0] == 0).all()
    assert found.weights.tolist() == pytest.approx([1, 0.8, 0.2, 1, 0.4, 0.7]) and found.reference == 0


def test_a_sequence_of_co3d_comes_back_in_its_world_or_a_fitted_one(toys, tmp_path):
    truth = toys["transforms"]
    convert.write_layout(truth, tmp_path / "toys" / "one", "co3d", 90.0)
    found = read_views(tmp_path / "toys" / "one", options(frame="keep"))
    assert_same(found, truth, db=26.0)  # its colors are mixed with white at the outline
    assert found.masked and "sequence one of CO3D: 6 frames" in found.notes
    fitted = read_views(tmp_path / "toys" / "one", options())
    assert any("world fitted" in note for note in fitted.notes)


def test_zero123s_views_come_back(toys, tmp_path):
    convert.write_layout(toys["zero123"], tmp_path, "zero123", 90.0)
    assert np.load(tmp_path / "003.npy").shape == (3, 4)
    assert_same(read_views(tmp_path, options()), toys["zero123"])


def test_the_command_writes_each_layout(tmp_path, capsys):
    for layout in convert.LAYOUTS:
        convert.main([str(SEED), str(tmp_path / layout), "--layout", layout, "--size", "16", "--views", "3"])
        assert len(read_views(tmp_path / layout, options())) in (3, 6, 16)
    convert.main(["--cameras", "wonder3d", str(tmp_path / "cameras"), "--size", "16"])
    frames = read_transforms(tmp_path / "cameras/transforms.json")
    assert len(frames) == 6 and frames[0].camera.span_y.item() == pytest.approx(1.35)
    assert "toybox" in capsys.readouterr().out


def test_views_of_other_cameras_are_not_warped_into_a_layout(toys, tmp_path):
    with pytest.raises(UserError, match="pinhole views; expected orthographic ones"):
        convert.write_layout(toys["syncdreamer"], tmp_path, "wonder3d", 90.0)
    with pytest.raises(UserError, match="no view was taken by its camera 1"):
        convert.write_layout(toys["syncdreamer"].select([0, 2]), tmp_path, "syncdreamer", 90.0)
    with pytest.raises(UserError, match=r"^--layout zero123: views are 39\.6 degrees wide; expected 49\.13"):
        convert.write_layout(toys["transforms"], tmp_path, "zero123", 90.0)


def test_views_in_any_order_are_brought_into_the_layouts(toys, tmp_path):
    mixed = toys["syncdreamer"].select([5, 3, *range(6, 16), 0, 1, 2, 4])
    convert.write_layout(mixed, tmp_path, "syncdreamer", 90.0)
    found = read_views(tmp_path, options(input_azimuth_deg=90.0))
    assert psnr(over(found.rgba), over(toys["syncdreamer"].rgba)).min() > 28


# ------------------------------------------------------------------------------------------------ published cameras


def test_syncdreamers_cameras_are_the_published_ones():
    """Published world-to-camera of views 0 and 2 (OpenCV), focal length 280 at 256 pixels."""
    cameras = syncdreamer.target_cameras()
    assert torch.allclose(cameras.focal_px, torch.full((16,), 280.0), atol=1e-3)
    published = {
        0: [[0, 1, 0, 0], [0.5, 0, -0.8660254, 0], [-0.8660254, 0, -0.5, 1.5]],
        2: [
            [-0.7071068, 0.7071068, 0, 0],
            [0.3535534, 0.3535534, -0.8660254, 0],
            [-0.6123724, -0.6123724, -0.5, 1.5],
        ],
    }
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    for index, matrix in published.items():
        assert torch.allclose(flip @ cameras.world_to_camera()[index, :3], torch.tensor(matrix), atol=1e-5)


def test_wonder3ds_cameras_are_the_published_ones():
    """Published world-to-camera (OpenGL) of the front, front right and left views."""
    h = math.sqrt(0.5)
    published = {
        0: [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, -1.3]],
        1: [[h, h, 0, 0], [0, 0, 1, 0], [h, -h, 0, -1.8384777]],
        4: [[0, -1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, -1.3]],
    }
    found = wonder3d_cameras().world_to_camera()
    for index, matrix in published.items():
        assert torch.allclose(found[index, :3], torch.tensor(matrix), atol=1e-5)


def test_wonder3ds_normals_are_in_the_front_cameras_axes():
    """The front camera looks along +y: a surface that faces it is (0, 0, 1) in its axes and -y in the world."""
    facing = torch.tensor([0.5, 0.5, 1.0, 1.0]).view(1, 4, 1, 1)
    front = wonder3d_cameras(8).c2w[0, :3, :3]
    assert torch.allclose(
        wonder3d.world_normals(facing, front).flatten(), torch.tensor([0.0, -1.0, 0.0]), atol=1e-6
    )


def test_zero123s_matrices_are_world_to_camera():
    """A camera at +x looking at the origin: the origin is two units before it, +z of the world is up."""
    matrix = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, -2]], np.float64)
    assert math.degrees(zero123_views.FOV) == pytest.approx(49.134, abs=1e-3)
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "000.npy"
        np.save(file, matrix)
        c2w = zero123_views.camera_to_world(file, "x")
    assert c2w[:3, 3].tolist() == pytest.approx([2, 0, 0])
    assert (-c2w[:3, 2]).tolist() == pytest.approx([-1, 0, 0]) and c2w[:3, 1].tolist() == pytest.approx(
        [0, 0, 1]
    )


def test_cameras_on_the_sphere_are_spread_evenly():
    positions = torch.nn.functional.normalize(sphere_cameras(64, 8).position, dim=-1)
    assert positions.mean(0).norm() < 0.02
    nearest = (positions @ positions.T - 2 * torch.eye(64)).amax(1).acos()
    assert nearest.max() / nearest.min() < 2.5


def test_seeds_are_numbers_or_named():
    assert toy_seed("1000022") == toy_seed("toybox:1000022") == 1000022
    assert toy_seed("1000022.png") is None and toy_seed("-3") is None and toy_seed("toybox:x") is None


# ------------------------------------------------------------------------------------------------------------ trial


def test_a_trials_newest_views_are_found(toys, tmp_path):
    views = toys["transforms"]
    for name, part in {"it90-test": [0], "it800-test": [1, 2], "it800-turntable": [3, 4, 5]}.items():
        chosen = views.select(part)
        files = [f"{i}.png" for i in range(len(part))]
        for file, picture in zip(files, chosen.rgba):
            write_picture(tmp_path / "save" / name / file, picture)
        write_transforms(tmp_path / "save" / name / "transforms.json", [chosen.cameras], files)
    (tmp_path / "ckpts").mkdir()
    assert len(read_views(tmp_path, options())) == 3
    assert_same(read_views(tmp_path, options(trial_views="test")), views.select([1, 2]))
    with pytest.raises(UserError, match=r"no rendered refined \(found: test, turntable\)"):
        read_views(tmp_path, options(trial_views="refined"))


def test_resampling_changes_pixels_and_not_the_view(toys):
    views = toys["wonder3d"]
    small = views.resized(24, 24)
    assert small.cameras.span_y.tolist() == views.cameras.span_y.tolist() and small.cameras.height == 24
    lengths = small.normals.norm(dim=1)
    assert ((lengths - 1).abs() < 1e-5).logical_or(lengths == 0).all()
    assert replace(views, normals=None).resized(24, 24).normals is None
