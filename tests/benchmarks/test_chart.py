"""Charts and animations of the benchmarks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.chart import COLORS, Axes, Line, line_chart, write_animation, write_image

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
