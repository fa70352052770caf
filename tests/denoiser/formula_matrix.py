"""Every formula on one model of tiny size, from a sentence or from a picture."""

import torch
from torch import Tensor

from usd.core import registry
from usd.core.config import spec
from usd.core.errors import UserError
from usd.core.registry import build
from usd.core.types import Render
from usd.denoiser.pipeline import PipelineDenoiser
from usd.guidance import Guidance
from usd.math.camera import Cameras, orbit_cameras_deg

FORMULAS: dict[str, dict[str, object]] = {
    "stable-diffusion-guidance": {},
    "stable-diffusion-csd-guidance": {},
    "stable-diffusion-nfsd-guidance": {},
    "stable-diffusion-dds-guidance": {},
    "stable-diffusion-ism-guidance": {"inversion_steps": 1},
    "stable-diffusion-sdi-guidance": {"inversion_steps": 2},
    "stable-diffusion-sjc-guidance": {},
    "stable-diffusion-vsd-guidance": {"camera_condition_type": "none"},
    "stable-diffusion-rfds-guidance": {},
    "stable-diffusion-rfds-rev-guidance": {},
    "stable-diffusion-ucm-guidance": {"coupling_steps": 2},
    "stable-diffusion-cfd-guidance": {},
    "stable-diffusion-pfd-guidance": {"inversion_steps": 2, "sampling_steps": 2},
}

SOURCE = {"source_prompt": "a blue car"}
"""What DDS from a sentence wants beside it."""
FROM_PICTURES = dict.fromkeys(("stable-diffusion-guidance", "stable-diffusion-rfds-guidance"), "usd-guidance")
"""Formulas that have another name where the scores are those of views of a picture."""


def formulas_of_sentences() -> set[str]:
    """Return the formulas from a sentence alone: presets of one formula, and of one model, count once."""
    names = {name for name in registry.names("guidance") if name.startswith("stable-diffusion-")}
    return names - {
        f"stable-diffusion-{name}-guidance" for name in ("controlnet", "instructpix2pix", "unified")
    }


def take_two_steps(denoiser: PipelineDenoiser, words: str) -> None:
    """Take two steps of every formula from a sentence; the gradients are finite and reach the picture."""
    cameras = orbit_cameras_deg([10.0], [30.0], 1.5, 40.0, denoiser.latent.image_size)
    models: dict[str, object] = {"image_size": cameras.height}
    assert not take_two_steps_from_a_sentence(str(denoiser.folder), words, cameras, models)


def take_two_steps_from_a_sentence(
    name: str, words: str, cameras: Cameras, models: dict[str, object]
) -> dict[str, str]:
    """Take two steps of every formula from a sentence; return why which formulas refuse the model."""
    size, refused = cameras.height, {}
    model: dict[str, object] = {"pretrained_model_name_or_path": name}
    prompt = {**model, "prompt": words, "use_cache": False}
    prompts = build(spec("prompt_processor", "stable-diffusion-prompt-processor", prompt))
    picture = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(5))
    for formula, given in FORMULAS.items():
        own = SOURCE if formula == "stable-diffusion-dds-guidance" else {}
        try:
            guidance = build(
                spec("guidance", formula, {**model, "models": models, **given, **own}), prompts=prompts
            )
            guidance.set_reference(picture, orbit_cameras_deg(10.0, 90.0, 1.5, 40.0, size))
            step_twice(guidance, cameras, f"{formula} of {name}")
        except UserError as error:
            refused[formula] = str(error)
    return refused


def take_two_steps_from_a_picture(model: str, base: str, picture: Tensor, reference: Cameras) -> None:
    """Take two steps of every formula on a model of views, with the unconditional prediction of its base."""
    options = {"pretrained_model_name_or_path": base, "models": {"image_size": picture.shape[-1]}}
    cameras = orbit_cameras_deg([10.0], [30.0], 1.5, 40.0, picture.shape[-1])
    assert not take_two_steps_of_views(model, options, cameras, picture, reference)


def take_two_steps_of_views(
    model: str, common: dict[str, object], cameras: Cameras, picture: Tensor, reference: Cameras
) -> dict[str, str]:
    """Take two steps of every formula on a model of views; return why which formulas refuse the model."""
    refused = {}
    for name, given in FORMULAS.items():
        formula = FROM_PICTURES.get(name, name.removeprefix("stable-diffusion-"))
        own = {key: value for key, value in given.items() if key != "camera_condition_type"}
        options = {"zero123_model_name_or_path": model, **common, **own}
        try:
            guidance = build(spec("guidance", formula, options))
            guidance.set_reference(picture, reference)
            step_twice(guidance, cameras, f"{formula} of {model}")
        except UserError as error:
            refused[formula] = str(error)
    return refused


def step_twice(guidance: Guidance, cameras: Cameras, name: str) -> None:
    """Take two steps of random pictures; the gradients are finite and reach the picture."""
    count, size = len(cameras), cameras.height
    for step in range(2):
        source = torch.Generator().manual_seed(step)
        rgb, normal = torch.rand(2, count, 3, size, size, generator=source)
        ones = torch.ones(count, 1, size, size)
        render = Render(rgb.requires_grad_(), ones, depth=ones, normal=2 * normal - 1)
        out = guidance(render, cameras, step, torch.Generator().manual_seed(step))
        out.loss.backward()
        assert out.trouble == "" and float(rgb.grad.abs().sum()) > 0, name
