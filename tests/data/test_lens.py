"""Lenses: the places of known points against OpenCV, COLMAP's own code and formulas; pictures against what pinholes see."""

import json

import cv2
import numpy as np
import pytest
import torch

from usd.core.errors import UserError
from usd.data.lens import Intrinsics, distort, largest_radius, source_map, undistort, without_distortion
from usd.data.pictures import write_picture
from usd.data.view_readers import ViewOptions, read_views

WIDTH, HEIGHT = 96, 64
BENT = (0.08, -0.03, 0.004, -0.003, 0.01)

LENSES = {
    "barrel": Intrinsics(WIDTH, HEIGHT, 70.0, 70.0, 48.0, 32.0, (-0.15, 0.02)),
    "pincushion": Intrinsics(WIDTH, HEIGHT, 70.0, 70.0, 48.0, 32.0, (0.1,)),
    "all at once": Intrinsics(WIDTH, HEIGHT, 75.0, 70.0, 50.0, 31.0, BENT),
    "rational": Intrinsics(WIDTH, HEIGHT, 75.0, 70.0, 50.0, 31.0, (*BENT, 0.02, 0.01, -0.005)),
    "fisheye": Intrinsics(WIDTH, HEIGHT, 40.0, 42.0, 47.0, 33.0, (0.02, -0.01, 0.005, -0.001), "fisheye"),
    "fisheye without numbers": Intrinsics(WIDTH, HEIGHT, 40.0, 40.0, 48.0, 32.0, (), "fisheye"),
    "fov": Intrinsics(WIDTH, HEIGHT, 50.0, 50.0, 48.0, 32.0, (0.9,), "fov"),
    "thin prism": Intrinsics(
        WIDTH,
        HEIGHT,
        50.0,
        51.0,
        46.0,
        32.0,
        (0.01, -0.02, 0.003, -0.004, 0.001, 0.0, 0.001, -0.002),
        "thin-prism",
    ),
    "rad-tan": Intrinsics(
        WIDTH,
        HEIGHT,
        50.0,
        51.0,
        46.0,
        32.0,
        (0.01, -0.02, 0.003, 0.0, -0.001, 0.0, 0.001, -0.002, 0.003, -0.001, 0.002, 0.001),
        "rad-tan",
    ),
    "division": Intrinsics(WIDTH, HEIGHT, 70.0, 70.0, 48.0, 32.0, (-0.12,), "division"),
    "eucm": Intrinsics(WIDTH, HEIGHT, 70.0, 70.0, 48.0, 32.0, (0.6, 1.1), "eucm"),
}
ALL = pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)


def known_points(count: int = 60) -> torch.Tensor:
    """Points in OpenCV's camera axes, up to 40 degrees from the optical axis."""
    made = np.random.default_rng(3).uniform(-0.6, 0.6, (count, 3))
    made[:, 2] = 1
    return torch.from_numpy(made * np.random.default_rng(4).uniform(0.5, 3, (count, 1)))


@pytest.mark.parametrize(
    "name", [name for name, lens in LENSES.items() if lens.model in ("brown", "fisheye")]
)
def test_known_points_are_where_opencv_projects_them(name):
    lens, points = LENSES[name], known_points()
    matrix = np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]])
    zero = np.zeros(3)
    if lens.model == "brown":
        numbers = np.array([*lens.distortion, *(8 - len(lens.distortion)) * [0.0]])
        expected, _ = cv2.projectPoints(points.numpy(), zero, zero, matrix, numbers)
    else:
        numbers = np.array([*lens.distortion, *(4 - len(lens.distortion)) * [0.0]])
        expected, _ = cv2.fisheye.projectPoints(points.numpy()[:, None], zero, zero, matrix, numbers)
    assert np.abs(lens.project(points).numpy() - expected.reshape(-1, 2)).max() < 1e-4


COLMAP = {
    "SIMPLE_RADIAL_FISHEYE": [52.0, 47.0, 33.0, 0.03],
    "RADIAL_FISHEYE": [52.0, 47.0, 33.0, 0.03, -0.01],
    "OPENCV_FISHEYE": [50.0, 52.0, 47.0, 33.0, 0.03, -0.01, 0.002, 0.001],
    "SIMPLE_PINHOLE": [70.0, 40.0, 30.0],
    "PINHOLE": [70.0, 60.0, 40.0, 30.0],
    "SIMPLE_RADIAL": [70.0, 40.0, 30.0, 0.1],
    "RADIAL": [70.0, 40.0, 30.0, 0.1, -0.02],
    "OPENCV": [70.0, 71.0, 40.0, 30.0, 0.1, -0.02, 0.003, -0.004],
    "FULL_OPENCV": [70.0, 71.0, 40.0, 30.0, 0.1, -0.02, 0.003, -0.004, 0.01, 0.02, 0.01, -0.005],
    "FOV": [70.0, 71.0, 40.0, 30.0, 0.9],
    "THIN_PRISM_FISHEYE": [70.0, 71.0, 40.0, 30.0, 0.01, -0.02, 0.003, -0.004, 0.001, 0.0005, 0.001, -0.002],
    "RAD_TAN_THIN_PRISM_FISHEYE": [
        *[70.0, 71.0, 40.0, 30.0, 0.01, -0.02, 0.003, 0.004, -0.001, 0.0005],
        *[0.001, -0.002, 0.003, -0.001, 0.002, 0.001],
    ],
    "SIMPLE_DIVISION": [70.0, 40.0, 30.0, -0.1],
    "DIVISION": [70.0, 71.0, 40.0, 30.0, -0.1],
    "SIMPLE_FISHEYE": [52.0, 47.0, 33.0],
    "FISHEYE": [50.0, 52.0, 47.0, 33.0],
    "EUCM": [70.0, 71.0, 40.0, 30.0, 0.6, 1.1],
}


@pytest.mark.parametrize("model", COLMAP)
def test_known_points_are_where_colmap_projects_them(model):
    """COLMAP's own code, for each of its models, by number and name as its files have them."""
    pycolmap = pytest.importorskip("pycolmap")
    from usd.data.colmap import MODELS, intrinsics_of

    camera = pycolmap.Camera(model=model, width=WIDTH, height=HEIGHT, params=COLMAP[model])
    lens = intrinsics_of(model, WIDTH, HEIGHT, COLMAP[model], "x")
    points = known_points()
    assert np.abs(lens.project(points).numpy() - camera.img_from_cam(points.numpy())).max() < 1e-4
    assert MODELS[int(getattr(pycolmap.CameraModelId, model))] == (model, len(COLMAP[model]))


def scene_at(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Smooth colors (3, ...) of directions, told by where they meet the plane at depth 1."""
    return torch.stack(
        [0.5 + 0.4 * torch.sin(4 * x), 0.5 + 0.4 * torch.cos(3 * y), 0.5 + 0.3 * torch.sin(3 * x + 2 * y)]
    )


def pixel_centers(width: int, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return u.double(), v.double()


def taken_by(lens: Intrinsics) -> torch.Tensor:
    """The scene as a lens shows it (4, H, W): the direction of each pixel by Newton steps with a numeric slope."""
    u, v = pixel_centers(lens.width, lens.height)
    there = torch.stack([(u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy])
    at = there.clone()
    for _ in range(60):
        bent = torch.stack(distort(at[0], at[1], lens))
        r, rd = at.norm(dim=0).clamp_min(1e-9), bent.norm(dim=0).clamp_min(1e-9)
        at = at + 0.7 * (there - bent) * (r / rd)
    return torch.cat([scene_at(at[0], at[1]), torch.ones(1, lens.height, lens.width)]).float()


def seen_by_pinhole(lens: Intrinsics) -> torch.Tensor:
    u, v = pixel_centers(lens.width, lens.height)
    return scene_at((u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy).float()


@ALL
def test_an_undistorted_picture_is_what_the_pinhole_of_the_same_numbers_sees(lens):
    picture, valid = undistort(taken_by(lens), lens, "x")
    assert (picture[:3] - seen_by_pinhole(lens))[:, valid].abs().max() < 0.02
    assert float(valid.float().mean()) > 0.7 and torch.allclose(picture[3], valid.float(), atol=1e-5)
    assert without_distortion(lens).numbers == lens.numbers


def test_pixels_without_a_source_are_those_that_the_lens_never_saw():
    """A pincushion's pinhole sees less than the lens; a barrel's sees beyond its border, just where OpenCV says."""
    lens = LENSES["pincushion"]
    valid = source_map(lens).valid
    u, v = pixel_centers(WIDTH, HEIGHT)
    matrix = np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]])
    points = np.stack([(u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy, np.ones_like(u)], -1).reshape(-1, 3)
    found, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), matrix, np.array([0.1, 0, 0, 0]))
    expected = ((found >= 0) & (found <= [WIDTH, HEIGHT])).all(-1).reshape(HEIGHT, WIDTH)
    assert (valid.numpy() == expected).all() and 0.8 < valid.float().mean() < 0.99
    assert bool(source_map(LENSES["barrel"]).valid.all())


def test_a_polynomial_that_folds_back_is_used_up_to_its_fold_only():
    """r (1 - 0.4 r^2) grows up to r = sqrt(1 / 1.2); what lies beyond would come out twice."""
    lens = Intrinsics(WIDTH, HEIGHT, 30.0, 30.0, 48.0, 32.0, (-0.4,))
    assert largest_radius(lens, 2.0) == pytest.approx(1.2**-0.5, rel=0.01)
    valid = source_map(lens).valid
    u, v = pixel_centers(WIDTH, HEIGHT)
    radius = torch.hypot((u - 48) / 30, (v - 32) / 30)
    assert not valid[radius > 0.93].any() and valid[radius < 0.9].all()


def test_a_picture_of_another_resolution_is_undistorted_alike():
    lens = LENSES["all at once"]
    whole = taken_by(lens)
    small = torch.nn.functional.avg_pool2d(whole[None], 2)[0]
    (large, valid), (half, _) = undistort(whole, lens, "x"), undistort(small, lens, "x")
    shrunk = torch.nn.functional.avg_pool2d(large[None], 2)[0]
    inside = torch.nn.functional.avg_pool2d(valid[None].float(), 2)[0] == 1
    assert (shrunk - half)[:3, inside].abs().max() < 0.05


def test_transparent_colors_do_not_bleed():
    picture = taken_by(LENSES["barrel"])
    picture[:, :, :48] = 0
    rgba, _ = undistort(picture, LENSES["barrel"], "x")
    solid = rgba[3] > 0.05
    assert (rgba[:3, solid].amin() > 0.05) and (rgba[3] < 0.05).any()


def test_a_lens_that_leaves_nothing_is_one_clear_line():
    lens = Intrinsics(WIDTH, HEIGHT, 3.0, 3.0, 48.0, 32.0, (9.0,))
    with pytest.raises(UserError, match=r"x: its brown distortion \(9\) leaves \d% of the picture; expected"):
        undistort(torch.ones(4, HEIGHT, WIDTH), lens, "x")


def capture(folder, lens=LENSES["all at once"], **keys):
    """Three views of the scene by one lens, as nerfstudio writes captures."""
    frames = []
    for i, x in enumerate((0.0, 0.2, 0.4)):
        write_picture(folder / f"{i}.png", taken_by(lens)[:3])
        pose = [[1, 0, 0, x], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]]
        frames.append({"file_path": f"{i}.png", "transform_matrix": pose})
    names = ("k1", "k2", "k3", "k4") if lens.model == "fisheye" else ("k1", "k2", "p1", "p2", "k3")
    numbers = dict(zip(names, lens.distortion))
    model = "OPENCV_FISHEYE" if lens.model == "fisheye" else "OPENCV"
    content = {"camera_model": model, "w": WIDTH, "h": HEIGHT, "fl_x": lens.fx, "fl_y": lens.fy}
    content = {**content, "cx": lens.cx, "cy": lens.cy, **numbers, "frames": frames, **keys}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("name", ["all at once", "fisheye"])
def test_a_capture_with_a_real_lens_is_read_and_says_so(tmp_path, name):
    lens = LENSES[name]
    views = read_views(capture(tmp_path, lens), ViewOptions(masks="none"))
    valid = torch.ones(HEIGHT, WIDTH).bool() if views.valid is None else views.valid.view(1)[..., 0]
    assert (views.rgba[1, :3] - seen_by_pinhole(lens))[:, valid].abs().max() < 0.02 and not views.masked
    assert torch.allclose(views.cameras.intrinsics, torch.tensor([lens.numbers]).expand(3, 4))
    assert "3 of 3 pictures undistorted" in views.notes


def test_masks_of_a_capture_are_bent_with_its_pictures(tmp_path):
    """A mask that covers what the scene shows left of the middle still does so afterwards."""
    (tmp_path / "masks").mkdir()
    for i in range(3):
        write_picture(tmp_path / "masks" / f"{i}.png", (taken_by(LENSES["all at once"])[:1] > 0.5).float())
    views = read_views(capture(tmp_path), ViewOptions(masks="files"))
    valid = torch.ones(HEIGHT, WIDTH).bool() if views.valid is None else views.valid.view(0)[..., 0]
    clear = (views.rgba[0, 0] - 0.5).abs() > 0.1
    seen = views.rgba[0, 3] > 0.5
    assert (seen == (views.rgba[0, 0] > 0.5))[clear & seen & valid].all() and seen.float().mean() > 0.2


def test_a_smaller_reading_keeps_the_lens_and_only_whole_pixels(tmp_path):
    views = read_views(capture(tmp_path, LENSES["pincushion"]), ViewOptions(masks="none", size=48))
    assert views.rgba.shape[-2:] == (32, 48) and views.cameras.intrinsics is None
    assert views.cameras.focal_px.tolist() == pytest.approx(3 * [35.0])
    pinhole = Intrinsics(48, 32, 35.0, 35.0, 24.0, 16.0)
    assert (views.rgba[0, :3] - seen_by_pinhole(pinhole))[:, views.valid.view(0)[..., 0]].abs().max() < 0.02


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"k4": 0.1}, r"k4: is 0\.1, which OPENCV does not have; expected 0, or another model"),
        (
            {"camera_model": "EQUIRECTANGULAR"},
            r"camera_model: is EQUIRECTANGULAR; expected FISHEYE, FULL_OPENCV",
        ),
        ({"cx": 5000}, r"cx, cy: are 5000, 31; expected the principal point in pixels"),
    ],
)
def test_a_lens_that_is_not_known_is_one_clear_line(tmp_path, keys, said):
    with pytest.raises(UserError, match=said):
        read_views(capture(tmp_path, **keys), ViewOptions())
