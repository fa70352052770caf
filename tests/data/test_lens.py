"""Pictures of real lenses become those of plain pinholes: compared with what such a pinhole sees."""

import json
import math

import pytest
import torch

from usd.core.errors import UserError
from usd.data.lens import Intrinsics, distort, rectify, undistort
from usd.data.pictures import write_picture
from usd.data.view_readers import ViewOptions, read_views

WIDTH, HEIGHT = 96, 64
BENT = (0.08, -0.03, 0.004, -0.003, 0.01)


def scene_at(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Smooth colors (3, ...) of directions, told by where they meet the plane at depth 1."""
    return torch.stack(
        [0.5 + 0.4 * torch.sin(4 * x), 0.5 + 0.4 * torch.cos(3 * y), 0.5 + 0.3 * torch.sin(3 * x + 2 * y)]
    )


def pixel_centers(width: int, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return u, v


def taken_by(camera: Intrinsics) -> torch.Tensor:
    """The scene as a lens shows it (4, H, W): the direction of each pixel by fixed-point iteration."""
    u, v = pixel_centers(camera.width, camera.height)
    there_x, there_y = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
    x, y = there_x, there_y
    for _ in range(100):
        bent_x, bent_y = distort(x, y, camera.distortion)
        x, y = x + there_x - bent_x, y + there_y - bent_y
    return torch.cat([scene_at(x, y), torch.ones(1, camera.height, camera.width)])


LENSES = {
    "a plain pinhole": Intrinsics(WIDTH, HEIGHT, 70.0, 70.0, 48.0, 32.0),
    "a principal point beside the middle": Intrinsics(WIDTH, HEIGHT, 70.0, 70.0, 41.0, 35.0),
    "pixels that are not square": Intrinsics(WIDTH, HEIGHT, 60.0, 80.0, 48.0, 32.0),
    "barrel": Intrinsics(WIDTH, HEIGHT, 70.0, 70.0, 48.0, 32.0, (-0.15, 0.02)),
    "pincushion": Intrinsics(WIDTH, HEIGHT, 70.0, 70.0, 48.0, 32.0, (0.1,)),
    "all at once": Intrinsics(WIDTH, HEIGHT, 75.0, 70.0, 50.0, 31.0, BENT),
}


@pytest.mark.parametrize("camera", LENSES.values(), ids=LENSES)
def test_a_rectified_picture_is_what_a_plain_pinhole_sees(camera):
    picture, fov = rectify(taken_by(camera), camera, "x")
    height, width = picture.shape[-2:]
    focal = 0.5 * height / math.tan(0.5 * fov)
    u, v = pixel_centers(width, height)
    expected = scene_at((u - width / 2) / focal, (v - height / 2) / focal)
    # Half a pixel is what rounding the crop may move a picture.
    assert (picture[:3] - expected).abs().max() < 0.03
    assert picture[3].min() > 0.999, "no empty border"
    assert min(height, width) > 40, "most of the picture is kept"


def test_a_picture_of_another_resolution_is_rectified_alike():
    camera = LENSES["all at once"]
    whole = taken_by(camera)
    small = torch.nn.functional.avg_pool2d(whole[None], 2)[0]
    (large, fov), (half, same) = rectify(whole, camera, "x"), rectify(small, camera, "x")
    assert same == pytest.approx(fov, rel=0.03)
    shrunk = torch.nn.functional.interpolate(large[None], half.shape[-2:], mode="bilinear", antialias=True)[0]
    assert (shrunk - half)[:3, 2:-2, 2:-2].abs().max() < 0.05


def test_transparent_colors_do_not_bleed():
    picture = taken_by(LENSES["barrel"])
    picture[:, :, :48] = 0
    rgba = undistort(picture, LENSES["barrel"], "x")[0]
    solid = rgba[3] > 0.05
    assert (rgba[:3, solid].amin() > 0.05) and (rgba[3] < 0.05).any()


def test_the_middle_of_a_distorted_picture_does_not_move():
    x = torch.tensor([0.0, 1e-4])
    assert torch.allclose(
        torch.stack(distort(x, 0 * x, (0.3, -0.2, 0.0, 0.0))), torch.stack([x, 0 * x]), atol=1e-9
    )


def test_a_lens_that_bends_too_much_is_one_clear_line():
    with pytest.raises(UserError, match=r"x: its distortion \(3\) bends the picture beyond"):
        rectify(torch.ones(4, HEIGHT, WIDTH), Intrinsics(WIDTH, HEIGHT, 30.0, 30.0, 48.0, 32.0, (3.0,)), "x")
    with pytest.raises(
        UserError, match=r"x: is 10 x 10 pixels; expected the shape that its camera has, 96 x 64"
    ):
        rectify(torch.ones(4, 10, 10), LENSES["barrel"], "x")


def capture(folder, **keys):
    """Three views of the scene by one lens, as nerfstudio writes captures."""
    camera, frames = LENSES["all at once"], []
    for i, x in enumerate((0.0, 0.2, 0.4)):
        write_picture(folder / f"{i}.png", taken_by(camera)[:3])
        pose = [[1, 0, 0, x], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]]
        frames.append({"file_path": f"{i}.png", "transform_matrix": pose})
    named = dict(zip(("k1", "k2", "p1", "p2", "k3"), BENT, strict=True))
    content = {
        "camera_model": "OPENCV",
        "w": WIDTH,
        "h": HEIGHT,
        "fl_x": 75.0,
        "fl_y": 70.0,
        "cx": 50.0,
        "cy": 31.0,
    }
    (folder / "transforms.json").write_text(json.dumps({**content, **named, "frames": frames, **keys}))
    return folder


def test_a_capture_with_a_real_lens_is_read_and_says_so(tmp_path):
    views = read_views(capture(tmp_path), ViewOptions(masks="none"))
    expected, fov = rectify(taken_by(LENSES["all at once"]), LENSES["all at once"], "x")
    assert torch.allclose(views.rgba[1], expected, atol=0.02)
    assert views.cameras.fov_y.tolist() == pytest.approx(3 * [fov]) and not views.masked
    assert any(note.startswith("3 of 3 pictures made those of plain pinholes") for note in views.notes)


def test_masks_of_a_capture_are_bent_with_its_pictures(tmp_path):
    """A mask that covers what the scene shows left of the middle still does so afterwards."""
    (tmp_path / "masks").mkdir()
    for i in range(3):
        write_picture(tmp_path / "masks" / f"{i}.png", (taken_by(LENSES["all at once"])[:1] > 0.5).float())
    views = read_views(capture(tmp_path), ViewOptions(masks="files"))
    clear = (views.rgba[0, 0] - 0.5).abs() > 0.1
    seen = views.rgba[0, 3] > 0.5
    assert (seen == (views.rgba[0, 0] > 0.5))[clear & seen].all() and seen.float().mean() > 0.2


def test_a_fisheye_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"k4: is 0.1, a fisheye's; expected 0: undistort"):
        read_views(capture(tmp_path, k4=0.1), ViewOptions())
    with pytest.raises(UserError, match=r"camera_model: is OPENCV_FISHEYE; expected a pinhole"):
        read_views(capture(tmp_path, camera_model="OPENCV_FISHEYE"), ViewOptions())
