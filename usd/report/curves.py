"""Curves of a training: figures by step from its CSV logs, thinned, for charts and for pages without scripts."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POINTS = 300
"""Points of a curve at most: more than a chart has pixels help nobody."""
WIDTH, HEIGHT = 300.0, 100.0
LOGARITHMIC = 100.0
"""Positive curves whose largest value is so many times their smallest are drawn on a logarithmic axis."""
SETTINGS = frozenset({"max_step", "min_step", "t"})
"""Figures that a schedule or chance sets, not the training."""
MEASURES = frozenset({"opacity", "psnr", "ssim", "mask_iou"})
"""Figures that are shown behind the losses."""


@dataclass(frozen=True)
class Curve:
    """A figure by step."""

    name: str
    steps: list[int]
    values: list[float]

    @property
    def is_logarithmic(self) -> bool:
        """True where the curve spans so much that only a logarithmic axis shows it."""
        low, high = min(self.values), max(self.values)
        return low > 0 and high / low > LOGARITHMIC

    @property
    def points(self) -> str:
        """The curve as an SVG polyline that fills a box of ``WIDTH`` x ``HEIGHT``."""
        return self.line((self.steps[0], self.steps[-1]), (min(self.values), max(self.values)))

    def line(self, steps: tuple[int, int], values: tuple[float, float]) -> str:
        """Return the curve as an SVG polyline, in a box whose sides stand for ranges of steps and values."""
        scale = math.log if values[0] > 0 and values[1] > LOGARITHMIC * values[0] else float
        low, high = scale(values[0]), scale(values[1])
        across, up = WIDTH / ((steps[1] - steps[0]) or 1), HEIGHT / ((high - low) or 1.0)
        places = [
            ((x - steps[0]) * across, HEIGHT - (scale(y) - low) * up) for x, y in zip(self.steps, self.values)
        ]
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def read_curves(trial: Path) -> list[Curve]:
    """Return the curves of a trial's CSV logs: the loss first, then its parts, then measures."""
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for file in sorted(trial.glob("csv_logs/version_*/metrics.csv"), key=log_number):
        for row in _csv_rows(file):
            _add_row(values, row)
    curves = [_thinned(name, points) for name, points in values.items() if len(points) > 1]
    return sorted(curves, key=_order)


def log_number(file: Path) -> int:
    """Return the number of a log's folder, ``version_2``; a resumed training has several."""
    number = file.parent.name.rpartition("_")[2]
    return int(number) if number.isdigit() else 0


def _csv_rows(file: Path) -> Iterable[Mapping[str, str]]:
    text = file.read_text("utf-8", "replace")
    # A run that was killed leaves half a row.
    return csv.DictReader(text[: text.rfind("\n") + 1].splitlines())


def _add_row(values: dict[str, dict[int, float]], row: Mapping[str, str]) -> None:
    """Add a row's figures of a training to what is known by name and step."""
    step = int(float(row.get("step") or 0))
    for key, text in row.items():
        name = key.removeprefix("train/") if key else ""
        if text and key and key.startswith("train/") and name not in SETTINGS:
            value = float(text)
            if math.isfinite(value):
                values[name][step] = value


def _thinned(name: str, points: Mapping[int, float]) -> Curve:
    """Return a curve of at most ``POINTS`` points, each the mean of its neighbors."""
    steps = sorted(points)
    size = math.ceil(len(steps) / POINTS)
    groups = [steps[start : start + size] for start in range(0, len(steps), size)]
    means = [math.fsum(points[step] for step in group) / len(group) for group in groups]
    return Curve(name, [group[-1] for group in groups], means)


def _order(curve: Curve) -> tuple[int, str]:
    if curve.name == "loss":
        return (0, "")
    is_measure = curve.name in MEASURES or curve.name.endswith("norm")
    return (2 if is_measure else 1, curve.name)


def chart_data(curves: Sequence[Curve]) -> list[dict[str, object]]:
    """Return curves as JSON for the page's script."""
    return [
        {
            "name": curve.name,
            "x": curve.steps,
            "y": [float(f"{value:.5g}") for value in curve.values],
            "log": curve.is_logarithmic,
        }
        for curve in curves
    ]
