"""Curves of a training: read from its logs, in a fixed order, drawn into a fixed box."""

import pytest

from usd.report.curves import HEIGHT, WIDTH, Curve, chart_data, read_curves


def write_log(trial, version, text):
    file = trial / "csv_logs" / f"version_{version}" / "metrics.csv"
    file.parent.mkdir(parents=True)
    file.write_text(text)


def test_what_a_resumed_training_repeats_counts_as_it_was_the_last_time(tmp_path):
    """Ten logs: version_10 is later than version_9, whatever the alphabet says."""
    write_log(tmp_path, 9, "step,train/loss\n0,9\n1,9\n2,9\n")
    write_log(tmp_path, 10, "step,train/loss\n2,1\n3,1\n")
    (curve,) = read_curves(tmp_path)
    assert (curve.steps, curve.values) == ([0, 1, 2, 3], [9.0, 9.0, 1.0, 1.0])


def test_the_loss_comes_first_then_its_parts_then_measures(tmp_path):
    names = ["t", "opacity", "rgb", "loss", "grad_norm", "mask", "max_step"]
    header = "step,epoch," + ",".join(f"train/{name}" for name in names) + ",val/psnr\n"
    write_log(tmp_path, 0, header + "".join(f"{step},0,{','.join(['1'] * 8)}\n" for step in range(3)))
    assert [curve.name for curve in read_curves(tmp_path)] == ["loss", "mask", "rgb", "grad_norm", "opacity"]


def test_gaps_and_infinities_are_left_out_and_one_point_is_no_curve(tmp_path):
    write_log(tmp_path, 0, "step,train/loss,train/rgb\n0,1,inf\n1,,2\n2,3,\n3,nan,\n")
    (curve,) = read_curves(tmp_path)
    assert (curve.name, curve.steps, curve.values) == ("loss", [0, 2], [1.0, 3.0])


def test_without_logs_there_are_no_curves(tmp_path):
    assert read_curves(tmp_path) == []


def places(points):
    return [tuple(map(float, pair.split(","))) for pair in points.split()]


def test_a_curve_fills_its_box():
    curve = Curve("loss", [10, 15, 20], [2.0, 4.0, 3.0])
    assert places(curve.points) == [(0.0, HEIGHT), (WIDTH / 2, 0.0), (WIDTH, HEIGHT / 2)]


def test_a_curve_that_spans_decades_is_drawn_by_its_logarithm():
    curve = Curve("loss", [0, 1, 2], [1000.0, 10.0, 0.1])
    assert curve.is_logarithmic
    assert places(curve.points) == [(0.0, 0.0), (WIDTH / 2, HEIGHT / 2), (WIDTH, HEIGHT)]
    assert not Curve("loss", [0, 1], [1000.0, 0.0]).is_logarithmic, "zero has no logarithm"


@pytest.mark.parametrize("values", [[5.0, 5.0], [0.0, 0.0], [-3.0, -3.0]])
def test_a_curve_that_never_changes_is_a_line(values):
    found = places(Curve("loss", [0, 1], values).points)
    assert [x for x, _ in found] == [0.0, WIDTH] and len({y for _, y in found}) == 1


def test_curves_in_one_box_share_its_axes():
    short = Curve("loss", [0, 5], [1.0, 2.0])
    assert places(short.line((0, 10), (0.0, 4.0))) == [(0.0, 0.75 * HEIGHT), (WIDTH / 2, HEIGHT / 2)]


def test_a_script_gets_five_digits():
    (data,) = chart_data([Curve("loss", [0, 1], [1 / 3, 2e-9])])
    assert data == {"name": "loss", "x": [0, 1], "y": [0.33333, 2e-9], "log": True}
