"""Stable Diffusion's single files, and LoRA files on a folder, against the originals' own outputs."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.contract.golden import DATA, assert_close, below, golden, write_checkpoint, write_usd_models
from usd.denoiser import open_text_denoiser
from usd.denoiser.latent import NetworkInput
from usd.denoiser.stable_diffusion import StableDiffusionDenoiser
from usd.math.diffusion import eps_from_v

CPU = torch.device("cpu")


def open_text_model(name: str) -> StableDiffusionDenoiser:
    model = open_text_denoiser(name, "model")
    assert isinstance(model, StableDiffusionDenoiser)
    return model


@pytest.mark.parametrize(
    ("name", "step", "predicts"),
    [("sd1_ldm_tiny", 1, "epsilon"), ("sd2_v_ldm_tiny", 110000, "v_prediction")],
)
@torch.no_grad()
def test_a_single_file_computes_what_the_original_computes(
    name: str, step: int, predicts: str, tmp_path: Path
) -> None:
    """Text, noise and latents both ways, by the public path, without a YAML beside the file."""
    tensors = golden(name)
    path = write_checkpoint(below(tensors, "state_dict/"), tmp_path / f"{name}.ckpt", global_step=step)
    model = open_text_model(str(path))
    assert model.predicts == predicts
    assert_close(model.text_encoder.on(CPU)(tensors["in/token_ids"])[0], tensors["out/text"])
    assert_close(model.unconditional(1).tokens, tensors["out/text"][:1])
    xt, t, out = tensors["in/xt"], tensors["in/t"], tensors["out/unet"]
    eps = eps_from_v(xt, out, model.alphas_cumprod, t) if predicts == "v_prediction" else out
    assert_close(model.eps(xt, t, NetworkInput(tensors["out/text"])), eps)
    decoded = model.decode(tensors["out/latent"])[:, :, ::4, ::4]
    assert_close(decoded, (tensors["out/decoded_sub"] / 2 + 0.5).clamp(0, 1))
    pixels = tensors["in/picture"] * 2 - 1  # at its own size: the public path resizes to the model's
    latent = model.vae.on(CPU).encode(pixels).latent_dist.mode() * model.latent.scaling_factor
    assert_close(latent, tensors["out/latent"])


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_usd_models(golden("usd_published"), tmp_path_factory.mktemp("usd"))["sd"]


@pytest.mark.parametrize("scale", ["1.0", "0.7"])
@pytest.mark.parametrize("file", ["kohya", "old_diffusers"])
@torch.no_grad()
def test_a_lora_changes_the_model_as_diffusers_changes_it(file: str, scale: str, sd: Path) -> None:
    expected = load_file(DATA / "lora" / "expected.safetensors")
    model = open_text_model(f"{sd} + {DATA / 'lora' / file}.safetensors x {scale}")
    text = model.text_encoder.on(CPU)(expected["in/ids"])[0]
    assert_close(text, expected[f"out/{file}/{scale}/text"])
    noise = model.eps(expected["in/xt"], expected["in/t"], NetworkInput(text))
    assert_close(noise, expected[f"out/{file}/{scale}/unet"])
