"""Numbers of the pixels of many views of one size, in memory or mapped from a file, of which some are looked at.

Thousands of pictures as floats would fill any memory. Here they stay what files hold, bytes, and only what is asked for
becomes floats. What a mapped file brought into memory is given back every now and then: the system keeps as much of the
file as it likes, and the training no more than it needs.
"""

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

RELEASED_AFTER = 1 << 28
"""Bytes of a file that may have come into memory before they are given back."""
PAGE = 4096

Numbers = NDArray[np.uint8] | NDArray[np.bool_] | NDArray[np.float16] | NDArray[np.float32]
"""Colors, valid pixels, depths; colors that were made here and never in a file."""


class MappedFile:
    """A file that is read as if it were memory, and what of it may have come into memory."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.advisable = os.name == "posix"
        if self.advisable:
            self.memory.madvise(mmap.MADV_RANDOM)  # single pixels are asked for, not their neighbors
        self._touched = 0

    def array(self, dtype: str, shape: tuple[int, ...], offset: int) -> Numbers:
        """Return a part of the file as an array."""
        count = int(np.prod(shape))
        return np.frombuffer(self.memory, dtype, count, offset).reshape(shape)

    def touch(self, size: int) -> None:
        """Note that so many bytes were read; give them back where they are many."""
        self._touched += size
        if self._touched > RELEASED_AFTER and self.advisable:
            self.memory.madvise(mmap.MADV_DONTNEED)
            self._touched = 0


@dataclass(frozen=True)
class PixelArray:
    """V views of H x W pixels of C numbers: rows ``index`` of ``stored``, a part of ``file`` if there is one."""

    stored: Numbers
    index: Int[Tensor, "V"]
    file: MappedFile | None = field(default=None, compare=False)

    @classmethod
    def of(cls, values: Shaped[Tensor, "V H W C"]) -> "PixelArray":
        """Return an array of values in memory."""
        return cls(values.detach().cpu().contiguous().numpy(), torch.arange(len(values)))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def height(self) -> int:
        """H: rows of a view."""
        return self.stored.shape[1]

    @property
    def width(self) -> int:
        """W: columns of a view."""
        return self.stored.shape[2]

    @property
    def channels(self) -> int:
        """C: numbers of a pixel."""
        return self.stored.shape[3]

    def select(self, views: Sequence[int]) -> "PixelArray":
        """Return some of the views, without a copy of their pixels."""
        return PixelArray(self.stored, self.index[list(views)], self.file)

    def view(self, number: int) -> Shaped[Tensor, "H W C"]:
        """Return one view's pixels, as stored."""
        values = np.array(self.stored[int(self.index[number])])
        self._touch(values.nbytes)
        return torch.from_numpy(values)

    def all(self) -> Shaped[Tensor, "V H W C"]:
        """Return all views' pixels, as stored: of a large capture, ask for single views instead."""
        return torch.stack([self.view(i) for i in range(len(self))])

    def at(self, view: Int[Tensor, "R"], y: Int[Tensor, "R"], x: Int[Tensor, "R"]) -> Shaped[Tensor, "R C"]:
        """Return single pixels, as stored."""
        rows = (self.index[view] * self.height + y) * self.width + x
        values = self.stored.reshape(-1, self.channels)[rows.numpy()]
        self._touch(PAGE * len(rows))
        return torch.from_numpy(values)

    def _touch(self, size: int) -> None:
        if self.file is not None:
            self.file.touch(size)


def unit_rgba(values: Shaped[Tensor, "*N C"]) -> Float[Tensor, "*N 4"]:
    """Return colors as floats in [0, 1] with alpha, from bytes or floats; without a fourth number alpha is 1."""
    floats = values.float() / 255 if values.dtype == torch.uint8 else values
    if floats.shape[-1] == 4:
        return floats
    return torch.cat([floats, torch.ones_like(floats[..., :1])], -1)
