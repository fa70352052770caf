"""``usd render`` and ``usd view``: files along a way of the camera; finished objects in a browser."""

import urllib.request

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

import launch
from tests.tiny_configs import command, save_disc, trial
from usd.app import open_viewer, view_command
from usd.app.commands import main
from usd.data.camera_path import CameraPath, KeyView
from usd.evaluation.gallery import write_transparent_video
from usd.math.camera import orbit_cameras_deg
from usd.math.splats import ColoredSplats
from usd.mesh_io.splats import FORMATS, write_splats
from usd.viewer.results import mesh_export


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    picture = f"system.guidance.image_path={save_disc(out / 'disc.png')}"
    quick = ["trainer.max_steps=2", "checkpoint.every_n_train_steps=1", "trainer.test_after_fit=false"]
    quick += ["trainer.val_check_interval=0", picture]
    assert launch.main(command("usd-patch-mini.yaml", out, *quick)) == 0
    return trial(out).folder


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    import trimesh

    file = tmp_path_factory.mktemp("mesh") / "ball.glb"
    trimesh.creation.icosphere(2, 0.5).export(file)
    return file


def test_an_orbit_becomes_a_video_in_the_trial(made, capsys):
    assert main(["render", str(made), "--frames", "3", "--size", "16", "--gpu", "cpu"]) == 0
    file = made / "save" / "it2-orbit.mp4"
    assert file.stat().st_size > 500 and "it2-orbit.mp4" in capsys.readouterr().out


def test_a_path_becomes_pictures_with_alpha_of_a_saved_step(made, tmp_path):
    keys = (KeyView((1.5, 0.0, 0.3)), KeyView((0.0, 1.5, 0.3)))
    path = CameraPath(keys, seconds=2 / 24).write(tmp_path / "path.json")
    options = ["--path", str(path), "--out", str(tmp_path / "views"), "--size", "12", "--width", "20"]
    assert main(["render", str(made), *options, "--step", "1", "--gpu", "cpu"]) == 0
    files = sorted(file.name for file in (tmp_path / "views").iterdir())
    assert files == ["0000.png", "0001.png"]
    picture = Image.open(tmp_path / "views" / "0000.png")
    assert picture.mode == "RGBA" and picture.size == (20, 12)


def test_a_mesh_file_is_rendered_too_and_a_webm_is_transparent(mesh, tmp_path):
    out = tmp_path / "ball.webm"
    assert main(["render", str(mesh), "--frames", "2", "--size", "32", "--out", str(out)]) == 0
    reader = imageio_ffmpeg.read_frames(
        str(out), pix_fmt="rgba", bits_per_pixel=32, input_params=["-c:v", "libvpx-vp9"]
    )
    width, height = next(reader)["size"]
    rgba = np.frombuffer(next(reader), np.uint8).reshape(height, width, 4)
    reader.close()
    assert rgba[0, 0, 3] < 16 and rgba[height // 2, width // 2, 3] > 240


@pytest.fixture(scope="module")
def splat_files(tmp_path_factory):
    """Red Gaussians in a ball far from the origin, and a stray a hundred times as far, in each format."""
    folder = tmp_path_factory.mktemp("splats")
    means = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * 0.1 + torch.tensor([3.0, 0, 0])
    means[0] = 300.0
    red = torch.tensor([1.7, -1.7, -1.7]).expand(200, 1, 3)
    ball = ColoredSplats(
        means, torch.full((200, 3), 0.1), torch.tensor([[1.0, 0, 0, 0]] * 200), torch.full((200,), 0.9), red
    )
    for fmt in FORMATS:
        (folder / f"ball.{fmt}").write_bytes(write_splats(ball, fmt))
    return folder


@pytest.mark.parametrize("fmt", ["ply", "spz"])
def test_a_file_of_splats_is_rendered_from_where_almost_all_of_it_is_seen(splat_files, tmp_path, fmt):
    out = ["--out", str(tmp_path / "views"), "--frames", "2", "--size", "24", "--gpu", "cpu"]
    assert main(["render", str(splat_files / f"ball.{fmt}"), *out]) == 0
    for name in ("0000.png", "0001.png"):
        rgba = np.asarray(Image.open(tmp_path / "views" / name)).astype(int)
        assert rgba[12, 12, 3] > 200 and rgba[12, 12, 0] > rgba[12, 12, 1] + 100 and rgba[0, 0, 3] < 30


def test_odd_sizes_get_a_transparent_pixel_more(tmp_path):
    file = write_transparent_video(tmp_path / "odd.webm", [torch.ones(4, 15, 17)] * 2)
    assert next(imageio_ffmpeg.read_frames(str(file)))["size"] == (18, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "2"], "--size: is 2; expected 8 to 8192"),
        (["--path", "none.json"], "none.json: no such file"),
        (["--step", "7"], "--step: 7 was not saved; expected one of 1, 2"),
        (["--out", "x.gif", "--frames", "1", "--size", "8"], "x.gif: expected a name with .mp4 or .webm"),
    ],
)
def test_what_cannot_be_rendered_is_one_line(made, capsys, options, message):
    assert main(["render", str(made), "--gpu", "cpu", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_checkpoint_is_no_trial(tmp_path, capsys):
    assert main(["render", str(tmp_path)]) == 2
    assert main(["view", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("has no checkpoint; expected a trial's folder") == 2
    assert main(["view", str(tmp_path / "none.glb")]) == 2
    assert "none.glb: no such file or folder" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- viewing


def view_and_close(monkeypatch, argv, look) -> int:
    """Runs ``usd view`` with ``look`` in place of the time in which it stays open."""
    pytest.importorskip("viser")
    monkeypatch.setattr(open_viewer, "serve_until_closed", look)
    return view_command.main(argv)


def test_a_finished_trial_is_viewed_at_any_saved_step(made, monkeypatch):
    seen = {}

    def look(viewer):
        seen["page"] = urllib.request.urlopen(viewer.server.address, timeout=5).read()
        subject = viewer.session.subject
        before = {name: value.clone() for name, value in subject.system.state_dict().items()}
        viewer.session.ask("step", value=1)
        assert viewer.requests() == []
        seen["step"], seen["version"] = subject.system.step, subject.version
        seen["other"] = any(not torch.equal(before[n], v) for n, v in subject.system.state_dict().items())

    assert view_and_close(monkeypatch, [str(made), "--gpu", "cpu"], look) == 0
    assert b"<html" in seen["page"].lower() and (seen["step"], seen["version"]) == (1, 1) and seen["other"]


@pytest.mark.parametrize("suffix", [".glb", ".ply"])
def test_a_mesh_file_is_viewed(mesh, tmp_path, monkeypatch, suffix):
    import trimesh

    file = mesh if suffix == ".glb" else tmp_path / "ball.ply"
    if suffix == ".ply":
        trimesh.creation.icosphere(1, 0.5).export(file)
    seen = []
    monkeypatch.setattr(
        "usd.viewer.stage.Stage.show_mesh",
        lambda stage, content, up: seen.append((content[:4], up)),
        raising=False,
    )
    assert view_and_close(monkeypatch, [str(file)], lambda viewer: None) == 0
    assert seen == [(b"glTF", "+y" if suffix == ".glb" else "+z")]


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_file_of_splats_is_viewed_as_gaussians_where_it_lies(splat_files, monkeypatch, fmt):
    seen = {}

    def look(viewer):
        subject = viewer.session.subject
        seen["render"] = subject.system.render_views(orbit_cameras_deg(15.0, 0.0, 8.0, 45.0, 16))
        seen["at"] = viewer.stage.server.initial_camera.look_at
        seen["mesh"] = mesh_export(subject).name
        assert not viewer.panel.cameras_folder.visible, "a file has no cameras to look through"
        subject.cameras["mine"] = orbit_cameras_deg(15.0, 0.0, 8.0, 45.0, 16)
        viewer.panel.refresh_cameras("mine")
        assert viewer.panel.cameras_folder.visible

    assert view_and_close(monkeypatch, [str(splat_files / f"ball.{fmt}"), "--gpu", "cpu"], look) == 0
    assert seen["at"] == pytest.approx((3.0, 0.0, 0.0), abs=0.1) and seen["mesh"] == "mesh-exporter"
    assert float(seen["render"].opacity.max()) > 0.5


def test_a_damaged_file_of_splats_is_one_line(splat_files, tmp_path, capsys):
    cut = tmp_path / "cut.ply"
    cut.write_bytes((splat_files / "ball.ply").read_bytes()[:-40])
    assert main(["view", str(cut)]) == 2 and main(["render", str(cut)]) == 2
    err = capsys.readouterr().err
    assert err.count("cut.ply: ") == 2 and "Traceback" not in err
