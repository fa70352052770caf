"""Every formula on one model of tiny size, from a sentence or from a picture."""

import torch
from torch import Tensor

from usd.core.config import spec
from usd.core.registry import build
from usd.core.types import Render
from usd.denoiser.pipeline import PipelineDenoiser
from usd.guidance import Guidance
from usd.math.camera import Cameras, orbit_cameras_deg

FORMULAS: dict[str, dict[str, object]] = {
    "stable-diffusion-guidance": {},
    "stable-diffusion-csd-guidance": {},
    "stable-diffusion-nfsd-guidance": {},
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

FROM_PICTURES = dict.fromkeys(("stable-diffusion-guidance", "stable-diffusion-rfds-guidance"), "usd-guidance")
"""Formulas that have another name where the scores are those of views of a picture."""


def take_two_steps(denoiser: PipelineDenoiser, words: str) -> None:
    """Take two steps of every formula from a sentence; the gradients are finite and reach the picture."""
    size = denoiser.latent.image_size
    model = {"pretrained_model_name_or_path": str(denoiser.folder)}
    prompt = {**model, "prompt": words, "use_cache": False}
    prompts = build(spec("prompt_processor", "stable-diffusion-prompt-processor", prompt))
    cameras = orbit_cameras_deg([10.0], [30.0], 1.5, 40.0, size)
    for name, options in FORMULAS.items():
        common = {**model, "models": {"image_size": size}, **options}
        step_twice(build(spec("guidance", name, common), prompts=prompts), cameras, name)


def take_two_steps_from_a_picture(model: str, base: str, picture: Tensor, reference: Cameras) -> None:
    """Take two steps of every formula on a model of views, with the unconditional prediction of its base."""
    size = picture.shape[-1]
    cameras = orbit_cameras_deg([10.0], [30.0], 1.5, 40.0, size)
    for name, given in FORMULAS.items():
        formula = FROM_PICTURES.get(name, name.removeprefix("stable-diffusion-"))
        options = {
            "zero123_model_name_or_path": model,
            "pretrained_model_name_or_path": base,
            "models": {"image_size": size},
            **{key: value for key, value in given.items() if key != "camera_condition_type"},
        }
        guidance = build(spec("guidance", formula, options))
        guidance.set_reference(picture, reference)
        step_twice(guidance, cameras, formula)


def step_twice(guidance: Guidance, cameras: Cameras, name: str) -> None:
    """Take two steps of random pictures; the gradients are finite and reach the picture."""
    size = cameras.height
    for step in range(2):
        rgb = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(step)).requires_grad_()
        render = Render(rgb, torch.ones(1, 1, size, size), depth=torch.ones(1, 1, size, size))
        out = guidance(render, cameras, step, torch.Generator().manual_seed(step))
        out.loss.backward()
        assert out.trouble == "" and float(rgb.grad.abs().sum()) > 0, name
