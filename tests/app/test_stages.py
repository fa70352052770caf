"""Stages: handed on, skipped when done, resumed inside, made again when what they stand on changed."""

import json
from pathlib import Path

import pytest
import yaml

import launch
from usd.app import modes
from usd.app.stages import is_staged, plans, read_record
from usd.core import checkpoint
from usd.core.config import ConfigError

CUSTOM = Path(__file__).parents[1] / "core" / "custom"
TINY = str(CUSTOM / "tiny.yaml")


@pytest.fixture(autouse=True)
def _tiny_components(monkeypatch):
    monkeypatch.setenv("USD_CUSTOM", str(CUSTOM))


def write(folder: Path, **content) -> str:
    """Two stages, the second told where the first's checkpoint is."""
    said = {
        "name": "both",
        "tag": "run",
        "exp_root_dir": str(folder / "out"),
        "trainer": {"max_steps": 4, "enable_progress_bar": False},
        "stages": {
            "first": {"base": TINY},
            "second": {
                "base": TINY,
                "description": "on ${stage:first} of step ${stage:first,step}",
                "trainer": {"max_steps": 3},
            },
        },
        **content,
    }
    file = folder / "staged.yaml"
    file.write_text(yaml.safe_dump(said, sort_keys=False))
    return str(file)


def trial(folder: Path, stage: str) -> Path:
    return folder / "out" / "both" / "run" / stage


def run(file: str, *overrides: str) -> int:
    return launch.main(["--config", file, "--train", "--gpu", "cpu", *overrides])


def started(output: str) -> list[str]:
    """Which stages were run, by what was printed."""
    return [
        line.split(":")[0].removeprefix("stage ")
        for line in output.splitlines()
        if line.endswith(("starting", "going on"))
    ]


# ---------------------------------------------------------------------------------------------------- reading


def test_what_is_staged(tmp_path):
    assert is_staged([write(tmp_path)]) and not is_staged([TINY])


def test_a_stage_is_its_base_then_what_is_shared_then_its_own_then_the_command_line(tmp_path):
    file = write(tmp_path)
    first, second = plans([file])
    assert (first.steps, second.steps) == (4, 3)
    first, second = plans([file], ["trainer.max_steps=5"])
    assert (first.steps, second.steps) == (5, 5), "what is typed holds for all"
    first, second = plans([file], ["stages.second.trainer.max_steps=6", "trainer.max_steps=5"])
    assert (first.steps, second.steps) == (5, 6), "and what is typed for one wins"


def test_results_of_earlier_stages_are_known_before_anything_runs(tmp_path):
    first, second = plans([write(tmp_path)])
    last = trial(tmp_path, "first") / "ckpts" / "last.ckpt"
    assert second.experiment.description == f"on {last} of step 4"
    assert (first.inputs, second.inputs) == ((), ("first",))
    assert second.trial.folder == trial(tmp_path, "second")


def test_a_stage_of_another_one_has_what_was_typed_for_that(tmp_path):
    looked = {"first": {"base": TINY}, "look": {"mode": "test", "of": "first"}}
    typed = ["stages.first.system.target=2", "stages.look.seed=9"]
    looked["after"] = {"base": TINY, "description": "${stage:look,save}/it${stage:look,step}-test"}
    first, look, after = plans([write(tmp_path, stages=looked)], typed)
    assert after.experiment.description == str(trial(tmp_path, "look") / "save" / "it4-test")
    assert look.experiment.system.config.target == first.experiment.system.config.target == 2
    assert (first.experiment.seed, look.experiment.seed) == (3, 9)
    assert look.experiment.resume == first.trial.last


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"a": {"base": TINY, "description": "${stage:b}"}},
            "stages.a: description: no earlier stage is called 'b'",
        ),
        ({"a": {"base": TINY}, "b": {"base": TINY, "tag": "${stage:A}"}}, "Did you mean 'a'"),
        (
            {"a": {"base": TINY}, "b": {"base": TINY, "tag": "${stage:a,skill}"}},
            "a stage has no 'skill'; expected checkpoint, folder",
        ),
        ({"a": {"base": TINY, "mode": "trian"}}, "stages.a: mode: 'trian' is not a choice"),
        ({"a": {"base": TINY}, "b": {"mode": "export"}}, "stages.b: of: expected `of`, the stage to export"),
        ({"a": {"base": TINY}, "b": {"of": "a"}}, "stages.b: of: expected nothing to train"),
        (["a", "b"], "stages: expected a mapping from names to stages"),
        ({"a": TINY}, "stages.a: expected a mapping of keys"),
        ({"a": {"base": TINY, "sed": 3}}, "stages.a: sed: unknown key. Did you mean 'seed'"),
    ],
)
def test_mistakes_are_found_before_the_first_stage(tmp_path, change, message):
    with pytest.raises(ConfigError) as error:
        plans([write(tmp_path, stages=change)])
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("checkpoint.save_last=false", "stages.first: checkpoint.save_last: is false"),
        ("stages.secnd.seed=1", "no such stage; there is first, second. Did you mean 'second'"),
        ("stages.second.mode=test", "can only be set in a file"),
        ("use_timestamp=true", "use_timestamp: not with stages"),
        ("tag=", "tag: required with stages"),
        ("stages.second.system.targt=1", "stages.second: system.targt: unknown key"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, capsys, override, message):
    assert run(write(tmp_path), override) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_stage_that_cannot_begin_leaves_no_folder(tmp_path, capsys):
    assert run(write(tmp_path), "stages.first.system.optimizer.name=AdamQW") == 2
    assert "stage first: system.optimizer.name" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert run(write(tmp_path), "stages.second.system.optimizer.name=AdamQW") == 2
    assert {item.name for item in (tmp_path / "out" / "both" / "run").iterdir()} == {"first", ".lock"}


def test_only_training_has_stages(tmp_path, capsys):
    assert launch.main(["--config", write(tmp_path), "--export"]) == 2
    assert "can only be trained" in capsys.readouterr().err


def test_a_stage_may_ask_what_another_is_set_to(tmp_path):
    asked = {
        "first": {"base": TINY, "system": {"target": 2.5}, "trainer": {"gradient_clip_val": None}},
        "second": {
            "base": TINY,
            "system": {"target": "${stage:first,system.target}"},
            "trainer": {
                "max_steps": "${stage:first,trainer.max_steps}",
                "gradient_clip_val": "${stage:first,trainer.gradient_clip_val}",
            },
            "description": "as ${stage:first,system.target}",
        },
    }
    first, second = plans([write(tmp_path, stages=asked)], ["stages.first.system.target=1.5"])
    assert second.experiment.system.config.target == 1.5, "with its type, as typed by hand"
    assert second.experiment.description == "as 1.5"
    assert second.steps == first.steps == 4 and second.experiment.trainer.gradient_clip_val is None
    assert second.inputs == (), "what it says is among its own settings"
    asked["second"]["system"] = {"target": "${stage:first,system.targt}"}
    with pytest.raises(
        ConfigError, match=r"stages\.second: system\.target: stage 'first' has no option 'system\.targt'"
    ):
        plans([write(tmp_path, stages=asked)])


def test_a_tag_may_be_made_of_what_stages_are_told(tmp_path):
    said = {"first": {"base": TINY, "system": {"target": 2}}}
    file = write(tmp_path, stages=said, tag="t${stages.first.system.target}")
    assert plans([file])[0].trial.folder.parent.name == "t2"
    assert plans([file], ["stages.first.system.target=3"])[0].trial.folder.parent.name == "t3"
    said["first"]["system"]["target"] = "???"
    with pytest.raises(ConfigError, match=r"stages\.first\.system\.target: required but not given"):
        plans([write(tmp_path, stages=said)])


# ---------------------------------------------------------------------------------------------------- running


def test_stages_run_once_and_each_leaves_an_ordinary_trial(tmp_path, capsys):
    file = write(tmp_path)
    assert run(file) == 0
    assert started(capsys.readouterr().out) == ["first", "second"]
    for stage, steps in (("first", 4), ("second", 3)):
        assert checkpoint.load(trial(tmp_path, stage) / "ckpts" / "last.ckpt")["global_step"] == steps
        assert (trial(tmp_path, stage) / "save" / f"it{steps}-test").is_dir()
    assert run(file) == 0
    assert started(capsys.readouterr().out) == []
    snapshot = str(trial(tmp_path, "second") / "configs" / "raw.yaml")
    again = f"resume={trial(tmp_path, 'second') / 'ckpts' / 'last.ckpt'}"
    assert launch.main(["--config", snapshot, "--test", again]) == 0, "a stage is an experiment by itself"


def test_a_stage_equals_the_same_experiment_run_alone(tmp_path):
    import torch

    run(write(tmp_path))
    alone = [
        "--config",
        TINY,
        "--train",
        "--gpu",
        "cpu",
        f"exp_root_dir={tmp_path}",
        "tag=alone",
        "trainer.max_steps=4",
    ]
    assert launch.main(alone) == 0
    a, b = (
        checkpoint.load(folder / "ckpts" / "last.ckpt")["state_dict"]
        for folder in (trial(tmp_path, "first"), tmp_path / "tiny" / "alone")
    )
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_stage_that_was_cut_off_is_resumed_and_those_before_it_are_skipped(tmp_path, capsys, monkeypatch):
    file = write(tmp_path)
    execute, seen = modes.execute, []

    def cut(mode, experiment, *rest):
        if experiment.tag != "second":
            return execute(mode, experiment, *rest)
        from dataclasses import replace

        execute(mode, replace(experiment, trainer=replace(experiment.trainer, max_steps=2)), *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(modes, "execute", cut)
    assert run(file) == 130
    assert "in stage second; the same command goes on" in capsys.readouterr().err

    def watched(mode, experiment, *rest):
        seen.append((experiment.tag, experiment.resume))
        return execute(mode, experiment, *rest)

    monkeypatch.setattr(modes, "execute", watched)
    assert run(file) == 0
    last = trial(tmp_path, "second") / "ckpts" / "last.ckpt"
    assert seen == [("second", last)]
    assert checkpoint.load(last)["global_step"] == 3


def test_more_steps_go_on_and_what_stands_on_them_is_made_again(tmp_path, capsys):
    file = write(tmp_path)
    run(file)
    capsys.readouterr()
    before = read_record(trial(tmp_path, "first")).minutes
    assert run(file, "stages.first.trainer.max_steps=6") == 0
    assert read_record(trial(tmp_path, "first")).minutes > before > 0
    out = capsys.readouterr().out
    assert "stage first: going on" in out
    assert "stage second: description" not in out
    assert (
        "which it stands on, was made again" in out and (trial(tmp_path, "second~1") / "stage.json").is_file()
    )
    assert checkpoint.load(trial(tmp_path, "first") / "ckpts" / "last.ckpt")["global_step"] == 6


def test_another_setting_makes_a_stage_again_and_keeps_the_old_one(tmp_path, capsys):
    file = write(tmp_path)
    run(file)
    capsys.readouterr()
    assert run(file, "stages.second.system.target=2.5") == 0
    out = capsys.readouterr().out
    assert started(out) == ["second"]
    assert "system.target is 2.5, but was 1.0; made again, the old one is now" in out
    assert (
        json.loads((trial(tmp_path, "second~1") / "stage.json").read_text())["settings"]["system"]["target"]
        == 1.0
    )
    assert read_record(trial(tmp_path, "second")).settings["system"]["target"] == 2.5


def test_a_run_may_move_and_strangers_in_its_place_are_kept(tmp_path, capsys):
    file = write(tmp_path)
    run(file)
    moved = tmp_path / "elsewhere"
    (tmp_path / "out").rename(moved)
    capsys.readouterr()
    assert run(file, f"exp_root_dir={moved}") == 0
    assert started(capsys.readouterr().out) == []
    (moved / "both" / "run" / "second" / "stage.json").unlink()
    assert run(file, f"exp_root_dir={moved}") == 0
    assert "a trial without stage.json is in its place" in capsys.readouterr().out
    assert (moved / "both" / "run" / "second~1" / "ckpts" / "last.ckpt").is_file()


def test_a_stage_may_be_left_out_and_another_may_test_an_earlier_one(tmp_path, capsys):
    looked = {"first": {"base": TINY}, "look": {"mode": "test", "of": "first"}}
    file = write(tmp_path, stages=looked)
    assert run(file, "stages.look=null") == 0
    assert started(capsys.readouterr().out) == ["first"]
    assert run(file) == 0
    assert started(capsys.readouterr().out) == ["look"]
    assert (trial(tmp_path, "look") / "save" / "it4-test").is_dir()


def test_a_failing_stage_is_named(tmp_path, capsys):
    assert run(write(tmp_path), "stages.second.system.optimizer.name=Nope") == 2
    assert "error: stage second: system.optimizer.name: torch.optim has no 'Nope'" in capsys.readouterr().err
