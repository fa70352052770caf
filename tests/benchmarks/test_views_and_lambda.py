"""The claims about viewing angles, lambda and the estimated elevation: their arithmetic, their commands, their mistakes."""

import re

import pytest
import torch

from benchmarks import runs
from benchmarks.claims import __main__ as everything
from benchmarks.claims import elevation, irregular_views, lambda_analysis
from tests.tiny_configs import SIZES, VOLUME
from usd.core.errors import UserError

TINY = ["--objects", "1", "--zero123", "gaussian", "--stable-diffusion", "gaussian"]
SHORT = [*SIZES, *VOLUME, "trainer.max_steps=1"]


def test_true_elevations_fill_the_range_evenly_however_many_there_are():
    for count in (12, 48):
        found = torch.tensor([elevation.true_elevation(i) for i in range(count)]).sort().values
        assert -20 <= found[0] < found[-1] <= 70
        assert found.diff().max() < 2.7 * 90 / count


@pytest.mark.parametrize(
    ("setting", "even", "odd"),
    [
        ("given", "40", "40"),
        ("off by 15", "55", "25"),
        ("off by 30", "70", "10"),
        ("estimated", "auto", "auto"),
        ("assumed 30", "30", "30"),
    ],
)
def test_what_a_run_is_told(setting, even, odd):
    assert irregular_views.assumed(setting, 40.0, 0) == even
    assert irregular_views.assumed(setting, 40.0, 1) == odd


def test_saturation_is_that_of_hsv_inside_the_object():
    red, grey = torch.tensor([0.8, 0.2, 0.2]), torch.tensor([0.5, 0.5, 0.5])
    rgba = torch.cat([grey.view(1, 3, 1, 1).expand(1, 3, 4, 4), torch.ones(1, 1, 4, 4)], 1).clone()
    assert lambda_analysis.saturation(rgba) == 0
    rgba[:, :3, :2] = red.view(1, 3, 1, 1)
    assert lambda_analysis.saturation(rgba) == pytest.approx(0.375)
    rgba[:, 3, 2:] = 0
    assert lambda_analysis.saturation(rgba) == pytest.approx(0.75)
    rgba[:, 3] = 0
    assert lambda_analysis.saturation(rgba) == 0


def test_elevation_is_measured_once_and_summed_up(tmp_path, monkeypatch):
    args = elevation.arguments(["--ways", "auto", "always 15", "--objects", "3", "--out", str(tmp_path)])
    text = elevation.run(args)
    assert re.search(r"\| auto \| 3 \| [\d.]+ \|", text)
    assert (tmp_path / "scatter.png").is_file()
    assert (tmp_path / "sheet.png").is_file()

    def measured_again(*arguments):
        raise AssertionError("kept figures are read")

    monkeypatch.setattr(elevation, "estimate", measured_again)
    assert elevation.run(args) == text


def test_a_model_that_assumes_nothing_has_nothing_to_be_told(tmp_path):
    with pytest.raises(UserError, match="'told' is for a model that is told the elevation"):
        elevation.run(elevation.arguments([*TINY, "--out", str(tmp_path)]))


@pytest.mark.slow
def test_irregular_views_from_one_end_to_the_other(tmp_path):
    argv = [*TINY, "--settings", "estimated", "--out", str(tmp_path / "irregular"), *SHORT]
    args, bench = irregular_views.arguments(argv)
    text = irregular_views.run(args, bench)
    assert re.search(r"\| estimated \| 1 \| [\d.]+ ± 0.00 \| - \|", text)
    assert (tmp_path / "irregular" / "sheet.png").is_file()
    assert (tmp_path / "irregular" / "table.md").read_text().strip() == text.strip()


def test_lambda_is_what_differs_between_the_runs_of_an_object(tmp_path):
    args, trials = lambda_analysis.arguments([*TINY, "--out", str(tmp_path), "system.loss.lambda_usd=2"])
    for task in args.task:
        seed = runs.toy_seeds(1)[0]
        one, other = (lambda_analysis.settings(trials, task, seed, value) for value in (1.0, 0.2))
        assert [(a, b) for a, b in zip(one, other, strict=True) if a != b] == [
            ("system.guidance.lambda=1", "system.guidance.lambda=0.2")
        ]
        launch = trials.launch("lambda/run", lambda_analysis.TASKS[task].config, one)
        assert launch.overrides == (*one, "system.loss.lambda_usd=2")


@pytest.mark.parametrize(
    ("parse", "argv", "message"),
    [
        (lambda_analysis.arguments, ["--lambdas", "1", "-0.5"], "--lambdas: has -0.5; expected 0 and up"),
        (lambda_analysis.arguments, ["--nonsense=1"], "--nonsense=1: expected a flag of this command"),
        (irregular_views.arguments, ["--nonsense"], "--nonsense: expected a flag of this command"),
        (irregular_views.arguments, ["--objects", "0"], "--objects: is 0"),
        (elevation.arguments, ["--first-seed", "3"], "--first-seed: is 3; expected the test split"),
        (everything.main, ["--only", "nothing"], "--only: there is no claim 'nothing'"),
        (everything.main, ["--jobs", "0"], "expected 1 or more"),
    ],
)
def test_mistakes_are_said_in_one_line(parse, argv, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse(argv)


def test_all_claims_fit_into_eight_hours_and_each_is_a_command(capsys):
    assert everything.main(["--list"])
    said = capsys.readouterr().out
    assert all(claim.name in said for claim in everything.CLAIMS)
    assert float(re.search(r"about ([\d.]+) hours with 2", said)[1]) <= 8
    assert all(claim.file.is_file() for claim in everything.CLAIMS)


def test_every_claim_is_run_and_one_that_fails_is_told(tmp_path, monkeypatch, capsys):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("import sys; print(sys.argv)")
    (tmp_path / "same.py").write_text("import sys; print(sys.argv)")
    bad.write_text("raise SystemExit(1)")
    monkeypatch.setattr(everything, "HERE", tmp_path)
    claims = (everything.Claim("good", "?", 1), everything.Claim("bad", "?", 1))
    claims += (everything.Claim("same_3d", "?", 1, ("--in-3d",), "same"),)
    monkeypatch.setattr(everything, "CLAIMS", claims)
    assert not everything.main(["--out", str(tmp_path / "out"), "--objects", "2"])
    said = capsys.readouterr().out
    assert "good: done" in said
    assert "bad: failed, see" in said
    assert "'--objects', '2'" in (tmp_path / "out" / "good" / "log.txt").read_text()
    assert "'--in-3d', '--objects', '2'" in (tmp_path / "out" / "same_3d" / "log.txt").read_text()
    assert everything.main(["--out", str(tmp_path / "out"), "--only", "good"])
