"""``system.guidance`` and ``system.guidance_3d``: formulas by threestudio's names, and what their numbers mean here."""

from pathlib import PurePosixPath

from usd.core.errors import ConfigError
from usd.dialects.draft import Draft
from usd.dialects.threestudio.schedules import largest, scaled

KEYS = ("system.guidance", "system.guidance_3d")
PROMPTS = "system.prompt_processor"
RENAMED = {"controlnet-guidance": "stable-diffusion-controlnet-guidance"}
SDS = ("stable-diffusion-guidance", "deep-floyd-guidance", "stable-diffusion-sdi-guidance")
"""Guidances whose scale s is that of eps_c + s (eps_c - eps_u)."""

UNIFIED = ("stable-diffusion-unified-guidance", "zero123-unified-guidance")
STUDENTS = (*UNIFIED, "stable-diffusion-vsd-guidance")
PICTURE = ("zero123-guidance", "stable-zero123-guidance", "zero123-unified-guidance")
DEFAULTS: dict[str, dict[str, object]] = {
    "stable-diffusion-guidance": {"pretrained_model_name_or_path": "runwayml/stable-diffusion-v1-5"},
    "stable-diffusion-vsd-guidance": {
        "pretrained_model_name_or_path": "stabilityai/stable-diffusion-2-1-base",
        "pretrained_model_name_or_path_lora": "stabilityai/stable-diffusion-2-1",
    },
    "stable-diffusion-unified-guidance": {"pretrained_model_name_or_path": "runwayml/stable-diffusion-v1-5"},
    "stable-diffusion-sdi-guidance": {
        "pretrained_model_name_or_path": "stabilityai/stable-diffusion-2-1-base",
        "guidance_scale": 100.0,
        "inversion_guidance_scale": -7.5,
        "trainer_max_steps": 10000,
        "t_anneal": True,
    },
    "deep-floyd-guidance": {
        "pretrained_model_name_or_path": "DeepFloyd/IF-I-XL-v1.0",
        "guidance_scale": 20.0,
    },
    "zero123-guidance": {
        "pretrained_model_name_or_path": "load/zero123/zero123-xl.ckpt",
        "guidance_scale": 5.0,
        "half_precision_weights": False,
    },
    "stable-zero123-guidance": {
        "pretrained_model_name_or_path": "load/zero123/stable_zero123.ckpt",
        "guidance_scale": 3.0,
        "half_precision_weights": False,
    },
    "zero123-unified-guidance": {
        "pretrained_model_name_or_path": "bennyguo/zero123-xl-diffusers",
        "guidance_scale": 5.0,
    },
}
UNNEEDED = (
    "enable_memory_efficient_attention",
    "token_merging_params",
    "max_items_eval",
    "pretrained_config",
    "vram_O",
    "return_rgb_1step_orig",
    "return_rgb_multistep_orig",
    "n_rgb_multistep_orig_steps",
    "vsd_use_lora",
    "cache_dir",
    "local_files_only",
    "n_ddim_steps",
    "ddim_scheduler_name_or_path",
    "fixed_size",
    "use_sds",
)
MEMORY: dict[str, tuple[str, object]] = {
    "enable_sequential_cpu_offload": ("models.offload", "unused"),
    "enable_attention_slicing": ("models.views_at_once", 1),
    "enable_channels_last_format": ("models.channels_last", True),
}
"""What saves memory there -> the option that does here, and its value."""

STUDENT_OPTIONS = {
    "vsd_phi_model_name_or_path": "pretrained_model_name_or_path_lora",
    "vsd_guidance_scale_phi": "guidance_scale_lora",
    "vsd_lora_cfg_training": "lora_cfg_training",
    "vsd_lora_n_timestamp_samples": "lora_n_timestamp_samples",
    "vsd_camera_condition_type": "camera_condition_type",
}
INVERSION = {"inversion_guidance_scale": "inversion_scale", "inversion_n_steps": "inversion_steps"}
CONDITIONS = {
    "cond_elevation_deg": "default_elevation_deg",
    "cond_azimuth_deg": "default_azimuth_deg",
    "cond_camera_distance": "default_camera_distance",
}
KNOWN = (
    *UNNEEDED,
    *MEMORY,
    *STUDENT_OPTIONS,
    *INVERSION,
    *CONDITIONS,
    "cond_image_path",
    "enable_sdi",
    "token_merging",
    "use_sjc",
    "var_red",
    "view_dependent_prompting",
    "vsd_use_camera_condition",
)
PUBLISHED_FILES = {"zero123-xl": "zero123-xl", "stable_zero123": "stable-zero123"}
"""Stem of a checkpoint as published -> the model's name here."""


def translate_guidance(draft: Draft) -> None:
    """Translate both guidances."""
    for key in KEYS:
        name = draft.get(f"{key}_type")
        if isinstance(name, str):
            _translate_one(draft, key, name)


def _translate_one(draft: Draft, key: str, name: str) -> None:
    if name in RENAMED:
        draft.set(f"{key}_type", RENAMED[name])
        name = RENAMED[name]
    draft.set_defaults(key, DEFAULTS.get(name, {}))
    _translate_memory(draft, key)
    _move_prompting(draft, key)
    if name in SDS:
        _translate_scale(draft, f"{key}.guidance_scale")
    if name == "stable-diffusion-sdi-guidance":
        _translate_inversion(draft, key)
    if name == "stable-diffusion-guidance":
        _translate_sjc(draft, key)
    if name in STUDENTS:
        _translate_student(draft, key)
    if name in PICTURE:
        _translate_picture_model(draft, key, name)
    draft.drop(*[f"{key}.{option}" for option in UNNEEDED])


def _translate_memory(draft: Draft, key: str) -> None:
    """Translate the memory-saving flags into options of ``models``."""
    for old, (new, value) in MEMORY.items():
        if draft.get(f"{key}.{old}"):
            draft.write_from(f"{key}.{old}", f"{key}.{new}", value)
            draft.note(f"{key}.{old}: is {new}={value} here")
        draft.pop(f"{key}.{old}")
    if draft.pop(f"{key}.token_merging"):
        draft.note(
            f"{key}.token_merging: is not there; models.views_at_once=1 and models.offload save memory"
        )


def _move_prompting(draft: Draft, key: str) -> None:
    """Move the switch for view-dependent prompts to the prompt processor, where it belongs here."""
    if draft.get(f"{PROMPTS}_type") is None or f"{PROMPTS}.view_dependent_prompting" in draft:
        draft.pop(f"{key}.view_dependent_prompting")
    draft.move(f"{key}.view_dependent_prompting", f"{PROMPTS}.view_dependent_prompting")


def _translate_scale(draft: Draft, key: str) -> None:
    """eps_c + s (eps_c - eps_u) = eps_u + (s + 1) (eps_c - eps_u); Perp-Neg's s is the same on both sides."""
    scale = draft.get(key)
    if draft.get(f"{PROMPTS}.use_perp_neg") or not isinstance(scale, int | float) or isinstance(scale, bool):
        return
    draft.set(key, scale + 1)
    draft.note(
        f"{key}: {scale:g} is {scale + 1:g} here: threestudio counts the prompt's prediction once more "
        "(c + s (c - u) there, u + s (c - u) here)"
    )


def _translate_inversion(draft: Draft, key: str) -> None:
    """SDI's options; without inversion it is SDS."""
    if draft.get(f"{key}.enable_sdi") is False:
        for option in (*INVERSION, "inversion_eta"):
            draft.pop(f"{key}.{option}")
        draft.set(f"{key}_type", "stable-diffusion-guidance")
    else:
        _translate_scale(draft, f"{key}.inversion_guidance_scale")
        for old, new in INVERSION.items():
            draft.move(f"{key}.{old}", f"{key}.{new}")
        draft.set(f"{key}.weighting_strategy", "x0")
        _divide_by_latents(draft)
    draft.pop(f"{key}.enable_sdi")
    draft.drop(f"{key}.var_red")


def _divide_by_latents(draft: Draft) -> None:
    """Divide the weight of a mean over all latents, here a sum, by their number (pictures of 512 pixels)."""
    batch = draft.get("data.batch_size")
    views = largest(batch) if batch is not None else 1
    draft.set(
        "system.loss.lambda_usd", scaled(draft.get("system.loss.lambda_usd"), 1 / (4 * 64 * 64 * views))
    )
    draft.note(
        "system.loss.lambda_sdi: is divided by the number of latents: threestudio's loss is a mean, here a sum"
    )


def _translate_sjc(draft: Draft, key: str) -> None:
    """Score Jacobian Chaining is a guidance of its own here."""
    reduced = draft.pop(f"{key}.var_red")
    if draft.pop(f"{key}.use_sjc"):
        draft.set(f"{key}_type", "stable-diffusion-sjc-guidance")
        draft.set(f"{key}.var_red", reduced is not False)
        draft.drop(f"{key}.weighting_strategy")


def _translate_student(draft: Draft, key: str) -> None:
    """Variational score distillation: the student's options, and its share of the optimizer and of the losses."""
    for old, new in STUDENT_OPTIONS.items():
        draft.move(f"{key}.{old}", f"{key}.{new}")
    if draft.pop(f"{key}.vsd_use_camera_condition") is False:
        draft.set(f"{key}.camera_condition_type", "none")
    if key != KEYS[0]:
        return
    for weight in ("lambda_lora", "lambda_train_phi"):
        draft.move(f"system.loss.{weight}", f"{key}.lambda_lora")
    _move_optimizer(draft, key)


def _move_optimizer(draft: Draft, key: str) -> None:
    """Move the optimizer's group ``guidance`` into the guidance, which trains its student itself."""
    groups = draft.section("system.optimizer.params")
    arguments = draft.section("system.optimizer.args")
    own = groups.pop("guidance", None)
    if own is None and groups:
        draft.set(f"{key}.lambda_lora", 0.0)
        draft.note(
            "system.optimizer.params: has no group `guidance`, so its LoRA is not trained, as in threestudio"
        )
    settings = {**arguments, **(own if isinstance(own, dict) else {})}
    for option in ("lr", "betas", "eps"):
        if option in settings:
            draft.set_defaults(key, {f"lora_{option}": settings[option]})


def _translate_picture_model(draft: Draft, key: str, name: str) -> None:
    """Zero-1-to-3, and the picture that it is shown."""
    if name in ("zero123-guidance", "stable-zero123-guidance"):
        draft.set(f"{key}_type", "zero123-guidance")
    model = draft.get(f"{key}.pretrained_model_name_or_path")
    draft.write_from(
        f"{key}.pretrained_model_name_or_path", f"{key}.zero123_model_name_or_path", _published(model)
    )
    draft.move(f"{key}.cond_image_path", f"{key}.image_path")
    for condition, default in CONDITIONS.items():
        _refuse_other_view(draft, f"{key}.{condition}", f"data.{default}")


def _published(model: object) -> object:
    """Return the name here of a checkpoint that threestudio asks to download; another model as it is."""
    stem = PurePosixPath(model).stem if isinstance(model, str) else ""
    return PUBLISHED_FILES.get(stem, model) if isinstance(model, str) and model.endswith(".ckpt") else model


def _refuse_other_view(draft: Draft, written: str, taken: str) -> None:
    """Raise ``ConfigError`` where the model's reference view differs from the one that the losses compare at."""
    if written not in draft:
        return
    if taken in draft and draft.get(taken) != draft.get(written):
        raise ConfigError(
            f"{written}: is {draft.get(written)}, but {taken} is {draft.get(taken)}; expected one view of the picture"
        )
    if taken in draft or draft.get("data_type") == "single-image-datamodule":
        draft.pop(written)
    else:
        draft.move(written, f"data.reference_{written.split('.cond_')[1]}")
