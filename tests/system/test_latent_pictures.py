"""Pictures of rendered latents: decoded where a whole picture is there, rough in a window of one."""

from pathlib import Path

import pytest
import torch

import launch
from tests.tiny_configs import CONFIGS, command, trial
from usd.core.config import parse
from usd.core.errors import ConfigError
from usd.core.types import Render
from usd.data.pictures import over, read_rgba
from usd.denoiser import Denoiser, open_text_denoiser
from usd.material.no_material import NoMaterial
from usd.system.latent_pictures import LatentPictures, fit_latents, rough_pictures

ROOT = CONFIGS.parent


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return open_text_denoiser("toybox-sd", "here")


@pytest.fixture(scope="module")
def toy(model: Denoiser) -> torch.Tensor:
    """Return a toy's picture with straight alpha, (1, 4, 64, 64)."""
    rgba = read_rgba(ROOT / "load" / "images" / "car.png")[None]
    return torch.nn.functional.interpolate(rgba, (64, 64), mode="area")


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).square().mean().sqrt())


def test_latents_of_a_toy_are_shown_as_the_toy(model: Denoiser, toy: torch.Tensor) -> None:
    """A map of single pixels is off by .1; what goes through the autoencoder, by its own error."""
    picture = over(toy[0])[None]
    opacity = torch.ones(1, 1, 16, 16)
    shown = LatentPictures(model).decode(Render(model.encode(picture).detach(), opacity)).rgb
    small = torch.nn.functional.interpolate(picture, (16, 16), mode="area")
    assert shown.shape == (1, 3, 16, 16) and error(shown, small) < 0.03
    rough = rough_pictures(
        Render(model.encode(picture).detach(), opacity),
        NoMaterial(parse(NoMaterial.Config, {"n_output_dims": 4, "latent_autoencoder": "toybox"})),
    )
    assert error(shown, small) < error(rough.rgb, small) / 2


def test_the_object_is_cut_out_of_what_is_decoded(model: Denoiser, toy: torch.Tensor) -> None:
    """Premultiplied latents over those of white are the toy's; where nothing is, nothing is shown."""
    alpha = torch.nn.functional.interpolate(toy[:, 3:], (16, 16), mode="area")
    pictures = LatentPictures(model)
    latents = model.encode(over(toy[0])[None]).detach() - (1 - alpha) * pictures.white
    shown = pictures.decode(Render(latents, alpha, foreground=latents)).foreground
    assert shown is not None and bool((shown <= alpha + 1e-6).all()) and float(shown.min()) >= 0
    small = torch.nn.functional.interpolate(over(toy[0])[None], (16, 16), mode="area")
    assert error(shown + 1 - alpha, small) < 0.05


def test_an_affine_autoencoder_is_inverted_at_any_size() -> None:
    gaussian = open_text_denoiser("gaussian", "here")
    red = torch.tensor([0.8, 0.2, 0.1]).view(1, 3, 1, 1)
    latents = gaussian.encode(red.expand(1, 3, 64, 64)).detach()
    larger = torch.nn.functional.interpolate(latents, (40, 24))
    shown = LatentPictures(gaussian).decode(Render(larger, torch.ones(1, 1, 40, 24)))
    assert shown.rgb.shape == (1, 3, 40, 24) and float((shown.rgb - red).abs().max()) < 0.02


def test_a_window_shows_each_pixel_as_the_material_does(model: Denoiser) -> None:
    material = NoMaterial(parse(NoMaterial.Config, {"n_output_dims": 4}))
    latents, opacity = torch.randn(2, 4, 3, 5), torch.full((2, 1, 3, 5), 0.5)
    shown = rough_pictures(Render(latents, opacity, foreground=0.5 * latents), material)
    one = material.displayed(latents[1, :, 2, 4][None])[0]
    assert torch.equal(shown.rgb[1, :, 2, 4], one) and shown.foreground is not None
    assert torch.allclose(shown.foreground[1, :, 2, 4], 0.5 * one, atol=1e-6)


def test_channels_that_are_no_latents_are_refused(model: Denoiser) -> None:
    with pytest.raises(ConfigError, match="what is rendered has 3 channels; expected the 4"):
        fit_latents(torch.zeros(1, 3, 8, 8), model.latent)


def test_a_test_of_a_field_of_latents_opens_the_autoencoder_again(tmp_path: Path) -> None:
    quick = ["trainer.max_steps=1", "trainer.val_check_interval=0", "data.n_test_views=1"]
    assert launch.main(command("latent-nerf-mini.yaml", tmp_path, *quick)) == 0
    view = next(trial(tmp_path).folder.glob("save/it1-test/0.png"))
    trained = view.read_bytes()
    view.unlink()
    config = trial(tmp_path).folder / "configs" / "parsed.yaml"
    assert launch.main(["--config", str(config), "--test", f"resume={trial(tmp_path).last}"]) == 0
    assert view.read_bytes() == trained
