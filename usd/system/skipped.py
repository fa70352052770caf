"""Steps that are skipped because something in them is not finite: nothing of them reaches weights or optimizer.

Half floats overflow now and then, and an hour's work should not end with that. A run that cannot go on at all is
stopped by ``usd.app.callbacks.SkippedStepsLimit``, which counts skipped steps in a row.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class SkippedSteps:
    """Count of skipped steps, and the reason to skip the step that runs now."""

    total: int = 0
    in_a_row: int = 0
    reason: str = ""

    def begin(self) -> None:
        """Begin a step, with no reason to skip it."""
        self.reason = ""

    def reject(self, reason: str) -> None:
        """Note something of this step that is not finite; the first reason is kept, none is the empty text."""
        self.reason = self.reason or reason

    def end(self) -> bool:
        """End a step; return whether it is to be skipped."""
        self.total += bool(self.reason)
        self.in_a_row = self.in_a_row + 1 if self.reason else 0
        return bool(self.reason)

    @property
    def worth_saying(self) -> bool:
        """Return whether this is the 1st, 2nd, 4th, 8th, ... skipped step: a thousand lines would hide the rest."""
        return self.total & (self.total - 1) == 0


def first_infinite(losses: Mapping[str, float]) -> str:
    """Return a clause on the first loss that is not finite; empty where all are."""
    bad = [f"loss '{name}' is {loss}" for name, loss in losses.items() if not math.isfinite(loss)]
    return bad[0] if bad else ""
