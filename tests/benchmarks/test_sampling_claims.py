"""Bias, drift and rectified sampling, end to end with the analytic models; bad input is one line."""

from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.claims import bias, drift, rectified
from tests.tiny_configs import save_disc
from usd.core.errors import UserError
from usd.data.pictures import write_picture

MODELS = ["--zero123", "gaussian", "--stable-diffusion", "gaussian", "--objects", "2"]


def test_one_model_twice_has_no_difference_of_bias(tmp_path: Path) -> None:
    picture = save_disc(tmp_path / "disc.png")
    flags = [*MODELS, "--times", "3", "--draws", "4", "--image", str(picture), "--out", str(tmp_path)]
    said = bias.run(bias.arguments(flags))
    assert said.count("+0.000 ± 0.000") == 12 and "| all |" in said
    assert (tmp_path / "error.png").is_file() and (tmp_path / "systematic.png").is_file()


def test_a_model_that_expects_grey_lets_a_picture_drift_towards_it(tmp_path: Path) -> None:
    picture = save_disc(tmp_path / "disc.png")
    flags = [*MODELS, "--rounds", "3", "--levels", "0.05", "0.4", "--steps", "3", "--image", str(picture)]
    said = drift.run(drift.arguments([*flags, "--out", str(tmp_path)]))
    small, large = (float(line.split("|")[2].split("±")[0]) for line in said.splitlines()[4:6])
    assert small > large + 5
    assert (tmp_path / "levels.png").is_file() and (tmp_path / "rounds.gif").is_file()


def test_a_model_rectified_by_itself_samples_the_same_views(tmp_path: Path) -> None:
    flags = [*MODELS, "--scales", "3", "--steps", "2", "--views", "2", "--out", str(tmp_path)]
    said = rectified.run(rectified.arguments(flags))
    assert "| s = 3 | +0.00 ± 0.00, smaller than the noise | +0.000 ± 0.000" in said


@pytest.mark.parametrize(
    ("claim", "flags", "said"),
    [
        (bias, ["--max-step-percent", "1.5"], "timestep range"),
        (drift, ["--levels", "1.5"], "--levels: is 1.5; expected a share"),
        (rectified, ["--scales", "-1"], "--scales: -1 is out of range"),
        (bias, ["--stable-diffusion", "toybox-sd"], "do not share a latent space"),
        (drift, ["--image", "{empty}"], "nothing remains after removing the background"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, claim: ModuleType, flags: list[str], said: str) -> None:
    import torch

    empty = write_picture(tmp_path / "empty.png", torch.ones(3, 32, 32))
    given = [*MODELS, "--out", str(tmp_path), *(flag.replace("{empty}", str(empty)) for flag in flags)]
    with pytest.raises(UserError) as caught:
        claim.run(claim.arguments(given))
    assert said in str(caught.value) and "\n" not in str(caught.value)
