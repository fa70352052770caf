"""Tables of figures that know their noise.

Figures (name -> number, or a list of numbers over some axis) are measured of every object under every setting. A table
gives mean and spread over objects, and the paired difference to one of the settings with its standard error: one that
its 95 % interval does not tell from zero is "smaller than the noise".
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t as student

Figures = dict[str, float | list[float]]
Found = Mapping[str, Figures]  # by object
Rows = Mapping[str, Found]  # by setting


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences over ``count`` objects, its standard error, and whether it is told from zero."""

    mean: float
    error: float
    count: int

    @property
    def sure(self) -> bool:
        """Zero lies outside Student's 95 % interval."""
        return self.count > 1 and abs(self.mean) > float(student.ppf(0.975, self.count - 1)) * self.error

    def words(self, digits: int = 2) -> str:
        """``+0.31 ± 0.08``, or the same and ``smaller than the noise``."""
        said = f"{self.mean:+.{digits}f} ± {self.error:.{digits}f}"
        return said if self.sure else f"{said}, smaller than the noise"


def paired(values: Sequence[float], base: Sequence[float]) -> Difference:
    """``values`` minus ``base``, object by object."""
    gaps = [a - b for a, b in zip(values, base, strict=True)]
    error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    return Difference(statistics.fmean(gaps), error, len(gaps))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation over objects."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {deviation:.{digits}f}"


def series(found: Found, key: str) -> list[list[float]]:
    """Per object, a figure that is a list of numbers."""
    return [list(row) for figures in found.values() if isinstance(row := figures[key], list)]


@dataclass(frozen=True)
class Column:
    """One figure of a table: its key, its heading, and how many digits it deserves."""

    key: str
    heading: str
    digits: int = 2


def table(rows: Rows, columns: Sequence[Column], base: str, first: str = "setting") -> str:
    """Markdown. ``rows`` is setting -> object -> figures; every column is followed by its difference to ``base``.

    Differences are paired: only objects that both settings have are in them.
    """
    heads = [first, "objects"]
    for column in columns:
        heads += [column.heading, f"minus {base}"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, found in rows.items():
        cells = [name, str(len(found))]
        for column in columns:
            values = {key: number(figures[column.key]) for key, figures in found.items()}
            cells += [spread(list(values.values()), column.digits), _gap(values, rows, column, base, name)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compared(ours: Found, theirs: Found, column: Column) -> Difference:
    """A figure of one setting minus that of another, over the objects that both have."""
    shared = [key for key in ours if key in theirs]
    mine, base = ([number(found[key][column.key]) for key in shared] for found in (ours, theirs))
    return paired(mine, base)


def _gap(values: Mapping[str, float], rows: Rows, column: Column, base: str, name: str) -> str:
    shared = [key for key in values if key in rows.get(base, {})]
    if name == base or not shared:
        return "-"
    theirs = [number(rows[base][key][column.key]) for key in shared]
    return paired([values[key] for key in shared], theirs).words(column.digits)


def number(value: float | list[float]) -> float:
    return statistics.fmean(value) if isinstance(value, list) else value
