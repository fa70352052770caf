"""Every shipped recipe of distillation trains, validates and tests; the published values are still those published."""

import pytest

import launch
from tests.small import CONFIGS, SHRUNK, command, trial
from usd.core.config import Schedule
from usd.experiment import load_experiment


def test_no_recipe_is_forgotten_here():
    assert {path.name for path in CONFIGS.glob("*.yaml")} == set(SHRUNK)


@pytest.mark.parametrize("name", SHRUNK)
def test_a_recipe_runs_two_steps(name, tmp_path):
    quick = ["trainer.max_steps=2", "trainer.val_check_interval=2"]
    assert launch.main(command(name, tmp_path, *quick)) == 0
    save = trial(tmp_path).save
    for file in ("it2-0.png", "it2-test/2.png", "it2-test/transforms.json", "it2-test.mp4", "it2-test.png"):
        assert (save / file).is_file(), file


@pytest.mark.parametrize("name", SHRUNK)
def test_the_head_comment_says_what_where_and_how_long(name):
    lines = (CONFIGS / name).read_text().splitlines()
    comment = " ".join(line for line in lines[:12] if line.startswith("#"))
    for word in ("makes", "models", "machine", "time and memory", "python launch.py"):
        assert word in comment


def test_the_published_command_line_parses_to_the_published_values():
    flags, overrides = launch.arguments(["--config", "configs/usd-patch.yaml", "--train", "--gpu", "0"])
    assert (flags.mode, flags.gpu, overrides) == ("train", "0", [])
    experiment, _ = load_experiment([CONFIGS / "usd-patch.yaml"])
    system, data = experiment.system.config, experiment.data.config
    assert (experiment.name, experiment.trainer.max_steps, data.width) == ("USD", 15000, 512)
    assert data.elevation_range == (-10.0, 45.0) and data.camera_distance_range == (1.5, 1.5)
    assert system.loss["lambda_opaque"] == Schedule((10000, 10001), (0.0, 1000.0))
    assert system.guidance.config.max_step_percent == Schedule((5000, 5001), (0.98, 0.5))
    assert system.guidance.config.guidance_scale == 7.5 and system.guidance.config.lambda_ == 0
    assert system.renderer.config.patch_size == 128
    assert system.renderer.config.base_renderer.config.num_samples_per_ray == 512
    assert system.geometry.config.pos_encoding_config.per_level_scale == pytest.approx(1.447269237440378)
    assert system.optimizer.params["geometry.encoding"]["lr"] in (0.01, Schedule.constant(0.01))


@pytest.mark.parametrize("name", ["usd-patch.yaml", "usd-patch-mini.yaml"])
def test_the_shipped_picture_is_in_the_repository(name):
    experiment, _ = load_experiment([CONFIGS / name])
    picture = experiment.system.config.guidance.config.image_path
    assert picture.startswith(str(CONFIGS.parent / "load"))


def test_later_stages_are_refused_with_what_there_is(capsys):
    name = CONFIGS / "usd-text-to-3D-patch.yaml"
    for override, expected in (
        ("system.stage=geometry", "system.stage: 'geometry' is not a choice; expected one of coarse"),
        ("system.geometry_type=tetrahedra-sdf-grid", "no geometry is called 'tetrahedra-sdf-grid'; known: "),
        ("system.renderer_type=nvdiff-rasterizer", "no renderer is called 'nvdiff-rasterizer'; known: "),
    ):
        given = ["system.prompt_processor.prompt=x", "system.renderer.base_renderer.radius=1.0", override]
        given = given if "renderer_type" not in override else [given[0], override]
        assert launch.main(["--config", str(name), "--train", *given]) == 2
        assert expected in capsys.readouterr().err


def test_a_prompt_is_required(capsys):
    assert launch.main(["--config", str(CONFIGS / "usd-text-to-3D-patch.yaml"), "--train"]) == 2
    assert "system.prompt_processor.prompt" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted((CONFIGS / "toybox").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_recipe_of_the_embedded_family_parses_and_says_where_it_publishes(file):
    """Their training itself is run, at tiny size, by tests/system/test_model_training.py."""
    experiment, _ = load_experiment([file])
    assert experiment.data.name == "toybox-datamodule"
    assert experiment.system.config.publish_to.startswith("load/toybox/")
    assert experiment.data.config.n_toys < 1_000_000
