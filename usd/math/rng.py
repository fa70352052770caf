"""Random numbers of a batch that several processes share: each draws those of the whole batch and keeps its rows.

So what is drawn does not depend on how many processes there are. ``uniform``, ``normal`` and ``integers`` are for
numbers that belong to the rows of a batch (views, rays, their latents). What a batch has once (a patch's place, a
color) is drawn with ``torch.rand`` and its kin, and is then the same in every process.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Rows ``first`` to ``first + count`` of ``total``, in whatever unit: (1, 1, 2) is the second half."""

    first: int
    count: int
    total: int

    @classmethod
    def of(cls, total: int, rank: int, processes: int) -> "Part":
        """The part of process ``rank``; parts differ by one row at most."""
        first = total * rank // processes
        return cls(first, total * (rank + 1) // processes - first, total)

    @property
    def rows(self) -> slice:
        """Where the part lies in the whole."""
        return slice(self.first, self.first + self.count)

    def scaled(self, rows: int) -> "Part":
        """The same part in a unit in which it has ``rows`` rows."""
        if rows % self.count:
            raise ValueError(f"{rows} rows are no multiple of the {self.count} of this part")
        factor = rows // self.count
        return Part(self.first * factor, rows, self.total * factor)


class PartGenerator(torch.Generator):
    """A generator that knows of which part of a batch it is asked for numbers; None: of all of it."""

    part: Part | None = None

    @classmethod
    def seeded(cls, device: "torch.device | str", seed: int, part: Part | None) -> "PartGenerator":
        generator = cls(device)
        generator.manual_seed(seed)
        generator.part = part
        return generator


def fresh(like: torch.Generator, seed: int) -> torch.Generator:
    """A generator of the same kind, part and device, seeded anew."""
    if isinstance(like, PartGenerator):
        return PartGenerator.seeded(like.device, seed, like.part)
    return torch.Generator(like.device).manual_seed(seed)


@contextlib.contextmanager
def dealt(generator: torch.Generator | None, part: Part | None) -> Iterator[None]:
    """Inside, rows drawn are those of ``part``; with None, those of a batch that every process has whole."""
    if not isinstance(generator, PartGenerator):
        yield
        return
    before, generator.part = generator.part, part
    try:
        yield
    finally:
        generator.part = before


Draw = Callable[[tuple[int, ...], torch.Generator | None, torch.device], Tensor]


def uniform(
    shape: Sequence[int],
    generator: torch.Generator | None,
    like: "torch.device | str" = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Uniform in [0, 1), drawn on the generator's device (``like`` without one) and left there."""
    return _rows(shape, generator, like, lambda s, g, d: torch.rand(s, generator=g, device=d, dtype=dtype))


def normal(
    shape: Sequence[int],
    generator: torch.Generator | None,
    like: "torch.device | str" = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal, likewise."""
    return _rows(shape, generator, like, lambda s, g, d: torch.randn(s, generator=g, device=d, dtype=dtype))


def integers(
    low: int,
    high: int,
    shape: Sequence[int],
    generator: torch.Generator | None,
    like: "torch.device | str" = "cpu",
) -> Tensor:
    """Uniform over the integers ``low`` to ``high - 1``, likewise."""
    return _rows(shape, generator, like, lambda s, g, d: torch.randint(low, high, s, generator=g, device=d))


def _rows(
    shape: Sequence[int], generator: torch.Generator | None, like: "torch.device | str", draw: Draw
) -> Tensor:
    device = torch.device(like) if generator is None else generator.device
    if not isinstance(generator, PartGenerator) or generator.part is None:
        return draw(tuple(shape), generator, device)
    part = generator.part.scaled(shape[0])
    return draw((part.total, *shape[1:]), generator, device)[part.rows]
