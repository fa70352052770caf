"""Prompts by direction, prompts by library name, and no model where none is needed."""

import pytest
import torch

from tests.conftest import TinyModels
from usd.core.config import UserError, spec
from usd.core.registry import build
from usd.denoiser import open_denoiser
from usd.math.camera import orbit_cameras_deg
from usd.prompt_processor.library import full_prompt, library
from usd.prompt_processor.stable_diffusion import DIRECTIONS, StableDiffusionPromptProcessor, direction_index


def _processor(**options: object) -> StableDiffusionPromptProcessor:
    return build(spec("prompt_processor", "stable-diffusion-prompt-processor", options))


@pytest.mark.parametrize(
    ("elevation", "azimuth", "direction"),
    [
        (0.0, 0.0, "front"),
        (0.0, 29.0, "front"),
        (0.0, -29.0, "front"),
        (0.0, 31.0, "side"),
        (0.0, 90.0, "side"),
        (0.0, 151.0, "back"),
        (0.0, 180.0, "back"),
        (0.0, -170.0, "back"),
        (0.0, 350.0, "front"),
        (61.0, 180.0, "overhead"),
        (59.0, 180.0, "back"),
    ],
)
def test_direction_of_a_camera(elevation: float, azimuth: float, direction: str) -> None:
    cameras = orbit_cameras_deg(elevation, azimuth, 1.5, 40.0, 8)
    assert DIRECTIONS[int(direction_index(cameras, 30.0, 30.0, 60.0))] == direction


def test_each_camera_is_told_its_direction(tiny: TinyModels) -> None:
    processor = _processor(
        pretrained_model_name_or_path=str(tiny.sd), prompt="a red car", negative_prompt="view"
    )
    cameras = orbit_cameras_deg([0.0, 0.0, 80.0], [180.0, 90.0, 0.0], 1.5, 40.0, 8)
    told = processor(cameras)
    model = open_denoiser(str(tiny.sd), "text", "x")
    by_hand = model.embed_text([f"a red car, {d} view" for d in ("back", "side", "overhead")])  # type: ignore[attr-defined]
    torch.testing.assert_close(told.cond.tokens, by_hand.tokens)  # type: ignore[attr-defined]
    torch.testing.assert_close(told.uncond.tokens, model.embed_text(["view"] * 3).tokens)  # type: ignore[attr-defined]


def test_without_view_words_all_cameras_are_told_the_same(tiny: TinyModels) -> None:
    processor = _processor(
        pretrained_model_name_or_path=str(tiny.sd), prompt="a red car", view_dependent_prompting=False
    )
    tokens = processor(orbit_cameras_deg(0.0, [0.0, 180.0], 1.5, 40.0, 8)).cond.tokens  # type: ignore[attr-defined]
    assert torch.equal(tokens[0], tokens[1])


def test_sentences_are_encoded_once(tiny: TinyModels, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = _processor(pretrained_model_name_or_path=str(tiny.sd), prompt="a red car")
    cameras = orbit_cameras_deg(0.0, 0.0, 1.5, 40.0, 8)
    first = processor(cameras)
    monkeypatch.setattr("usd.prompt_processor.stable_diffusion.open_denoiser", None)
    assert torch.equal(processor(cameras).cond.tokens, first.cond.tokens)  # type: ignore[attr-defined]


def test_making_one_loads_nothing() -> None:
    """Image-to-3D has a prompt processor that is never asked: a missing model must not matter."""
    _processor(pretrained_model_name_or_path="nobody/has-this-model", prompt="")


def test_an_empty_prompt_is_an_error_only_when_asked(tiny: TinyModels) -> None:
    processor = _processor(pretrained_model_name_or_path=str(tiny.sd), prompt=" ")
    with pytest.raises(UserError, match=r"system.prompt_processor.prompt: is empty"):
        processor(orbit_cameras_deg(0.0, 0.0, 1.5, 40.0, 8))


def test_library_prompts_by_their_words() -> None:
    known = ("a red toy car", "a blue toy boat", "a red boat")
    assert full_prompt("lib:blue_boat", known) == "a blue toy boat"
    assert full_prompt("a red car") == "a red car"
    with pytest.raises(
        UserError, match="2 library prompts fit, such as 'a red toy car' and 'a blue toy boat'"
    ):
        full_prompt("lib:toy", known)
    with pytest.raises(UserError, match="0 library prompts fit"):
        full_prompt("lib:green", known)
    with pytest.raises(UserError, match="0 library prompts fit"):
        full_prompt("lib:", known)


def test_shipped_library_prompts_differ() -> None:
    prompts = library()
    assert len(prompts) >= 20 and len(set(prompts)) == len(prompts)


def test_published_keys_are_accepted_and_misspelt_ones_named() -> None:
    config = spec(
        "prompt_processor",
        "stable-diffusion-prompt-processor",
        {"prompt": "x", "front_threshold": 30.0, "back_threshold": 30.0},
    ).config
    assert (config.front_threshold, config.overhead_threshold) == (30.0, 60.0)
    with pytest.raises(UserError, match="Did you mean 'front_threshold'"):
        spec("prompt_processor", "stable-diffusion-prompt-processor", {"front_treshold": 30.0})
