"""Splats from views, tiny: they come to look like them, their number changes, resuming replays, files come out."""

import json
from dataclasses import replace

import pytest
import torch

import launch
from tests.data.test_view_points import tracked_views
from tests.tiny_configs import CONFIGS, trial
from usd.app import modes, reporting
from usd.core import checkpoint
from usd.core.config import ConfigError, spec
from usd.core.registry import build
from usd.data.convert import write_views
from usd.data.pictures import read_rgba
from usd.data.pixel_array import PixelArray
from usd.data.toy_room import HALF as ROOM
from usd.data.toy_room import in_room
from usd.data.toy_views import render_toy_views, sphere_cameras
from usd.geometry.gaussian_splatting import GaussianSplatting
from usd.math.camera import orbit_cameras_deg
from usd.mesh_io.splats import read_splats
from usd.system import System
from usd.system.reconstruct_splats import (
    ReconstructSplatsSystem,
    _valid_pixels,
    start_at_points,
    start_by_sweep,
)

TINY = [
    "system.geometry.n_splats=300",
    "system.geometry.density.start=2",
    "system.geometry.density.every=4",
    "system.geometry.density.end=100",
    "system.geometry.density.slope_threshold=1e-5",
    "system.geometry.fusion.resolution=24",
    "system.geometry.fusion.views=8",
    "system.geometry.fusion.size=32",
    "system.geometry.sh_degree=1",
    "system.geometry.sh_degree_steps=3",
    "system.optimizer.params.geometry.harmonic.lr=0.001",
    "trainer.enable_progress_bar=false",
    "trainer.val_check_interval=0",
    "trainer.log_every_n_steps=1",
]


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("views")
    write_views(render_toy_views(1_000_000, sphere_cameras(8, 24)), folder)
    return f"data.path={folder}"


def train(out: object, tag: str, *overrides: str) -> object:
    place = [f"exp_root_dir={out}", "use_timestamp=false", f"tag={tag}", "name=small"]
    config = str(CONFIGS / "reconstruct-splats.yaml")
    assert launch.main(["--config", config, "--train", "--gpu", "cpu", *TINY, *place, *overrides]) == 0
    return trial(out, tag)


@pytest.mark.parametrize("strategy", ["adaptive", "mcmc"])
def test_a_resumed_training_is_the_unbroken_one(strategy: str, views: str, tmp_path: object) -> None:
    """Bit for bit, over changes of the number of Gaussians before and behind the break."""
    options = [views, f"system.geometry.density.strategy={strategy}", "trainer.test_after_fit=false"]
    whole = train(tmp_path, "whole", *options, "trainer.max_steps=14")
    half = train(tmp_path, "half", *options, "trainer.max_steps=7")
    first = checkpoint.load(half.last)["state_dict"]["geometry.means"]
    train(tmp_path, "half", *options, "trainer.max_steps=14", f"resume={half.last}")
    a, b = (checkpoint.load(one.last)["state_dict"] for one in (whole, half))
    assert not [key for key in a if key.startswith("renderer.")]
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert len(a["geometry.means"]) > len(first) > 300


def test_they_come_to_look_like_the_views_and_are_written(
    views: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes, "report_trial", reporting.report_trial)
    monkeypatch.setattr(reporting, "TURN_SIZE", 48)
    done = train(tmp_path, "run", views, "data.hold_out=2", "trainer.max_steps=60")
    found = json.loads((done.save / "it60-test/metrics.json").read_text())
    assert found["views"] == 2 and found["psnr"] > 13  # six views of 24 pixels
    turned = [read_rgba(file) for file in sorted((done.save / "preview").glob("*.png"))]
    assert len(turned) == 24 and all(picture.shape == (4, 48, 48) for picture in turned)
    assert 0.02 < float(torch.stack(turned)[:, 3].mean()) < 0.6 and not torch.equal(turned[0], turned[6])
    assert len(read_splats(done.save / "preview.ply")) > 100
    page = (done.folder / "report.html").read_text("utf-8")
    assert 'class="panel object turning"' in page and 'href="save/preview.ply"' in page
    place = [f"exp_root_dir={tmp_path}", "use_timestamp=false", "tag=run", "name=small"]
    config = str(CONFIGS / "reconstruct-splats.yaml")
    out = ["--config", config, "--export", "--gpu", "cpu", *TINY, views, *place]
    assert launch.main([*out, f"resume={done.last}", "exporter.fmt=[ply,spz]"]) == 0
    file = next(done.save.glob("*-export/splats.ply"))
    assert len(read_splats(file)) > 100 and file.with_suffix(".spz").is_file()
    mesh = ["exporter_type=mesh-exporter", "exporter.fmt=ply", "exporter.check_views=0"]
    assert launch.main([*out, f"resume={done.last}", *mesh]) == 0
    assert next(done.save.glob("*-export/model.ply")).is_file()


def test_views_count_as_much_as_they_are_trusted() -> None:
    """Losses are linear in the weights: those of single views add up."""
    options = {"geometry": {"n_splats": 50}, "optimizer": {"args": {"lr": 0.01}}}
    system = build(spec("system", "reconstruct-splats-system", options), System)
    assert isinstance(system, ReconstructSplatsSystem)
    views = render_toy_views(1_000_000, sphere_cameras(2, 16))
    render = system.renderer.render(views.cameras, frozenset({"foreground"}), None)
    names = dict.fromkeys(("rgb_l1", "rgb_mse", "dssim", "mask"), 1.0)

    def losses(*weights: float) -> dict[str, torch.Tensor]:
        chosen = replace(views, weights=torch.tensor(weights, dtype=torch.float32))
        return system._picture_losses(render, chosen, names, torch.Generator().manual_seed(0))

    one, other, doubled = (losses(*pair) for pair in ((1, 0), (0, 1), (2, 4)))
    assert names.keys() == one.keys() and all(float(loss) > 0 for loss in one.values())
    for name in names:
        assert float(doubled[name]) == pytest.approx(float(2 * one[name] + 4 * other[name]), rel=1e-4)


def test_what_does_not_fit_is_one_line(
    views: str, capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    def refused(*overrides: str) -> str:
        place = [f"exp_root_dir={tmp_path}", "trainer.max_steps=1"]
        config = str(CONFIGS / "reconstruct-splats.yaml")
        assert launch.main(["--config", config, "--train", "--gpu", "cpu", views, *place, *overrides]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "expected view-pictures-datamodule" in refused("data_type=views-datamodule")
    assert "is inside all silhouettes" in refused("system.geometry.radius=0.001")
    assert "the views come without any; expected sweep or geometry" in refused("system.start=points")


@pytest.fixture
def scene_geometry() -> GaussianSplatting:
    options = {"n_splats": 200, "radius": 4.0, "density": {"most": 5}}
    return build(spec("geometry", "gaussian-splatting", options), GaussianSplatting)


def test_a_scene_starts_at_the_points_of_its_capture(scene_geometry: GaussianSplatting) -> None:
    """Those in the cube, and no more than there may ever be."""
    points = torch.cat([torch.rand(8, 3) - 0.5, torch.tensor([[0.0, 0.0, 9.0]])])
    views = tracked_views(points)
    found = start_at_points(scene_geometry, views, torch.Generator().manual_seed(0))
    assert len(found) == 5 and float(torch.cdist(found.points, points[:8]).amin(1).max()) < 1e-4
    far = tracked_views(points + 50)
    with pytest.raises(ConfigError, match=r"none of \d+ points of the capture are in the cube of 4"):
        start_at_points(scene_geometry, far, torch.Generator())


def test_a_scene_without_points_starts_where_pictures_agree(scene_geometry: GaussianSplatting) -> None:
    """A toy in a room: points lie on it or on the walls, and not in the air between."""
    walk = orbit_cameras_deg([15.0, 25.0] * 6, torch.linspace(0, 90, 12).tolist(), 1.8, 60.0, 64)
    views = in_room(render_toy_views(1_000_000, walk))
    found = start_by_sweep(scene_geometry, views, torch.Generator().manual_seed(0))
    assert len(found) == 200
    away = found.points.abs().amax(1)
    walls = (away - ROOM).abs() < 0.6
    assert float((walls | (away < 0.7)).float().mean()) > 0.8 and float(walls.float().mean()) > 0.3


def test_pixels_without_a_source_teach_nothing() -> None:
    """Undistortion leaves them black: they would become Gaussians at the rim."""
    views = render_toy_views(1_000_000, sphere_cameras(2, 8))
    valid = torch.ones(2, 8, 8, 1, dtype=torch.bool)
    valid[1, :, :3] = False
    shown = _valid_pixels(replace(views, valid=PixelArray.of(valid)))
    assert shown.shape == (2, 1, 8, 8) and int(shown.sum()) == 2 * 64 - 24 and not shown[1, 0, :, 0].any()
