"""InstructPix2Pix at tiny size: the three predictions are diffusers' UNet under the pipeline's inputs."""

from pathlib import Path

import pytest
import torch

from usd.core.errors import UserError
from usd.denoiser import open_edit_denoiser, open_text_denoiser
from usd.denoiser.architectures import ARCHITECTURES
from usd.denoiser.instruct_pix2pix import InstructPix2PixDenoiser
from usd.denoiser.rehearsal import rehearsal, write_stand_in

XT, T = torch.randn(2, 4, 8, 8), torch.tensor([30, 800])
PICTURES = torch.rand(2, 3, 64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stand_in(ARCHITECTURES["instruct-pix2pix"], tmp_path_factory.mktemp("pix2pix"))


@pytest.fixture(scope="module")
def model(folder: Path) -> InstructPix2PixDenoiser:
    denoiser = open_edit_denoiser(str(folder), "here")
    assert isinstance(denoiser, InstructPix2PixDenoiser), (
        "a folder is known by the eight channels of its UNet"
    )
    return denoiser


def test_the_three_predictions_are_those_of_the_pipeline(
    model: InstructPix2PixDenoiser, folder: Path
) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval()
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    cond, uncond = model.embed_text(["make it red", "as snow"]), model.unconditional(2)
    with torch.no_grad():
        latent = vae.encode(PICTURES * 2 - 1).latent_dist.mode()  # not times the scaling factor
        cases = (
            (cond, PICTURES, latent),
            (uncond, PICTURES, latent),
            (uncond, None, torch.zeros_like(latent)),
        )
        for words, picture, beside in cases:
            truth = unet(torch.cat([XT, beside], 1), T, words.tokens).sample
            found = model.eps(XT, T, model.with_image(words, picture))
            torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-4)


def test_a_sentence_alone_is_one_without_a_picture(model: InstructPix2PixDenoiser) -> None:
    words = model.unconditional(2)
    torch.testing.assert_close(model.eps(XT, T, words), model.eps(XT, T, model.with_image(words, None)))


def test_a_model_that_edits_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"expected a model that edits pictures such as 'instruct-pix2pix'"):
        open_edit_denoiser("toybox-sd", "here")


def test_it_can_be_rehearsed_and_is_a_text_model_to_a_prompt_processor() -> None:
    with rehearsal() as models:
        model = open_text_denoiser("timbrooks/instruct-pix2pix", "here")
        assert isinstance(model, InstructPix2PixDenoiser)
        assert "MIT" in models.lines()[0]
