"""Splats from views, tiny: they come to look like them, their number changes, resuming replays, files come out."""

import json

import pytest
import torch

import launch
from tests.tiny_configs import CONFIGS, trial
from usd.core import checkpoint
from usd.data.convert import write_views
from usd.data.toy_views import render_toy_views, sphere_cameras
from usd.mesh_io.splats import read_splats

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


def test_they_come_to_look_like_the_views_and_are_written(views: str, tmp_path: object) -> None:
    done = train(tmp_path, "run", views, "data.hold_out=2", "trainer.max_steps=60")
    found = json.loads((done.save / "it60-test/metrics.json").read_text())
    assert found["views"] == 2 and found["psnr"] > 13  # six views of 24 pixels
    place = [f"exp_root_dir={tmp_path}", "use_timestamp=false", "tag=run", "name=small"]
    config = str(CONFIGS / "reconstruct-splats.yaml")
    out = ["--config", config, "--export", "--gpu", "cpu", *TINY, views, *place]
    assert launch.main([*out, f"resume={done.last}", "exporter.fmt=[ply,spz]"]) == 0
    file = next(done.save.glob("*-export/splats.ply"))
    assert len(read_splats(file)) > 100 and file.with_suffix(".spz").is_file()
    mesh = ["exporter_type=mesh-exporter", "exporter.fmt=ply", "exporter.check_views=0"]
    assert launch.main([*out, f"resume={done.last}", *mesh]) == 0
    assert next(done.save.glob("*-export/model.ply")).is_file()


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
