"""Folders that cannot be reconstructed, given to the launcher as a user would: one line that says what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import launch
from tests.data.test_colmap import scene, write_binary
from tests.data.test_views import balls
from tests.tiny_configs import CONFIGS
from usd.core.config import parse
from usd.core.errors import UserError
from usd.data.convert import write_views
from usd.data.pictures import read_rgba, write_picture
from usd.data.toy_views import sphere_cameras
from usd.data.view_set import ViewSet, cameras_turned_away, one_viewpoint, refuse_outside
from usd.data.views import ViewsConfig, ViewsData, views_summary
from usd.math.camera import orbit_cameras_deg, orthographic_cameras

TINY = [
    "data.n_rays=32",
    "system.samples_per_step=256",
    "system.field_points=8",
    "system.geometry.pos_encoding_config.n_levels=2",
    "system.geometry.pos_encoding_config.log2_hashmap_size=8",
    "system.renderer.num_samples_per_ray=16",
    "system.renderer.grid_resolution=8",
    "trainer.max_steps=1",
    "trainer.val_check_interval=0",
    "trainer.test_after_fit=false",
    "trainer.enable_progress_bar=false",
    "use_timestamp=false",
    "tag=bad",
]
VIEWS = 6
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    write_views(balls(sphere_cameras(VIEWS, 24)), folder)
    return folder


def posed(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """All matrices replaced."""

    def apply(folder: Path) -> None:
        content = json.loads((folder / "transforms.json").read_text())
        for frame in content["frames"]:
            frame["transform_matrix"] = change(np.array(frame["transform_matrix"])).tolist()
        (folder / "transforms.json").write_text(json.dumps(content))

    return apply


def pictures(change: Callable[[torch.Tensor], torch.Tensor], *names: str) -> Change:
    """All pictures replaced, or the named ones."""

    def apply(folder: Path) -> None:
        for file in sorted((folder / "views").iterdir()):
            if not names or file.name in names:
                write_picture(file, change(read_rgba(file)))

    return apply


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def alone(folder: Path) -> None:
    content = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").write_text(json.dumps({**content, "frames": content["frames"][:1]}))


def masked(count: int, change: Callable[[torch.Tensor], torch.Tensor] = lambda mask: mask) -> Change:
    """Opaque pictures, and masks beside the first ``count`` of them."""

    def apply(folder: Path) -> None:
        for index, file in enumerate(sorted((folder / "views").iterdir())):
            rgba = read_rgba(file)
            write_picture(file, rgba[:3])
            if index < count:
                write_picture(folder / "masks" / file.name, change(rgba[3:]))

    return apply


def noise(rgba: torch.Tensor) -> torch.Tensor:
    """Opaque, in front of something that is not plain."""
    behind = torch.rand(3, *rgba.shape[-2:], generator=torch.Generator().manual_seed(1))
    return rgba[:3] * rgba[3:] + behind * (1 - rgba[3:])


def scaled(factor: float, *shift: float) -> Change:
    def change(pose: np.ndarray) -> np.ndarray:
        pose[:3, 3] = pose[:3, 3] * factor + (shift or 0)
        return pose

    return posed(change)


BAD: dict[str, tuple[Change, str]] = {
    "no cameras": (
        lambda folder: (folder / "transforms.json").unlink(),
        "has 6 pictures but no cameras; expected transforms.json, a COLMAP model",
    ),
    "no pictures": (lambda folder: shutil.rmtree(folder / "views"), "none of its 6 pictures exist"),
    "shapes": (
        pictures(lambda rgba: rgba[:, :16], "0003.png"),
        "views/0003.png: is 24 x 16 pixels; expected the shape that its camera has, 24 x 24",
    ),
    "a mask missing": (masked(5), "1 of 6 pictures have no mask (views/0005.png); expected a mask for each"),
    "a mask of another shape": (
        masked(6, lambda mask: mask[:, :10]),
        "is 24 x 10 pixels; expected the shape",
    ),
    "black masks": (masked(6, torch.zeros_like), "all masks are empty; expected the object in at least one"),
    "a single view": (alone, "has 1 view; expected at least 2: depth cannot be told from fewer"),
    "one camera for all": (
        posed(lambda pose: sphere_cameras(1, 8).c2w[0].numpy()),
        "all 6 cameras stand at one place: depth cannot be told",
    ),
    "world to camera": (
        posed(np.linalg.inv),
        "stand at one place: depth cannot be told; expected cameras around",
    ),
    "axes of OpenCV": (
        posed(lambda pose: pose @ np.diag([1, -1, -1, 1])),
        "6 of 6 cameras (views/0000.png, views/0001.png, views/0002.png, ...) look away from the object; expected "
        "OpenGL axes",
    ),
    "inside the object": (scaled(0.1), "6 of 6 cameras (views/0000.png"),
    "inside the object, no masks": (both(scaled(0.1), pictures(noise)), "stand within 0.6 of the origin"),
    "elsewhere": (scaled(1, 9, 0, 0), "the views show the object up to"),
    "elsewhere, no masks": (both(scaled(1, 9, 0, 0), pictures(noise)), "the cameras look at (9, "),
    "a cut picture": (
        lambda folder: (folder / "views/0002.png").write_bytes((folder / "views/0002.png").read_bytes()[:60]),
        "views/0002.png: cannot be read as a picture",
    ),
    "a cut file of cameras": (
        lambda folder: (folder / "transforms.json").write_text(
            (folder / "transforms.json").read_text()[:400]
        ),
        "transforms.json: is not readable JSON, perhaps truncated",
    ),
}


def launched(folder: Path, out: Path, *overrides: str) -> int:
    place = [f"exp_root_dir={out}", f"data.path={folder}"]
    return launch.main(
        ["--config", str(CONFIGS / "reconstruct.yaml"), "--train", "--gpu", "cpu", *TINY, *place, *overrides]
    )


def opened(folder: Path, **options: str) -> ViewSet:
    """The views as a training asks for them."""
    data = ViewsData(parse(ViewsConfig, {"path": str(folder), **options}, "data"))
    refuse_outside(data.train_views, 0.6)
    return data.train_views


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_is_one_clear_line(name, good, tmp_path):
    change, message = BAD[name]
    folder = shutil.copytree(good, tmp_path / "views")
    change(folder)
    with pytest.raises(UserError) as error:
        opened(folder)
    said = str(error.value)
    assert said.startswith("data.path: ") and "\n" not in said and message in said


@pytest.mark.parametrize(
    "name", ["no cameras", "a single view", "axes of OpenCV", "inside the object, no masks"]
)
def test_the_launcher_says_it_and_leaves_nothing_behind(name, good, tmp_path, capsys):
    change, message = BAD[name]
    folder = shutil.copytree(good, tmp_path / "views")
    change(folder)
    assert launched(folder, tmp_path / "out") == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: data.path: ") and errors.count("\n") == 1 and message in errors
    assert not (tmp_path / "out/reconstruct/bad/ckpts/last.ckpt").exists()


@pytest.mark.parametrize("file", ["images.bin", "cameras.bin"])
def test_a_cut_colmap_model_is_one_clear_line(file, tmp_path):
    folder = scene(tmp_path / "scene", write_binary)
    cut = folder / "sparse/0" / file
    cut.write_bytes(cut.read_bytes()[:-9])
    with pytest.raises(UserError, match=f"{file}: is cut short: ends at byte {cut.stat().st_size}, within"):
        opened(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            pictures(lambda rgba: rgba[:3] * rgba[3:] + 1 - rgba[3:]),
            "masks made by removing the plain color",
        ),
        (pictures(noise), "no masks and no plain background (views/0000.png): every pixel counts as object"),
        (masked(6, lambda mask: 1 - mask), "masks cover the border of 6 of 6 views: are they inverted?"),
        (
            pictures(lambda rgba: rgba * 0, "0004.png"),
            "1 of 6 views show nothing of the object (views/0004.png)",
        ),
        (lambda folder: (folder / "views/0001.png").unlink(), "1 of 6 frames have no picture"),
    ],
)
def test_what_is_assumed_is_said(change, said, good, tmp_path):
    folder = shutil.copytree(good, tmp_path / "views")
    change(folder)
    assert said in views_summary(opened(folder))


def test_what_the_message_advises_helps(good, tmp_path, capsys):
    folder = shutil.copytree(good, tmp_path / "views")
    scaled(0.1, 3, 0, 0)(folder)
    with pytest.raises(UserError, match=r"pass data\.frame=fit"):
        opened(folder)
    assert launched(folder, tmp_path / "out", "data.frame=fit") == 0
    assert "world fitted" in capsys.readouterr().out


@pytest.mark.parametrize("frame", ["fit", "cameras"])
def test_matrices_the_wrong_way_round_are_not_fitted_into_a_world(good, tmp_path, frame):
    """World-to-camera matrices of an orbit all say one place, up to roundings that a fit would blow up."""
    folder = shutil.copytree(good, tmp_path / "views")
    content = json.loads((folder / "transforms.json").read_text())
    for entry in content["frames"]:
        inverse = torch.linalg.inv(torch.tensor(entry["transform_matrix"], dtype=torch.float64))
        entry["transform_matrix"] = inverse.tolist()
    (folder / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"stand at one place: .*: are the matrices world-to-camera"):
        opened(folder, frame=frame)


def test_where_cameras_must_not_stand():
    around = balls(sphere_cameras(6, 16))
    assert not one_viewpoint(around) and cameras_turned_away(around) == []
    refuse_outside(around, 0.6)
    pair = balls(orbit_cameras_deg(0.0, [0.0, 1.0], 1.5, 40.0, 16))
    assert not one_viewpoint(pair), "a small baseline is one"
    flat = balls(orthographic_cameras(sphere_cameras(3, 16).c2w[[0, 0, 0]], 1.2, 16, 16))
    assert one_viewpoint(flat)
