"""``reference_elevation_deg: auto``: estimated once, written down, and used from then on."""

import json

import pytest
import torch
import yaml
from PIL import Image

import launch
from tests.tiny_configs import CONFIGS, command, save_disc, trial
from usd.app import elevation_estimate
from usd.app.stages import plans
from usd.core import checkpoint
from usd.data.usd_random_camera import stored_elevation

RECIPE = "usd-patch-mini.yaml"
AUTO = "data.reference_elevation_deg=auto"
SHORT = ["trainer.max_steps=1", "trainer.val_check_interval=0", "trainer.test_after_fit=false"]


def start(out, *overrides, mode="--train", tag="run"):
    return launch.main(command(RECIPE, out, *SHORT, *overrides, mode=mode, tag=tag))


def used(out, tag="run") -> float:
    return yaml.safe_load((trial(out, tag).configs / "parsed.yaml").read_text())["data"][
        "reference_elevation_deg"
    ]


def test_a_training_estimates_once_and_what_goes_on_from_it_uses_that(tmp_path, capsys):
    picture = f"system.guidance.image_path={save_disc(tmp_path / 'disc.png')}"
    assert start(tmp_path, picture, AUTO) == 0
    said = capsys.readouterr().out
    assert said.count("reference: elevation ") == 1
    found = json.loads((trial(tmp_path).save / "elevation.json").read_text())
    assert used(tmp_path) == round(found["degrees"], 1)
    saved = checkpoint.load(trial(tmp_path).last)
    assert stored_elevation(saved) == used(tmp_path)

    saved["UsdRandomCameras"]["reference_elevation_deg"] = 33.0
    torch.save(saved, tmp_path / "other.ckpt")
    going_on = [picture, AUTO, f"resume={tmp_path / 'other.ckpt'}", "trainer.max_steps=2"]
    assert start(tmp_path, *going_on, tag="later") == 0
    assert used(tmp_path, "later") == 33.0
    assert "elevation" not in capsys.readouterr().out

    del saved["UsdRandomCameras"]
    torch.save(saved, tmp_path / "silent.ckpt")
    assert (
        start(tmp_path, picture, AUTO, f"resume={tmp_path / 'silent.ckpt'}", mode="--test", tag="look") == 2
    )
    assert "says no elevation; expected degrees" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [AUTO, "system.guidance.image_path="],
            "data.reference_elevation_deg: auto needs a picture; expected one in system.guidance.image_path",
        ),
        (["data.reference_elevation_deg=95"], "data.reference_elevation_deg: 95 is out of range"),
        (
            ["data.reference_elevation_deg=automatic"],
            "data.reference_elevation_deg: expected a number or one of auto",
        ),
        ([AUTO, "system.guidance.image_path=nowhere.png"], "system.guidance.image_path"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, overrides, message):
    assert start(tmp_path, *overrides) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_sentence_has_no_elevation(tmp_path, capsys):
    data = ["data_type=usd-random-camera-datamodule", AUTO]
    assert launch.main(command("usd-text-to-3D-patch-mini.yaml", tmp_path, *SHORT, *data)) == 2
    assert "auto needs a reference picture" in capsys.readouterr().err


def test_the_command_answers_for_a_picture_and_refuses_one_without_an_object(tmp_path, capsys):
    toy = save_disc(tmp_path / "disc.png")
    assert elevation_estimate.main([str(toy)]) == 0
    assert "read off the picture" in capsys.readouterr().out
    assert elevation_estimate.main([str(toy), "--json"]) == 0
    assert -35 <= json.loads(capsys.readouterr().out)["degrees"] <= 85
    Image.new("RGBA", (32, 32)).save(tmp_path / "empty.png")
    assert elevation_estimate.main([str(tmp_path / "empty.png")]) == 2
    assert "is fully transparent; expected a visible object" in capsys.readouterr().err
    assert elevation_estimate.main([str(toy), "--method", "turn"]) == 2
    assert "agree with any elevation assumed" in capsys.readouterr().err
    assert elevation_estimate.main([str(toy), "--fov", "0"]) == 2


def test_stages_that_are_told_auto_agree(tmp_path):
    picture = f"stages.object.system.guidance.image_path={save_disc(tmp_path / 'disc.png')}"
    auto = "stages.object.data.reference_elevation_deg=auto"
    told = [picture, auto, f"exp_root_dir={tmp_path}", "tag=x"]
    stages = {plan.name: plan for plan in plans([CONFIGS / "usd-full-mini.yaml"], told)}
    found = [
        elevation_estimate.resolve_data(stages[name].experiment, "train").data.config.reference_elevation_deg
        for name in ("object", "specialise")
    ]
    assert found[0] == found[1] == used_in(stages["object"].trial) == used_in(stages["specialise"].trial)


def used_in(told) -> float:
    return round(json.loads((told.save / "elevation.json").read_text())["degrees"], 1)
