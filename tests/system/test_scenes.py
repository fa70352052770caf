"""Reconstruction of scenes, tiny: densities and distances before a background, and what every view has of its own."""

import json
from dataclasses import replace

import pytest
import torch

import launch
from tests.data.test_capture_layouts import WRITERS
from tests.system.test_reconstruct import history
from tests.tiny_configs import CONFIGS, trial
from usd.core.config import parse
from usd.data.convert import write_views
from usd.data.toy_room import in_room
from usd.data.toy_views import render_toy_views, sphere_cameras
from usd.data.views import RayBatch
from usd.system.view_corrections import Appearance, AppearanceConfig, PoseCorrections

TINY = [
    "data.n_rays=256",
    "data.size=null",
    "data.hold_out_every=4",
    "system.first_rays=64",
    "system.samples_per_step=4096",
    "system.geometry.isosurface_resolution=16",
    "system.geometry.pos_encoding_config.n_levels=4",
    "system.geometry.pos_encoding_config.log2_hashmap_size=12",
    "system.geometry.pos_encoding_config.base_resolution=8",
    "system.renderer.num_samples_per_ray=64",
    "system.renderer.grid_resolution=16",
    "system.background.pos_encoding_config.n_levels=3",
    "system.background.pos_encoding_config.log2_hashmap_size=11",
    "system.background.num_samples_per_ray=16",
    "system.background.grid_resolution=16",
    "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=1",
]


def train(name, out, *overrides):
    place = [f"exp_root_dir={out}", "use_timestamp=false", "tag=run", "name=small"]
    flags = ["--config", str(CONFIGS / name), "--train", "--gpu", "cpu"]
    assert launch.main([*flags, *place, *overrides]) == 0
    return trial(out, "run")


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder of 12 small views of a toy in a room."""
    folder = tmp_path_factory.mktemp("room")
    write_views(in_room(render_toy_views(1_000_000, sphere_cameras(12, 24))), folder)
    return folder


def test_a_scene_comes_to_look_like_its_views_without_masks(room, tmp_path, capsys):
    quick = ["trainer.max_steps=60", "trainer.val_check_interval=60", "data.frame=keep"]
    more = ["system.refine_poses=true", "system.appearance.n_dims=4"]
    made = train("scene.yaml", tmp_path, f"data.path={room}", *TINY, *quick, *more)
    assert "9 pinhole views" in capsys.readouterr().out
    rows = history(made)
    first, last = (
        sum(float(rows[i]["train/psnr"]) for i in steps) / 5 for steps in (range(5), range(55, 60))
    )
    assert last > first + 2
    assert {"train/distortion", "train/background_distortion"} <= set(rows[59])
    assert (made.save / "it60-0.png").is_file() and (made.save / "it60-test.png").is_file()
    scores = json.loads((made.save / "it60-test" / "metrics.json").read_text())
    assert scores["psnr"] > 8
    # Poses and looks of nine views are in the checkpoint, and have been trained.
    weights = torch.load(made.last, weights_only=False)["state_dict"]
    assert weights["poses.turn"].shape == (9, 3) and weights["appearance.code"].shape == (9, 4)
    assert all(weights[key].abs().max() > 0 for key in ("poses.turn", "poses.shift", "appearance.code"))
    assert (
        launch.main(["--config", str(made.folder / "configs/parsed.yaml"), "--test", f"resume={made.last}"])
        == 0
    )


LAYOUT_OF = {
    "nerf-blender": "nerf_synthetic",
    "nerf-colmap": "colmap",
    "neus-blender": "nerf_synthetic",
    "neus-colmap": "colmap",
    "neus-dtu": "neus",
    "neus-dtu-wmask": "neus",
    "neus-bmvs": "neus",
}
"""instant-nsr-pl's recipes, and the layout of the data that each is for."""


QUICK = ("nerf-colmap", "neus-blender", "neus-dtu-wmask")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LAYOUT_OF]
)
def test_a_recipe_takes_two_steps_on_data_in_its_layout(name, tmp_path, capsys):
    write, cameras = WRITERS[LAYOUT_OF[name]]
    write(tmp_path / "data", cameras())
    quick = ["trainer.max_steps=2", "trainer.val_check_interval=0", "trainer.test_after_fit=false"]
    plain = [option for option in TINY if "background" not in option and "hold_out" not in option]
    given = plain if name in ("nerf-blender", "neus-blender", "neus-dtu-wmask") else TINY
    more = [] if name.startswith("nerf") else ["system.field_points=64"]
    made = train(f"{name}.yaml", tmp_path / "out", f"data.path={tmp_path / 'data'}", *given, *quick, *more)
    said = capsys.readouterr().out
    assert f"{4 if 'blender' in name else 3} pinhole views of 24 x 18 pixels" in said
    losses = history(made)[1]
    assert all(torch.isfinite(torch.tensor(float(value))) for value in losses.values())
    expected = {"train/rgb_l1" if name == "neus-bmvs" else "train/rgb_mse"}
    expected |= {"train/mask"} if name in ("neus-blender", "neus-dtu-wmask") else set()
    expected |= {"train/eikonal", "train/surface_sparsity"} if name.startswith("neus") else set()
    expected |= {"train/background_distortion"} if name == "nerf-colmap" else set()
    assert expected <= set(losses)


def rays(count: int) -> RayBatch:
    generator = torch.Generator().manual_seed(0)
    o, d = torch.randn(2, count, 3, generator=generator)
    view = torch.arange(count) % 3
    one = torch.ones(count)
    return RayBatch(o, torch.nn.functional.normalize(d, dim=-1), o, one, None, one, view)


def test_new_corrections_change_nothing_and_rows_are_those_of_views():
    poses, looks = PoseCorrections(True), Appearance(parse(AppearanceConfig, {"n_dims": 2}))
    for part in (poses, looks):
        part.make_room(3)
    given = rays(6)
    assert torch.equal(poses(given).directions, given.directions)
    assert torch.equal(looks(given.rgb, given.view), given.rgb)
    with torch.no_grad():
        poses.turn[1] = torch.tensor([0.0, 0.0, torch.pi / 2])
        poses.shift[2] = torch.tensor([1.0, 2.0, 3.0])
        looks.code[0] = 1.0
    moved = poses(given)
    x, y, z = given.directions[1].tolist()
    assert torch.allclose(moved.directions[1], torch.tensor([-y, x, z]), atol=1e-6)
    assert torch.equal(moved.directions[[0, 2]], given.directions[[0, 2]])
    assert not list(PoseCorrections(False).parameters())
    assert torch.allclose(moved.origins[5] - given.origins[5], torch.tensor([1.0, 2.0, 3.0]))
    assert not torch.allclose(looks(given.rgb, given.view)[0], given.rgb[0])


def test_a_camera_turned_a_little_is_turned_back():
    """The turn that makes rays agree with the truth is found by descent."""
    poses = PoseCorrections(True)
    poses.make_room(3)
    truth = rays(60)
    bent = torch.tensor([[0.02, -0.01, 0.03], [0.0, 0.0, 0.0], [-0.03, 0.02, 0.01]])
    with torch.no_grad():
        poses.turn.copy_(bent)
        given = replace(truth, directions=poses(truth).directions)
        poses.turn.zero_()
    optimizer = torch.optim.Adam(poses.parameters(), 3e-3)
    for _ in range(150):
        loss = (poses(given).directions - truth.directions).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.allclose(poses.turn, -bent, atol=2e-3)
