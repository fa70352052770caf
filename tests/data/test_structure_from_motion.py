"""Cameras of a video by COLMAP: sharp frames are taken, and the poses are those that rendered the frames."""

import sys

import cv2
import numpy as np
import pytest
import torch

from usd.app import poses_command
from usd.core.errors import UserError
from usd.data.structure_from_motion import find_poses, write_frames
from usd.data.view_readers import ViewOptions, read_views
from usd.math.camera import Cameras, orbit_cameras_deg

SIZE = 320


def planes() -> list[tuple[np.ndarray, np.ndarray]]:
    """Three squares that meet in a corner, with random blobs on them: corners (4, 3) and texture."""
    squares = []
    for axis in range(3):
        corners = np.zeros((4, 3))
        u, v = [other for other in range(3) if other != axis]
        corners[[1, 2], u] = 1
        corners[[2, 3], v] = 1
        rng = np.random.default_rng(axis)
        coarse, fine = (rng.uniform(0, 255, (n, n)).astype(np.float32) for n in (24, 64))
        blobs = cv2.resize(coarse, (512, 512), interpolation=cv2.INTER_CUBIC)
        blobs = 0.6 * blobs + 0.4 * cv2.resize(fine, (512, 512), interpolation=cv2.INTER_CUBIC)
        squares.append((corners - 0.4, np.clip(blobs, 0, 255).astype(np.uint8)))
    return squares


def picture_of(camera: Cameras) -> np.ndarray:
    """The squares as a camera sees them from inside of the corner, by homographies (none hides another)."""
    picture = np.full((SIZE, SIZE), 128, np.uint8)
    for corners, texture in planes():
        place = camera.project(torch.from_numpy(corners).float())[0][0].numpy().astype(np.float32)
        flat = np.array([[0, 0], [512, 0], [512, 512], [0, 512]], np.float32)
        warp = cv2.getPerspectiveTransform(flat, place - 0.5)
        cover = cv2.warpPerspective(np.full_like(texture, 255), warp, (SIZE, SIZE))
        shown = cv2.warpPerspective(texture, warp, (SIZE, SIZE), flags=cv2.INTER_AREA)
        picture = np.where(cover > 127, shown, picture)
    return np.repeat(picture[..., None], 3, -1)


def test_the_sharpest_frame_of_each_stretch_is_taken(tmp_path):
    """Of nine frames every third is sharp; the others are blurred as by motion."""
    sharp = picture_of(orbit_cameras_deg([35.0], [45.0], 2.2, 45.0, SIZE))
    stream = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (SIZE, SIZE))
    for index in range(9):
        stream.write(sharp if index % 3 == 1 else cv2.blur(sharp, (15, 3)))
    stream.release()
    files = write_frames(tmp_path / "v.avi", tmp_path / "images", 3)
    assert [file.name for file in files] == ["00001.jpg", "00002.jpg", "00003.jpg"]
    for file in files:
        assert np.abs(cv2.imread(str(file)).astype(float) - sharp).mean() < 6


def test_what_is_no_video_and_too_few_pictures_are_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"a\.mp4: cannot be read as a video; expected \.mp4, "):
        write_frames(tmp_path / "a.mp4", tmp_path / "images", 3)
    with (
        pytest.raises(UserError, match="has 0 pictures; expected at least 3")
        if _has()
        else pytest.raises(UserError)
    ):
        find_poses(tmp_path, tmp_path, ordered=False)
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(UserError, match=r"needs the package pycolmap; expected pip install 'usd\[poses\]'"):
        find_poses(tmp_path, tmp_path, ordered=False)


def _has() -> bool:
    try:
        import pycolmap
    except ImportError:
        return False
    return bool(pycolmap)


@pytest.mark.slow
def test_a_video_becomes_a_scene_with_its_cameras(tmp_path, capsys):
    """Poses agree with those that rendered the frames, up to the world's own place, direction and size."""
    pytest.importorskip("pycolmap")
    azimuth = [20.0 + 6.0 * i for i in range(10)]
    cameras = orbit_cameras_deg([25.0 + 2.0 * (i % 3) for i in range(10)], azimuth, 2.2, 45.0, SIZE)
    stream = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (SIZE, SIZE))
    for index in range(10):
        stream.write(picture_of(cameras[[index]]))
    stream.release()
    assert poses_command.main([str(tmp_path / "v.avi"), str(tmp_path / "scene"), "--frames", "10"]) == 0
    assert "10 of 10 pictures have a camera" in capsys.readouterr().out
    found = read_views(tmp_path / "scene", ViewOptions(masks="none", frame="keep"))
    assert found.points is not None and len(found.points) > 200
    turns = found.cameras.c2w[:, :3, :3] @ found.cameras.c2w[0, :3, :3].T
    expected = cameras.c2w[:, :3, :3] @ cameras.c2w[0, :3, :3].T
    angles = [torch.acos(((turn.trace() - 1) / 2).clamp(-1, 1)) for turn in turns]
    true = [torch.acos(((turn.trace() - 1) / 2).clamp(-1, 1)) for turn in expected]
    assert torch.stack(angles).rad2deg().tolist() == pytest.approx(
        torch.stack(true).rad2deg().tolist(), abs=1.5
    )
