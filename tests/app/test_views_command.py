"""``usd views``: what is written is read back with the model's cameras, and sampling is rectified where asked."""

from pathlib import Path

import pytest
import torch

import usd.app.views_command as command
from tests.denoiser.golden_models import read_golden, write_syncdreamer, write_wonder3d
from usd.core.errors import UserError
from usd.data.pictures import write_picture
from usd.data.view_readers import ViewOptions, read_views
from usd.denoiser import GroupConventions
from usd.denoiser.architectures import ARCHITECTURES
from usd.denoiser.rehearsal import RandomComponents
from usd.math.camera import camera_differences, orbit_cameras_deg
from usd.math.view_groups import syncdreamer_cameras, toybox_group, wonder3d_cameras


def _picture(folder: Path) -> Path:
    rgba = torch.zeros(4, 64, 64)
    rgba[:, 16:48, 20:44] = torch.tensor([0.8, 0.2, 0.1, 1.0])[:, None, None]
    return write_picture(folder / "picture.png", rgba)


@pytest.mark.slow
def test_views_are_written_with_cameras_that_are_read_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_syncdreamer(read_golden("syncdreamer_tiny.npz"), tmp_path)
    words = [str(_picture(tmp_path)), str(tmp_path / "out"), "--model", str(file), "--steps", "1"]
    assert command.main(words) == 0 and "17 files" in capsys.readouterr().out
    views = read_views(tmp_path / "out", ViewOptions(masks="none"), "x")
    assert views.rgba.shape == (16, 4, 256, 256)
    expected = syncdreamer_cameras(256)
    for i in range(16):
        assert float(camera_differences(views.cameras[[i]], expected[[i]]).max()) < 1e-4


def test_normals_are_written_with_the_colors_and_read_in_the_world_that_the_cameras_stand_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ball that six orthographic cameras see: its normals are the places of its surface."""
    cameras = wonder3d_cameras(32)
    origins, directions = cameras.rays()
    nearest = origins - (origins * directions).sum(-1, keepdim=True) * directions
    depth = (0.4**2 - nearest.square().sum(-1, keepdim=True)).clamp_min(0).sqrt()
    surface, hit = (nearest - depth * directions) / 0.4, (depth > 0).permute(0, 3, 1, 2)
    normals = torch.where(hit, surface.permute(0, 3, 1, 2), torch.zeros(()))
    local = torch.einsum("ji,vjhw->vihw", cameras.c2w[0, :3, :3], normals)
    colors = torch.where(hit, torch.tensor([0.8, 0.3, 0.1]).view(3, 1, 1), torch.ones(()))
    shown = torch.where(hit, 0.5 + 0.5 * local, torch.ones(()))
    command.write_group({"normal": shown, "color": colors}, cameras, tmp_path)
    views = read_views(tmp_path, ViewOptions(input_azimuth_deg=-90.0), "x")
    assert views.normals is not None and not capsys.readouterr().out
    inside = hit & (views.rgba[:, 3:] > 0.99)
    assert float(inside.sum() / hit.sum()) > 0.8
    assert float((views.normals - normals).abs().amax(1, keepdim=True)[inside].max()) < 0.02
    for i in range(6):
        assert float(camera_differences(views.cameras[[i]], cameras[[i]]).max()) < 1e-5


def test_a_picture_becomes_six_views_with_normals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ARCHITECTURES["wonder3d"].shrink()
    weights = RandomComponents("wonder3d", small).tensors("unet")
    folder = write_wonder3d(tmp_path / "model", small.configs["unet"], weights)
    words = [str(_picture(tmp_path)), str(tmp_path / "out"), "--model", str(folder)]
    made = command.make_views(command.views_arguments([*words, "--steps", "1", "--elevation", "20"]))
    assert len(made) == 24 and "Wonder3D's layout" in capsys.readouterr().out
    views = read_views(tmp_path / "out", ViewOptions(), "x")
    assert views.normals is not None and views.rgba.shape == (6, 4, 64, 64)


def test_settings_are_the_models_own_where_the_command_line_says_nothing() -> None:
    published = GroupConventions(fraction=0.75, steps=50, scale=3.0, noise_share=1.0)
    words = ["a.png", "out", "--model", "x", "--scale", "1", "--eta", "0"]
    found = command.settings(command.views_arguments(words), published)
    assert found == GroupConventions(fraction=0.75, steps=50, scale=1.0, noise_share=0.0)
    with pytest.raises(UserError, match="--steps of at least 1"):
        command.settings(command.views_arguments([*words, "--steps", "0"]), published)
    found = command.settings(
        command.views_arguments([*words, "--start", "0.6", "--expected", "1"]), published
    )
    assert (found.start, found.expected_share) == (0.6, 1.0)
    with pytest.raises(UserError, match="--start and --expected from 0 to 1"):
        command.settings(command.views_arguments([*words, "--expected", "2"]), published)


@pytest.mark.parametrize("model", ["toybox-zero123", "toybox-views"])
def test_a_model_of_views_from_anywhere_makes_those_of_another(model: str, tmp_path: Path) -> None:
    """The cameras that are asked for, turned to where the picture was taken from."""
    words = [str(_picture(tmp_path)), str(tmp_path / "out"), "--model", model, "--cameras", "toybox"]
    words += ["--steps", "1", "--fovy", "39.6", "--elevation", "15", "--azimuth", "90"]
    command.make_views(command.views_arguments(words))
    views = read_views(tmp_path / "out", ViewOptions(masks="none"), "x")
    reference = orbit_cameras_deg(15.0, 90.0, 1.5, 39.6, 64)
    expected = toybox_group(reference, 64)
    assert len(views) == len(expected) == 6
    assert float(camera_differences(expected, expected[[0]])[1:].min()) > 0.1  # six different cameras
    for i in range(6):
        assert float(camera_differences(views.cameras[[i]], expected[[i]]).max()) < 1e-4
    turns = expected.relative_to(reference[torch.zeros(6, dtype=torch.long)]).azimuth.rad2deg() % 360
    torch.testing.assert_close(turns, torch.arange(30.0, 360.0, 60.0), atol=1e-2, rtol=0)


def test_a_model_without_cameras_of_its_own_is_refused_in_one_line(tmp_path: Path) -> None:
    words = [str(_picture(tmp_path)), str(tmp_path / "out"), "--model", "toybox-zero123"]
    with pytest.raises(UserError, match=r"has no cameras of its own; .* --cameras NAME"):
        command.make_views(command.views_arguments(words))


def test_a_file_in_the_place_of_the_folder_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    picture = str(_picture(tmp_path))
    with pytest.raises(UserError, match=r"^OUT: .* is a file; expected a folder"):
        command.make_views(command.views_arguments([picture, picture, "--model", "no-such-model"]))
    with pytest.raises(UserError, match=r"could not be written"):
        command.make_views(command.views_arguments([picture, f"{picture}/out", "--model", "no-such-model"]))
