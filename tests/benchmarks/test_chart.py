"""Charts and animations of the benchmarks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.chart import (
    COLORS,
    Axes,
    Line,
    Point,
    line_chart,
    scatter_chart,
    write_animation,
    write_image,
)

RED = Image.new("RGB", (4, 3), "red")


def test_what_is_written_is_returned_and_is_there(tmp_path: Path) -> None:
    for path in (
        write_image(tmp_path / "one.png", RED),
        write_animation(tmp_path / "two.gif", [RED, RED.rotate(180)]),
    ):
        assert path.parent == tmp_path and Image.open(path).size == (4, 3)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.png", "two.gif"]


@pytest.mark.parametrize(("level", "half"), [(2.9, "lower"), (0.1, "upper")])
def test_the_legend_keeps_out_of_the_curve_s_way(level: float, half: str) -> None:
    lines = [Line("flat", [level] * 5, [0.0] * 5), Line("scale", [0, 3, 1.5, 1.5, 1.5], [0.0] * 5)]
    pixels = np.asarray(line_chart(Axes("", "", ""), range(5), lines)).astype(int)
    color = np.array([int(COLORS[1][i : i + 2], 16) for i in (1, 3, 5)])
    rows = np.nonzero((np.abs(pixels[:, 358:370] - color).max(-1) < 12).all(1))[0]
    assert len(rows) > 0
    assert ("upper" if rows.mean() < len(pixels) / 2 else "lower") == half


def test_a_scatter_chart_has_its_points_where_they_belong() -> None:
    groups = {"a": [Point(-0.8, -2.0, 0.5), Point(0.8, 2.0, 0.5)], "b": [Point(0.0, 0.0, 0.0)]}
    image = np.asarray(scatter_chart(Axes("title", "x", "y"), groups)).astype(int)
    centers = []
    for color in COLORS[:2]:
        wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
        rows, columns = np.nonzero(np.abs(image - wanted).max(-1) < 12)
        centers.append((rows[columns > 90], columns[columns > 90]))  # the legend is further left
    (rows, columns), (row, column) = centers
    left, right = columns < column.mean(), columns > column.mean()
    assert rows[left].mean() > row.mean() > rows[right].mean()
    assert columns[right].mean() - column.mean() == pytest.approx(column.mean() - columns[left].mean(), abs=3)
