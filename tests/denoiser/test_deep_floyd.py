"""DeepFloyd IF at tiny size: what diffusers' own pipeline computes with the same weights."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from usd.core.errors import UserError
from usd.core.types import LatentSpace
from usd.denoiser import Execution, check_shared_latents, open_text_denoiser, text_encoder
from usd.denoiser.architectures import ARCHITECTURES
from usd.denoiser.deep_floyd import DeepFloydDenoiser
from usd.denoiser.execution import dtype_on
from usd.denoiser.rehearsal import write_stand_in

PROMPTS = ["A red CAR ", "a cup, side view"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published layout with random weights."""
    return write_stand_in(ARCHITECTURES["deep-floyd-xl"], tmp_path_factory.mktemp("if"))


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    """diffusers' pipeline on the same files."""
    from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
    from transformers import AutoTokenizer, T5EncoderModel

    return IFPipeline(
        AutoTokenizer.from_pretrained(folder / "tokenizer"),
        T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval(),
        UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval(),
        DDPMScheduler.from_pretrained(folder / "scheduler"),
        None,
        None,
        None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="module")
def model(folder: Path) -> DeepFloydDenoiser:
    denoiser = open_text_denoiser(str(folder), "here")
    assert isinstance(denoiser, DeepFloydDenoiser), "a folder is known by its T5"
    return denoiser


def test_it_lives_in_pixels_and_the_way_there_and_back_is_exact(model: DeepFloydDenoiser) -> None:
    assert model.latent == LatentSpace(3, 16, 16, 16, 1.0)
    picture = torch.rand(2, 3, 16, 16, requires_grad=True)
    z = model.encode(picture)
    torch.testing.assert_close(z, 2 * picture - 1)
    torch.testing.assert_close(model.decode(z), picture)
    (gradient,) = torch.autograd.grad(z.sum(), picture)
    assert bool((gradient == 2).all())
    assert model.encode(torch.rand(1, 3, 40, 40)).shape == (1, 3, 16, 16)


def test_prompts_are_embedded_as_the_pipeline_does(model: DeepFloydDenoiser, pipe: Any) -> None:
    cond, uncond = pipe.encode_prompt(PROMPTS, device=torch.device("cpu"))
    torch.testing.assert_close(model.embed_text(PROMPTS).tokens, cond, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.unconditional(2).tokens, uncond, atol=1e-5, rtol=1e-5)


def test_noise_is_the_first_half_of_what_the_unet_predicts(model: DeepFloydDenoiser, pipe: Any) -> None:
    xt, t = torch.randn(2, 3, 16, 16), torch.tensor([30, 800])
    condition = model.embed_text(PROMPTS)
    with torch.no_grad():
        whole = pipe.unet(xt, t, encoder_hidden_states=condition.tokens).sample
    assert whole.shape[1] == 6
    torch.testing.assert_close(model.eps(xt, t, condition), whole[:, :3], atol=1e-5, rtol=1e-4)


def test_its_noise_schedule_is_the_cosine(model: DeepFloydDenoiser, pipe: Any) -> None:
    torch.testing.assert_close(model.alphas_cumprod, pipe.scheduler.alphas_cumprod, atol=1e-6, rtol=1e-5)
    with pytest.raises(Exception, match="do not share a latent space"):
        check_shared_latents(model, open_text_denoiser("toybox-sd", "here"), "here")


def test_a_prompt_is_too_long_beyond_77_tokens(model: DeepFloydDenoiser) -> None:
    assert model.overflow("a red cup") is None and model.overflow("a " * 80) == (82, 77)
    assert model.vocabulary() is None


def test_half_precision_is_bfloat16_for_t5_alone(folder: Path) -> None:
    model = open_text_denoiser(str(folder), "here", Execution(weights="fp16"))
    assert isinstance(model, DeepFloydDenoiser)
    cpu = torch.device("cpu")
    assert model.text_encoder.dtype(cpu) == torch.bfloat16 and model.unet.dtype(cpu) == torch.float16
    assert dtype_on(torch.device("cuda"), "auto", torch.bfloat16) == torch.bfloat16
    assert bool(model.embed_text(["a cup"]).tokens.isfinite().all())


def test_a_published_vocabulary_without_the_package_that_reads_it_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    (copy / "tokenizer" / "tokenizer.json").rename(copy / "tokenizer" / "spiece.model")
    monkeypatch.setattr(text_encoder, "has_package", lambda name: False)
    model = open_text_denoiser(str(copy), "here")
    with pytest.raises(UserError, match=r"spiece.model: reading it needs the package 'sentencepiece'"):
        model.embed_text(["a cup"])


def test_a_weight_in_two_places_is_stored_and_read_once(model: DeepFloydDenoiser) -> None:
    stored = set(model.files.tensors("text_encoder"))
    assert "shared.weight" in stored and "encoder.embed_tokens.weight" not in stored
    network: Any = model.files.network("text_encoder")
    assert network.shared.weight is network.encoder.embed_tokens.weight
