"""Rectified flows of diffusers at tiny size, compared with their own pipelines: prompts, steps, pictures."""

from dataclasses import dataclass

import pytest
import torch

from tests.denoiser.formula_matrix import take_two_steps
from usd.core.errors import UserError
from usd.denoiser import Execution, open_edit_denoiser, open_text_denoiser, tiny_pipelines
from usd.denoiser.flow import FlowDenoiser, pack, unpack
from usd.math.diffusion import ddim_step
from usd.math.flow import eps_from_velocity, flow_sample

SIZE = 32
STEPS = (0.8, 0.4)  # levels at which the pipelines are asked
PROMPT, NEGATIVE = "a red car", ""
SCALES = {  # of the pipelines' arguments, and of eps_u + scale (eps_c - eps_u)
    "stable-diffusion-3": ({"guidance_scale": 3.0}, 3.0),
    "flux-1": ({"true_cfg_scale": 3.0, "negative_prompt": NEGATIVE}, 3.0),
    "flux-2": ({"guidance_scale": 3.0}, 3.0),
    "z-image": ({"guidance_scale": 2.0}, 3.0),
    "sana": (
        {"guidance_scale": 3.0, "use_resolution_binning": False, "complex_human_instruction": None},
        3.0,
    ),
    "qwen-image": ({"true_cfg_scale": 1.0}, 1.0),  # its guidance is rescaled afterwards, which no formula is
}


@dataclass(frozen=True)
class Family:
    """A pipeline, and our denoiser of the folder that it was stored in."""

    name: str
    pipeline: object
    denoiser: FlowDenoiser


@pytest.fixture(scope="module", params=sorted(SCALES))
def family(request, tmp_path_factory) -> Family:
    folder = tmp_path_factory.mktemp(request.param)
    pipeline = tiny_pipelines.make(request.param, folder)
    pipeline.set_progress_bar_config(disable=True)
    denoiser = open_text_denoiser(str(folder), "model", Execution(image_size=SIZE))
    assert isinstance(denoiser, FlowDenoiser)
    return Family(request.param, pipeline, denoiser)


def noise(denoiser: FlowDenoiser) -> torch.Tensor:
    space = denoiser.latent
    return torch.randn(
        1, space.channels, space.height, space.width, generator=torch.Generator().manual_seed(3)
    )


def sampled(family: Family) -> torch.Tensor:
    """Our way: two deterministic DDIM steps with classifier-free guidance, from level 0.8 to the picture."""
    model, z = family.denoiser, noise(family.denoiser)
    cond, uncond = model.embed_text([PROMPT]), model.unconditional(1)
    bars, scale = model.alphas_cumprod, SCALES[family.name][1]
    index = [round(1000 * level) - 1 for level in STEPS]
    x = z / flow_sample(torch.ones(1, 1, 1, 1), model.levels[index[:1]])
    for t, after in zip(index, [bars[index[1]], torch.tensor(1.0)]):
        steps = torch.tensor([t])
        eps_c, eps_u = model.eps(x, steps, cond), model.eps(x, steps, uncond)
        x = ddim_step(x, eps_u + scale * (eps_c - eps_u), bars[t], after)
    return x


def piped(family: Family, output: str) -> torch.Tensor:
    """The pipeline's own way, from the same noise at the same levels; its schedule shifts what it is given."""
    shift = family.pipeline.scheduler.config.shift
    given = [level / (shift - (shift - 1) * level) for level in STEPS]
    z = noise(family.denoiser)
    if family.name in ("flux-1", "qwen-image"):
        z = pack(z)
    with torch.no_grad():
        return family.pipeline(
            prompt=PROMPT, height=SIZE, width=SIZE, num_inference_steps=2, sigmas=given, latents=z, output_type=output,
            return_dict=False, **SCALES[family.name][0],
        )[0]  # fmt: skip


def test_ddim_steps_are_the_pipelines_own_euler_steps(family):
    theirs, ours = piped(family, "latent"), sampled(family)
    if family.name in ("flux-1", "qwen-image"):
        theirs = unpack(theirs, family.denoiser.latent.height, family.denoiser.latent.width)
    if family.name == "flux-2":  # its pipeline hands out latents of the autoencoder
        norm = family.pipeline.vae.bn
        deviation = (norm.running_var + norm.eps).sqrt().view(1, -1, 1, 1)
        patches = torch.nn.functional.pixel_unshuffle(theirs, 2)
        theirs = (patches - norm.running_mean.view(1, -1, 1, 1)) / deviation
    torch.testing.assert_close(ours, theirs, atol=5e-5 * float(theirs.abs().max()), rtol=1e-5)


def test_pictures_of_latents_are_the_pipelines_own(family):
    theirs = piped(family, "pt").clamp(0, 1)
    torch.testing.assert_close(family.denoiser.decode(sampled(family)), theirs, atol=2e-4, rtol=1e-4)


def test_latents_of_pictures_follow_each_familys_convention(family):
    """Mean, shift, factor or normalization of each channel, taken from the pipeline's own autoencoder."""
    picture = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    vae, config = family.pipeline.vae, family.pipeline.vae.config
    with torch.no_grad():
        seen = vae.encode(picture[:, :, None] * 2 - 1 if family.name == "qwen-image" else picture * 2 - 1)
    if family.name == "sana":
        expected = seen.latent * config.scaling_factor
    elif family.name == "qwen-image":
        mean, deviation = (
            torch.tensor(config[f"latents_{name}"]).view(1, -1, 1, 1) for name in ("mean", "std")
        )
        expected = (seen.latent_dist.mode()[:, :, 0] - mean) / deviation
    elif family.name == "flux-2":
        expected = vae.bn(family.pipeline._patchify_latents(seen.latent_dist.mode()))
    else:
        expected = (seen.latent_dist.mode() - config.shift_factor) * config.scaling_factor
    torch.testing.assert_close(family.denoiser.encode(picture), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_every_formula_takes_two_steps_with_every_family(family):
    take_two_steps(family.denoiser, PROMPT)


def test_one_guided_ddim_step_is_one_euler_step_of_the_scheduler_in_double_precision(family):
    model, z = family.denoiser, noise(family.denoiser)
    shift = family.pipeline.scheduler.config.shift
    scheduler = type(family.pipeline.scheduler).from_config(family.pipeline.scheduler.config)
    scheduler.set_timesteps(sigmas=[level / (shift - (shift - 1) * level) for level in STEPS])
    with torch.no_grad(), model.network.use(torch.device("cpu")) as network:
        conditions = (model.embed_text([PROMPT]), model.unconditional(1))
        cond, uncond = (model.velocity(network, z, torch.tensor([STEPS[0]]), given) for given in conditions)
    velocity, z = (uncond + 3.0 * (cond - uncond)).double(), z.double()
    theirs = scheduler.step(velocity, scheduler.timesteps[0], z, return_dict=False)[0]
    start, end = (torch.tensor([level], dtype=torch.float64) for level in STEPS)
    bars = [(1 - s) ** 2 / ((1 - s) ** 2 + s**2) for s in STEPS]
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    x = ddim_step(z / flow_sample(one, start), eps_from_velocity(z, velocity, start), *bars)
    ours = flow_sample(x, end)
    torch.testing.assert_close(ours, theirs.double(), atol=1e-5 * float(theirs.abs().max()), rtol=0)


@pytest.fixture(scope="module")
def flux_2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux-2")
    return tiny_pipelines.make("flux-2", folder), open_edit_denoiser(
        str(folder), "model", Execution(image_size=SIZE)
    )


def test_a_reference_picture_stands_beside_the_one_that_is_made(flux_2):
    pipeline, model = flux_2
    picture = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    given = model.with_image(model.embed_text([PROMPT]), picture)
    x, t = noise(model), torch.tensor([499])
    z = flow_sample(x, model.level(t))
    theirs, places = pipeline.prepare_image_latents([picture * 2 - 1], 1, None, "cpu", torch.float32)
    with torch.no_grad():
        velocity = pipeline.transformer(
            hidden_states=torch.cat([pipeline._pack_latents(z), theirs], 1), timestep=torch.tensor([0.5]), guidance=None,
            encoder_hidden_states=given.tokens, txt_ids=pipeline._prepare_text_ids(given.tokens),
            img_ids=torch.cat([pipeline._prepare_latent_ids(z), places], 1), return_dict=False,
        )[0][:, : z.shape[2] * z.shape[3]]  # fmt: skip
    expected = z + 0.5 * velocity.transpose(1, 2).reshape(z.shape)
    torch.testing.assert_close(model.eps(x, t, given), expected, atol=1e-4, rtol=1e-4)
    without = model.eps(x, t, model.with_image(given, None))
    assert not torch.allclose(without, expected, atol=1e-2)


def test_a_lora_changes_the_transformer_as_far_as_it_is_asked_to(flux_2, tmp_path):
    from safetensors.torch import save_file

    pipeline, model = flux_2
    layer = "transformer_blocks.0.attn.to_q"
    rows, columns = pipeline.transformer.get_submodule(layer).weight.shape
    down, up = torch.randn(2, columns), torch.randn(rows, 2)
    file = tmp_path / "change.safetensors"
    save_file({f"transformer.{layer}.lora_A.weight": down, f"transformer.{layer}.lora_B.weight": up}, file)
    changed = open_text_denoiser(f"{model.folder} + {file} x 0.5", "model", Execution(image_size=SIZE))
    with (
        changed.network.use(torch.device("cpu")) as network,
        model.network.use(torch.device("cpu")) as plain,
    ):
        moved = network.get_submodule(layer).weight - plain.get_submodule(layer).weight
    torch.testing.assert_close(moved, 0.5 * up @ down, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("maker", [tiny_pipelines.flux_1, tiny_pipelines.flux_2])
def test_a_distilled_model_has_no_unconditional_prediction_and_says_so(maker, tmp_path):
    maker(distilled=True).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="distilled of its guidance"):
        open_text_denoiser(str(tmp_path), "model").unconditional(1)


def test_an_unknown_transformer_and_a_size_that_does_not_fit_are_refused_in_a_line(flux_2, tmp_path):
    _, model = flux_2
    with pytest.raises(UserError, match=r"models.image_size: is 30; expected a multiple of 4"):
        open_text_denoiser(str(model.folder), "model", Execution(image_size=30))
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "MochiTransformer3DModel"}')
    with pytest.raises(UserError, match="MochiTransformer3DModel, which no denoiser runs"):
        open_text_denoiser(str(tmp_path), "model")
