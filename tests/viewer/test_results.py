"""Files made from the page: what an export would write, a video along a path, nothing of it left in the training."""

import json
import struct

import pytest
import torch

from usd.core.config import plain_options, spec
from usd.core.errors import UserError
from usd.data.camera_path import parse_camera_path
from usd.mesh_io.read import read_mesh
from usd.viewer.results import mesh_export, mesh_preview, video_frames, write_path_video
from usd.viewer.session import Subject

SMALL = {"resolution": 16, "target_faces": None, "save_uv": False}
PATH = {
    "fps": 4,
    "seconds": 1.0,
    "loop": False,
    "keyframes": [{"position": [1.5, 0, 0.4]}, {"position": [0, 1.5, 0.4], "fov_y_deg": 30.0}],
}


@pytest.fixture
def subject(system, tmp_path) -> Subject:
    return Subject(system, tmp_path, spec("exporter", "mesh-exporter", SMALL, "exporter"))


def test_a_preview_is_the_export_as_one_file_and_leaves_nothing(subject, tmp_path):
    before, modes = torch.random.get_rng_state(), [module.training for module in subject.system.modules()]
    content = mesh_preview(subject)
    assert content[:4] == b"glTF" and struct.unpack_from("<I", content, 8)[0] == len(content)
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(before, torch.random.get_rng_state())
    assert modes == [module.training for module in subject.system.modules()]


def test_a_crop_box_cuts_the_preview(subject, tmp_path):
    (tmp_path / "all.glb").write_bytes(mesh_preview(subject))
    (tmp_path / "cut.glb").write_bytes(mesh_preview(subject, crop=[0.0, -1.0, -1.0, 1.0, 1.0, 1.0]))
    whole, cut = (read_mesh(tmp_path / name, "y").vertices for name in ("all.glb", "cut.glb"))
    assert whole[:, 0].min() < -0.1
    assert cut[:, 0].min() > -1e-3 and cut[:, 0].max() == pytest.approx(float(whole[:, 0].max()), abs=1e-4)


def test_a_box_with_nothing_in_it_is_a_line(subject):
    with pytest.raises(UserError):
        mesh_preview(subject, crop=[5.0, 5.0, 5.0, 6.0, 6.0, 6.0])


def test_an_export_keeps_what_was_configured_and_takes_what_was_changed(subject):
    chosen = mesh_export(subject, [0, 0, 0, 1, 1, 1], fmt="ply")
    options = plain_options(chosen.config)
    assert (options["resolution"], options["fmt"], options["save_uv"]) == (16, "ply", False)
    assert list(options["crop"]) == [0, 0, 0, 1, 1, 1]
    assert plain_options(subject.exporter.config)["crop"] is None, "the next export is not cut"
    unset = mesh_export(Subject(subject.system, subject.save))
    assert unset.name == "mesh-exporter"


def test_a_video_is_rendered_a_frame_at_a_time_and_never_replaces_another(subject, tmp_path):
    said = list(video_frames(subject, PATH, 16))
    assert [done for done, _, _ in said] == [1, 2, 3, 4, 4] and {total for _, total, _ in said} == {4}
    assert all(files == () for _, _, files in said[:-1])
    video, path = said[-1][2]
    assert video.is_file() and json.loads(path.read_text())["keyframes"][1]["fov_y_deg"] == 30.0
    again, _ = write_path_video(subject, parse_camera_path(PATH, "x"), [torch.zeros(4, 16, 16)] * 4)
    assert again != video and {file.suffix for file in tmp_path.iterdir()} == {".mp4", ".json"}
    assert len(list(tmp_path.iterdir())) == 4


def test_a_path_that_is_none_is_a_line_before_anything_is_rendered(subject):
    with pytest.raises(UserError, match="camera path"):
        next(video_frames(subject, {"keyframes": []}, 16))
