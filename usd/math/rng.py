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
class BatchShare:
    """Rows ``first`` to ``first + count`` of ``total``, in whatever unit: (1, 1, 2) is the second half."""

    first: int
    count: int
    total: int

    @classmethod
    def of(cls, total: int, rank: int, processes: int) -> "BatchShare":
        """Return the share of process ``rank``; shares differ by one row at most."""
        first = total * rank // processes
        return cls(first, total * (rank + 1) // processes - first, total)

    @property
    def rows(self) -> slice:
        """The share's place in the whole batch."""
        return slice(self.first, self.first + self.count)

    def scaled(self, rows: int) -> "BatchShare":
        """Return the same share in a unit in which it has ``rows`` rows."""
        if rows % self.count:
            raise ValueError(f"{rows} rows are no multiple of the {self.count} of this share")
        factor = rows // self.count
        return BatchShare(self.first * factor, rows, self.total * factor)


class ShareGenerator(torch.Generator):
    """A generator that knows for which share of a batch it is asked for numbers; None: of all of it."""

    share: BatchShare | None = None
    host: torch.Generator | None = (
        None  # draws numbers that Python reads, where this one is on another device
    )

    @classmethod
    def seeded(cls, device: "torch.device | str", seed: int, share: BatchShare | None) -> "ShareGenerator":
        """Return a generator on a device, with a seed and a share of the batch."""
        generator = cls(device)
        generator.manual_seed(seed)
        generator.share = share
        return generator


def fresh(like: torch.Generator, seed: int) -> torch.Generator:
    """Return a generator of the same kind, share and device, seeded anew."""
    if isinstance(like, ShareGenerator):
        return ShareGenerator.seeded(like.device, seed, like.share)
    return torch.Generator(like.device).manual_seed(seed)


def on_host(generator: torch.Generator) -> torch.Generator:
    """Return a generator of the same seed for numbers that Python reads: on a GPU each would be waited for.

    A generator on the CPU is its own; so is one that knows no share, wherever it is.
    """
    if generator.device.type == "cpu" or not isinstance(generator, ShareGenerator):
        return generator
    if generator.host is None:
        generator.host = torch.Generator().manual_seed(generator.initial_seed())
    return generator.host


@contextlib.contextmanager
def use_share(generator: torch.Generator | None, share: BatchShare | None) -> Iterator[None]:
    """Draw rows of ``share`` inside the context; with None, those of a batch that every process has whole."""
    if not isinstance(generator, ShareGenerator):
        yield
        return
    before, generator.share = generator.share, share
    try:
        yield
    finally:
        generator.share = before


Draw = Callable[[tuple[int, ...], torch.Generator | None, torch.device], Tensor]


def uniform(
    shape: Sequence[int],
    generator: torch.Generator | None,
    like: "torch.device | str" = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw uniform numbers in [0, 1), on the generator's device (``like`` without one), and leave them there."""
    return _draw_rows(
        shape, generator, like, lambda s, g, d: torch.rand(s, generator=g, device=d, dtype=dtype)
    )


def normal(
    shape: Sequence[int],
    generator: torch.Generator | None,
    like: "torch.device | str" = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw standard normal numbers, on the generator's device (``like`` without one), and leave them there."""
    return _draw_rows(
        shape, generator, like, lambda s, g, d: torch.randn(s, generator=g, device=d, dtype=dtype)
    )


def integers(
    low: int,
    high: int,
    shape: Sequence[int],
    generator: torch.Generator | None,
    like: "torch.device | str" = "cpu",
) -> Tensor:
    """Draw integers uniformly from ``low`` to ``high - 1``, on the generator's device (``like`` without one)."""
    return _draw_rows(
        shape, generator, like, lambda s, g, d: torch.randint(low, high, s, generator=g, device=d)
    )


def _draw_rows(
    shape: Sequence[int], generator: torch.Generator | None, like: "torch.device | str", draw: Draw
) -> Tensor:
    device = torch.device(like) if generator is None else generator.device
    if not isinstance(generator, ShareGenerator) or generator.share is None:
        return draw(tuple(shape), generator, device)
    share = generator.share.scaled(shape[0])
    return draw((share.total, *shape[1:]), generator, device)[share.rows]
