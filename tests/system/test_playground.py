"""The playground: pictures that follow a formula without 3D, scored against true views."""

import json
from pathlib import Path

import pytest
import torch

import launch
from tests.tiny_configs import CONFIGS, save_disc, trial
from usd.core.errors import UserError
from usd.data.pictures import over, read_rgba, write_picture
from usd.data.transforms import write_transforms
from usd.math.camera import orbit_cameras_deg
from usd.system.playground import PlaygroundSystem

MODELS = dict.fromkeys(("pretrained_model_name_or_path", "zero123_model_name_or_path"), "gaussian")


def command(out: Path, *overrides: str, mode: str = "--train") -> list[str]:
    picture = out / "disc.png"
    if not picture.is_file():
        save_disc(picture)
    models = [f"system.guidance.{key}={name}" for key, name in MODELS.items()]
    place = [f"exp_root_dir={out}", "use_timestamp=false", "tag=run", "name=small"]
    quick = ["trainer.max_steps=60", "trainer.val_check_interval=60", "trainer.enable_progress_bar=false"]
    gentle = ["system.guidance.guidance_scale=1", "data.views=2", "data.eval_height=32", "data.eval_width=32"]
    given = [f"system.guidance.image_path={picture}", *models, *place, *quick, *gentle, *overrides]
    return ["--config", str(CONFIGS / "playground.yaml"), mode, "--gpu", "cpu", *given]


def true_views(out: Path) -> Path:
    """Two views that show what the analytic model expects of every view: the reference picture."""
    disc = read_rgba(save_disc(out / "disc.png"))
    names = [str(write_picture(out / f"{i}.png", disc).name) for i in range(2)]
    cameras = [orbit_cameras_deg(15.0, azimuth, 1.5, 40.0, 32) for azimuth in (0.0, 120.0)]
    return write_transforms(out / "views.json", cameras, names)


@pytest.mark.parametrize("optimise", ["latent", "picture"])
def test_views_become_what_the_model_expects_and_are_scored(tmp_path: Path, optimise: str) -> None:
    overrides = ["system.guidance_type=dds-guidance", f"system.optimise={optimise}"]
    overrides += [f"data.eval_transforms={true_views(tmp_path)}"]
    assert launch.main(command(tmp_path, *overrides)) == 0
    save = trial(tmp_path).save
    found = json.loads((save / "it60-test/metrics.json").read_text())
    assert found["views"] == 2 and found["psnr"] > 25 and found["mask_iou"] > 0.9
    made, disc = over(read_rgba(save / "it60-test/1.png")), over(read_rgba(tmp_path / "disc.png"))
    assert float((made - disc).abs().mean()) < 0.03
    assert (save / "it60-test.png").is_file() and (save / "it60-0.png").is_file()


def test_a_sentence_needs_no_picture_there(tmp_path: Path) -> None:
    """Gray views become brighter: the analytic model expects an even gray of 0.6 of any sentence."""
    words = {"type": "stable-diffusion-prompt-processor", ".prompt": "a disc", ".use_cache": "false"}
    words[".pretrained_model_name_or_path"] = "gaussian"
    overrides = [
        f"system.prompt_processor{'' if key[0] == '.' else '_'}{key}={value}" for key, value in words.items()
    ]
    given = command(
        tmp_path, "system.guidance_type=stable-diffusion-ism-guidance", *overrides, "trainer.max_steps=20"
    )
    assert launch.main([x for x in given if "image_path" not in x and "zero123" not in x]) == 0
    made = over(read_rgba(trial(tmp_path).save / "it20-test/0.png"))
    assert float(made.mean()) > 0.55


def test_a_finished_trial_is_tested_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.main(command(tmp_path, "trainer.max_steps=2")) == 0
    first = read_rgba(trial(tmp_path).save / "it2-test/0.png")
    monkeypatch.setattr("usd.denoiser.load.open_model", lambda *_: pytest.fail("a model was opened"))
    assert launch.main(command(tmp_path, f"resume={trial(tmp_path).last}", mode="--test")) == 0
    assert torch.equal(read_rgba(trial(tmp_path).save / "it2-test/0.png"), first)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["system.guidance.max_step_percent=1.5"], "max_step_percent: 1.5 is out of range"),
        (["system.guidance.guidance_scale=-2"], "guidance_scale: -2 is out of range"),
        (["system.guidance.pretrained_model_name_or_path=toybox-sd"], "do not share a latent space"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    assert launch.main(command(tmp_path, *overrides)) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            "data_type: fixed-views-datamodule\nsystem: {guidance_type: stable-diffusion-guidance, start: reference}",
            "'stable-diffusion-guidance' looks at no picture",
        ),
        (
            "data_type: random-camera-datamodule\nsystem: {guidance_type: usd-guidance, guidance: {image_path: disc.png, "
            "pretrained_model_name_or_path: gaussian, zero123_model_name_or_path: gaussian}, "
            "optimizer: {name: Adam, args: {lr: 0.1}}}",
            "expected fixed-views",
        ),
    ],
)
def test_what_the_playground_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: str, said: str
) -> None:
    save_disc(tmp_path / "disc.png")
    place = f"name: small\ntag: run\nuse_timestamp: false\nexp_root_dir: {tmp_path}\nsystem_type: playground-system\n"
    file = tmp_path / "mine.yaml"
    file.write_text(place + settings)
    assert launch.main(["--config", str(file), "--train", "--gpu", "cpu", "trainer.max_steps=1"]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error


def test_a_picture_without_an_object_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = write_picture(tmp_path / "empty.png", torch.ones(3, 32, 32))
    assert launch.main(command(tmp_path, f"system.guidance.image_path={empty}")) == 2
    assert "nothing remains after removing the background" in capsys.readouterr().err


def test_what_a_student_has_learnt_is_not_lost_when_a_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a run and its other half end with the picture of a whole one: the student is in the checkpoint."""
    vsd, still = "system.guidance_type=vsd-guidance", "trainer.val_check_interval=0"
    taught = [vsd, still, "system.guidance.lora_lr=0.1", "system.guidance.max_step_percent=0.98"]
    assert launch.main(command(tmp_path, *taught, "trainer.max_steps=8", "tag=whole")) == 0
    assert launch.main(command(tmp_path, *taught, "trainer.max_steps=4")) == 0
    half = f"resume={trial(tmp_path).last}"
    assert launch.main(command(tmp_path, *taught, half, "trainer.max_steps=8", "tag=later")) == 0
    whole, on = (read_rgba(trial(tmp_path, tag).save / "it8-test/0.png") for tag in ("whole", "later"))
    assert torch.equal(whole, on)
    saved = torch.load(trial(tmp_path).last, weights_only=False)
    torch.save({**saved, "training_states": {}}, tmp_path / "fresh.ckpt")
    afresh = [*taught, f"resume={tmp_path / 'fresh.ckpt'}", "trainer.max_steps=8", "tag=fresh"]
    assert launch.main(command(tmp_path, *afresh)) == 0
    assert not torch.equal(read_rgba(trial(tmp_path, "fresh").save / "it8-test/0.png"), whole)

    saved["training_states"]["guidance"]["student"]["weights"].pop()
    torch.save(saved, tmp_path / "other.ckpt")
    other = [*taught, f"resume={tmp_path / 'other.ckpt'}", "trainer.max_steps=8", "tag=other"]
    assert launch.main(command(tmp_path, *other)) == 2
    assert "the checkpoint's student is of another model or rank" in capsys.readouterr().err


def test_a_system_without_an_object_says_that_there_is_nothing_to_render() -> None:
    system = PlaygroundSystem.__new__(PlaygroundSystem)
    with pytest.raises(UserError, match="PlaygroundSystem trains no object that could be rendered"):
        system.evaluation_views(orbit_cameras_deg(15.0, 0.0, 2.5, 45.0, 8))
