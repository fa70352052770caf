"""Curves of a training, kept short however long it runs."""

import threading
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

MOST = 1200
"""Points a curve has at most. When there are more, every second one is forgotten, and fewer are taken from then on."""


class History:
    """Numbers by name over steps. A name that comes later has no values before; one that is absent has none then."""

    def __init__(self, most: int = MOST) -> None:
        self.most, self.stride = most, 1
        self.steps: list[int] = []
        self.rows: list[dict[str, float]] = []
        self._names: dict[str, None] = {}
        self._lock = threading.Lock()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the numbers of a step, if its turn has come."""
        if step % self.stride:
            return
        with self._lock:
            self._names.update(dict.fromkeys(values))
            self.steps.append(step)
            self.rows.append(dict(values))
            if len(self.steps) > self.most:
                self.stride *= 2
                kept = [i for i, at in enumerate(self.steps) if at % self.stride == 0]
                self.steps = [self.steps[i] for i in kept]
                self.rows = [self.rows[i] for i in kept]

    def names(self) -> list[str]:
        """Return the names of all numbers there have been, in the order of their coming: some skip steps."""
        return list(self._names)

    def curves(self, names: list[str]) -> tuple["Float[NDArray, 'N']", ...]:
        """Return steps, and the values of each name; not a number where there is none."""
        with self._lock:
            steps = np.array(self.steps, float)
            values = (np.array([row.get(name, np.nan) for row in self.rows], float) for name in names)
            return steps, *values
