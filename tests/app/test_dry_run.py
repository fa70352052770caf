"""A dry run: small, without a download, and nothing is left."""

import dataclasses
import os

import pytest

import launch
from tests.tiny_configs import CONFIGS
from usd.app import dry_run
from usd.app.experiment import load_experiment
from usd.app.shrink import LARGEST, shrink
from usd.core.config import Spec
from usd.core.schedule import Schedule

PATCH = str(CONFIGS / "usd-text-to-3D-patch.yaml")
PROMPT = "system.prompt_processor.prompt=a red chair"


def options(config):
    """Every option below a dataclass, with its name."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        value = value.config if isinstance(value, Spec) else value
        if dataclasses.is_dataclass(value) and not isinstance(value, Schedule):
            yield from options(value)
        else:
            yield field.name.removesuffix("_"), value


@pytest.fixture(scope="module")
def patch():
    return load_experiment([PATCH], [PROMPT])[0]


def test_no_size_is_above_its_limit_and_a_schedule_has_its_first_and_its_last_value(patch):
    small = dict(options(shrink(patch)))
    for name, largest in LARGEST.items():
        sizes = small.get(name)
        for size in sizes if isinstance(sizes, tuple) else (sizes,):
            assert size is None or size <= largest, name
    at_full_size = patch.system.config.guidance.config.max_step_percent
    ends = (at_full_size(0), at_full_size(patch.trainer.max_steps - 1))
    assert small["max_step_percent"].values == ends


def test_a_late_loss_and_a_later_resolution_come_in_the_second_step():
    overrides = [PROMPT, "system.loss.lambda_opaque=[100,0,7,101]", "data.resolution_milestones=[50]"]
    overrides += ["data.width=[8,12]", "data.height=[8,12]", "data.batch_size=[1,4]"]
    small = shrink(load_experiment([PATCH], overrides)[0])
    weight = small.system.config.loss["lambda_opaque"]
    assert (weight(0), weight(1)) == (0.0, 7.0)
    data = small.data.config
    assert data.resolution_milestones == (1,) and data.width == (8, 12) and data.batch_size == (1, 2)


def test_the_report_says_what_would_be_downloaded_and_nothing_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert launch.main(["--config", PATCH, "--dry-run", "--gpu", "cpu", PROMPT]) == 0
    said = capsys.readouterr().out
    assert "2 steps, a validation view and the export" in said
    assert "the real run downloads 5.2 GB" in said and "sd-2.1-base" in said and "license: CreativeML" in said
    assert "memory, estimated for a GPU" in said
    assert os.listdir(tmp_path) == []


def test_a_wrong_option_is_an_error_as_in_the_real_run(capsys):
    command = ["--config", PATCH, "--dry-run", PROMPT]
    assert launch.main([*command, "system.loss.lambda_sparsty=1"]) == 2
    assert "lambda_sparsity" in capsys.readouterr().err
    assert launch.main([*command, "--export"]) == 2
    assert "--dry-run: tries a training out" in capsys.readouterr().err


def test_every_stage_of_a_configuration_is_tried_on_what_the_one_before_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = dry_run.rehearse([CONFIGS / "usd-text-to-3D-mini.yaml"], [PROMPT, "tag=chair"], "cpu")
    assert len(done) >= 2 and "nothing was downloaded" in done[0].lines[0]
    assert os.listdir(tmp_path) == []
