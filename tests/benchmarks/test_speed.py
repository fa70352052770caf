"""The benchmark of speed: its record fits its parts, it goes on where it stopped, and its tables say what was reached."""

import json

import pytest

from benchmarks import scaling, speed, speed_parts
from benchmarks.runs import Ledger, command
from benchmarks.scaling import AXES, growth
from benchmarks.speed import ALL, RECORD, fill, target_cells, target_table
from usd.core.errors import UserError

FIGURES = json.loads(RECORD.read_text())["figures"]


def test_every_figure_of_the_record_belongs_to_a_part_and_says_what_it_counts():
    assert {known["part"] for known in FIGURES.values()} == set(speed_parts.PARTS)
    for name, known in FIGURES.items():
        assert set(known) <= {"part", "unit", "before", "target"} and known["unit"], name


def test_what_is_measured_is_kept_and_measured_again_only_as_another_run(tmp_path, monkeypatch, capsys):
    calls = []

    def measure():
        calls.append(len(calls))
        return {"SSIM, 4 pictures of 512 px": 100.0 + 300 * len(calls)}

    monkeypatch.setitem(ALL, "ssim", measure)
    words = ["ssim", "--out", str(tmp_path)]
    for more in ([], [], ["--run", "2"]):
        assert command(lambda more=more: speed.run([*words, *more])) == 0
    assert calls == [0, 1]
    row = next(line for line in capsys.readouterr().out.splitlines()[::-1] if line.startswith("| SSIM"))
    assert row == "| SSIM, 4 pictures of 512 px | CPU ms | 569 | 400, 700 | 285 | **missed** |"


def test_a_part_that_does_not_exist_is_named_with_the_nearest():
    with pytest.raises(UserError, match=r"ray: no such part\. Did you mean 'rays'"):
        speed.chosen_parts(["ray"])
    assert speed.chosen_parts([]) == list(ALL)


def test_a_target_is_reached_when_every_run_reaches_it():
    known = {"before": 8.6, "target": 0.86}
    assert target_cells(known, [0.5, 0.8]).endswith("reached")
    assert target_cells(known, [0.5, 0.9]).endswith("**missed**")
    assert target_cells({"before": 99}, [50.0]) == "99 | 50 |  | "


def test_a_table_has_no_row_for_what_is_not_measured(tmp_path):
    assert target_table(FIGURES, Ledger(tmp_path)).count("\n") == 1


def test_growth_is_the_exponent_of_the_last_two_sizes():
    assert growth((10, 100, 200), (9.0, 5.0, 20.0)) == pytest.approx(2.0)


def test_a_table_of_growth_has_costs_by_size():
    sizes = AXES["scale-batch"].sizes
    runs = {part: [] for part in AXES} | {
        "scale-batch": [{"CPU s": [0.1 * size for size in sizes], "GiB": [0.5 for _ in sizes]}]
    }
    *_, row = scaling.tables(runs).splitlines()
    assert row == "| views a step | 1, 2, 4 | 0.1, 0.2, 0.4 | 1.00 | 0.50, 0.50, 0.50 |"


def test_only_the_place_of_a_table_is_written(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- targets -->\nold\n<!-- end targets -->\nb\n")
    fill(page, "targets", "new")
    fill(page, "targets", "newer")
    assert page.read_text() == "a\n<!-- targets -->\nnewer\n<!-- end targets -->\nb\n"


def test_medians_of_a_call_are_its_own_time():
    cost = speed_parts.timed(lambda: sum(range(20_000)), 3)
    assert 0 < cost.cpu < 1 and 0 < cost.wall < 10


def test_memory_at_most_grows_with_what_is_held():
    before = speed_parts.peak_memory()
    held = bytearray(before)  # as much again
    assert speed_parts.peak_memory() > before + len(held) // 2


def test_a_ball_is_closed_and_fills_the_unit_cube(monkeypatch):
    monkeypatch.setitem(speed_parts.LATTICES, 20_000, 12)
    vertices, faces = speed_parts.bumpy_ball(20_000)
    assert len(vertices) - len(faces) / 2 == 2
    assert float(vertices.min()) == 0.0 and float(vertices.max()) == 1.0


def test_what_runs_elsewhere_says_its_own_memory(monkeypatch):
    elsewhere, here = ({"CPU s": 1.0, "GiB": 7.0}, {"CPU s": 2.0})
    monkeypatch.setitem(AXES, "scale-objects", scaling.Axis("objects", (1,), lambda size: elsewhere))
    monkeypatch.setitem(AXES, "scale-views", scaling.Axis("views", (1,), lambda size: here))
    assert scaling.measured_here("scale-objects", 1) == elsewhere
    measured = scaling.measured_here("scale-views", 1)
    assert measured["CPU s"] == 2.0 and measured["GiB"] >= 0
