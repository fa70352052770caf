"""Every shipped recipe of distillation trains, validates and tests; the published values are still those published."""

import pytest

import launch
from tests.tiny_configs import CONFIGS, SHRUNK, command, trial
from usd.app import launcher
from usd.app.experiment import load_experiment
from usd.app.stages import plans
from usd.core.config import Schedule, plain
from usd.denoiser.rehearsal import rehearsal

STAGED = ["splats-two-stage-mini.yaml", "usd-text-to-3D-mini.yaml", "usd-full.yaml", "usd-full-mini.yaml"]
OTHERS = [
    "reconstruct.yaml",
    "reconstruct-generated.yaml",
    "reconstruct-generated-mini.yaml",
    "reconstruct-large.yaml",
    "reconstruct-splats.yaml",
    "reconstruct-splats-scene.yaml",
    "scene.yaml",
    "reconstruct-scene.yaml",
    *(f"nerf-{name}.yaml" for name in ("blender", "colmap")),
    *(f"neus-{name}.yaml" for name in ("blender", "colmap", "dtu", "dtu-wmask", "bmvs")),
    "specialise.yaml",
    "specialise-mini.yaml",
    "refine.yaml",
    "refine-mini.yaml",
    "playground.yaml",
    "usd-improve.yaml",
    "usd-improve-mini.yaml",
]
METHODS = [
    *(f"{name}.yaml" for name in ("prolificdreamer", "textmesh", "latent-nerf", "sjc", "hifa", "sdi")),
    "syncdreamer.yaml",
    *("zero123.yaml", "magic123.yaml"),
    *(f"{name}{size}.yaml" for name in ("magic3d", "fantasia3d") for size in ("", "-mini")),
]  # the minis of those above run; these are parsed
# tests/system/test_reconstruct.py, test_specialize.py, test_refine.py, test_playground.py


def test_no_recipe_is_forgotten_here():
    assert {path.name for path in CONFIGS.glob("*.yaml")} == {*SHRUNK, *STAGED, *OTHERS, *METHODS}


@pytest.mark.parametrize("name", [name for name in SHRUNK if name.startswith("splats")])
def test_a_recipe_runs_two_steps(name, tmp_path):
    """Those that tests/test_devices.py only runs with the slow tests; it runs all others."""
    quick = ["trainer.max_steps=2", "trainer.val_check_interval=2"]
    with rehearsal():  # random stand-ins for published models
        assert launch.main(command(name, tmp_path, *quick)) == 0
    save = trial(tmp_path).save
    for file in ("it2-0.png", "it2-test/2.png", "it2-test/transforms.json", "it2-test.mp4", "it2-test.png"):
        assert (save / file).is_file(), file


@pytest.mark.parametrize("name", [*SHRUNK, *STAGED, *OTHERS, *METHODS])
def test_the_head_comment_says_what_where_and_how_long(name):
    lines = (CONFIGS / name).read_text().splitlines()
    comment = " ".join(line for line in lines[:12] if line.startswith("#"))
    for word in ("makes", "models", "machine", "time and memory", "python launch.py"):
        assert word in comment


ANNEALED = [5000, 0.98, 0.5, 5001]
EVERYWHERE = {
    "exp_root_dir": str(CONFIGS.parent / "outputs"),
    "seed": 0,
    "data.batch_size": 1,
    "data.width": 512,
    "data.height": 512,
    "data.elevation_range": [-10, 45],
    "data.camera_perturb": 0,
    "data.center_perturb": 0,
    "data.up_perturb": 0,
    "data.eval_camera_distance": 1.5,
    "system.geometry.radius": 1,
    "system.material_type": "no-material",
    "system.prompt_processor_type": "stable-diffusion-prompt-processor",
    "system.prompt_processor.pretrained_model_name_or_path": "sd-2.1-base",
    "system.guidance.pretrained_model_name_or_path": "sd-2.1-base",
    "system.guidance.min_step_percent": 0.02,
    "system.guidance.max_step_percent": ANNEALED,
    "system.loggers.wandb.enable": False,
    "system.loggers.wandb.project": "threestudio",
    "system.optimizer.args.betas": [0.9, 0.99],
    "system.optimizer.args.eps": 1e-15,
    "trainer.log_every_n_steps": 1,
    "trainer.enable_progress_bar": True,
    "trainer.precision": 32,
    "checkpoint.save_last": True,
    "checkpoint.save_top_k": -1,
}
HASH_GRID = {
    "system.geometry.pos_encoding_config.otype": "HashGrid",
    "system.geometry.pos_encoding_config.n_levels": 16,
    "system.geometry.pos_encoding_config.n_features_per_level": 2,
    "system.geometry.pos_encoding_config.log2_hashmap_size": 19,
    "system.geometry.pos_encoding_config.base_resolution": 16,
    "system.geometry.pos_encoding_config.per_level_scale": 1.447269237440378,
}
COLORED = {
    **HASH_GRID,
    "system.material.n_output_dims": 3,
    "system.material.color_activation": "sigmoid",
    "system.prompt_processor.front_threshold": 30,
    "system.prompt_processor.back_threshold": 30,
    "system.guidance.guidance_scale": 7.5,
    "system.guidance.lambda": 0,
    "system.guidance.weighting_strategy": "sds",
    "system.optimizer.name": "AdamW",
    "system.optimizer.params.geometry.encoding.lr": 0.01,
    "system.optimizer.params.geometry.feature_network.lr": 0.001,
}
VOLUME = {
    **COLORED,
    "system.stage": "coarse",
    "system.geometry_type": "implicit-volume",
    "system.geometry.normal_type": None,
    "system.geometry.density_bias": "blob_magic3d",
    "system.geometry.density_activation": "softplus",
    "system.geometry.density_blob_scale": 10,
    "system.geometry.density_blob_std": 0.5,
    "system.renderer_type": "patch-renderer",
    "system.renderer.base_renderer_type": "nerf-volume-renderer",
    "system.renderer.base_renderer.radius": 1,
    "system.renderer.base_renderer.num_samples_per_ray": 512,
    "system.renderer.patch_size": 128,
    "system.loss.lambda_vsd": 1,
    "system.loss.lambda_orient": 0,
    "system.loss.lambda_sparsity": 10,
    "system.loss.lambda_opaque": [10000, 0.0, 1000.0, 10001],
    "system.loss.lambda_z_variance": 0,
    "system.optimizer.params.geometry.density_network.lr": 0.001,
}
SENTENCE = {
    "data_type": "random-camera-datamodule",
    "data.camera_distance_range": [1.0, 1.5],
    "data.fovy_range": [40, 70],
    "data.eval_fovy_deg": 70,
    "system_type": "usd-text-to-3d-system",
    "trainer.val_check_interval": 200,
}
SURFACE = {
    "system.geometry_type": "tetrahedra-sdf-grid",
    "system.geometry.isosurface_resolution": 128,
    "system.geometry.isosurface_deformable_grid": True,
    "system.renderer_type": "nvdiff-rasterizer",
    "system.renderer.context_type": "cuda",
    "trainer.max_steps": 15000,
    "trainer.num_sanity_val_steps": 1,
    "checkpoint.every_n_train_steps": 15000,
}
ENVIRONMENT = {
    "system.background_type": "neural-environment-map-background",
    "system.background.color_activation": "sigmoid",
    "system.optimizer.params.background.lr": 0.001,
}
PUBLISHED = {
    "usd-patch.yaml": {
        **EVERYWHERE,
        **VOLUME,
        "name": "USD",
        "data_type": "usd-random-camera-datamodule",
        "data.camera_distance_range": [1.5, 1.5],
        "data.fovy_range": [39.597755335771296, 39.597755335771296],
        "data.eval_fovy_deg": 39.597755335771296,
        "data.reference_elevation_deg": 15,
        "data.reference_azimuth_deg": 90,
        "system_type": "usd-system",
        "system.background_type": "solid-color-background",
        "system.background.color": [1, 1, 1],
        "system.background.learned": False,
        "system.background.random_aug": False,
        "system.prompt_processor.prompt": "",
        "system.prompt_processor.negative_prompt": "",
        "system.guidance_type": "usd-guidance",
        "system.guidance.unconditional": "prior",
        "system.reference_view_latents": "prior",
        "system.loss.lambda_lora": 0,
        "trainer.max_steps": 15000,
        "trainer.num_sanity_val_steps": 1,
        "trainer.val_check_interval": 100,
        "checkpoint.every_n_train_steps": 15000,
    },
    "usd-text-to-3D-patch.yaml": {
        **EVERYWHERE,
        **SENTENCE,
        **VOLUME,
        **ENVIRONMENT,
        "name": "USD-text-to-3D-patch",
        "system.background.random_aug": True,
        "system.guidance_type": "usd-text-to-3D_guidance",
        "trainer.max_steps": 25000,
        "trainer.num_sanity_val_steps": 0,
        "checkpoint.every_n_train_steps": 25000,
    },
    "usd-text-to-3D-geometry.yaml": {
        **EVERYWHERE,
        **SENTENCE,
        **SURFACE,
        "name": "USD-text-to-3D-geometry",
        "system.stage": "geometry",
        "system.geometry.geometry_only": True,
        "system.material.n_output_dims": 0,
        "system.background_type": "solid-color-background",
        "system.guidance_type": "stable-diffusion-guidance",
        "system.guidance.guidance_scale": 100,
        "system.guidance.lambda": 1,
        "system.guidance.weighting_strategy": "sds",
        "system.loss.lambda_sds": 1,
        "system.loss.lambda_normal_consistency": 10000,
        "system.loss.lambda_laplacian_smoothness": 10000,
        "system.loss.lambda_z_variance": 0,
        "system.optimizer.name": "Adam",
        "system.optimizer.args.lr": 0.005,
        "system.optimizer.params": {},
    },
    "usd-text-to-3D-texture.yaml": {
        **EVERYWHERE,
        **SENTENCE,
        **SURFACE,
        **COLORED,
        **ENVIRONMENT,
        "name": "USD-text-to-3D-texture",
        "system.stage": "texture",
        "system.geometry.fix_geometry": True,
        "system.background.random_aug": False,
        "system.guidance_type": "usd-text-to-3D_guidance",
        "system.loss.lambda_usd": 1,
    },
}
"""What the authors publish, key by key (their repository at 328f365; models by alias). Also the defaults that their code
has where a key is not in their file: reference camera, lambda, weighting, white."""


def flat(values, path=""):
    """Full key -> value."""
    for key, value in values.items():
        inner = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict) and value:
            yield from flat(value, inner)
        else:
            yield inner, value


def understood(name, *overrides):
    """All options of a shipped recipe as parsed, by full key."""
    needed = ["system.prompt_processor.prompt=x"] if "text" in name else []
    needed += ["system.geometry_convert_from=a.ckpt"] if "geometry" in name or "texture" in name else []
    return dict(flat(plain(load_experiment([CONFIGS / name], [*needed, *overrides])[0])))


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_value_is_the_published_one(name):
    found = understood(name)
    differing = {
        key: found.get(key, "missing")
        for key, value in PUBLISHED[name].items()
        if found.get(key, "missing") != value
    }
    assert differing == {}
    losses = {key for key, value in found.items() if key.startswith("system.loss.") and value}
    assert losses <= set(PUBLISHED[name]), "no loss that the authors do not have"
    rates = {key for key in found if key.startswith("system.optimizer.")}
    assert rates == {key for key in PUBLISHED[name] if key.startswith("system.optimizer.")}


def test_the_small_recipe_keeps_its_own_reference_term():
    mini = understood("usd-patch-mini.yaml")
    assert (mini["system.reference_view_latents"], mini["system.loss.lambda_reference_view"]) == ("view", 0)
    assert mini["system.background_type"] == "solid-color-background"


def test_the_published_command_line_parses_to_the_published_values():
    flags, overrides = launcher.arguments(["--config", "configs/usd-patch.yaml", "--train", "--gpu", "0"])
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
def test_a_later_stage_needs_an_earlier_one(stage, capsys):
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


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_recipe_parses(name):
    """Their formulas run with ``-mini`` recipes and in tests/guidance."""
    given = [] if "123" in name else ["system.prompt_processor.prompt=x"]
    if name.startswith(("magic3d", "fantasia3d")):
        assert [plan.mode for plan in plans([CONFIGS / name], given)] == ["train", "train", "export"]
    else:
        assert (
            load_experiment([CONFIGS / name], given)[0].system.config.guidance.config.min_step_percent(0) > 0
        )


def test_a_prompt_is_required(capsys):
    assert launch.main(["--config", str(CONFIGS / "usd-text-to-3D-patch.yaml"), "--train"]) == 2
    assert "system.prompt_processor.prompt" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted((CONFIGS / "toybox").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_recipe_of_the_embedded_family_parses_and_says_where_it_publishes(file):
    """Their training itself is run, at tiny size, by tests/system/pretraining/test_model_training.py."""
    experiment, _ = load_experiment([file])
    assert experiment.data.name == "toybox-datamodule"
    assert experiment.system.config.publish_to.startswith("load/toybox")
    assert experiment.data.config.n_toys < 1_000_000
