"""Options that change between two steps: what can change, what is refused, and that a replay is the same training."""

import json

import pytest
import torch

import launch
from tests.tiny_configs import command, save_disc, trial
from usd.app import option_changes
from usd.app import trainer as trainer_module
from usd.app.option_changes import OptionChange, OptionChanges, read_changes
from usd.core import checkpoint
from usd.core.errors import UserError

SHORT = [
    "trainer.max_steps=5",
    "trainer.val_check_interval=0",
    "trainer.test_after_fit=false",
    "data.batch_size=1",
]
CHANGES = [
    OptionChange(1, "data.elevation_range", [30.0, 31.0]),
    OptionChange(2, "system.guidance.guidance_scale", 40.0),
    OptionChange(2, "system.loss.lambda_sparsity", [0, 1.0, 5.0, 100]),
    OptionChange(3, "system.optimizer.params.geometry.encoding.lr", 0.1),
]


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    return save_disc(tmp_path_factory.mktemp("pictures") / "disc.png")


def train(out, picture, tag: str, *overrides: str) -> dict:
    path = [f"system.guidance.image_path={picture}"]
    assert launch.main(command("usd-patch-mini.yaml", out, *SHORT, *path, *overrides, tag=tag)) == 0
    return checkpoint.load(trial(out, tag).last)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, picture):
    return train(tmp_path_factory.mktemp("plain"), picture, "plain")


def write(path, changes) -> str:
    path.write_text("".join(json.dumps(vars(change)) + "\n" for change in changes))
    return f"trainer.option_changes={path}"


def weights(saved: dict) -> dict:
    return saved["state_dict"]


def equal(one: dict, other: dict) -> bool:
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def test_changes_are_made_again_bit_for_bit_also_by_a_run_that_is_resumed(tmp_path, picture, plain, capsys):
    assert not any("OptionChanges" in key for key in plain["callbacks"]), "nothing changed, nothing kept"
    replay = write(tmp_path / "changes.jsonl", CHANGES)
    changed = train(tmp_path, picture, "changed", replay)
    assert not equal(plain, changed)
    assert "step 2: system.guidance.guidance_scale is 40.0, was 2.0" in capsys.readouterr().out
    record = trial(tmp_path, "changed").folder / option_changes.RECORD
    assert [(c.step, c.key, c.value) for c in read_changes(record)] == [
        (c.step, c.key, c.value) for c in CHANGES
    ]
    replay = f"trainer.option_changes={record}"
    train(tmp_path, picture, "cut", replay, "trainer.max_steps=4")
    last = f"resume={trial(tmp_path, 'cut').last}"
    assert equal(changed, train(tmp_path, picture, "cut", last))


def test_every_option_offered_can_be_set_to_what_it_is(tmp_path, picture, plain, monkeypatch):
    seen = {}

    class Prying(OptionChanges):
        def on_train_batch_start(self, trainer, *args):
            for key, option in self.options(trainer).items():
                option.change(option.value, trainer.global_step)
                seen[key] = option.value, self.options(trainer)[key].value
            super().on_train_batch_start(trainer, *args)

    monkeypatch.setattr(trainer_module, "OptionChanges", Prying)
    assert equal(plain, train(tmp_path, picture, "pried"))
    assert all(before == after for before, after in seen.values())
    assert {"system.guidance.guidance_scale", "system.guidance.lambda", "system.loss.lambda_usd"} <= set(seen)
    assert {"data.fovy_range", "system.optimizer.params.geometry.encoding.lr"} <= set(seen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            OptionChange(0, "system.guidance.guidance_scal", 1.0),
            "guidance_scal: cannot change while a training runs.",
        ),
        (OptionChange(0, "system.guidance.guidance_scale", -1.0), "guidance_scale: -1 is out of range"),
        (OptionChange(0, "system.loss.lambda_usd", -1.0), "lambda_usd: -1 is out of range; expected >= 0"),
        (OptionChange(0, "system.loss.lambda_usd", "much"), "lambda_usd: 'much' is not a schedule"),
        (OptionChange(0, "data.elevation_range", [40.0, 10.0]), "elevation_range: [40, 10] runs backwards"),
    ],
    ids=["unknown", "scale", "weight", "text", "range"],
)
def test_a_wrong_change_is_one_line(tmp_path, picture, capsys, change, message):
    replay = write(tmp_path / "changes.jsonl", [change])
    path = f"system.guidance.image_path={picture}"
    assert launch.main(command("usd-patch-mini.yaml", tmp_path, *SHORT, path, replay)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file; expected the option-changes.jsonl"),
        ("{", "is not readable JSON"),
        ('{"step": 1}', "line 1: is no change of an option"),
        ('\n{"step": -1, "key": "a", "value": 1}', "line 2: step is -1"),
    ],
)
def test_a_broken_record_names_file_and_line(tmp_path, text, message):
    file = tmp_path / "changes.jsonl"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError) as error:
        read_changes(file)
    assert message in str(error.value) and str(file) in str(error.value)
