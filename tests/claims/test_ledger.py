"""The ledger measures once, forgets what was measured otherwise, and knows when a difference is noise."""

import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.claims import ledger as book
from tests.conftest import TinyModels
from usd.core.errors import UserError
from usd.denoiser import open_denoiser

RNG = torch.Generator().manual_seed(0)


def test_figures_are_measured_once_for_a_subject_and_its_settings(tmp_path: Path) -> None:
    ledger, calls = book.Ledger(tmp_path), []

    def measure() -> book.Figures:
        calls.append(1)
        return {"psnr": 20.0 + len(calls), "curve": [1.0, 2.0]}

    first = ledger.figures("a", {"scale": 2.0}, measure)
    assert ledger.figures("a", {"scale": 2.0}, measure) == first == {"psnr": 21.0, "curve": [1.0, 2.0]}
    assert ledger.figures("a", {"scale": 3.0}, measure)["psnr"] == 22.0
    assert ledger.figures("b", {"scale": 2.0}, measure)["psnr"] == 23.0
    assert len(calls) == 3


def test_a_measurement_that_was_cut_off_leaves_nothing(tmp_path: Path) -> None:
    ledger = book.Ledger(tmp_path)

    def broken() -> book.Figures:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.figures("a", {}, broken)
    assert ledger.known("a", {}) is None


def test_a_shift_common_to_all_objects_is_sure_however_much_objects_differ() -> None:
    base = (10 * torch.randn(12, generator=RNG)).tolist()
    shifted = [value + 0.5 + 0.1 * (-1) ** i for i, value in enumerate(base)]
    found = book.paired(shifted, base)
    assert found.sure and found.mean == pytest.approx(0.5) and found.words() == "+0.50 ± 0.03"


def test_unrelated_numbers_are_called_noise_about_nineteen_times_in_twenty() -> None:
    draws = torch.randn(2000, 2, 12, generator=RNG).tolist()
    sure = sum(book.paired(a, b).sure for a, b in draws) / len(draws)
    assert 0.03 < sure < 0.07
    assert book.paired([1.0], [0.0]).words().endswith("smaller than the noise"), "one object says nothing"


def test_the_table_pairs_only_objects_that_both_settings_have() -> None:
    rows = {
        "plain": {"1": {"psnr": 10.0}, "2": {"psnr": 30.0}, "3": {"psnr": 90.0}},
        "better": {"1": {"psnr": 11.0}, "2": {"psnr": 31.5}},
    }
    lines = book.table(rows, [book.Column("psnr", "PSNR, dB", 1)], "plain").splitlines()
    assert lines[0] == "| setting | objects | PSNR, dB | minus plain |"
    assert lines[2] == "| plain | 3 | 43.3 ± 41.6 | - |"
    assert lines[3] == "| better | 2 | 21.2 ± 14.5 | +1.2 ± 0.2, smaller than the noise |"


def test_a_model_is_known_by_its_weights(tiny: TinyModels, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny.sd, copy)
    mark = book.model_mark(open_denoiser(str(copy), "text", "x"))
    assert mark == book.model_mark(open_denoiser(str(tiny.sd), "text", "x"))
    weights = next((copy / "unet").glob("*.safetensors"))
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(bytes(changed))
    assert book.model_mark(open_denoiser(str(copy), "text", "x")) != mark


def test_text_is_put_between_its_own_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "claims.md"
    page.write_text("a\n<!-- claim: x -->\nold\n<!-- end: x -->\nb\n")
    book.publish("x", "new\n", page)
    book.publish("x", "newer\n", page)
    assert page.read_text() == "a\n<!-- claim: x -->\nnewer\n<!-- end: x -->\nb\n"
    with pytest.raises(UserError, match="no place for 'y'"):
        book.publish("y", "text", page)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--objects", "0"], "--objects: is 0"),
        (["--first-seed", "3"], "--first-seed: is 3; expected the test"),
    ],
)
def test_wrong_flags_are_one_line(flags: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        book.checked(book.parser("", "x").parse_args(flags))
