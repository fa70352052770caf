"""``system``: which of this project's systems computes what a system of threestudio's does."""

from usd.core.errors import ConfigError
from usd.dialects.draft import Draft

TEXT, PICTURE = "usd-text-to-3d-system", "usd-system"
TARGETS = {
    "dreamfusion-system": TEXT,
    "efficient-dreamfusion-system": TEXT,
    "fantasia3d-system": TEXT,
    "latentnerf-system": TEXT,
    "magic3d-system": TEXT,
    "prolificdreamer-system": TEXT,
    "sdi-system": TEXT,
    "sjc-system": TEXT,
    "textmesh-system": TEXT,
    "image-condition-dreamfusion-system": PICTURE,
    "dreamcraft3d-system": PICTURE,
    "gaussian-splatting-system": TEXT,
    "gaussian-splatting-zero123-system": PICTURE,
    "gaussiandreamer-system": TEXT,
    "magic123-system": PICTURE,
    "zero123-simple-system": PICTURE,
    "zero123-system": PICTURE,
    "control4d-multiview-system": "control4d-multiview-system",
    "instructnerf2nerf-system": "instructnerf2nerf-system",
}
"""A system of threestudio's -> the one here. What is another program has a system of its own."""

UNNEEDED = ("cleanup_after_validation_step", "cleanup_after_test_step")
KNOWN = (*UNNEEDED, "refinement", "texture")
OPTIMIZERS = {"FusedAdam": "AdamW"}
IMAGE_PROMPTED = (
    "controlnet-guidance",
    "stable-diffusion-controlnet-guidance",
    "stable-diffusion-instructpix2pix-guidance",
)
NETWORK = "geometry.network"
NETWORKS = ("geometry.density_network", "geometry.feature_network")
"""The one network of a volume in early versions of threestudio, and the two that have its place since."""

PLAYGROUND_PICTURE = "load/images/kettle.png"


def translate_system(draft: Draft) -> None:
    """Translate the system's name and its own options; the parts and losses are translated by other files."""
    name = draft.get("system_type")
    if name is None and "guidance_type" in draft.section("system"):
        _translate_guidance_only(draft)
        return
    _choose_target(draft, str(name))
    draft.drop(*[f"system.{key}" for key in UNNEEDED])
    _translate_stage(draft, str(name))
    _translate_turns(draft)
    if draft.get("system.geometry_convert_from") is not None:
        draft.set_defaults("system", {"geometry_convert_inherit_texture": False})
    if draft.get("system_type") == PICTURE:
        draft.set_defaults("system.loss", {"lambda_reference_view": 0.0})
    _translate_optimizer(draft)


def _choose_target(draft: Draft, name: str) -> None:
    """Turn a picture system without a picture into the text system."""
    target = TARGETS.get(name, name)
    if target == PICTURE and name in TARGETS and draft.get("data_type") == "random-camera-datamodule":
        target = TEXT
    if target != name:
        draft.set("system_type", target)
        draft.note(
            f"system_type: {name} is threestudio's, so the configuration is read as threestudio's; here it is "
            f"{target} (parsed.yaml says all of it in this project's words; dialect=usd reads it as it stands)"
        )


def _translate_stage(draft: Draft, name: str) -> None:
    """Translate the options that decide what the guidance gets as its picture in this stage."""
    refinement = draft.pop("system.refinement")
    if name == "dreamcraft3d-system":
        refinement = draft.pop("system.stage") == "texture"
        draft.drop("system.use_mixed_camera_config")
    if name == "fantasia3d-system":
        if draft.pop("system.texture"):
            draft.set("system.stage", "texture")
            draft.pop("system.latent_steps")
        else:
            draft.set("system.stage", "geometry")
            draft.set_defaults("system", {"latent_steps": 1000})
    elif name in ("latentnerf-system", "sjc-system"):
        draft.set("system.rgb_as_latents", not refinement)
        draft.pop("system.subpixel_rendering")
    elif refinement:
        draft.set_defaults("system", {"stage": "texture"})


def _translate_turns(draft: Draft) -> None:
    """``freq``: when the reference picture and when the guidance is looked at.

    Both in every step, unless they alternate; a guidance that starts late is one whose weight does.
    """
    draft.pop("system.freq.guidance_eval")
    if draft.get("system.freq.no_diff_steps") in (0, -1):
        draft.pop("system.freq.no_diff_steps")
    if draft.get("system.freq.ref_or_guidance") != "alternate":
        draft.pop("system.freq.n_ref")
        draft.pop("system.freq.ref_or_guidance")
        _delay_guidance(draft)
    if not draft.section("system.freq"):
        draft.pop("system.freq")


def _delay_guidance(draft: Draft) -> None:
    """Set the guidance's weight to 0 up to and with step ``ref_only_steps``, where that weight is a number."""
    first, weight = draft.get("system.freq.ref_only_steps"), draft.get("system.loss.lambda_sds")
    if not isinstance(first, int):
        return
    if first > 0 and isinstance(weight, int | float):
        draft.write_from(
            "system.freq.ref_only_steps", "system.loss.lambda_sds", [first, 0.0, weight, first + 1]
        )
    elif first == 0:
        draft.pop("system.freq.ref_only_steps")


def _translate_optimizer(draft: Draft) -> None:
    """Optimizers that are not PyTorch's."""
    name = draft.get("system.optimizer.name")
    if isinstance(name, str) and name in OPTIMIZERS:
        draft.set("system.optimizer.name", OPTIMIZERS[name])
        draft.note(f"system.optimizer.name: {name} of apex is {OPTIMIZERS[name]} of PyTorch")
    _split_network(draft)
    _move_discriminator(draft)
    if name == "Adan":  # how its steps are computed, not what they are
        draft.drop("system.optimizer.args.foreach")


def _split_network(draft: Draft) -> None:
    """Give the settings of a volume's one network to the two that it has since, where those have none."""
    groups = draft.section("system.optimizer.params")
    volume = draft.get("system.geometry_type") in (None, "implicit-volume")  # which is the default
    if not volume or NETWORK not in groups:
        return
    settings = groups.pop(NETWORK)
    for network in NETWORKS:
        groups.setdefault(network, settings)
    draft.note(
        f"system.optimizer.params.{NETWORK}: threestudio's volumes have no such module any more, and stop at it; "
        f"its settings go to {' and '.join(NETWORKS)}"
    )


def _move_discriminator(draft: Draft) -> None:
    """Give the second optimizer a place beside the first; the discriminator is the system's, not the renderer's."""
    draft.move("system.optimizer.optimizer_dis", "system.optimizer_dis")
    groups = draft.section("system.optimizer_dis.params")
    if "renderer.discriminator" in groups:
        groups["discriminator"] = groups.pop("renderer.discriminator")


def _translate_guidance_only(draft: Draft) -> None:
    """Turn a guidance alone with its prompt into the playground, which optimizes a picture."""
    extra = draft.section("system").keys() - {
        "guidance_type",
        "guidance",
        "prompt_processor_type",
        "prompt_processor",
    }
    if extra:
        raise ConfigError(
            f"system.{min(extra)}: a configuration without system_type is a guidance and a prompt to try out; "
            "expected system_type too, or no such option"
        )
    draft.note("system_type: none is given, so the guidance is tried out on pictures (playground-system)")
    draft.set("system_type", "playground-system")
    draft.set("data_type", "fixed-views-datamodule")
    if draft.get("system.guidance_type") in IMAGE_PROMPTED:
        draft.set_defaults("system.guidance", {"image_path": PLAYGROUND_PICTURE})
        draft.note(f"system.guidance.image_path: none is given, so the model is shown {PLAYGROUND_PICTURE}")
    draft.set_defaults("", {"name": "playground", "tag": draft.get("system.guidance_type")})
    draft.set("system.optimizer", {"name": "Adam", "args": {"lr": 0.05, "betas": [0.9, 0.95]}})
    draft.set_defaults("trainer", {"max_steps": 200, "val_check_interval": 100})
