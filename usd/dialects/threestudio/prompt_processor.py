"""``system.prompt_processor``."""

from usd.dialects.draft import Draft

KEY = "system.prompt_processor"
DEFAULTS = {"pretrained_model_name_or_path": "runwayml/stable-diffusion-v1-5", "prompt": "a hamburger"}
UNNEEDED = ("spawn",)


def translate_prompt_processor(draft: Draft) -> None:
    """Translate the prompt processor; one that takes no prompt is none."""
    name = draft.get(f"{KEY}_type")
    if name == "dummy-prompt-processor":
        draft.set(f"{KEY}_type", None)
        draft.pop(KEY)
    elif name == "stable-diffusion-prompt-processor":
        draft.set_defaults(KEY, DEFAULTS)
    elif name == "deep-floyd-prompt-processor":
        draft.set_defaults(KEY, {**DEFAULTS, "pretrained_model_name_or_path": "DeepFloyd/IF-I-XL-v1.0"})
    draft.drop(*[f"{KEY}.{key}" for key in UNNEEDED])
