"""What claims share: models known by their weights, a place in the page, flags that say what is wrong."""

import shutil
from pathlib import Path

import pytest

from benchmarks.claims import shared
from tests.conftest import TinyModels
from usd.core.errors import UserError
from usd.denoiser import open_text_denoiser


def test_a_model_is_known_by_its_weights(tiny: TinyModels, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny.sd, copy)
    mark = shared.model_mark(open_text_denoiser(str(copy), "x"))
    assert mark == shared.model_mark(open_text_denoiser(str(tiny.sd), "x"))
    weights = next((copy / "unet").glob("*.safetensors"))
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(bytes(changed))
    assert shared.model_mark(open_text_denoiser(str(copy), "x")) != mark


def test_text_is_put_between_its_own_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "claims.md"
    page.write_text("a\n<!-- claim: x -->\nold\n<!-- end: x -->\nb\n")
    shared.publish("x", "new\n", page)
    shared.publish("x", "newer\n", page)
    assert page.read_text() == "a\n<!-- claim: x -->\nnewer\n<!-- end: x -->\nb\n"
    with pytest.raises(UserError, match="no place for 'y'"):
        shared.publish("y", "text", page)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--objects", "0"], "--objects: is 0"),
        (["--first-seed", "3"], "--first-seed: is 3; expected the test"),
    ],
)
def test_wrong_flags_are_one_line(flags: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        shared.checked(shared.parser("", "x").parse_args(flags))
