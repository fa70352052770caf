"""ControlNet at tiny size: diffusers' own networks, called as its pipeline calls them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from usd.core.errors import UserError
from usd.denoiser import ImageTextDenoiser, open_control_denoiser, open_text_denoiser
from usd.denoiser.architectures import ARCHITECTURES
from usd.denoiser.controlnet import ControlNetDenoiser
from usd.denoiser.rehearsal import rehearsal, write_stand_in

XT, T = torch.randn(2, 4, 8, 8), torch.tensor([30, 800])
MAPS = torch.rand(2, 3, 64, 64)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Stable Diffusion and a ControlNet, with random weights."""
    root = tmp_path_factory.mktemp("control")
    control = write_stand_in(ARCHITECTURES["controlnet-1"], root / "control")
    return write_stand_in(ARCHITECTURES["stable-diffusion-1"], root / "base"), control


def _open(folders: tuple[Path, Path], scale: float = 1.0) -> ControlNetDenoiser:
    model = open_control_denoiser(str(folders[0]), str(folders[1]), "here", scale=scale)
    assert isinstance(model, ControlNetDenoiser)
    return model


@pytest.fixture(scope="module")
def networks(folders: tuple[Path, Path]) -> tuple[Any, Any]:
    """diffusers' UNet and ControlNet of the same files."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folders[0] / "unet", torch_dtype=torch.float32)
    return unet.eval(), ControlNetModel.from_pretrained(folders[1], torch_dtype=torch.float32).eval()


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_its_residuals_are_added_to_the_unet_as_diffusers_does(
    folders: tuple[Path, Path], networks: tuple[Any, Any], scale: float
) -> None:
    model, (unet, control) = _open(folders, scale), networks
    words = model.embed_text(["a cup", "a red car"])
    with torch.no_grad():
        down, middle = control(
            XT, T, words.tokens, controlnet_cond=MAPS, conditioning_scale=scale, return_dict=False
        )
        truth = unet(
            XT,
            T,
            words.tokens,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
    found = model.eps(XT, T, model.with_image(words, MAPS))
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-4)
    assert float((found - model.eps(XT, T, words)).abs().max()) > 1e-4, "it follows the map"


def test_without_a_map_or_with_weight_zero_it_is_the_model_itself(folders: tuple[Path, Path]) -> None:
    plain, model = open_text_denoiser(str(folders[0]), "here"), _open(folders)
    words = plain.embed_text(["a cup", "a red car"])
    truth = plain.eps(XT, T, words)
    torch.testing.assert_close(model.eps(XT, T, model.with_image(words, None)), truth)
    silent = _open(folders, scale=0.0)
    torch.testing.assert_close(silent.eps(XT, T, silent.with_image(words, MAPS)), truth)


def test_maps_follow_their_rows_and_any_size_will_do(folders: tuple[Path, Path]) -> None:
    model = _open(folders)
    words = model.embed_text(["a cup", "a red car"])
    both = model.with_image(words, MAPS)
    backwards = model.eps(XT.flip(0), T.flip(0), both.select(torch.tensor([1, 0])))
    torch.testing.assert_close(backwards, model.eps(XT, T, both).flip(0), atol=1e-5, rtol=1e-4)
    assert both.control is not None
    large = model.with_image(words, torch.rand(2, 3, 100, 100)).control
    assert large is not None and large.shape == both.control.shape


def test_the_same_pair_is_one_object_and_another_kind_of_base_is_refused(folders: tuple[Path, Path]) -> None:
    assert _open(folders) is _open(folders)
    with pytest.raises(UserError, match="takes no ControlNet"):
        open_control_denoiser("gaussian", str(folders[1]), "here")


def test_the_published_controlnets_can_be_rehearsed() -> None:
    with rehearsal() as models:
        for control in ("controlnet-canny", "lllyasviel/control_v11p_sd15_normalbae"):
            model = open_control_denoiser("realistic-vision-2", control, "here")
            assert isinstance(model, ImageTextDenoiser)
            told = model.with_image(model.unconditional(2), MAPS)
            assert bool(model.eps(XT, T, told).isfinite().all())
        assert len(models.models) == 3
