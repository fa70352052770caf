"""Options that have another name or place here: what errors say of them, and Lightning's that are translated."""

import re

import pytest

from usd.app.experiment import CheckpointConfig, Experiment, TrainerConfig, merge_contents
from usd.core.config import keys_of
from usd.core.errors import ConfigError
from usd.data.random_camera import RandomCameraConfig
from usd.dialects import translate, with_place
from usd.dialects.draft import Draft
from usd.dialects.threestudio.places import PLACES
from usd.dialects.threestudio.trainer import translate_batches

OURS = {
    "data_type": "random-camera-datamodule",
    "system_type": "usd-text-to-3d-system",
    "system": {
        "guidance_type": "stable-diffusion-guidance",
        "prompt_processor_type": "stable-diffusion-prompt-processor",
        "prompt_processor": {"prompt": "a chair"},
    },
    "tag": "x",
}


def problem(tmp_path, *overrides):
    with pytest.raises(ConfigError) as error:
        merge_contents([(OURS, tmp_path)], overrides).experiment()
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("trainer.max_epochs=3", "trainer.max_steps"),
        ("trainer.devices=2", "--gpu"),
        ("trainer.gradient_clip_algorithm=norm", "trainer.gradient_clip_val"),
        ("checkpoint.monitor=x", "checkpoint.save_top_k"),
        ("system.guidance.enable_attention_slicing=true", "system.guidance.models.views_at_once=1"),
        ("system.guidance.enable_sequential_cpu_offload=true", "system.guidance.models.offload=unused"),
        (
            "system.guidance.view_dependent_prompting=false",
            "system.prompt_processor.view_dependent_prompting",
        ),
        ("system.guidance.use_sjc=true", "stable-diffusion-sjc-guidance"),
        ("system.refinement=true", "system.stage: texture"),
        ("system.geometry.isosurface_method=mt", "nothing"),
        ("data.default_elevation_deg=5", "data.reference_elevation_deg"),
        ("data.random_camera.batch_size=2", "data itself"),
        ("system_type=dreamfusion-system", "usd-text-to-3d-system, or dialect=threestudio"),
    ],
)
def test_a_name_of_threestudios_or_lightnings_is_answered_by_the_one_here(tmp_path, override, place):
    said = problem(tmp_path, override)
    assert said.startswith(override.partition("=")[0].removesuffix(".batch_size"))
    assert place in said and len(said.splitlines()) == 1


def test_a_misspelled_key_is_still_answered_by_the_nearest(tmp_path):
    assert problem(tmp_path, "trainer.max_stepz=3").endswith("Did you mean 'max_steps'?")


def test_places_that_are_named_are_there():
    places = [place for _, place in PLACES]
    for section, options in (
        ("trainer", TrainerConfig),
        ("checkpoint", CheckpointConfig),
        ("data", RandomCameraConfig),
    ):
        named = [name for place in places for name in re.findall(rf"(?<![\w.]){section}\.(\w+)", place)]
        assert set(named) - {"reference_"} <= set(keys_of(options)), section
    assert {"exp_root_dir", "name", "tag", "seed"} <= set(keys_of(Experiment))


def test_accumulated_batches_and_limits_of_validation_are_understood_in_our_own_files_too(tmp_path):
    lightning = ["trainer.accumulate_grad_batches=4", "trainer.limit_val_batches=2", "data.batch_size=3"]
    merged = merge_contents([(OURS, tmp_path)], lightning)
    found = merged.experiment()
    assert found.trainer.batch_parts == 4 and found.data.config.batch_size == 12
    assert found.data.config.n_val_views == 2 and len(merged.notes) == 2


@pytest.mark.parametrize(
    ("limit", "trainer", "data"),
    [(0, {"val_check_interval": 0}, {}), (3, {}, {"n_val_views": 3}), (1.0, {}, {}), (None, {}, {})],
)
def test_a_limit_of_validation_batches_is_a_number_of_views(limit, trainer, data):
    values = {"data_type": "random-camera-datamodule", "trainer": {"limit_val_batches": limit}}
    found = translate({**values, "dialect": "usd"}).values
    assert (found["trainer"], found.get("data", {})) == (trainer, data)


@pytest.mark.parametrize("limit", [0.5, -1, True, "all"])
def test_a_share_of_the_validation_batches_is_refused(limit):
    with pytest.raises(ConfigError, match=r"^trainer.limit_val_batches: expected an integer, 0 or more"):
        translate({"dialect": "usd", "trainer": {"limit_val_batches": limit}})


def test_the_end_of_an_epoch_never_comes():
    """Lightning's 1.0 means once an epoch; a training is one endless epoch."""
    for given, steps, notes in ((1.0, 0, 1), (0.0, 0, 0), (1, 1, 0), (200.0, 200.0, 0)):
        draft = Draft({"trainer": {"val_check_interval": given}})
        translate_batches(draft)
        found = draft.translation()
        assert found.values["trainer"] == {"val_check_interval": steps} and len(found.notes) == notes
    with pytest.raises(ConfigError, match=r"^trainer.val_check_interval: 0.25 is a part of an epoch"):
        translate({"dialect": "usd", "trainer": {"val_check_interval": 0.25}})


@pytest.mark.parametrize("parts", [2.5, 0, "4", True])
def test_accumulated_batches_that_are_no_number_are_refused_and_not_dropped(parts):
    with pytest.raises(
        ConfigError, match=r"^trainer.accumulate_grad_batches: expected an integer, 1 or more"
    ):
        translate({"dialect": "usd", "trainer": {"accumulate_grad_batches": parts}})


def test_whole_numbers_may_be_written_as_floats(tmp_path):
    given = ["trainer.max_steps=1e4", "trainer.accumulate_grad_batches=4.0", "data.batch_size=3.0"]
    found = merge_contents([(OURS, tmp_path)], given).experiment()
    assert found.trainer.max_steps == 10000 and found.data.config.batch_size == 12


def test_other_errors_are_left_alone():
    assert with_place("trainer.max_epochs: 5 is out of range") == "trainer.max_epochs: 5 is out of range"
    assert with_place("x: unknown key. Known keys: y.") == "x: unknown key. Known keys: y."


def test_a_step_that_would_count_epochs_says_so(tmp_path):
    said = problem(tmp_path, "system.loss.lambda_sparsity=[0,1.0,0.5,100.0]")
    assert "step 100.0 must be an integer number of optimizer steps (a float would count epochs" in said
