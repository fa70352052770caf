import json
import math

import pytest
import torch

from usd.core.config import UserError
from usd.data.pictures import write_picture
from usd.data.transforms import read_transforms, read_transforms_file, write_transforms
from usd.math.camera import join_cameras, orbit_cameras_deg, pinhole_cameras

IDENTITY = torch.eye(4).tolist()


def write(path, **content):
    path.write_text(json.dumps(content))
    return path


def test_cameras_survive_the_file(tmp_path):
    cameras = orbit_cameras_deg([-10.0, 20.0, 45.0], [0.0, 120.0, 240.0], 1.5, 39.6, 48).resize(48, 64)
    path = write_transforms(
        tmp_path / "new/transforms.json", [cameras[:1], cameras[1:]], ["a.png", "b.png", "c.png"]
    )
    frames = read_transforms(path)
    assert [frame.file_path for frame in frames] == ["a.png", "b.png", "c.png"]
    assert torch.allclose(torch.cat([frame.camera.c2w for frame in frames]), cameras.c2w, atol=1e-6)
    assert torch.allclose(torch.cat([frame.camera.fov_y for frame in frames]), cameras.fov_y, atol=1e-6)
    assert all((frame.camera.height, frame.camera.width) == (48, 64) for frame in frames)


def test_a_frame_may_have_its_own_intrinsics(tmp_path):
    frames = [{"transform_matrix": IDENTITY}, {"transform_matrix": IDENTITY, "fl_x": 50, "w": 80, "h": 40}]
    first, second = read_transforms(write(tmp_path / "t.json", w=64, h=64, fl_x=100, frames=frames))
    assert first.camera.focal_px.item() == pytest.approx(100, rel=1e-5)
    assert (second.camera.height, second.camera.width) == (40, 80)
    assert second.camera.focal_px.item() == pytest.approx(50, rel=1e-5)


def test_horizontal_angle_becomes_a_vertical_one(tmp_path):
    path = write(tmp_path / "t.json", w=80, h=40, camera_angle_x=1.0, frames=[{"transform_matrix": IDENTITY}])
    expected = 2 * math.atan(math.tan(0.5) * 40 / 80)
    assert read_transforms(path)[0].camera.fov_y.item() == pytest.approx(expected, rel=1e-5)


def test_nerf_synthetic_files_have_no_size_and_no_endings(tmp_path):
    write_picture(tmp_path / "train/r_0.png", torch.rand(4, 12, 20))
    frames = [{"file_path": "./train/r_0", "transform_matrix": IDENTITY}]
    (frame,) = read_transforms(write(tmp_path / "t.json", camera_angle_x=0.7, frames=frames))
    assert (frame.camera.height, frame.camera.width) == (12, 20)
    assert frame.picture == tmp_path / "train/r_0.png"


def test_a_three_by_four_pose_is_completed(tmp_path):
    path = write(tmp_path / "t.json", w=8, h=8, fl_x=8, frames=[{"transform_matrix": IDENTITY[:3]}])
    assert torch.equal(read_transforms(path)[0].camera.c2w[0], torch.eye(4))


GOOD = {"w": 8, "h": 8, "fl_x": 8.0}
MIRROR = [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**GOOD, "frames": []}, "has no frames"),
        ({**GOOD}, "no list of `frames`"),
        ({**GOOD, "frames": [3]}, r"frames\[0\]: is not a mapping"),
        ({**GOOD, "w": 0, "frames": [{"transform_matrix": IDENTITY}]}, r"frames\[0\].w: is 0; expected"),
        ({**GOOD, "h": 2.5, "frames": [{"transform_matrix": IDENTITY}]}, r"frames\[0\].h: is 2.5"),
        ({**GOOD, "fl_x": -3, "frames": [{"transform_matrix": IDENTITY}]}, "fl_x: is -3"),
        ({**GOOD, "cx": -9, "frames": [{"transform_matrix": IDENTITY}]}, "cx, cy: are -9, 4; expected the"),
        (
            {**GOOD, "k7": 0.1, "k6": 2, "frames": [{"transform_matrix": IDENTITY}]},
            r"k6: is 2, which OPENCV does",
        ),
        (
            {**GOOD, "ftheta_p0": 0.1, "frames": [{"transform_matrix": IDENTITY}]},
            r"frames\[0\]\.ftheta_p0: is a lens that no pinhole can follow",
        ),
        ({"w": 8, "h": 8, "frames": [{"transform_matrix": IDENTITY}]}, "has no fl_x"),
        (
            {"fl_x": 8, "frames": [{"file_path": "gone.png", "transform_matrix": IDENTITY}]},
            "its picture does not exist",
        ),
        ({"w": 8, "h": 8, "camera_angle_x": 40, "frames": [{"transform_matrix": IDENTITY}]}, "degrees"),
        ({**GOOD, "frames": [{}]}, "none of its 1 frames has a camera"),
        ({**GOOD, "frames": [{"transform_matrix": "x"}]}, "transform_matrix: is not a matrix"),
        ({**GOOD, "frames": [{"transform_matrix": [[1, 2], [3, 4]]}]}, "not a finite 4 x 4"),
        ({**GOOD, "frames": [{"transform_matrix": MIRROR}]}, "not a rotation"),
    ],
)
def test_bad_files_say_where_and_what(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_transforms(write(tmp_path / "t.json", **content))


def test_missing_and_truncated_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.json: no such file"):
        read_transforms(tmp_path / "gone.json")
    path = write_transforms(
        tmp_path / "t.json", [orbit_cameras_deg(0.0, [0.0, 90.0], 1.5, 40.0, 8)], ["a", "b"]
    )
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match=r"t\.json: is not readable JSON, perhaps truncated"):
        read_transforms(path)


def test_frames_without_size_and_picture_have_the_size_of_the_first_picture(tmp_path):
    write_picture(tmp_path / "r_1.png", torch.ones(4, 20, 30))
    write_picture(tmp_path / "r_2.png", torch.ones(4, 40, 60))
    frames = [{"file_path": f"r_{i}", "transform_matrix": torch.eye(4).tolist()} for i in range(3)]
    file = write(tmp_path / "transforms.json", camera_angle_x=0.7, frames=frames)
    found = read_transforms(file)
    assert [(frame.camera.height, frame.camera.width) for frame in found] == [(20, 30), (20, 30), (40, 60)]
    assert [frame.picture is not None for frame in found] == [False, True, True]


def test_intrinsics_survive_the_file_and_distortion_is_left_to_the_pictures(tmp_path):
    cameras = orbit_cameras_deg(0.0, [0.0, 90.0], 1.5, 40.0, 48)
    numbers = torch.tensor([[60.0, 55.0, 20.0, 30.0], [61.0, 57.0, 26.0, 18.0]])
    given = pinhole_cameras(cameras.c2w, numbers, 48, 64)
    file = write_transforms(tmp_path / "t.json", [given], ["a.png", "b.png"])
    found = join_cameras([frame.camera for frame in read_transforms(file)])
    assert torch.allclose(found.intrinsics, numbers) and torch.allclose(found.fov_y, given.fov_y)
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "k1": 0.1}))
    bent, _ = read_transforms(file)
    assert bent.files.lens.distortion == (0.1, 0, 0, 0, 0) and torch.equal(bent.camera.c2w, found[:1].c2w)


def test_frames_without_a_camera_are_left_out_and_counted(tmp_path):
    frames = [{"file_path": "a.png"}, {"transform_matrix": IDENTITY}, {"transform_matrix": None}]
    found = read_transforms_file(write(tmp_path / "t.json", **GOOD, frames=frames), "x")
    assert len(found.frames) == 1 and found.without_camera == ("a.png", "frames[2]")


@pytest.mark.parametrize("hole", [math.nan, math.inf, None, "nan"], ids=str)
def test_matrices_that_are_no_numbers_are_those_of_lost_cameras(tmp_path, hole):
    """Programs that lost their way write NaN, which JavaScript makes null, or zeros."""
    broken = [IDENTITY[0], [*IDENTITY[1][:3], hole], *IDENTITY[2:]]
    zeros = [[0.0] * 4] * 3 + [[0.0, 0.0, 0.0, 1.0]]
    frames = [{"transform_matrix": matrix} for matrix in (broken, IDENTITY, zeros)]
    found = read_transforms_file(write(tmp_path / "t.json", **GOOD, frames=frames), "x")
    assert len(found.frames) == 1 and found.without_camera == ("frames[0]", "frames[2]")
    with pytest.raises(UserError, match="none of its 2 frames has a camera"):
        read_transforms_file(write(tmp_path / "t.json", **GOOD, frames=frames[::2]), "x")


@pytest.mark.parametrize("said", [{}, {"w": 40}, {"h": 24}, {"w": None, "h": None}], ids=str)
def test_a_side_that_the_file_does_not_say_is_the_pictures(tmp_path, said):
    write_picture(tmp_path / "a.png", torch.rand(3, 12, 20))
    frames = [{"file_path": "a.png", "transform_matrix": IDENTITY}]
    (frame,) = read_transforms(write(tmp_path / "t.json", **said, camera_angle_x=0.7, frames=frames))
    expected = (24, 40) if said.get("w") or said.get("h") else (12, 20)
    assert (frame.camera.height, frame.camera.width) == expected


def test_axes_of_another_length_are_taken_with_length_one_and_said(tmp_path):
    """Blender's cameras have a scale where a parent has one."""
    turn = orbit_cameras_deg([20.0], [70.0], 1.5, 40.0, 8).c2w[0]
    scaled = turn.clone()
    scaled[:3, :3] *= 2.5
    path = write(tmp_path / "t.json", **GOOD, frames=[{"transform_matrix": scaled.tolist()}])
    read = read_transforms_file(path, "here")
    assert torch.allclose(read.frames[0].camera.c2w[0], turn, atol=1e-6)
    assert read.notes == (
        "1 of 1 frames: the matrix scales, which says nothing of a camera: its axes are taken with length 1",
    )


def test_maps_that_are_not_there_do_not_stop_a_reading(tmp_path):
    """Depths are left out and said; of a frame without a picture nobody asks for maps."""
    for name in ("a.png", "d.png"):
        write_picture(tmp_path / name, torch.rand(1, 8, 8))
    maps = {"mask_path": "m.png", "transform_matrix": IDENTITY}
    frames = [
        {**maps, "file_path": "a.png", "depth_file_path": "d.png"},
        {**maps, "file_path": "a.png", "depth_file_path": "gone.png"},
        {**maps, "file_path": "a.png", "depth_path": "d.png"},
        {**maps, "file_path": "a.png", "depth_path": "d.png", "integer_depth_scale": -1},
        {**maps, "file_path": "gone.png", "depth_file_path": "gone.png"},
    ]
    read = read_transforms_file(write(tmp_path / "t.json", **GOOD, frames=frames), "here")
    assert [frame.files.depth is not None for frame in read.frames] == [True, False, False, False, False]
    assert [frame.files.mask for frame in read.frames] == [tmp_path / "m.png"] * 4 + [None]
    assert read.notes == (
        "1 of 5 frames: depth map left out: its file is not there (depth_file_path)",
        "2 of 5 frames: depth map left out: integer_depth_scale does not say what its numbers are",
    )
