"""Stable Diffusion XL, PixArt and Kolors at tiny size, compared with their own pipelines of diffusers."""

import json
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save_file

from tests.denoiser.formula_matrix import take_two_steps
from usd.core.errors import UserError
from usd.denoiser import Execution, check_shared_latents, open_student, open_text_denoiser, tiny_pipelines
from usd.denoiser.components import open_components
from usd.denoiser.load import denoiser_of
from usd.denoiser.noise_pipeline import NoiseDenoiser
from usd.denoiser.pixart import PixArtDenoiser
from usd.math.diffusion import ddim_step

SIZE, SCALE, PROMPT = 32, 3.0, "a red car"
FAMILIES = ("kolors", "pixart", "stable-diffusion-xl")
ASKED = {"pixart": {"use_resolution_binning": False, "clean_caption": False}}


@dataclass(frozen=True)
class Family:
    """A pipeline, and our denoiser of the folder that it was stored in."""

    name: str
    pipeline: object
    denoiser: NoiseDenoiser


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory) -> Family:
    if request.param == "kolors":
        pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp(request.param)
    pipeline = tiny_pipelines.make(request.param, folder)
    pipeline.set_progress_bar_config(disable=True)
    denoiser = open_text_denoiser(str(folder), "model", Execution(image_size=SIZE))
    assert isinstance(denoiser, NoiseDenoiser)
    return Family(request.param, pipeline, denoiser)


def noise(denoiser: NoiseDenoiser) -> torch.Tensor:
    space = denoiser.latent
    return torch.randn(
        1, space.channels, space.height, space.width, generator=torch.Generator().manual_seed(3)
    )


def sampled(family: Family) -> torch.Tensor:
    """Our way: two guided DDIM steps at the timesteps of the pipeline's scheduler."""
    model, x = family.denoiser, noise(family.denoiser)
    cond, uncond = model.embed_text([PROMPT]), model.unconditional(1)
    family.pipeline.scheduler.set_timesteps(2)
    times = [int(t) for t in family.pipeline.scheduler.timesteps]
    for t, after in zip(times, [model.alphas_cumprod[times[1]], torch.tensor(1.0)]):
        steps = torch.tensor([t])
        eps_c, eps_u = model.eps(x, steps, cond), model.eps(x, steps, uncond)
        x = ddim_step(x, eps_u + SCALE * (eps_c - eps_u), model.alphas_cumprod[t], after)
    return x


def piped(family: Family, output: str) -> torch.Tensor:
    with torch.no_grad():
        return family.pipeline(
            prompt=PROMPT, height=SIZE, width=SIZE, num_inference_steps=2, guidance_scale=SCALE,
            latents=noise(family.denoiser), output_type=output, return_dict=False, **ASKED.get(family.name, {}),
        )[0]  # fmt: skip


def test_the_files_say_which_denoiser_runs_them(family):
    assert denoiser_of(open_components(family.denoiser.folder)) == family.name


def test_guided_steps_are_those_of_the_pipeline_with_its_own_scheduler(family):
    """Prompts, sizes, the order of the batch and the variance that is dropped are in it."""
    theirs = piped(family, "latent")
    torch.testing.assert_close(sampled(family), theirs, atol=1e-5 * float(theirs.abs().max()), rtol=1e-5)


def test_pictures_and_latents_follow_the_pipelines_convention(family):
    picture = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    vae = family.pipeline.vae
    with torch.no_grad():
        expected = vae.encode(picture * 2 - 1).latent_dist.mode() * vae.config.scaling_factor
    torch.testing.assert_close(family.denoiser.encode(picture), expected, atol=1e-5, rtol=1e-5)
    theirs = piped(family, "pt").clamp(0, 1)
    torch.testing.assert_close(family.denoiser.decode(sampled(family)), theirs, atol=1e-4, rtol=1e-4)


def test_a_lora_changes_the_network_as_far_as_it_is_asked_to(family, tmp_path):
    model, cpu = family.denoiser, torch.device("cpu")
    with model.network.use(cpu) as plain:
        layer = next(name for name, _ in plain.named_modules() if name.endswith("attn1.to_q"))
        before = plain.get_submodule(layer).weight.clone()
    down, up = torch.randn(2, before.shape[1]), torch.randn(before.shape[0], 2)
    lora = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    if family.name == "pixart":  # as peft writes it: diffusers leaves PixArt's LoRAs to it
        file = tmp_path
        save_file(
            {f"base_model.model.{k}": v for k, v in lora.items()}, tmp_path / "adapter_model.safetensors"
        )
        (tmp_path / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": [layer]})
        )
    else:
        file = tmp_path / "change.safetensors"
        save_file({f"unet.{k}": v for k, v in lora.items()}, file)
    changed = open_text_denoiser(f"{model.folder} + {file} x 0.5", "model", Execution(image_size=SIZE))
    with changed.network.use(cpu) as network:
        moved = network.get_submodule(layer).weight - before
    torch.testing.assert_close(moved, 0.5 * up @ down, atol=1e-5, rtol=1e-5)


def test_a_student_starts_as_the_model_and_learns(family):
    model, x, t = family.denoiser, noise(family.denoiser), torch.tensor([400])
    student, given = open_student(model, 2), model.embed_text([PROMPT])
    torch.testing.assert_close(student(x, t, given), model.eps(x, t, given), atol=1e-4, rtol=1e-4)
    student(x, t, given).square().mean().backward()
    assert any(float(weight.grad.abs().sum()) > 0 for weight in student.learned() if weight.grad is not None)


def test_the_schedule_is_that_of_the_scheduler(family):
    torch.testing.assert_close(
        family.denoiser.alphas_cumprod, family.pipeline.scheduler.alphas_cumprod, atol=1e-6, rtol=1e-6
    )


@pytest.mark.slow
def test_every_formula_takes_two_steps_with_every_family(family):
    take_two_steps(family.denoiser, PROMPT)


@pytest.fixture(scope="module")
def xl(tmp_path_factory) -> NoiseDenoiser:
    folder = tmp_path_factory.mktemp("xl")
    tiny_pipelines.make("stable-diffusion-xl", folder)
    return open_text_denoiser(str(folder), "model", Execution(image_size=SIZE))


def test_the_empty_prompt_of_xl_is_zeros_where_it_was_trained_so(xl):
    empty, said = xl.embed_text(["", PROMPT]).select(torch.tensor([0])), xl.embed_text([PROMPT])
    assert not empty.tokens.any() and not empty.pooled.any() and said.tokens.any() and said.pooled.any()
    index = xl.folder / "model_index.json"
    text = index.read_text()
    try:
        index.write_text(
            text.replace('"force_zeros_for_empty_prompt": true', '"force_zeros_for_empty_prompt": false')
        )
        assert xl.embed_text([""]).tokens.any()
    finally:
        index.write_text(text)


def test_xl_is_told_the_size_of_its_picture(xl):
    asked = {}

    def network(**inputs):
        asked.update(inputs)
        return (inputs["sample"],)

    x = noise(xl)
    xl.prediction(network, x, torch.tensor([3]), xl.embed_text([PROMPT]))
    assert asked["added_cond_kwargs"]["time_ids"].tolist() == [[SIZE, SIZE, 0, 0, SIZE, SIZE]]


def test_pixart_alpha_is_told_size_and_shape_and_sigma_is_not(tmp_path):
    tiny_pipelines.make("pixart", tmp_path)
    model = open_text_denoiser(str(tmp_path), "model", Execution(image_size=SIZE))
    assert isinstance(model, PixArtDenoiser)
    assert model._sizes(noise(model)) == {"resolution": None, "aspect_ratio": None}
    config = tmp_path / "transformer" / "config.json"
    config.write_text(
        config.read_text().replace('"use_additional_conditions": false', '"use_additional_conditions": true')
    )
    sizes = model._sizes(noise(model))
    assert sizes["resolution"].tolist() == [[SIZE, SIZE]] and sizes["aspect_ratio"].tolist() == [[1.0]]


def test_models_of_other_latents_are_no_prior_of_xl(xl, tiny):
    with pytest.raises(UserError, match="do not share a latent space"):
        check_shared_latents(xl, open_text_denoiser(str(tiny.sd), "x"), "here")
