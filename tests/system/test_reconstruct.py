"""Reconstruction from views to mesh, tiny: losses do what they say, rays follow their samples, resuming replays."""

import csv
import json

import pytest
import torch

import launch
from tests.tiny_configs import CONFIGS, trial
from usd.core import checkpoint
from usd.core.config import ConfigError, Schedule
from usd.data.convert import layout_cameras, write_layout, write_views
from usd.data.pictures import read_rgba
from usd.data.toy_views import render_toy_views, sphere_cameras
from usd.data.transforms import read_transforms
from usd.evaluation.mesh_views import open_mesh
from usd.system.reconstruct import DEFAULT_WEIGHTS
from usd.system.weighted_losses import read_weights

TOY = 1_000_000
TINY = [
    "data.n_rays=256",
    "data.object_share=1",
    "system.samples_per_step=2048",
    "system.first_rays=64",
    "system.field_points=64",
    "system.geometry.isosurface_resolution=32",
    "system.geometry.pos_encoding_config.n_levels=3",
    "system.geometry.pos_encoding_config.log2_hashmap_size=11",
    "system.renderer.num_samples_per_ray=64",
    "system.renderer.grid_resolution=16",
    "system.optimizer.params.geometry.encoding.lr=0.02",
    "system.optimizer.params.geometry.sdf_network.lr=0.003",
    "system.optimizer.params.geometry.feature_network.lr=0.01",
    "trainer.enable_progress_bar=false",
    "trainer.val_check_interval=0",
    "trainer.log_every_n_steps=1",
]
QUIET = "trainer.test_after_fit=false"


def command(mode, out, tag, *overrides, name="reconstruct.yaml"):
    place = [f"exp_root_dir={out}", "use_timestamp=false", f"tag={tag}", "name=small"]
    return ["--config", str(CONFIGS / name), mode, "--gpu", "cpu", *TINY, *place, *overrides]


def train(out, *overrides, tag="run", name="reconstruct.yaml"):
    assert launch.main(command("--train", out, tag, *overrides, name=name)) == 0
    return trial(out, tag)


def history(folder):
    """Step -> figures of training; later runs of a trial win."""
    rows = {}
    for file in sorted(folder.folder.glob("csv_logs/version_*/metrics.csv")):
        for row in csv.DictReader(file.read_text().splitlines()):
            if row["train/loss"]:
                figures = {key: value for key, value in row.items() if value and key.startswith("train/")}
                rows[int(row["step"])] = figures
    return rows


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    """A folder of 10 small views of a toy."""
    folder = tmp_path_factory.mktemp("views")
    write_views(render_toy_views(TOY, sphere_cameras(10, 24)), folder)
    return folder


@pytest.fixture(scope="module")
def trained(views, tmp_path_factory):
    """A short training with views held out, tested."""
    out = tmp_path_factory.mktemp("trained")
    return out, train(out, f"data.path={views}", "data.hold_out=2", "trainer.max_steps=60")


def test_it_comes_to_look_like_the_views(trained):
    _, done = trained
    rows = history(done)
    late = [float(rows[step]["train/rgb_l1"]) for step in range(50, 60)]
    early = [float(rows[step]["train/rgb_l1"]) for step in range(5)]
    assert sum(late) / 10 < 0.6 * sum(early) / 5
    assert {"train/mask", "train/eikonal", "train/free_surface", "train/psnr", "train/sharpness"} <= set(
        rows[59]
    )


def test_a_start_from_the_hull_is_closer_to_the_views_from_the_first_step(trained, views, tmp_path, capsys):
    options = [f"data.path={views}", "data.hold_out=2"]
    done = train(tmp_path, *options, QUIET, "trainer.max_steps=1", "system.start=hull")
    assert float(history(done)[0]["train/mask"]) < 0.6 * float(history(trained[1])[0]["train/mask"])
    alone = [*options, "system.start=hull", "system.geometry.shape_init=none"]
    assert launch.main(command("--train", tmp_path, "no", *alone)) == 2
    assert "system.start: is hull, from which implicit-sdf cannot start" in capsys.readouterr().err


def test_held_out_views_are_written_and_scored(trained):
    _, done = trained
    found = json.loads((done.save / "it60-test/metrics.json").read_text())
    assert found["views"] == 2 and found["psnr"] > 10 and found["per_view"][0]["file_path"].endswith(".png")
    assert len(read_transforms(done.save / "it60-test/transforms.json")) == 2
    assert read_rgba(done.save / "it60-test/0.png").shape == (4, 24, 24)
    assert (done.save / "it60-test.png").is_file()


def test_the_number_of_rays_follows_their_samples(trained):
    _, done = trained
    rows = history(done)
    assert float(rows[0]["train/rays"]) == 64
    assert float(rows[59]["train/rays"]) != 64
    rays, samples = (float(rows[59][f"train/{name}"]) for name in ("rays", "samples"))
    assert rays == 256 or 0.5 * 2048 < samples < 2 * 2048


def test_exported_is_a_coloured_mesh_of_the_right_size(trained, views):
    out, done = trained
    options = [f"data.path={views}", f"resume={done.last}", "exporter.fmt=ply"]
    assert launch.main(command("--export", out, "run", *options)) == 0
    mesh = open_mesh(next(done.save.glob("it60-export/*.ply")))
    assert len(mesh.faces) > 100 and mesh.has_colors
    assert 0.3 < float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).amax()) < 1.2


def test_a_resumed_training_is_the_unbroken_one(views, tmp_path):
    options = [f"data.path={views}", QUIET]
    whole = train(tmp_path, *options, "trainer.max_steps=8", tag="whole")
    half = train(tmp_path, *options, "trainer.max_steps=4", tag="half")
    train(tmp_path, *options, "trainer.max_steps=8", f"resume={half.last}", tag="half")
    assert history(whole)[7] == history(half)[7]
    a, b = (checkpoint.load(one.last)["state_dict"] for one in (whole, half))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    "options",
    [
        ["system.samples_per_step=null"],
        ["system.geometry.normal_type=finite_difference", "system.loss.lambda_curvature=0.001"],
        ["system.renderer.use_volsdf=true", "system.renderer.cos_anneal_end_steps=2"],
        ["system.outliers.rgb=0.2", "system.outliers.mask=0.1", "system.background.learned=true"],
        [
            "system.material_type=neural-radiance-material",
            "system.geometry.n_feature_dims=8",
            "system.material.use_normal=true",
        ],
        [
            "system.loss.lambda_opaque=0.1",
            "system.loss.lambda_sparsity=0.1",
            "system.loss.lambda_z_variance=1",
        ],
    ],
)
def test_every_option_trains(options, views, tmp_path):
    rows = history(train(tmp_path, f"data.path={views}", QUIET, "trainer.max_steps=3", *options))
    assert float(rows[2]["train/loss"]) > 0
    if options == ["system.samples_per_step=null"]:
        assert float(rows[0]["train/rays"]) == 256


def test_progressive_levels_shorten_the_step(views, tmp_path):
    grid = "system.geometry.pos_encoding_config"
    options = [f"{grid}.otype=ProgressiveBandHashGrid", f"{grid}.start_level=1", f"{grid}.update_steps=2"]
    options += ["system.geometry.normal_type=finite_difference"]
    options += ["system.geometry.finite_difference_normal_eps=progressive"]
    done = train(tmp_path, f"data.path={views}", QUIET, "trainer.max_steps=4", *options)
    eps = checkpoint.load(done.last)["state_dict"]["geometry.eps"]
    assert eps.item() == pytest.approx(1.2 / int(8 * 1.5746))


def test_normals_of_the_views_are_supervision(tmp_path):
    folder = tmp_path / "wonder3d"
    write_layout(render_toy_views(TOY, layout_cameras("wonder3d", 24, 90.0)), folder, "wonder3d", 90.0)
    options = [f"data.path={folder}", "data.input_azimuth_deg=90", QUIET, "system.loss.lambda_normal=1"]
    rows = history(train(tmp_path, *options, "trainer.max_steps=40"))
    early, late = ([float(rows[i]["train/normal"]) for i in part] for part in (range(5), range(35, 40)))
    assert sum(late) < 0.95 * sum(early)


def test_views_without_masks_say_so_and_train(views, tmp_path, capsys):
    done = train(tmp_path, f"data.path={views}", "data.masks=none", QUIET, "trainer.max_steps=2")
    said = capsys.readouterr().out
    assert "no masks" in said
    assert "train/mask" not in history(done)[1]


def test_weights_of_views_reach_the_loss(views, tmp_path):
    """Views of weight 0 are as good as not there."""
    options = [f"data.path={views}", QUIET, "trainer.max_steps=1", "system.loss.lambda_eikonal=0"]
    zero = train(tmp_path, *options, f"data.view_weights={[0] * 10}", tag="zero")
    row = history(zero)[0]
    assert float(row["train/rgb_l1"]) == 0 and float(row["train/mask"]) == 0


def refused(capsys, out, *overrides):
    assert launch.main(command("--train", out, "bad", *overrides)) == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return errors.strip().splitlines()[-1]


def test_what_cannot_be_done_is_one_line(capsys, views, tmp_path):
    path = f"data.path={views}"
    assert (
        "did you mean 'lambda_eikonal'"
        in refused(capsys, tmp_path, path, "system.loss.lambda_eiknal=1").lower()
    )
    wrong = refused(capsys, tmp_path, path, "system.geometry.n_feature_dims=5")
    assert "system.geometry.n_feature_dims: is 5; expected 3" in wrong
    assert "data.path" in refused(capsys, tmp_path)
    assert "pass data.frame=fit" in refused(capsys, tmp_path, path, "system.geometry.radius=0.1")
    density = ["system.renderer_type=nerf-volume-renderer", "system.geometry_type=implicit-volume"]
    assert "is a loss of distances, which implicit-volume has not" in refused(
        capsys, tmp_path, path, *density
    )


def test_loss_weights():
    weights = read_weights({"lambda_normal": Schedule.constant(2.0)}, DEFAULT_WEIGHTS)
    assert weights["normal"](0) == 2 and weights["eikonal"](0) == 0.1 and weights["curvature"].maximum == 0
    with pytest.raises(ConfigError, match="Did you mean 'lambda_mask'"):
        read_weights({"lambda_msk": Schedule.constant(1.0)}, DEFAULT_WEIGHTS)
