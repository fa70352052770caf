"""Every shipped recipe of distillation trains, validates and tests; the published values are still those published."""

import pytest

import launch
from tests.small import CONFIGS, SHRUNK, command, trial
from usd.core.config import Schedule
from usd.experiment import load_experiment
from usd.stages import plans

STAGED = ["usd-text-to-3D-mini.yaml", "usd-full.yaml", "usd-full-mini.yaml"]
OTHERS = [
    "reconstruct.yaml",
    "reconstruct-generated.yaml",
    "reconstruct-large.yaml",
    "specialise.yaml",
    "specialise-mini.yaml",
    "refine.yaml",
    "refine-mini.yaml",
    "playground.yaml",
]  # tests/system/test_reconstruct.py, test_specialise.py, test_refine.py, test_playground.py


def test_no_recipe_is_forgotten_here():
    assert {path.name for path in CONFIGS.glob("*.yaml")} == {*SHRUNK, *STAGED, *OTHERS}


@pytest.mark.parametrize("name", SHRUNK)
def test_a_recipe_runs_two_steps(name, tmp_path):
    quick = ["trainer.max_steps=2", "trainer.val_check_interval=2"]
    assert launch.main(command(name, tmp_path, *quick)) == 0
    save = trial(tmp_path).save
    for file in ("it2-0.png", "it2-test/2.png", "it2-test/transforms.json", "it2-test.mp4", "it2-test.png"):
        assert (save / file).is_file(), file


@pytest.mark.parametrize("name", [*SHRUNK, *STAGED, *OTHERS])
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


@pytest.mark.parametrize("stage", ["geometry", "texture"])
def test_the_later_stages_have_the_published_values(stage):
    given = ["system.prompt_processor.prompt=x", "system.geometry_convert_from=a.ckpt"]
    experiment, _ = load_experiment([CONFIGS / f"usd-text-to-3D-{stage}.yaml"], given)
    system = experiment.system.config
    assert (system.stage, experiment.trainer.max_steps) == (stage, 15000)
    assert (system.geometry.name, system.renderer.name) == ("tetrahedra-sdf-grid", "nvdiff-rasterizer")
    assert (
        system.geometry.config.isosurface_resolution == 128
        and system.geometry.config.isosurface_deformable_grid
    )
    assert system.guidance.config.max_step_percent == Schedule((5000, 5001), (0.98, 0.5))
    if stage == "geometry":
        assert system.geometry.config.geometry_only and system.material.config.n_output_dims == 0
        assert (system.guidance.name, system.guidance.config.guidance_scale) == (
            "stable-diffusion-guidance",
            100.0,
        )
        weights = {key: schedule(0) for key, schedule in system.loss.items() if schedule(0)}
        assert weights == {
            "lambda_sds": 1,
            "lambda_normal_consistency": 10000,
            "lambda_laplacian_smoothness": 10000,
        }
    else:
        assert system.geometry.config.fix_geometry and system.guidance.config.lambda_ == 0
        assert (system.guidance.name, system.guidance.config.guidance_scale) == (
            "usd-text-to-3D_guidance",
            7.5,
        )


@pytest.mark.parametrize("stage", ["geometry", "texture"])
def test_a_later_stage_needs_an_earlier_one(stage, capsys, tmp_path):
    name = str(CONFIGS / f"usd-text-to-3D-{stage}.yaml")
    assert launch.main(["--config", name, "--train", "system.prompt_processor.prompt=x"]) == 2
    assert "system.geometry_convert_from: required but not given" in capsys.readouterr().err


def test_the_staged_recipe_hands_each_checkpoint_to_the_next():
    patch, geometry, texture, mesh = plans(
        [CONFIGS / "usd-text-to-3D-mini.yaml"], ["system.prompt_processor.prompt=a red car"]
    )
    assert geometry.experiment.system.config.geometry_convert_from == patch.trial.last
    assert texture.experiment.system.config.geometry_convert_from == geometry.trial.last
    assert (mesh.mode, mesh.experiment.resume) == ("export", texture.trial.last)
    told = [
        p.experiment.system.config.prompt_processor.config.prompt for p in (patch, geometry, texture, mesh)
    ]
    assert told == ["a red car"] * 4
    assert patch.trial.folder.parent == mesh.trial.folder.parent
    assert patch.trial.folder.parent.name == "a_red_car"


def test_the_geometry_stage_says_what_normal_maps_are_called_in_training():
    from usd.toybox.objects import normal_caption

    geometry = plans([CONFIGS / "usd-text-to-3D-mini.yaml"], ["system.prompt_processor.prompt=x"])[1]
    words = geometry.experiment.system.config.prompt_processor.config.prompt_format
    assert words.replace("{prompt}", "a red car") == normal_caption("a red car")
    assert geometry.experiment.system.config.normal_background == 1, (
        "over white, as the pictures it is trained on"
    )


def test_a_prompt_is_required(capsys):
    assert launch.main(["--config", str(CONFIGS / "usd-text-to-3D-patch.yaml"), "--train"]) == 2
    assert "system.prompt_processor.prompt" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted((CONFIGS / "toybox").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_recipe_of_the_embedded_family_parses_and_says_where_it_publishes(file):
    """Their training itself is run, at tiny size, by tests/system/test_model_training.py."""
    experiment, _ = load_experiment([file])
    assert experiment.data.name == "toybox-datamodule"
    assert experiment.system.config.publish_to.startswith("load/toybox")
    assert experiment.data.config.n_toys < 1_000_000
