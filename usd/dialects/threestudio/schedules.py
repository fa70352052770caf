"""Numbers that change while training.

threestudio reads a list's last step: an integer counts optimizer steps, a float counts epochs. Its cameras never end,
so a training is one endless epoch, number 0, and such a number keeps the value that it has there.
"""

from collections.abc import Sequence
from typing import TypeGuard

from usd.core.schedule import Schedule
from usd.dialects.draft import Draft

GUIDANCE_KEYS = ("min_step_percent", "max_step_percent", "grad_clip")


def translate_schedules(draft: Draft) -> None:
    """Translate every schedule of a configuration: the losses' weights, and those of the guidances."""
    keys = [f"system.loss.{name}" for name in draft.section("system.loss")]
    keys += [f"system.{part}.{name}" for part in ("guidance", "guidance_3d") for name in GUIDANCE_KEYS]
    for key in keys:
        value = draft.get(key)
        if is_list(value):
            steps = in_steps(value)
            draft.set(key, steps)
            if not is_list(steps):
                draft.note(
                    f"{key}: its last step is a float, which counts epochs in threestudio; a training is one "
                    f"endless epoch there, so it stays at {steps:g}"
                )


def is_list(value: object) -> TypeGuard[Sequence[int | float]]:
    """Return whether a value has the form of a schedule."""
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) >= 3


def in_steps(value: Sequence[int | float]) -> "float | list[int | float]":
    """Return a list with integer steps; where its last step counts epochs, the number that it is in epoch 0."""
    numbers = list(value) if len(value) % 2 == 0 else [0, *value]
    if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in numbers):
        return list(value)  # refused where it is parsed
    places = [0, *range(3, len(numbers), 2)]
    whole = [int(x) if i in places and float(x).is_integer() else x for i, x in enumerate(numbers)]
    if not isinstance(numbers[-1], float):
        return whole
    try:
        return Schedule.parse(whole)(0)
    except ValueError:
        return list(value)


def scaled(value: object, factor: float) -> object:
    """Return a weight, a number or a schedule in steps, times a factor; 1 where none is given."""
    if value is None:
        return factor
    if is_list(value) and len(value) % 2 == 0:
        places = {0, *range(3, len(value), 2)}
        return [x if i in places else x * factor for i, x in enumerate(value)]
    return value * factor if isinstance(value, int | float) else value


def largest(value: object) -> float:
    """Return the largest value of a weight, written in any form; 0 for none, 1 for what parsing refuses."""
    try:
        return 0.0 if value is None else Schedule.parse(value).maximum
    except ValueError:
        return 1.0
