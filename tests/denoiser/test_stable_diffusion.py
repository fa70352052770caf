"""Stable Diffusion folders: text in, noise out, agreeing with the libraries' own classes."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import TinyModels
from usd.core.config import UserError
from usd.denoiser import open_text_denoiser
from usd.denoiser.latent import NetworkInput
from usd.denoiser.picture import ClipPicture, resize_square
from usd.denoiser.stable_diffusion import StableDiffusionDenoiser
from usd.math.diffusion import eps_from_v


def _open(folder: object) -> StableDiffusionDenoiser:
    model = open_text_denoiser(str(folder), "x")
    assert isinstance(model, StableDiffusionDenoiser)
    return model


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([20, 900])


def test_latent_space_is_read_from_the_folder(tiny: TinyModels) -> None:
    space = _open(tiny.sd).latent
    assert (space.channels, space.height, space.width, space.image_size) == (4, 8, 8, 16)
    assert space.scaling_factor == pytest.approx(0.18215)


def test_noise_is_the_networks_own(tiny: TinyModels) -> None:
    """The public path gives what diffusers and transformers give when called by hand."""
    from diffusers import UNet2DConditionModel
    from transformers import AutoTokenizer, CLIPTextModel

    x, t = _inputs()
    words = AutoTokenizer.from_pretrained(tiny.sd / "tokenizer")(
        ["a red car", ""], padding="max_length", max_length=10, return_tensors="pt"
    )
    with torch.no_grad():
        tokens = CLIPTextModel.from_pretrained(tiny.sd / "text_encoder")(words.input_ids).last_hidden_state
        by_hand = UNet2DConditionModel.from_pretrained(tiny.sd / "unet")(x, t, tokens).sample
    model = _open(tiny.sd)
    told = model.embed_text(["a red car", ""])
    assert torch.equal(told.tokens, tokens)
    assert torch.equal(model.eps(x, t, told), by_hand)


def test_a_v_prediction_is_turned_into_noise(tiny: TinyModels) -> None:
    """Both folders hold the same weights; one calls their output v."""
    x, t = _inputs()
    plain, other = _open(tiny.sd), _open(tiny.sd_v)
    told = plain.unconditional(2)
    torch.testing.assert_close(
        other.eps(x, t, told), eps_from_v(x, plain.eps(x, t, told), plain.alphas_cumprod, t)
    )


def test_unconditional_is_the_empty_prompt(tiny: TinyModels) -> None:
    model = _open(tiny.sd)
    assert torch.equal(model.unconditional(3).tokens, model.embed_text([""] * 3).tokens)


def test_latents_are_the_mode_times_the_scaling_factor(tiny: TinyModels) -> None:
    from diffusers import AutoencoderKL

    picture = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mode = AutoencoderKL.from_pretrained(tiny.sd / "vae").encode(picture * 2 - 1).latent_dist.mode()
    model = _open(tiny.sd)
    torch.testing.assert_close(model.encode(picture), mode * 0.18215)
    assert model.decode(mode * 0.18215).shape == picture.shape


def test_pictures_of_any_size_are_encoded_and_gradients_reach_them(tiny: TinyModels) -> None:
    picture = torch.rand(1, 3, 40, 24, requires_grad=True)
    z = _open(tiny.sd).encode(picture)
    assert z.shape == (1, 4, 8, 8)
    z.square().sum().backward()
    assert picture.grad is not None and float(picture.grad.abs().sum()) > 0


def test_nothing_of_the_model_is_trained_or_saved(tiny: TinyModels) -> None:
    model = _open(tiny.sd)
    x, t = _inputs()
    model.train()
    out = model.eps(x.requires_grad_(), t, model.unconditional(2))
    assert not out.requires_grad and out.dtype == torch.float32
    assert not list(model.parameters()) and not model.state_dict()
    assert not model.unet.on(torch.device("cpu")).training


def test_tokens_of_another_model_are_refused(tiny: TinyModels) -> None:
    x, t = _inputs()
    with pytest.raises(UserError, match="width 16, but its condition has width 24"):
        _open(tiny.sd).eps(x, t, NetworkInput(torch.zeros(2, 10, 24)))


def test_rows_are_selected_in_all_parts() -> None:
    told = NetworkInput(
        torch.arange(3.0).view(3, 1, 1), torch.arange(3.0).view(3, 1, 1, 1), torch.arange(3.0).view(3, 1)
    )
    picked = told.select(torch.tensor([2, 0, 2]))
    assert picked.tokens.flatten().tolist() == [2, 0, 2]
    assert picked.latent is not None and picked.latent.flatten().tolist() == [2, 0, 2]
    assert picked.time is not None and picked.time.flatten().tolist() == [2, 0, 2]


def test_resizing_keeps_flat_colours_and_leaves_the_right_size_alone() -> None:
    flat = torch.full((1, 3, 50, 30), 0.25)
    torch.testing.assert_close(resize_square(flat, 16), torch.full((1, 3, 16, 16), 0.25))
    picture = torch.rand(1, 3, 16, 16)
    assert resize_square(picture, 16) is picture


def test_clip_pictures_match_the_librarys_preprocessing() -> None:
    """transformers' own processor on the same 8-bit picture, to within its rounding to 8 bits after resizing."""
    import numpy as np
    from PIL import Image
    from transformers import CLIPImageProcessor

    rng = np.random.default_rng(0)
    coarse = (rng.random((8, 8, 3)) * 255).astype(np.uint8)
    image = Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)
    theirs = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)(
        image, return_tensors="pt"
    ).pixel_values
    ours = ClipPicture(32)(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255)
    assert float((ours - theirs).abs().max()) < 2.5 / 255 / 0.26


def test_the_training_codes_clip_pictures_hit_the_corners_and_overshoot() -> None:
    """With corners aligned, every third of 10 pixels is one of 4; a step overshoots by bicubic's share, unclamped."""
    prepare = ClipPicture(4, (0.0,) * 3, (1.0,) * 3, source_size=10)
    picture = torch.rand(1, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(prepare(picture), picture[..., ::3, ::3], atol=1e-5, rtol=0)
    step = (torch.arange(10) >= 5).float().expand(1, 3, 10, 10)
    fine = ClipPicture(19, (0.0,) * 3, (1.0,) * 3, source_size=10)(step)  # every other pixel lies halfway
    expected = torch.tensor([0, -0.09375, 0, 0.5, 1, 1.09375, 1])
    torch.testing.assert_close(fine[0, 0, 0, 6:13], expected, atol=1e-6, rtol=0)


def test_the_originals_tokenizer_files_are_read(tiny: TinyModels, tmp_path: Path) -> None:
    """Stable Diffusion ships CLIP's byte pairs as vocab.json and merges.txt, not as one tokenizer.json."""
    folder = Path(shutil.copytree(tiny.sd, tmp_path / "model"))
    place = folder / "tokenizer"
    shutil.rmtree(place)
    place.mkdir()
    pieces = [
        "!",
        "r",
        "e",
        "d",
        "r</w>",
        "e</w>",
        "d</w>",
        "re",
        "red</w>",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "!",
    }
    (place / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (place / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **special}))
    model = _open(folder)
    ids = model.tokenizer("red", padding="max_length", max_length=5).input_ids
    assert ids == [9, 8, 10, 0, 0]
    assert model.embed_text(["red", ""]).tokens.shape == (2, 10, 16)
