"""Image to 3D from picture to files: losses do what they say, resuming replays, nothing needs a model but training."""

import csv
import json

import imageio.v2 as imageio
import pytest
import torch

import launch
from tests.tiny_configs import CONFIGS, command, save_disc, trial
from usd.core import checkpoint
from usd.core.config import ConfigError, Schedule
from usd.data.pictures import read_rgba
from usd.data.transforms import read_transforms, write_transforms
from usd.guidance.usd import UsdGuidance
from usd.math.camera import orbit_cameras_deg
from usd.system.distillation import distillation_weights

MINI = "usd-patch-mini.yaml"
QUIET = ["trainer.val_check_interval=0", "trainer.test_after_fit=false"]
FAST = [f"system.optimizer.params.geometry.{part}_network.lr=0.01" for part in ("density", "feature")]
FAST += ["system.optimizer.params.geometry.encoding.lr=0.03"]
ALONE = [*FAST, "system.loss.lambda_usd=0", "system.loss.lambda_sparsity=0", "system.loss.lambda_opaque=0"]


def train(out, *overrides, tag="run", name=MINI):
    assert launch.main(command(name, out, *overrides, tag=tag)) == 0
    return trial(out, tag)


def refused(capsys, out, *overrides, name=MINI):
    assert launch.main(command(name, out, *overrides)) == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return errors.strip().splitlines()[-1]


def losses(folder):
    """Step -> all figures of training, as text; later runs of a trial win."""
    rows = {}
    for file in sorted(folder.folder.glob("csv_logs/version_*/metrics.csv")):
        for row in csv.DictReader(file.read_text().splitlines()):
            if row["train/loss"]:
                rows[int(row["step"])] = {
                    key: value for key, value in row.items() if key.startswith("train/")
                }
    return rows


def view_files(tmp_path, truth=True):
    """A transforms.json of three views; the second shows the disc that is also the reference."""
    cameras = orbit_cameras_deg(15.0, [0.0, 90.0, 200.0], 1.5, 39.597755, 16)
    if truth:
        save_disc(tmp_path / "1.png", 16)
    return write_transforms(tmp_path / "views.json", [cameras], ["0.png", "1.png", "2.png"])


# ---------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trial fitted to the disc alone, tested against it, and the folder it was made in."""
    root = tmp_path_factory.mktemp("trained")
    picture = save_disc(root / "disc.png")
    options = [*ALONE, f"system.guidance.image_path={picture}", f"data.eval_transforms={view_files(root)}"]
    steps = ["trainer.max_steps=60", "trainer.val_check_interval=0", "data.eval_turntable=false"]
    return root, train(root, *options, *steps)


def test_the_reference_losses_make_the_reference_view_look_like_the_picture(trained):
    _, done = trained
    found = json.loads((done.save / "it60-test/metrics.json").read_text())
    assert found["views"] == 1 and found["per_view"][0]["file_path"] == "1.png"
    assert found["psnr"] > 18 and found["mask_iou"] > 0.8
    history = losses(done)
    assert float(history[59]["train/rgb"]) < 0.2 * float(history[0]["train/rgb"])
    assert not history[0].get("train/usd")


def test_views_are_straight_alpha_without_a_white_fringe(trained):
    _, done = trained
    rgba = read_rgba(done.save / "it60-test/1.png")
    rim = (rgba[3] > 0.1) & (rgba[3] < 0.7)
    assert rim.any() and rgba[1:3, rim].mean() < 0.5 and rgba[0, rim].mean() > rgba[1:3, rim].mean() + 0.15


def test_the_published_names_of_the_loss_mean_the_same(tmp_path):
    ours = train(tmp_path, *QUIET, "trainer.max_steps=2", "system.loss.lambda_usd=2", tag="ours")
    theirs = train(tmp_path, *QUIET, "trainer.max_steps=2", "system.loss.lambda_vsd=2", tag="theirs")
    assert losses(ours) == losses(theirs)


def test_weights_scale_their_loss_and_a_schedule_switches_it_on(tmp_path):
    once = train(tmp_path, *QUIET, "trainer.max_steps=1", "system.loss.lambda_sparsity=1", tag="once")
    thrice = train(tmp_path, *QUIET, "trainer.max_steps=1", "system.loss.lambda_sparsity=3", tag="thrice")
    a, b = (float(losses(done)[0]["train/sparsity"]) for done in (once, thrice))
    assert b == pytest.approx(3 * a, rel=1e-5)
    late = train(tmp_path, *QUIET, "trainer.max_steps=3", "system.loss.lambda_sparsity=[1,0,1,2]", tag="late")
    history = losses(late)
    assert not history[1].get("train/sparsity") and float(history[2]["train/sparsity"]) > 0


@pytest.mark.parametrize("guidance", ["usd-guidance", "zero123-guidance"])
def test_every_picture_guidance_and_the_reference_view_term_train(guidance, tmp_path, tiny):
    models = [
        f"system.guidance_type={guidance}",
        f"system.guidance.image_path={save_disc(tmp_path / 'disc.png')}",
        f"system.guidance.pretrained_model_name_or_path={tiny.sd}",
        f"system.guidance.zero123_model_name_or_path={tiny.zero123_a}",
        "system.guidance.guidance_scale=7.5",
        "system.loss.lambda_reference_view=1",
    ]
    history = losses(train(tmp_path, *QUIET, *models, "trainer.max_steps=2"))
    assert all(float(history[1][f"train/{name}"]) > 0 for name in ("usd", "reference_view", "rgb", "mask"))


def test_a_negative_prompt_is_heard_and_a_prompt_is_said_not_to_be(tmp_path, tiny, capsys):
    """The words change both terms that psi takes part in; what no model is told costs a line."""
    models = [
        f"system.guidance.image_path={save_disc(tmp_path / 'disc.png')}",
        f"system.guidance.pretrained_model_name_or_path={tiny.sd}",
        f"system.guidance.zero123_model_name_or_path={tiny.zero123_a}",
        "system.loss.lambda_reference_view=1",
        "system.prompt_processor.use_cache=false",
        "system.expected_views.fit_steps=0",
        "trainer.max_steps=1",
    ]
    found = {}
    for tag, words in (("silent", []), ("told", ["system.prompt_processor.negative_prompt=a red car"])):
        found[tag] = losses(train(tmp_path, *QUIET, *models, *words, tag=tag))[0]
        assert "no model is told" not in capsys.readouterr().out
    for name in ("usd", "reference_view"):
        assert found["silent"][f"train/{name}"] != found["told"][f"train/{name}"]
    train(tmp_path, *QUIET, *models, "system.prompt_processor.prompt=a mug", tag="prompt")
    assert (
        "system.prompt_processor: no model is told prompt: a picture says what to make"
        in capsys.readouterr().out
    )


def test_a_guidance_that_is_not_finite_costs_steps_and_no_weights(tmp_path, monkeypatch, capsys):
    """Half floats overflow now and then: two steps are skipped; from step 5 on nothing works any more."""
    gradient = UsdGuidance.gradient

    def overflowing(self, noised, cameras):
        bad = noised.step in (1, 2) or noised.step >= 5
        return gradient(self, noised, cameras) / (0 if bad else 1)

    monkeypatch.setattr(UsdGuidance, "gradient", overflowing)
    settings = [*QUIET, "trainer.max_steps=12", "trainer.max_skipped_steps=2"]
    said = refused(capsys, tmp_path, *settings)
    assert "step 7: skipped 3 in a row, the last since the gradient has" in said and "UsdGuidance" in said
    done = trial(tmp_path)
    saved = checkpoint.load(done.last)
    assert all(torch.isfinite(x).all() for x in saved["state_dict"].values())
    assert (saved["global_step"], saved["skipped_steps"]) == (8, 5)
    assert losses(done)[4]["train/skipped_steps"] == "2.0"
    monkeypatch.setattr(UsdGuidance, "gradient", gradient)
    train(tmp_path, *settings, f"resume={done.last}")
    assert checkpoint.load(done.last)["global_step"] == 12


def test_a_run_that_is_resumed_replays_the_unbroken_one(tmp_path):
    """The same of runs that are killed: tests/app/test_launch.py."""
    settings = ["trainer.val_check_interval=5", "trainer.test_after_fit=false"]
    settings += ["system.expected_views.fit_steps=0"]  # tests/system/test_expected_views.py resumes with them
    broken = train(tmp_path / "broken", *settings, "trainer.max_steps=7")
    train(tmp_path / "broken", *settings, "trainer.max_steps=12", f"resume={broken.last}")
    whole = train(tmp_path / "whole", *settings, "trainer.max_steps=12")
    expected = losses(whole)
    assert len(expected) == 12 and losses(broken) == expected
    weights = [checkpoint.load(t.last)["state_dict"] for t in (whole, broken)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


# ------------------------------------------------------------------------------------------------------- looking


def test_looking_and_exporting_never_open_a_model_or_the_picture(trained, tmp_path, monkeypatch):
    _, made = trained
    done = trial(tmp_path)

    def refuse(*args, **kwargs):
        raise AssertionError("a diffusion model was opened")

    monkeypatch.setattr("usd.denoiser.load.open_model", refuse)
    views = [f"resume={made.last}", f"data.eval_transforms={view_files(tmp_path, truth=False)}"]
    for mode in ("--test", "--validate", "--export"):
        options = [*views, "system.guidance.image_path=gone.png"]
        assert launch.main(command(MINI, tmp_path, *options, mode=mode)) == 0
    test = done.save / "it60-test"
    assert not (test / "metrics.json").exists()
    assert read_rgba(test / "2.png").shape == (4, 16, 16)
    frames = read_transforms(test / "transforms.json")
    given = read_transforms(tmp_path / "views.json")
    assert all(
        torch.allclose(a.camera.c2w, b.camera.c2w, atol=1e-6) for a, b in zip(frames, given, strict=True)
    )
    assert all(frame.picture is not None for frame in frames)
    assert len(imageio.mimread(done.save / "it60-turntable.mp4")) == 3
    assert not list(done.save.glob("it60-test.mp4"))
    assert (done.save / "it60-export" / "model.glb").stat().st_size > 500


# -------------------------------------------------------------------------------------------------------- errors


def test_names_of_losses_are_checked():
    weights = distillation_weights({"lambda_vsd": Schedule.constant(2.0)}, {"rgb": 0.0})
    assert weights["usd"](0) == 2 and weights["rgb"](0) == 0 and weights["opaque"](0) == 0
    with pytest.raises(
        ConfigError, match=r"system.loss.lambda_sparsty: unknown key. Did you mean 'lambda_sparsity'"
    ):
        distillation_weights({"lambda_sparsty": Schedule.constant(1.0)}, {})
    with pytest.raises(ConfigError, match=r"system.loss.lambda_lora: is 1; expected 0"):
        distillation_weights({"lambda_lora": Schedule.constant(1.0)}, {})
    both = {"lambda_usd": Schedule.constant(3.0), "lambda_vsd": Schedule.constant(1.0)}
    with pytest.raises(
        ConfigError, match=r"lambda_vsd: is another name of lambda_usd and says 1.*, not 3.*; expected one"
    ):
        distillation_weights(both, {})
    assert distillation_weights(dict.fromkeys(both, Schedule.constant(3.0)), {})["usd"](0) == 3


def test_what_cannot_work_is_said_before_any_model_is_opened(tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("usd.denoiser.load.open_model", lambda *args: opened.append(args))
    gone = refused(capsys, tmp_path, "system.guidance.image_path=gone.png")
    assert "system.guidance.image_path: " in gone and "gone.png: no such file" in gone
    unread = tmp_path / "text.png"
    unread.write_text("no picture")
    assert "cannot be read as a picture" in refused(capsys, tmp_path, f"system.guidance.image_path={unread}")
    mini = [
        "--config",
        str(CONFIGS / MINI),
        "--train",
        f"exp_root_dir={tmp_path}",
        "system.prompt_processor.prompt=x",
    ]
    assert launch.main([*mini, "tag=x", "system.guidance_type=stable-diffusion-guidance"]) == 2
    assert "looks at no picture" in capsys.readouterr().err
    assert "system.stage" in refused(capsys, tmp_path, "system.stage=refine")
    assert "no such file" in refused(capsys, tmp_path, "data.eval_transforms=gone.json")
    assert not opened


def test_data_without_a_reference_camera_is_a_clear_error(tmp_path, capsys):
    errors = refused(
        capsys, tmp_path, *QUIET, "data_type=random-camera-datamodule", "data={width: 16, height: 16}"
    )
    assert "expected usd-random-camera-datamodule" in errors
