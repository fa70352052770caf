"""InstructPix2Pix and ControlNet as sources of scores: their own guidance, whose picture is seen, and edits."""

from pathlib import Path
from typing import Any

import pytest
import torch

from usd.core.config import UserError, spec
from usd.core.registry import build
from usd.core.types import Render
from usd.denoiser.architectures import ARCHITECTURES
from usd.denoiser.rehearsal import write_stand_in
from usd.guidance.image_prompt_scores import edit_views
from usd.math.camera import orbit_cameras_deg
from usd.math.canny import canny_edges
from usd.math.distill import distillation_gradient

VIEWS = orbit_cameras_deg([10.0, 40.0], [0.0, 200.0], 1.5, 40.0, 16)
RGB, PICTURES = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
EDIT, CONTROL = "stable-diffusion-instructpix2pix-guidance", "stable-diffusion-controlnet-guidance"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, kinds = (
        tmp_path_factory.mktemp("models"),
        ("instruct-pix2pix", "stable-diffusion-1", "controlnet-1"),
    )
    return {kind: write_stand_in(ARCHITECTURES[kind], root / kind) for kind in kinds}


def opened(folders: dict[str, Path], name: str, **options: object) -> Any:
    models = {"pretrained_model_name_or_path": str(folders["instruct-pix2pix"])}
    if name == CONTROL:
        models = {
            "pretrained_model_name_or_path": str(folders["stable-diffusion-1"]),
            "control_model_name_or_path": str(folders["controlnet-1"]),
        }
    words = {"pretrained_model_name_or_path": models["pretrained_model_name_or_path"], "prompt": "as snow"}
    prompts = build(
        spec("prompt_processor", "stable-diffusion-prompt-processor", {**words, "use_cache": False})
    )
    return build(spec("guidance", name, {**models, **options}), prompts=prompts)


def render(normal: torch.Tensor | None = None) -> Render:
    return Render(RGB.clone().requires_grad_(), torch.ones(2, 1, 64, 64), normal=normal)


def test_an_edit_has_a_scale_for_the_sentence_and_one_for_the_picture(folders: dict[str, Path]) -> None:
    """eps = u + s_I (img - u) + s_t (txt - img), from the denoiser by hand."""
    guidance = opened(folders, EDIT, guidance_scale=5.0, condition_scale=2.5)
    scores = guidance.source.at(VIEWS, PICTURES)
    x = guidance.noisy_latents(guidance.model.encode(RGB), 0, torch.Generator().manual_seed(0))
    model, prompts = guidance.model, guidance.source.prompts(VIEWS)
    questions = ((prompts.cond, PICTURES), (prompts.uncond, PICTURES), (prompts.uncond, None))
    txt, img, neither = (model.eps(x.xt, x.t, model.with_image(*question)) for question in questions)
    expected = neither + 2.5 * (img - neither) + 5.0 * (txt - img)
    torch.testing.assert_close(scores.guided(5.0)(x.xt, x.t), expected, atol=1e-5, rtol=1e-4)
    gradient = guidance.gradient(x, scores)
    torch.testing.assert_close(gradient, x.weight * (expected - x.noise), atol=1e-4, rtol=1e-3)


def test_a_controlnet_follows_the_edges_of_the_picture_under_both_conditions(
    folders: dict[str, Path],
) -> None:
    guidance = opened(folders, CONTROL, control_type="canny", canny_lower_bound=20.0, guidance_scale=5.0)
    x = guidance.noisy_latents(guidance.model.encode(RGB), 0, torch.Generator().manual_seed(0))
    model, prompts = guidance.model, guidance.source.prompts(VIEWS)
    edges = canny_edges(PICTURES, 20 / 255, 100 / 255).expand(-1, 3, -1, -1)
    cond, uncond = (model.eps(x.xt, x.t, model.with_image(e, edges)) for e in (prompts.cond, prompts.uncond))
    expected = distillation_gradient(x.weight, x.noise, cond, uncond, 5.0, 1.0)
    found = guidance.gradient(x, guidance.source.at(VIEWS, PICTURES))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_rendered_normals_are_followed_where_no_picture_is_named(folders: dict[str, Path]) -> None:
    guidance, normal = opened(folders, CONTROL), torch.zeros(2, 3, 64, 64)
    assert guidance.needs == {"rgb", "normal"} and not guidance.config.wants_picture
    up = normal.clone()
    up[:, 2] = 1
    shown = guidance.source.default_pictures(render(up))
    assert torch.equal(shown[0, :, 0, 0], torch.tensor([0.5, 0.5, 1.0]))
    assert torch.isfinite(guidance(render(up), VIEWS, 0, torch.Generator().manual_seed(0)).loss.detach())
    with pytest.raises(UserError, match="control_type: normal, but no normals are rendered"):
        guidance(render(), VIEWS, 0, None)
    assert opened(folders, CONTROL, control_type="canny").needs == {"rgb"}


def test_the_picture_is_the_callers_else_the_reference_else_the_render(folders: dict[str, Path]) -> None:
    guidance = opened(folders, EDIT)
    loss = [
        float(guidance(render(), VIEWS, 0, torch.Generator().manual_seed(0), p).loss.detach())
        for p in (None, RGB, PICTURES)
    ]
    assert loss[0] == loss[1] != loss[2]
    guidance.set_reference(PICTURES[:1], VIEWS[[0]])
    again = float(guidance(render(), VIEWS, 0, torch.Generator().manual_seed(0)).loss.detach())
    given = PICTURES[:1].expand(2, -1, -1, -1)
    assert again == float(guidance(render(), VIEWS, 0, torch.Generator().manual_seed(0), given).loss.detach())


def test_views_are_edited_from_the_noise_level_of_the_range(folders: dict[str, Path]) -> None:
    """From the first level next to nothing changes; the same draw gives the same edit."""
    made = {}
    for share in (0.0, 0.9):
        options = {"min_step_percent": share, "max_step_percent": share, "diffusion_steps": 2}
        guidance = opened(folders, EDIT, **options)
        first, again = (
            edit_views(guidance, RGB, VIEWS, 0, torch.Generator().manual_seed(0), PICTURES) for _ in range(2)
        )
        assert torch.equal(first, again) and first.shape == RGB.shape
        made[share] = float((first - guidance.model.decode(guidance.model.encode(RGB))).abs().mean())
    assert made[0.0] < 0.5 * made[0.9]
    other = build(spec("guidance", "csd-guidance", {"zero123_model_name_or_path": "gaussian"}))
    with pytest.raises(UserError, match=r"system\.guidance_type: edits no pictures"):
        edit_views(other, RGB, VIEWS, 0, None)
