"""Two-step specialization on tiny models: its sets, its two steps, resuming, and what it leaves behind."""

import os
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import launch
from tests.tiny_configs import CONFIGS, save_disc, trial
from usd.app.experiment import load_experiment
from usd.core import checkpoint
from usd.core.config import Schedule, parse
from usd.core.errors import UserError
from usd.data.convert import write_views
from usd.data.toy_views import render_toy_views, sphere_cameras
from usd.denoiser.components import open_components
from usd.denoiser.lora import WEIGHTS, read_card
from usd.system.specialize_sets import PromptsConfig, picture_set

TINY = [
    "data.n_test_views=3",
    "system.n_class_pictures=5",
    "system.view_sampling.steps=2",
    "system.class_sampling.steps=2",
    "system.second_step_from=3",
    "system.optimizer.args.lr=0.01",
    "system.subject=car",
    "system.object_token=side",
    "system.input_token=front",
    "trainer.max_steps=5",
    "trainer.enable_progress_bar=false",
    "trainer.test_after_fit=false",
]


@pytest.fixture
def command(tiny, tmp_path):
    picture = save_disc(tmp_path / "disc.png")

    def line(*overrides, tag="run", mode="--train"):
        place = [f"exp_root_dir={tmp_path}", "use_timestamp=false", f"tag={tag}", "name=small"]
        models = [
            f"system.pretrained_model_name_or_path={tiny.sd}",
            f"system.zero123_model_name_or_path={tiny.zero123_a}",
            f"system.image_path={picture}",
        ]
        return [
            "--config",
            str(CONFIGS / "specialise.yaml"),
            mode,
            "--gpu",
            "cpu",
            *place,
            *models,
            *TINY,
            *overrides,
        ]

    return line


def weights(done):
    return load_file(done.save / "lora" / WEIGHTS)


def test_it_makes_its_sets_and_leaves_a_lora_behind(command, tmp_path, tiny):
    assert launch.main(command("trainer.test_after_fit=true")) == 0
    done = trial(tmp_path)
    counts = {
        name: len(list((done.save / "sets" / name).glob("*.png"))) for name in ("input", "views", "class")
    }
    assert counts == {"input": 1, "views": 3, "class": 5}
    card = read_card(done.save / "lora")
    assert card.base_model == str(tiny.sd)
    assert card.prompt == "photo of a front side car"
    assert any(value.abs().max() > 0 for key, value in weights(done).items() if "up" in key)
    assert (done.save / "it5-samples.png").is_file()
    saved = checkpoint.load(done.last)["state_dict"]
    assert saved
    assert all("lora_" in key for key in saved)


@pytest.mark.parametrize("cut", [2, 3])
def test_resuming_replays_and_makes_no_picture_again(command, tmp_path, cut):
    """Cut off within step 1 and where step 2 begins."""
    assert launch.main(command(tag="whole")) == 0
    assert launch.main(command(f"trainer.max_steps={cut}", tag="cut")) == 0
    half = trial(tmp_path, "cut")
    made = {file: file.stat().st_mtime_ns for file in half.save.glob("sets/*/*.png")}
    assert launch.main(command(f"resume={half.last}", tag="cut")) == 0
    assert made == {file: file.stat().st_mtime_ns for file in half.save.glob("sets/*/*.png")}
    whole, resumed = weights(trial(tmp_path, "whole")), weights(half)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_the_second_step_learns_from_the_input_picture_alone(command, monkeypatch):
    """Instance: 1 picture of 1 + 3; class: the views; their sentences as published."""
    from usd.system.specialize import SpecializeSystem, TrainingSet

    drawn = []
    original = TrainingSet.draw

    def noted(self, count, source):
        drawn.append((len(self.latents), self.tokens.sum().item()))
        return original(self, count, source)

    monkeypatch.setattr(TrainingSet, "draw", noted)
    systems = []
    begin = SpecializeSystem.on_fit_start
    monkeypatch.setattr(SpecializeSystem, "on_fit_start", lambda self: (begin(self), systems.append(self))[0])
    assert launch.main(command()) == 0
    model = systems[0].model
    said = {
        name: model.embed_text([prompt]).tokens.sum().item()
        for name, prompt in (
            ("class", "photo of a car"), ("object", "photo of a side car"), ("input", "photo of a front side car")
        )
    }  # fmt: skip
    first, second = drawn[:6], drawn[6:]
    assert first == 3 * [(4, pytest.approx(said["object"])), (5, pytest.approx(said["class"]))]
    assert second == 2 * [(1, pytest.approx(said["input"])), (3, pytest.approx(said["object"]))]


def test_views_of_a_folder_may_stand_in_for_sampled_ones(command, tmp_path):
    write_views(render_toy_views(1_000_000, sphere_cameras(4, 20)), tmp_path / "views")
    given = [f"system.views={tmp_path / 'views'}", "system.zero123_model_name_or_path=nowhere/at-all"]
    assert launch.main(command(*given, "trainer.max_steps=1")) == 0
    files = sorted((trial(tmp_path).save / "sets" / "views").glob("*.png"))
    assert [Image.open(file).size for file in files] == [(16, 16)] * 4


def test_weights_stored_in_half_are_trained_in_full(command, tiny, tmp_path):
    shutil.copytree(tiny.sd, tmp_path / "half")
    open_components(tiny.sd).network("unet").half().save_pretrained(tmp_path / "half" / "unet")
    given = [f"system.pretrained_model_name_or_path={tmp_path / 'half'}", "trainer.max_steps=1"]
    assert launch.main(command(*given, "data.n_test_views=1", "system.n_class_pictures=1")) == 0
    assert {value.dtype for value in weights(trial(tmp_path)).values()} == {torch.float32}


def test_a_set_is_made_again_only_where_something_is_missing_or_was_different(tmp_path):
    calls = []

    def make(first, last):
        calls.append((first, last))
        return torch.full((last - first, 3, 4, 4), 0.5)

    def ask(key):
        calls.clear()
        picture_set(tmp_path / "set", key, 5, 2, make)
        return list(calls)

    assert ask("a") == [(0, 2), (2, 4), (4, 5)]
    assert ask("a") == []
    os.remove(tmp_path / "set" / "003.png")
    assert ask("a") == [(2, 4)]
    assert ask("b") == [(0, 2), (2, 4), (4, 5)]
    assert {file.name for file in (tmp_path / "set").iterdir()} == {
        "set.json",
        *(f"00{i}.png" for i in range(5)),
    }


def test_prompts_are_filled_and_unknown_words_are_one_line():
    words = {"subject": "car", "object_token": "sks", "input_token": ""}
    said = parse(PromptsConfig, {}).fill("system.prompts", **words)
    assert (said.class_, said.object, said.input) == (
        "photo of a car",
        "photo of a sks car",
        "photo of a sks car",
    )
    with pytest.raises(UserError, match=r"system\.prompts\.class: .*unknown 'name'; expected \{subject\}"):
        parse(PromptsConfig, {"class": "a {name}"}).fill("system.prompts", **words)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["system.image_path=/nowhere.png"], "system.image_path: /nowhere.png: no such file"),
        (["system.pretrained_model_name_or_path=gaussian"], "'gaussian' has no UNet to be changed"),
        (["system.min_step_percent=0.5", "system.max_step_percent=0.2"], "system.min_step_percent: is above"),
        (["system.views=/nowhere"], "system.views: /nowhere: no such file or folder"),
        (["system.lora.rank=0"], "system.lora.rank: 0 is out of range"),
    ],
)
def test_bad_input_is_one_line(command, capsys, overrides, said):
    assert launch.main(command(*overrides)) == 2
    assert said in capsys.readouterr().err


def test_the_published_values():
    experiment, _ = load_experiment([CONFIGS / "specialise.yaml"])
    system = experiment.system.config
    assert (system.second_step_from, experiment.trainer.max_steps) == (600, 605)
    assert (system.n_class_pictures, system.pictures_per_step) == (200, 1)
    assert experiment.data.config.n_test_views == 6
    assert system.optimizer.args["lr"] in (2e-4, Schedule.constant(2e-4))
    refine, _ = load_experiment([CONFIGS / "refine.yaml"], ["data.path=x", "system.lora=y"])
    how = refine.system.config
    assert (how.strength, how.steps, how.guidance_scale, how.residual) == (0.2, 50, 6.5, None)
