"""Image to 3D on a signed distance: NeuS renders it, and losses of distances hold it together."""

import csv

import pytest
from omegaconf import OmegaConf

import launch
from tests.tiny_configs import CONFIGS, SIZES, VIEWS, save_disc
from usd.core.loading import load_config

LOSSES = {"lambda_eikonal": 0.1, "lambda_curvature": 0.001}


@pytest.fixture
def surface(tmp_path):
    """usd-patch-mini.yaml, small, with a signed distance in place of the density."""
    small = [text for text in SIZES if text != "system.geometry.isosurface_resolution=24"]
    config = load_config([CONFIGS / "usd-patch-mini.yaml"], [*small, *VIEWS])
    encoding = config.system.geometry.pos_encoding_config
    config.system.geometry = {
        "radius": 0.6,
        "normal_type": "finite_difference",
        "shape_init": "sphere",
        "shape_init_params": 0.3,
        "pos_encoding_config": encoding,
    }
    config.system.geometry_type = "implicit-sdf"
    config.system.renderer_type = "neus-volume-renderer"
    config.system.renderer = {"radius": 0.6, "num_samples_per_ray": 16, "grid_resolution": 8}
    config.system.optimizer.params = {"geometry": {"lr": 0.001}, "renderer.variance": {"lr": 0.001}}
    config.system.loss.update(LOSSES)
    config.system.guidance.image_path = str(save_disc(tmp_path / "disc.png"))
    OmegaConf.save(config, tmp_path / "surface.yaml")
    return tmp_path / "surface.yaml"


def command(file, *overrides):
    place = [f"exp_root_dir={file.parent}", "name=small", "tag=run", "use_timestamp=false"]
    quick = ["trainer.max_steps=2", "trainer.val_check_interval=0", "trainer.test_after_fit=false"]
    return ["--config", str(file), "--train", "--gpu", "cpu", *place, *quick, *overrides]


def test_a_distance_is_distilled_with_losses_of_its_own(surface):
    assert launch.main(command(surface)) == 0
    (log,) = surface.parent.glob("small/run/csv_logs/version_0/metrics.csv")
    rows = [row for row in csv.DictReader(log.read_text().splitlines()) if row["train/loss"]]
    assert len(rows) == 2 and all(
        float(row[f"train/{name}"]) > 0 for row in rows for name in ("eikonal", "curvature")
    )


@pytest.mark.parametrize(
    ("name", "need", "renderer"),
    [
        ("eikonal", "gradient", "neus-volume-renderer"),
        ("curvature", "laplacian", "neus-volume-renderer"),
        ("normal_consistency", "mesh", "rasterizer"),
    ],
)
def test_a_density_has_nothing_for_the_losses_of_a_surface(name, need, renderer, tmp_path, capsys):
    picture = f"system.guidance.image_path={save_disc(tmp_path / 'disc.png')}"
    mini = [*SIZES, *VIEWS, "system.renderer.num_samples_per_ray=16", picture, "system.loss.lambda_usd=0"]
    where = [f"exp_root_dir={tmp_path}", "tag=run", "trainer.max_steps=1"]
    told = ["--config", str(CONFIGS / "usd-patch-mini.yaml"), "--train", "--gpu", "cpu", *mini, *where]
    assert launch.main([*told, f"system.loss.lambda_{name}=0.1"]) == 2
    said = (
        f"error: system.loss.lambda_{name}: needs {need}, which NerfVolumeRenderer does not give; "
        f"expected system.renderer_type to be {renderer}"
    )
    assert said in capsys.readouterr().err
