"""Numbers that change with the optimizer step.

A schedule is piecewise linear between points (step, value) and constant outside them. In YAML it is a number,
or one of the list forms known from threestudio, whose steps and values alternate *outside-in*:

    0.5                                        constant
    [v0, v1, s1]                               from step 0
    [s0, v0, v1, s1]                           linear from (s0, v0) to (s1, v1)
    [s0, v0, v1, s1, v2, s2]                   ... and on to (s2, v2)
    {steps: [0, 100, 500], values: [1, 2, 0]}  the same, spelt out

Steps are optimizer steps, always: a float where a step belongs is an error and never means epochs.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FORMS = "a number, [start_step, start_value, end_value, end_step] or {steps: [...], values: [...]}"


@dataclass(frozen=True)
class Schedule:
    """Points ``(steps[i], values[i])`` with strictly increasing steps; call it with a step to get a float."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.steps or len(self.steps) != len(self.values):
            raise ValueError("a schedule needs as many steps as values, at least one")
        if any(b <= a for a, b in zip(self.steps, self.steps[1:])):
            raise ValueError(f"schedule steps must increase, got {list(self.steps)}")

    def __call__(self, step: int) -> float:
        """Return the value at ``step``: linear between two points, constant outside of them."""
        right = bisect_right(self.steps, step)
        if right == 0 or right == len(self.steps):
            return self.values[min(right, len(self.steps) - 1)]
        s0, s1 = self.steps[right - 1], self.steps[right]
        v0, v1 = self.values[right - 1], self.values[right]
        return v0 + (v1 - v0) * (step - s0) / (s1 - s0)

    @property
    def maximum(self) -> float:
        """Return the largest value it ever takes."""
        return max(self.values)

    @property
    def minimum(self) -> float:
        """Return the smallest value it ever takes."""
        return min(self.values)

    @classmethod
    def constant(cls, value: float) -> "Schedule":
        """Return the schedule that is ``value`` at every step."""
        return cls((0,), (float(value),))

    @classmethod
    def parse(cls, value: object) -> "Schedule":
        """Return the schedule of any of the YAML forms. Raises ``ValueError`` that says what is wrong."""
        if isinstance(value, Schedule):
            return value
        if isinstance(value, Mapping):
            return _from_mapping(value)
        if isinstance(value, Sequence) and not isinstance(value, str):
            return _from_list(list(value))
        return cls.constant(_number(value))

    def plain(self) -> "float | list[int | float]":
        """Return the shortest YAML form that reads back as this schedule."""
        if len(self.steps) == 1:
            return self.values[0]
        pairs = [[v, s] for s, v in zip(self.steps[1:], self.values[1:])]
        return [self.steps[0], self.values[0], *[x for pair in pairs for x in pair]]


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a schedule")
    if not math.isfinite(value):
        raise ValueError(f"{value:g} is not a finite number")
    return float(value)


def _step(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        epochs = (
            " (a float would count epochs, of which a training has one)" if isinstance(value, float) else ""
        )
        raise ValueError(f"step {value!r} must be an integer number of optimizer steps{epochs}")
    if not 0 <= value < 2**31:
        raise ValueError(f"step {value} is out of range; expected 0 or more")
    return value


def _from_list(items: list[object]) -> Schedule:
    if len(items) == 3:
        items = [0, *items]
    if len(items) < 4 or len(items) % 2:
        raise ValueError(f"a schedule list has 3, 4 or 6 elements, got {len(items)}")
    steps = [items[0], *items[3::2]]
    values = [items[1], *items[2::2]]
    return Schedule(tuple(map(_step, steps)), tuple(map(_number, values)))


def _from_mapping(items: Mapping[str, object]) -> Schedule:
    steps, values = items.get("steps"), items.get("values")
    if (
        set(items) != {"steps", "values"}
        or not isinstance(steps, Sequence)
        or not isinstance(values, Sequence)
    ):
        raise ValueError("a schedule mapping has exactly two lists, steps and values")
    return Schedule(tuple(map(_step, steps)), tuple(map(_number, values)))
