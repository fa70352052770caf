"""Translations as pure functions: a mapping in threestudio's words, and what it must be here."""

import pytest

from usd.app.experiment import merge_contents
from usd.app.experiment import reader as reader_of
from usd.core.errors import ConfigError
from usd.dialects import dialect_of, translate
from usd.dialects.threestudio import translate_threestudio
from usd.dialects.threestudio.schedules import in_steps
from usd.dialects.threestudio.unknown import refuse_unknown


def recipe(system_type="dreamfusion-system", **parts):
    """A configuration of threestudio's with a prompt, and more options by the key of their section."""
    system = {
        "prompt_processor_type": "stable-diffusion-prompt-processor",
        "prompt_processor": {"prompt": "a chair"},
        "guidance_type": "stable-diffusion-guidance",
        "geometry_type": "implicit-volume",
        "renderer_type": "nerf-volume-renderer",
        "loss": {"lambda_sds": 1.0},
    }
    data = parts.pop("data", {})
    top = {key: parts.pop(key) for key in ("trainer", "checkpoint", "exporter") if key in parts}
    data_type = parts.pop("data_type", "random-camera-datamodule")
    return {
        "data_type": data_type,
        "data": data,
        "system_type": system_type,
        "system": {**system, **parts},
        **top,
    }


def translated(*args, **parts):
    return translate_threestudio(recipe(*args, **parts)).values


def notes(*args, **parts):
    return "\n".join(translate_threestudio(recipe(*args, **parts)).notes)


# -------------------------------------------------------------------------------------------- which dialect it is


def test_a_system_that_only_threestudio_has_makes_a_configuration_threestudios():
    assert dialect_of(recipe()) == "threestudio"
    assert dialect_of(recipe("usd-text-to-3d-system")) == "usd"


def test_the_key_dialect_decides_where_it_is_given():
    assert dialect_of({**recipe(), "dialect": "usd"}) == "usd"
    assert dialect_of({**recipe("usd-text-to-3d-system"), "dialect": "threestudio"}) == "threestudio"
    with pytest.raises(
        ConfigError, match=r"dialect: 'threestudo' is not a choice.*Did you mean 'threestudio'"
    ):
        dialect_of({"dialect": "threestudo"})


def test_a_guidance_without_system_is_tried_out_in_the_playground():
    system = {
        "guidance_type": "stable-diffusion-guidance",
        "prompt_processor_type": "x",
        "prompt_processor": {},
    }
    assert dialect_of({"system": system}) == "threestudio"
    found = translate_threestudio({"system": {"guidance_type": "deep-floyd-guidance"}}).values
    assert found["system_type"] == "playground-system" and found["data_type"] == "fixed-views-datamodule"


def test_what_is_ours_is_left_alone():
    values = {"system_type": "usd-system", "system": {"guidance": {"guidance_scale": 100}}}
    found = translate(values)
    assert found.values == {**values, "dialect": "usd"} and not found.notes


def test_a_translation_is_ours_so_that_it_is_never_translated_again():
    once = translate_threestudio(recipe(guidance={"guidance_scale": 100.0}))
    assert dialect_of(once.values) == "usd" and translate(once.values).values == once.values


# --------------------------------------------------------------------------------------------- numbers that differ


@pytest.mark.parametrize("name", ["stable-diffusion-guidance", "deep-floyd-guidance"])
def test_the_scale_of_sds_is_one_more_here(name):
    found = translate_threestudio(recipe(guidance_type=name, guidance={"guidance_scale": 20.0}))
    assert found.values["system"]["guidance"]["guidance_scale"] == 21.0
    assert any("20 is 21 here" in note for note in found.notes)


def test_the_scale_is_the_same_with_perp_neg_and_for_vsd():
    prompt = {"prompt": "a chair", "use_perp_neg": True}
    assert (
        translated(prompt_processor=prompt, guidance={"guidance_scale": 20.0})["system"]["guidance"][
            "guidance_scale"
        ]
        == 20.0
    )
    vsd = translated(guidance_type="stable-diffusion-vsd-guidance", guidance={"guidance_scale": 7.5})
    assert vsd["system"]["guidance"]["guidance_scale"] == 7.5


def test_elevations_are_half_uniform_in_angle_and_lamps_stand_about_the_camera():
    data = translated()["data"]
    assert data["elevation_sampling"] == "mixture" and data["light_sample_strategy"] == "dreamfusion"
    assert data["n_val_views"] == 1


def test_a_default_that_differs_is_written_only_where_the_file_says_nothing():
    assert translated()["system"]["geometry"]["isosurface_threshold"] == 25.0
    given = translated(geometry={"isosurface_threshold": 10.0}, data={"light_sample_strategy": "magic3d"})
    assert given["system"]["geometry"]["isosurface_threshold"] == 10.0
    assert given["data"]["light_sample_strategy"] == "magic3d"


def test_the_colors_of_an_earlier_stage_are_not_taken_unless_the_file_says_so():
    assert translated(geometry_convert_from="x.ckpt")["system"]["geometry_convert_inherit_texture"] is False


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ([0, 10.0, 1000.0, 5000], [0, 10.0, 1000.0, 5000]),
        ([0.0, 0.0, 1.0, 10000], [0, 0.0, 1.0, 10000]),
        ([0, 10.0, 1000.0, 5000.0], 10.0),
        ([0.5, 2.0, 100.0], 0.5),
        ([100, 7.0, 5.0, 150, 10.0, 200], [100, 7.0, 5.0, 150, 10.0, 200]),
    ],
)
def test_a_schedule_whose_last_step_is_a_float_counts_epochs_of_which_there_is_one(written, meant):
    assert in_steps(written) == meant


def test_that_a_weight_never_changes_is_said():
    assert "stays at 10" in notes(loss={"lambda_sds": 1.0, "lambda_orient": [0, 10.0, 1000.0, 5000.0]})


# ------------------------------------------------------------------------------------------------ names and places


@pytest.mark.parametrize(
    ("system", "options", "meant"),
    [
        ("magic3d-system", {"refinement": True}, {"stage": "texture"}),
        ("prolificdreamer-system", {"stage": "geometry"}, {"stage": "geometry"}),
        ("fantasia3d-system", {}, {"stage": "geometry", "latent_steps": 1000}),
        ("fantasia3d-system", {"texture": True, "latent_steps": 5}, {"stage": "texture"}),
        ("latentnerf-system", {}, {"rgb_as_latents": True}),
        ("latentnerf-system", {"refinement": True}, {"rgb_as_latents": False}),
        ("sjc-system", {"subpixel_rendering": False}, {"rgb_as_latents": True}),
    ],
)
def test_stages_of_text_systems(system, options, meant):
    found = translated(system, **options)
    assert found["system_type"] == "usd-text-to-3d-system"
    keys = ("stage", "latent_steps", "rgb_as_latents", "refinement", "texture", "subpixel_rendering")
    assert {key: found["system"][key] for key in keys if key in found["system"]} == meant


@pytest.mark.parametrize(
    ("freq", "weight"),
    [
        ({"ref_only_steps": 0, "guidance_eval": 0}, 0.1),
        ({"n_ref": 2, "ref_only_steps": 100}, [100, 0.0, 0.1, 101]),
    ],
)
def test_a_guidance_that_starts_late_is_one_whose_weight_does(freq, weight):
    found = translated("zero123-system", freq=freq, loss={"lambda_sds": 0.1})["system"]
    assert found["loss"]["lambda_usd"] == weight and "freq" not in found


def test_steps_that_alternate_stay():
    freq = {"n_ref": 2, "ref_or_guidance": "alternate", "ref_only_steps": 5}
    assert translated("zero123-system", freq=freq)["system"]["freq"] == freq


def test_memory_keys_are_options_of_models():
    guidance = {
        "enable_sequential_cpu_offload": True,
        "enable_attention_slicing": True,
        "enable_channels_last_format": False,
        "enable_memory_efficient_attention": True,
    }
    found = translated(guidance=guidance)["system"]["guidance"]
    assert found["models"] == {"offload": "unused", "views_at_once": 1}
    assert not guidance.keys() & found.keys()


def test_prompting_by_direction_is_the_prompt_processors():
    found = translated(guidance={"view_dependent_prompting": False})["system"]
    assert found["prompt_processor"]["view_dependent_prompting"] is False
    assert "view_dependent_prompting" not in found["guidance"]


def test_accumulated_batches_are_parts_of_a_larger_one():
    found = translated(data={"batch_size": [2, 1]}, trainer={"accumulate_grad_batches": 4, "max_epochs": 5})
    assert found["data"]["batch_size"] == [8, 4] and found["trainer"] == {"batch_parts": 4}


def test_no_checkpoints_are_said_by_null():
    assert translated(checkpoint={"every_n_train_steps": 0})["checkpoint"]["every_n_train_steps"] is None


def test_losses_of_meshes_are_not_read_for_volumes_nor_the_other_way_round():
    loss = {"lambda_sds": 1.0, "lambda_normal_consistency": 5.0, "lambda_orient": 1.0}
    assert translated(loss=loss)["system"]["loss"] == {"lambda_usd": 1.0, "lambda_orient": 1.0}
    mesh = translated(loss=loss, renderer_type="nvdiff-rasterizer", geometry_type="tetrahedra-sdf-grid")
    assert mesh["system"]["loss"] == {"lambda_usd": 1.0, "lambda_normal_consistency": 5.0}


def test_the_name_none_of_wandb_is_no_name():
    loggers = {"wandb": {"enable": False, "project": "threestudio", "name": "None"}}
    assert translated(loggers=loggers)["system"]["loggers"]["wandb"]["name"] is None


def test_the_one_network_of_early_volumes_is_the_two_that_they_have_since():
    params = {"geometry.encoding": {"lr": 0.05}, "geometry.network": {"lr": 0.005}}
    optimizer = {"name": "Adam", "args": {"lr": 0.01}, "params": params}
    found = translated(optimizer=optimizer)["system"]["optimizer"]["params"]
    names = ["encoding", "density_network", "feature_network"]
    assert [found[f"geometry.{name}"]["lr"] for name in names] == [0.05, 0.005, 0.005] and len(found) == 3
    assert "geometry.network: threestudio's volumes have no such module" in notes(optimizer=optimizer)


# -------------------------------------------------------------------------------------------------- bad input


def test_a_key_that_neither_dialect_knows_is_an_error_with_the_nearest_of_both():
    with pytest.raises(
        ConfigError, match=r"system.geometry.isosurface_metod: unknown key.*'isosurface_method'"
    ):
        refuse_unknown(
            translated(geometry={"isosurface_metod": "mt"}, data={"light_distance_range": 5}) | {"data": {}}
        )


@pytest.mark.parametrize(("there", "here"), [
    ({"otype": "CutlassMLP", "output_activation": "None"}, {"otype": "FullyFusedMLP", "output_activation": "none"}),
    ({"otype": "SphereInitVanillaMLP"}, {"otype": "VanillaMLP", "sphere_init": True, "weight_norm": True}),
    ({"otype": "VanillaMLP", "output_activation": None}, {"otype": "VanillaMLP", "output_activation": "none"}),
    ({"otype": "VanillaMLP", "n_neurons": 32}, {"otype": "VanillaMLP", "n_neurons": 32}),
])  # fmt: skip
@pytest.mark.parametrize("part", ["geometry", "material", "background"])
def test_every_kind_of_network_that_threestudio_knows_is_one_of_ours(part, there, here):
    assert translated(**{part: {"mlp_network_config": there}})["system"][part]["mlp_network_config"] == here


GRID = {"otype": "HashGrid", "vertices": "tinycudann", "per_level_scale": 2.0}


@pytest.mark.parametrize(("there", "here"), [
    ({"otype": "HashGrid"}, GRID),
    ({"otype": "Grid", "type": "Hash", "interpolation": "Linear"}, GRID),
    ({"otype": "HashGrid", "per_level_scale": 1.5}, {**GRID, "per_level_scale": 1.5}),
    ({"otype": "frequency"}, {"otype": "Frequency", "n_frequencies": 12}),
    ({"otype": "Identity"}, {"otype": "Identity"}),
    ({"otype": "ProgressiveBandFrequency", "n_frequencies": 4}, {"otype": "ProgressiveBandFrequency", "n_frequencies": 4}),
    (
        {"otype": "Composite", "nested": [{"otype": "hashgrid", "n_dims_to_encode": 2}, {"otype": "SphericalHarmonics"}]},
        {"otype": "Composite", "nested": [{**GRID, "n_dims_to_encode": 2}, {"otype": "SphericalHarmonics", "degree": 4}]},
    ),
])  # fmt: skip
@pytest.mark.parametrize("key", ["geometry.pos_encoding_config", "material.dir_encoding_config"])
def test_encodings_have_tinycudanns_defaults_and_names(key, there, here):
    part, option = key.split(".")
    assert translated(**{part: {option: there}})["system"][part][option] == here


def test_an_encoding_that_is_not_said_at_all_has_threestudios_defaults():
    """Those are this project's, too: a scale of 1.447 from grid to grid, where tinycudann has 2."""
    geometry = translated(geometry={"radius": 1.0})["system"]["geometry"]
    assert geometry["pos_encoding_config"] == {"vertices": "tinycudann"}


def test_what_is_of_threestudio_and_not_there_is_named_as_such():
    smooth = {"otype": "HashGrid", "interpolation": "Smoothstep"}
    with pytest.raises(
        ConfigError, match=r"pos_encoding_config.interpolation: is Smoothstep; expected Linear"
    ):
        translated(geometry={"pos_encoding_config": smooth})
    assert "anneal" not in str(translated(geometry={"anneal_density_blob_std_config": None}))
    with pytest.raises(ConfigError, match="anneal_density_blob_std_config: a blob that changes its width"):
        translated(geometry={"anneal_density_blob_std_config": {"min_anneal_step": 0}})
    found = translate_threestudio({**recipe(), "custom_import": ["custom.threestudio-mvdream"]})
    assert "custom_import" not in found.values and any("stand in custom/" in note for note in found.notes)


def test_a_random_background_is_shared_by_the_views_of_a_batch_anyway():
    assert translated(background={"share_aug_bg": True})["system"]["background"] == {}
    assert "system.background.share_aug_bg" in notes(background={"share_aug_bg": True})


def test_an_unknown_key_is_answered_by_keys_of_its_own_kind():
    values = recipe(background_type="solid-color-background", background={"qqqq": 1})
    with pytest.raises(ConfigError, match=r"system.background.qqqq: unknown key.*Known keys") as error:
        refuse_unknown(values)
    assert "isosurface" not in str(error.value)


def test_sections_that_are_no_mappings_are_refused():
    with pytest.raises(ConfigError, match=r"system.guidance: expected a mapping of options, got 5"):
        translate(recipe(guidance=5))


def test_what_is_typed_is_read_as_the_option_that_it_becomes():
    """A path with an equals sign or a word that YAML knows is text where the option is a text."""
    reader = reader_of("threestudio")
    merged = recipe("zero123-system", data_type="single-image-datamodule", guidance_type="zero123-guidance")
    assert reader.value("data.image_path", "2024", merged) == "2024"
    assert reader.value("system.prompt_processor.prompt", "a dog: red", merged) == "a dog: red"
    assert reader.value("data.random_camera.height", "64", merged) == 64
    assert reader.names("data.image_path", merged) == ["data", "image_path"]


def test_another_name_of_the_system_keeps_its_options(tmp_path):
    content = recipe(guidance={"guidance_scale": 20.0})
    found = merge_contents([(content, tmp_path)], ["system_type=usd-text-to-3d-system"]).translation.values
    assert found["system"]["guidance"]["guidance_scale"] == 21.0
    assert found["system_type"] == "usd-text-to-3d-system"


def test_an_error_names_the_key_that_the_user_wrote(tmp_path):
    content = recipe(
        "zero123-system",
        data_type="single-image-datamodule",
        data={"image_path": "x.png", "random_camera": {"elevation_range": [50, "high"]}},
        guidance_type="zero123-guidance",
    )
    with pytest.raises(ConfigError, match=r"^data.random_camera.elevation_range.*\(data.elevation_range"):
        merge_contents([(content, tmp_path)]).experiment()


def test_a_warm_up_of_the_proposal_network_is_a_schedule_of_its_rate():
    args = {"start_factor": 0.01, "total_iters": 100}
    schedulers = {"name": "ChainedScheduler", "schedulers": [{"name": "LinearLR", "args": args}]}
    optimizer = {"name": "Adam", "args": {"lr": 0.02}}
    options = {"prop_optimizer_config": optimizer, "prop_scheduler_config": schedulers}
    values = translated(renderer=options)
    renderer = values["system"]["renderer"]
    assert renderer["prop_optimizer_config"]["args"]["lr"] == [0, pytest.approx(0.0002), 0.02, 100]
    assert "prop_scheduler_config" not in renderer
    with pytest.raises(ConfigError, match=r"prop_scheduler_config: is StepLR; expected a LinearLR"):
        translated(renderer={"prop_scheduler_config": {"name": "StepLR"}})


def test_sdi_is_a_mean_of_clean_latents_there_and_a_sum_here() -> None:
    """Its loss has no w(t): 0.5 mean (z - x0)^2 / B; here w (eps - n) with w = sigma / alpha is z - x0."""
    system = {
        "guidance_type": "stable-diffusion-sdi-guidance",
        "guidance": {"inversion_n_steps": 10},
        "loss": {"lambda_sdi": [0, 1.0, 3.0, 100]},
    }
    made = translate({"system_type": "sdi-system", "data": {"batch_size": 2}, "system": system}).values[
        "system"
    ]
    assert made["guidance"]["weighting_strategy"] == "x0" and made["guidance"]["inversion_steps"] == 10
    assert made["loss"]["lambda_usd"] == pytest.approx([0, 1 / 32768, 3 / 32768, 100])
