"""Models whose tokenizer is missing in part, or of another model: one line that names the folder."""

import json
import shutil
from pathlib import Path

import pytest

from usd.core.errors import UserError
from usd.core.places import resource
from usd.denoiser import Execution
from usd.denoiser.load import open_model


@pytest.fixture
def model(tmp_path) -> Path:
    """The embedded model, its weights by link."""
    source = resource("load/toybox/stable-diffusion")
    shutil.copytree(source, tmp_path / "model", copy_function=_linked)
    return tmp_path / "model"


def _linked(source: str, target: str) -> None:
    Path(target).symlink_to(source) if source.endswith(".safetensors") else shutil.copy(source, target)


def said(model: Path) -> str:
    with pytest.raises(UserError) as error:
        open_model(str(model), "text", "where", Execution()).embed_text(["a red mug", ""])  # type: ignore[attr-defined]
    assert str(error.value).startswith(str(model / "tokenizer"))
    return str(error.value)


def test_without_its_configuration(model):
    (model / "tokenizer" / "tokenizer_config.json").unlink()
    assert "its tokenizer_config.json is missing; expected the model's own" in said(model)


@pytest.mark.parametrize("text", ["", "[]", "5", '{"a":' * 2000])
def test_with_a_configuration_that_is_none(model, text):
    (model / "tokenizer" / "tokenizer_config.json").write_text(text)
    assert "cannot be read as a tokenizer" in said(model)


def test_with_a_configuration_that_says_too_little(model):
    (model / "tokenizer" / "tokenizer_config.json").write_text("{}")
    assert "its tokenizer_config.json says no pad_token" in said(model)


def test_with_words_that_the_text_encoder_does_not_know(model):
    file = model / "tokenizer" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pad_token": "<other>"}))
    assert "gives the number 96 to a word, of a text encoder that knows 96" in said(model)


def test_without_its_vocabulary(model):
    (model / "tokenizer" / "tokenizer.json").unlink()
    assert "cannot be read as a tokenizer" in said(model)
