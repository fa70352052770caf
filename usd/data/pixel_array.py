"""Numbers of the pixels of many views of one size, in memory or in a file, of which some are looked at.

Thousands of pictures as floats would fill any memory. Here they stay what files hold, bytes, and only what is asked for
becomes floats. Pixels of a file are read one by one: the system keeps as much of the file at hand as it likes, and the
training no more than it needs.
"""

import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from usd.data.background_decoding import BackgroundDecoding

Numbers = NDArray[np.uint8] | NDArray[np.bool_] | NDArray[np.float16] | NDArray[np.float32]
"""Colors, valid pixels, depths; colors that were made here and never in a file."""


class PixelFile:
    """A file of numbers, a part of which is read at a time: what was read leaves nothing behind in this process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._alone = threading.Lock()

    def read(self, offset: int, size: int) -> bytes:
        """Return so many bytes from a place on."""
        if sys.platform != "win32":
            return os.pread(self._file.fileno(), size, offset)
        with self._alone:
            self._file.seek(offset)
            return self._file.read(size)


@dataclass(frozen=True)
class FilePart:
    """The numbers of V views in a file: their type, shape (V, H, W, C) and first byte.

    ``decoding`` is what writes the file where that is not done yet: whoever reads a view waits for it.
    """

    file: PixelFile
    dtype: str
    shape: tuple[int, int, int, int]
    offset: int
    decoding: BackgroundDecoding | None = None

    def rows(self, first: list[int], count: int) -> Numbers:
        """Return stretches of ``count`` pixels, by the numbers of their first ones, one after the other.

        Waits for the pictures they are of, and raises what decoding them raises.
        """
        if self.decoding is not None:
            size = self.shape[1] * self.shape[2]
            self.decoding.wait(number // size for number in first)
        step = self.shape[3] * np.dtype(self.dtype).itemsize
        parts = [self.file.read(self.offset + step * number, step * count) for number in first]
        return np.frombuffer(bytearray().join(parts), self.dtype).reshape(-1, self.shape[3])


@dataclass(frozen=True)
class PixelArray:
    """V views of H x W pixels of C numbers: rows ``index`` of ``stored``, an array or a part of a file."""

    stored: Numbers | FilePart
    index: Int[Tensor, "V"]

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
        return PixelArray(self.stored, self.index[list(views)])

    def view(self, number: int) -> Shaped[Tensor, "H W C"]:
        """Return one view's pixels, as stored."""
        size, which = self.height * self.width, int(self.index[number])
        if isinstance(self.stored, FilePart):
            values = self.stored.rows([which * size], size)
            return torch.from_numpy(values).view(self.height, self.width, self.channels)
        return torch.from_numpy(np.array(self.stored[which]))

    def all(self) -> Shaped[Tensor, "V H W C"]:
        """Return all views' pixels, as stored: of a large capture, ask for single views instead."""
        return torch.stack([self.view(i) for i in range(len(self))])

    def at(self, view: Int[Tensor, "R"], y: Int[Tensor, "R"], x: Int[Tensor, "R"]) -> Shaped[Tensor, "R C"]:
        """Return single pixels, as stored."""
        rows = (self.index[view] * self.height + y) * self.width + x
        if isinstance(self.stored, FilePart):
            return torch.from_numpy(self.stored.rows(rows.tolist(), 1))
        return torch.from_numpy(self.stored.reshape(-1, self.channels)[rows.numpy()])


def unit_rgba(values: Shaped[Tensor, "*N C"]) -> Float[Tensor, "*N 4"]:
    """Return colors as floats in [0, 1] with alpha, from bytes or floats; without a fourth number alpha is 1."""
    floats = values.float() / 255 if values.dtype == torch.uint8 else values
    if floats.shape[-1] == 4:
        return floats
    return torch.cat([floats, torch.ones_like(floats[..., :1])], -1)
