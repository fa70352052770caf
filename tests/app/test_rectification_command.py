"""``usd evaluate rectification``: what it prints, the file that a training takes, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch

from tests.tiny_configs import save_disc
from usd.app import commands
from usd.app.experiment import load_experiment
from usd.app.rectification_command import RectificationAnswer, advice, curve_table, main
from usd.core.loading import find_config
from usd.guidance.usd import UsdGuidance

GAUSSIAN = [
    f"system.guidance.{key}=gaussian"
    for key in ("zero123_model_name_or_path", "pretrained_model_name_or_path")
]
MODELS = ["--config", "usd-patch-mini", *GAUSSIAN, "--levels", "3", "--draws", "2"]
TIMES = (100, 500, 900)


def answer(own: float, shared: float, scale: float = 3.0, lambda_: float = 1.0) -> RectificationAnswer:
    """Six sights of a condition with error 1, an own prediction of this size that shares so much, a base of size 1."""
    one = torch.tensor([[1.0, shared, 0.0], [shared, own**2, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    some = 1 + 0.01 * torch.arange(6, dtype=torch.float64)
    return RectificationAnswer(some[:, None, None, None] * one.expand(6, 3, 3, 3), TIMES, scale, lambda_)


def said(some: RectificationAnswer) -> str:
    return advice(some, some.schedule(1000))


def test_the_advice_follows_the_sign_of_the_gain() -> None:
    assert "errs 48% (± 0%) less than plain guidance: system.guidance.unconditional=prior" in said(
        answer(2.0, 0.0)
    )
    shares = said(answer(1.2, 1.0))
    assert "more than plain guidance: system.guidance.unconditional=own" in shares
    assert "not told apart here" in said(answer(1.0, 0.0))


def test_the_advice_says_from_which_scale_on_rectification_pays() -> None:
    some = answer(2.0, 0.8)  # A = 3, C = .8: 3 / 1.4
    assert "rectification pays above s = 2.1, by these errors" in said(some)
    assert some.gain(2.0)[0] < 0 < some.gain(2.3)[0]
    assert "pays" not in said(answer(2.0, 0.8, lambda_=0.0))


def test_the_mixture_is_the_best_one_and_is_what_the_options_are_given() -> None:
    some = answer(1.0, 0.0)
    assert some.shares == (0.5, 0.5, 0.5)
    assert some.mixed_gain() == pytest.approx(1 - (9 + 4 * 0.5) / (9 + 4), rel=1e-6)
    assert "own_share=[100, 0.5, 0.5, 500, 0.5, 900]'" in said(some)
    assert curve_table(some).splitlines()[-1].split("|")[-1].strip() == "0.50"


def test_one_model_twice_is_not_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disc = str(save_disc(tmp_path / "disc.png"))
    given = ["evaluate", "rectification", disc, *MODELS, "--json", str(tmp_path / "a.json")]
    assert commands.main([*given, "--write", str(tmp_path / "mix.yaml")]) == 0
    out = capsys.readouterr().out
    assert "gaussian against gaussian" in out and "not told apart here (+0% ± 0%)" in out
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures["gain"] == 0 and len(figures["moments"]) == 3 and figures["scale"] == 2.0
    recipe = [find_config("usd-patch-mini"), tmp_path / "mix.yaml"]
    guidance = load_experiment(recipe)[0].system.config.guidance.config
    assert isinstance(guidance, UsdGuidance.Config)
    assert guidance.unconditional == "mixed" and guidance.own_share(500) == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["disc.png", "--levels", "1"], "--levels, --draws: are 1, 4; expected at least 2 and 1"),
        (["disc.png", "--config", "reconstruct"], "--config: expected a recipe from a picture"),
        (["none.png", *MODELS], "PICTURE: none.png"),
        (["disc.png", "--config", "usd-pach"], "Did you mean 'usd-patch'?"),
        (["disc.png", *MODELS, "system.guidance.own_share=2"], "own_share"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_disc(tmp_path / "disc.png")
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_embedded_models_are_judged_on_a_toy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from usd.app.toys import write_toy
    from usd.toybox.objects import make_toy

    write_toy(make_toy(1_000_100), tmp_path, 1, 64)
    given = [
        "--config",
        "usd-patch-mini",
        "--levels",
        "4",
        "--draws",
        "1",
        "system.guidance.guidance_scale=5",
    ]
    assert main([str(tmp_path / "input.png"), *given]) == 0
    out = capsys.readouterr().out
    assert "toybox-zero123 against toybox-sd" in out and "more than plain guidance" in out
