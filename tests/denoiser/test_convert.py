"""The converter: one published form to another and back, bit by bit."""

from pathlib import Path

import pytest

from tests.denoiser.published_models import FAMILIES, same, tiny_model, tokenizer, zero_plain_weights
from usd.denoiser.components import PROJECTION, MemoryComponents, open_components
from usd.denoiser.convert import main
from usd.denoiser.published import write_single_file


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_is_the_same_model(family: str, tmp_path: Path) -> None:
    """A raw checkpoint to a folder, the folder to a single file: every tensor and every configuration that matters."""
    truth = tiny_model(family)
    raw = zero_plain_weights(write_single_file(truth, tmp_path / "raw.ckpt"))
    if family != "zero123":
        tokenizer(tmp_path / "tokenizer")
    folder, again = tmp_path / "folder", tmp_path / "again.safetensors"
    assert main([str(raw), str(folder), "--layout", "cc_projection"]) == 0
    assert main([str(folder), str(again)]) == 0
    for place in (folder, again):
        parts = open_components(place)
        same(parts, truth)
        for part in ("unet", "vae"):
            wanted = truth.config(part)
            assert {key: parts.config(part)[key] for key in wanted} == wanted
        assert parts.config("scheduler")["prediction_type"] == truth.config("scheduler")["prediction_type"]
    assert (folder / "tokenizer/vocab.json").is_file() == (family != "zero123")
    assert (folder / "cc_projection").is_dir() == (family == "zero123")


def test_what_the_file_does_not_say_can_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = tiny_model("zero123")
    raw = write_single_file(truth, tmp_path / "raw.safetensors")
    told = ["--stable-zero123", "--prediction", "v_prediction", "--half"]
    assert main([str(raw), str(tmp_path / "folder"), *told]) == 0
    parts = open_components(tmp_path / "folder")
    assert parts.config(PROJECTION)["fourth_number"] == "input-polar"
    assert parts.config("scheduler")["prediction_type"] == "v_prediction"
    half = {part: {n: x.half() for n, x in w.items()} for part, w in truth.weights.items()}
    same(parts, MemoryComponents(truth.configs, half))
    said = capsys.readouterr().out
    assert f"camera_projection {24 * 28 + 24:,}" in said and "v_prediction" in said


def test_nothing_is_overwritten_unasked_and_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write_single_file(tiny_model("zero123"), tmp_path / "raw.safetensors")
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"precious")
    wrong = {
        (str(raw), str(out)): "is there already",
        (str(raw), str(raw), "--overwrite"): "is the model itself",
        (str(tmp_path / "none.ckpt"), str(tmp_path / "new")): "there is no file",
        ("gaussian", str(tmp_path / "new")): "is a formula without weights",
        (str(out), str(tmp_path / "new")): "is no file of weights",
    }
    for arguments, line in wrong.items():
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert line in said and said.count("\n") == 1 and said.startswith("error: ")
    assert out.read_bytes() == b"precious" and not (tmp_path / "new").exists()
    assert main([str(raw), str(out), "--overwrite"]) == 0
    same(open_components(out), tiny_model("zero123"))


@pytest.mark.parametrize("out", ["toy.safetensors", "toy"])
def test_an_embedded_model_has_no_published_form(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["toybox-zero123", str(tmp_path / out)]) == 2
    said = capsys.readouterr().err
    assert "load/toybox/zero123" in said and said.count("\n") == 1 and not (tmp_path / out).exists()
