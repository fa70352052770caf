"""``usd benchmark``: every preset at tiny size on the CPU, and which of them suit a card."""

import json

import pytest
import torch

from usd.app import benchmark
from usd.app.benchmark import EMBEDDED, PRESETS, Measured, chosen_presets, fits, markdown_table
from usd.app.commands import PROGRAMS
from usd.app.step_meter import StepCost
from usd.core.errors import UserError

CPU = torch.device("cpu")
TINY = ["--tiny", "--gpu", "cpu", "--steps", "2", "--warm-up", "1"]


def test_a_table_of_tiny_steps_and_its_figures_in_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert benchmark.main([*TINY, "--preset", "24gb", "--json", "figures.json"]) == 0
    said = capsys.readouterr().out.splitlines()
    row = next(line for line in said if line.startswith("| 24gb "))
    assert "usd-patch" in row and " GiB " in row and "warp-lang " in "".join(said)
    found = json.loads((tmp_path / "figures.json").read_text())["rows"][0]
    assert found["cost"]["slow_seconds"] >= found["cost"]["seconds"] > 0
    assert 0.05 < found["cost"]["unet_share"] < 0.95, "three UNet calls a step, and more than those"
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"], "the trial is gone"


def test_a_card_that_is_too_small_is_a_row_and_exit_code_one(monkeypatch, capsys):
    def run_out(*_):
        raise UserError("out of GPU memory: add a preset")

    monkeypatch.setattr(benchmark, "train_measured", run_out)
    assert benchmark.main([*TINY, "--preset", "mini", "--preset", "8gb"]) == 1
    *_, mini, row, first, second = capsys.readouterr().out.splitlines()
    assert "| failed " in mini and "| failed " in row
    assert (first, second) == tuple(f"{name}: out of GPU memory: add a preset" for name in ("mini", "8gb"))


def test_what_is_mistyped_is_an_error_and_no_row(capsys):
    assert benchmark.main([*TINY, "--preset", "12bg"]) == 2
    assert "12gb" in capsys.readouterr().err
    assert benchmark.main([*TINY, "--preset", "mini", "system.loss.lambda_sparsty=1"]) == 2
    assert "lambda_sparsity" in capsys.readouterr().err
    assert benchmark.main(["--steps", "0"]) == 2


@pytest.mark.parametrize(
    ("gibibytes", "presets"),
    [(7.6, ["8gb"]), (11.8, ["8gb", "12gb"]), (23.6, ["8gb", "12gb", "24gb", "24gb-compiled"]), (4, [])],
)
def test_a_card_shows_a_little_less_than_it_is_sold_as(gibibytes, presets):
    assert [name for name, preset in PRESETS.items() if fits(preset, gibibytes)] == presets


def test_a_cpu_measures_the_embedded_models_and_warns_of_the_others(capsys):
    assert chosen_presets(None, CPU, tiny=False) == EMBEDDED == ["mini", "mini-text"]
    assert chosen_presets(["8gb", "8gb"], CPU, tiny=False) == ["8gb"]
    assert "a step takes a minute" in capsys.readouterr().out
    with pytest.raises(UserError, match="no such preset"):
        chosen_presets(["huge"], CPU, tiny=True)


def test_a_failed_preset_says_why_in_the_table():
    cost = StepCost(0.1, 0.2, 0.05, 0.5, 2**30, 2**31)
    rows = [benchmark.HEAD, Measured("a", "r", cost).cells(), Measured("b", "r", failure="out of").cells()]
    lines = markdown_table(rows)
    assert len({len(line) for line in lines}) == 1 and "1.0 GiB (2.0 reserved)" in lines[2]
    assert "| 100 " in lines[2] and "| 50 %" in lines[2] and "| failed" in lines[3]
    assert "benchmark" in PROGRAMS
