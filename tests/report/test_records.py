"""What a trial's folder says of itself, read from whatever is left of it."""

import json
from pathlib import Path

import pytest

from usd.core import places
from usd.report.licenses import model_licenses, model_names
from usd.report.records import TrialRecord, plain_command, read_mapping, step_of


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    """A trial with a configuration and nothing else."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "parsed.yaml").write_text(
        "tag: duck\nsystem: {prompt_processor: {prompt: a duck}}\n"
    )
    return tmp_path


def put(trial: Path, *names: str) -> None:
    for name in names:
        (trial / "save" / name).parent.mkdir(parents=True, exist_ok=True)
        (trial / "save" / name).write_text("{}")


def test_an_empty_trial_knows_its_configuration_alone(trial):
    record = TrialRecord.of(trial)
    assert (record.title, record.prompt) == ("duck", "a duck")
    assert record.option("system.prompt_processor.nothing.below") is None
    assert record.changes is None and record.commands == [] and record.run == {}
    assert record.input_picture is None and record.model is None and record.video is None
    assert record.views == [] and record.validation == [] and record.exported == []
    assert record.scores() == {} and record.export_report() == {}


def test_a_trial_without_a_tag_has_its_folders_name(trial):
    (trial / "configs" / "parsed.yaml").write_text("name: x\n")
    record = TrialRecord.of(trial)
    assert record.title == trial.name and record.prompt == ""


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("save/it600-test/0.png", 600),
        ("save/it20-0.png", 20),
        ("it5-export/it7-x.glb", 7),
        ("save/a.png", -1),
        ("edit9/b.png", -1),
    ],
)
def test_the_step_stands_in_a_files_name_or_its_folders(path, step):
    assert step_of(Path(path)) == step


def test_the_highest_step_wins_not_the_last_in_the_alphabet(trial):
    put(trial, "it900-test/0.png", "it1000-test/0.png", "it1000-test/10.png", "it1000-test/9.png")
    put(trial, "it1000-test/notes.png")
    names = [file.relative_to(trial / "save").as_posix() for file in TrialRecord.of(trial).views]
    assert names == ["it1000-test/0.png", "it1000-test/9.png", "it1000-test/10.png"]


def test_a_turntable_goes_before_test_views(trial):
    put(trial, "it10-test/0.png", "it10-turntable/0.png", "it10-test.mp4")
    record = TrialRecord.of(trial)
    assert record.views[0].parent.name == "it10-turntable"
    assert record.video is not None and record.video.name == "it10-test.mp4"
    put(trial, "it10-turntable.mp4")
    assert TrialRecord.of(trial).video.name == "it10-turntable.mp4"


def test_every_validation_is_there_once_in_the_order_of_steps(trial):
    put(trial, "it100-0.png", "it20-0.png", "it20-1.png")
    assert [step for step, _ in TrialRecord.of(trial).validation] == [20, 100]


def test_the_model_is_the_last_export_unless_the_training_went_on(trial):
    put(trial, "preview.glb", "it40-export/model.glb", "it40-export/model-report.json")
    for step, name in ((40, "model.glb"), (80, "preview.glb")):
        (trial / "run.json").write_text(json.dumps({"step": step}))
        assert TrialRecord.of(trial).model.name == name
    (trial / "save" / "preview.glb").unlink()
    assert TrialRecord.of(trial).model.name == "model.glb", "an old export is better than nothing"
    assert [file.name for file in TrialRecord.of(trial).exported] == ["model-report.json", "model.glb"]


def test_figures_that_cannot_be_read_are_none(trial):
    put(trial, "it4-test/metrics.json")
    file = trial / "save" / "it4-test" / "metrics.json"
    for content, expected in (('{"psnr": 20.5}', {"psnr": 20.5}), ("[1, 2]", {}), ('{"psnr": 2', {})):
        file.write_text(content)
        assert TrialRecord.of(trial).scores() == read_mapping(file) == expected
    (trial / "run.json").write_text("{")
    assert TrialRecord.of(trial).run == {}


def test_a_command_that_no_shell_reads_is_shown_as_it_is():
    assert plain_command("usd train 'unfinished") == "usd train 'unfinished"
    assert plain_command("") == ""


# ------------------------------------------------------------------------------------------------------- licenses


def test_models_are_named_by_the_options_that_load_them():
    config = {
        "system": {
            "guidance": {"pretrained_model_name_or_path": "toybox-sd", "guidance_scale": 3.0},
            "prompt_processor": {"pretrained_model_name_or_path": "toybox-sd + style.safetensors"},
            "other": {"base_model_name_or_path": "", "name_or_path": "not a model's option"},
        }
    }
    assert list(model_names(config)) == ["toybox-sd", "toybox-sd + style.safetensors"]
    found = {entry.name: entry for entry in model_licenses(config)}
    assert list(found) == ["toybox-sd", "style.safetensors"], "each once, LoRAs apart"
    assert found["toybox-sd"].license.startswith("Apache-2.0")
    assert found["style.safetensors"].license.startswith("not known")


def test_every_model_that_the_project_names_says_its_license():
    import yaml

    known = yaml.safe_load(places.resource("load/models.yaml").read_text("utf-8"))
    names = [name for name, entry in known.items() if isinstance(entry, dict)]
    assert len(names) > 10
    for name in names:
        (entry,) = model_licenses({"pretrained_model_name_or_path": name})
        assert entry.license and not entry.license.startswith("not known"), name
