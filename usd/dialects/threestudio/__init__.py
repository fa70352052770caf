"""threestudio's dialect: the same names in most places, other meanings in some.

A configuration is threestudio's when it says ``dialect: threestudio``, when its system is one that only threestudio
or an extension of it has, or when it is one of the files that hold nothing but a guidance and its prompt.
``dialect: usd`` says it is not.
"""

from collections.abc import Mapping

from usd.dialects.draft import Draft, Translation
from usd.dialects.threestudio import (
    components,
    data,
    extensions,
    guidance,
    losses,
    prompt_processor,
    schedules,
    splats,
    system,
    trainer,
)


def is_threestudio(values: Mapping[str, object]) -> bool:
    """Return whether a configuration is threestudio's by the name of its system, or by holding a guidance only."""
    name = values.get("system_type")
    is_extension = extensions.extension_of(name) is not None and extensions.is_missing("system", name)
    return name in system.TARGETS or is_extension or is_guidance_only(values)


def is_guidance_only(values: Mapping[str, object]) -> bool:
    """Return whether a configuration is a guidance and a prompt with neither data nor a system's name."""
    inner = values.get("system")
    named = {"system_type", "data_type"} & values.keys()
    return (
        not named and isinstance(inner, Mapping) and "guidance_type" in inner and "geometry_type" not in inner
    )


def translate_threestudio(values: Mapping[str, object]) -> Translation:
    """Return what a resolved configuration of threestudio's means here. Raises ``ConfigError``."""
    draft = Draft(values)
    draft.set("dialect", "usd")
    extensions.rename_components(draft)
    schedules.translate_schedules(draft)
    trainer.translate_trainer(draft)
    system.translate_system(draft)
    losses.translate_losses(draft)
    prompt_processor.translate_prompt_processor(draft)
    guidance.translate_guidance(draft)
    data.translate_data(draft)
    components.translate_components(draft)
    splats.translate_splats(draft)
    return draft.translation()


def translated_names(values: Mapping[str, object]) -> dict[str, object]:
    """Return a configuration, resolved or not, in which the system has its name here, for looking up its options."""
    name = values.get("system_type")
    return (
        {**values, "system_type": system.TARGETS.get(name, name)} if isinstance(name, str) else dict(values)
    )


def translated_key(key: str) -> str:
    """Return the key here of an option whose value is given on a command line."""
    if key == "data.image_path":
        return "system.guidance.image_path"
    return key.replace("data.random_camera.", "data.", 1) if key.startswith("data.random_camera.") else key


__all__ = [
    "is_guidance_only",
    "is_threestudio",
    "translate_threestudio",
    "translated_key",
    "translated_names",
]
