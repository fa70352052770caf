"""The figures that explain the method show what the closed form says."""

import pytest

from benchmarks.how_it_works import Setting, descent, main


@pytest.mark.parametrize(
    ("setting", "settles"),
    [(Setting(1.0, 1.0), 1.0), (Setting(5.0, 0.0), 2.6), (Setting(5.0, 1.0), 1.97)],
)
def test_a_view_settles_where_the_gradient_vanishes_on_average(setting, settles):
    path = descent(setting, steps=80, draws=128)
    assert path[0] == 0
    assert sum(path[-20:]) / 20 == pytest.approx(settles, abs=0.15)


def test_a_biased_unconditional_prediction_moves_the_resting_place():
    fair, biased = (descent(Setting(5.0, 0.0, prior), steps=40, draws=128)[-1] for prior in (0.0, 0.6))
    assert fair - biased > 0.5


def test_both_figures_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.how_it_works.descent", lambda setting: [0.0, 0.5, 1.0])
    assert main(["--out", str(tmp_path)]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"how_it_works_pull.png", "how_it_works_descent.png"}
