"""Camera paths as files: our key views, nerfstudio's paths, transforms.json, and what is wrong with others."""

import json

import pytest
import torch

from usd.core.errors import UserError
from usd.data.camera_path import CameraPath, KeyView, read_camera_path

KEYS = (KeyView((1.5, 0.0, 0.4)), KeyView((0.0, 2.0, 0.4), (0.0, 0.1, 0.0), 50.0))


def test_a_written_path_reads_back(tmp_path):
    path = CameraPath(KEYS, seconds=0.5, fps=12, loop=True)
    cameras, fps = read_camera_path(path.write(tmp_path / "path.json"), 16, 24)
    assert (len(cameras), fps) == (6, 12)
    torch.testing.assert_close(torch.cat([c.c2w for c in cameras]), path.cameras(16, 24).c2w)
    assert (cameras[0].height, cameras[0].width) == (16, 24)


def test_nerfstudios_paths_and_transforms_are_read(tmp_path):
    matrix = torch.eye(4)
    matrix[2, 3] = 3.0
    entry = {"camera_to_world": matrix.flatten().tolist(), "fov": 60, "aspect": 2}
    content = {"camera_path": [entry] * 3, "render_height": 20, "render_width": 40, "fps": 30}
    file = tmp_path / "camera_path.json"
    file.write_text(json.dumps(content))
    cameras, fps = read_camera_path(file, 16, 16)
    assert (len(cameras), fps, cameras[0].height, cameras[0].width) == (3, 30, 20, 40)
    torch.testing.assert_close(cameras[0].c2w[0], matrix)
    frames = [{"file_path": "a.png", "transform_matrix": matrix.tolist()}]
    file.write_text(json.dumps({"w": 8, "h": 8, "fl_x": 9, "frames": frames}))
    assert len(read_camera_path(file, 16, 16)[0]) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; expected orbit"),
        ("{", "is not readable JSON"),
        ({}, "has no keyframes, camera_path or frames"),
        ({"keyframes": []}, "has no keyframes; expected at least one"),
        ({"keyframes": [{}]}, "keyframes[0].position: is None; expected three numbers"),
        ({"keyframes": [{"position": [1, 2, "x"]}]}, "keyframes[0].position: is 'x'; expected a number"),
        (
            {"keyframes": [{"position": [1, 0, 0], "fov_y_deg": 0}]},
            "fov_y_deg: is 0; expected a number from 1",
        ),
        ({"keyframes": [{"position": [1, 0, 0]}], "fps": 0}, "fps: is 0; expected a number from 1 to 240"),
        ({"camera_path": [{"camera_to_world": [1]}]}, "camera_path[0]: has no camera_to_world of 16 numbers"),
    ],
)
def test_a_broken_path_names_file_and_key(tmp_path, content, message):
    file = tmp_path / "path.json"
    if content is not None:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError) as error:
        read_camera_path(file, 16, 16)
    assert message in str(error.value) and str(file) in str(error.value)
