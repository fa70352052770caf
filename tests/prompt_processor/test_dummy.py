"""The prompt processors that are no more than a name: no prompt at all, and another default model."""

import pytest

from tests.conftest import TinyModels
from usd.core.config import parse
from usd.core.errors import UserError
from usd.core.registry import find
from usd.denoiser import open_text_denoiser
from usd.math.camera import orbit_cameras_deg
from usd.prompt_processor import PromptProcessor


def _made(name: str, options: dict[str, object]) -> PromptProcessor:
    cls = find(PromptProcessor, name)
    return cls(parse(cls.Config, options, "system.prompt_processor"))


def test_a_dummy_has_no_prompt_and_says_so_where_one_is_needed(tiny: TinyModels) -> None:
    dummy = _made("dummy-prompt-processor", {"prompt": "a cup"})
    assert dummy.negative == "" and dummy.unused_options() == ["prompt"]
    model = open_text_denoiser(str(tiny.sd), "here")
    assert dummy.unconditional(model, 2).tensors()["tokens"].equal(model.unconditional(2).tensors()["tokens"])
    with pytest.raises(UserError, match="has no prompt for this guidance"):
        dummy(orbit_cameras_deg(0.0, 0.0, 1.5, 40.0, 8))


def test_deep_floyds_processor_differs_in_its_default_model_only() -> None:
    ours, theirs = _made("deep-floyd-prompt-processor", {}), _made("stable-diffusion-prompt-processor", {})
    one, other = vars(ours.config), vars(theirs.config)
    assert {key for key in one if one[key] != other[key]} == {"pretrained_model_name_or_path"}
    assert one["pretrained_model_name_or_path"] == "deep-floyd-if"
