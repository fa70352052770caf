"""Pictures decoded once: the pixels of all views of a capture in one file of bytes, which trainings read from.

The file lies in the user's cache, under a digest of the pictures' files (their names, sizes and times of change) and of
all that is done with them. Every core decodes pictures and puts each where it belongs; of a large capture, while the
first of them are already trained on. Old files go where new ones would exceed the budget. Pixels of small captures stay
in memory.
"""

import errno
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from usd.core import files
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.places import temporary_cache, user_cache
from usd.core.progress import each
from usd.data.background_decoding import BackgroundDecoding
from usd.data.pixel_array import FilePart, Numbers, PixelArray, PixelFile

FORMAT = "usd-pictures-1"
IN_MEMORY = 16 << 20
"""Bytes of pixels up to which nothing is written to the cache."""
BUDGET_GB = 64.0
"""Size of the cache of pictures beyond which its oldest files go."""
AT_ONCE = 128
"""Views up to which all pictures are decoded before anything else happens."""
WORTH_SAYING = 5.0
"""Seconds of decoding from which on a line says that it was done."""


@dataclass(frozen=True)
class ViewBytes:
    """The pixels of a view as they are kept: colors (H W 3 or 4), and depths (H W) and valid pixels where known."""

    colors: NDArray[np.uint8]
    valid: NDArray[np.bool_] | None
    depth: NDArray[np.float16] | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class StoredPixels:
    """The pixels of a capture's views, and remarks on their files, each with a count."""

    colors: PixelArray
    valid: PixelArray | None
    depths: PixelArray | None
    notes: tuple[str, ...] = ()


Part = Callable[[str, tuple[int, int, int, int], int], "Numbers | FilePart"]
"""Returns a section by its type, shape and first byte."""


@dataclass(frozen=True)
class PixelLayout:
    """The layout of a capture's file: colors of V views, one after the other, then valid pixels, then depths."""

    views: int
    height: int
    width: int
    channels: int
    valid: bool
    depth: bool

    @property
    def pixels(self) -> int:
        """Pixels of a view."""
        return self.height * self.width

    @property
    def sections(self) -> tuple[int, int, int]:
        """Bytes of a view in each section."""
        return self.pixels * self.channels, self.pixels * self.valid, 2 * self.pixels * self.depth

    @property
    def size(self) -> int:
        """Bytes of all views."""
        return self.views * sum(self.sections)

    def places(self, view: int) -> list[int]:
        """Return where the parts of a view begin."""
        starts = np.cumsum([0, *(self.views * size for size in self.sections)])
        return [int(start) + view * size for start, size in zip(starts, self.sections)]

    def parts(self, view: int, pixels: ViewBytes) -> Iterator[tuple[int, memoryview]]:
        """Yield what there is of a view, with the place of its first byte; pixels it does not fill are zeros."""
        shape, starts = pixels.colors.shape[:2], self.places(view)
        yield starts[0], self._filled(pixels.colors)
        if self.valid:
            valid = np.ones(shape, np.bool_) if pixels.valid is None else pixels.valid
            yield starts[1], self._filled(valid)
        if self.depth:
            depth = np.zeros(shape, np.float16) if pixels.depth is None else pixels.depth
            yield starts[2], self._filled(depth)

    def _filled(self, values: Numbers) -> memoryview:
        if values.shape[:2] == (self.height, self.width):
            return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        out = np.zeros((self.height, self.width, *values.shape[2:]), values.dtype)
        out[: values.shape[0], : values.shape[1]] = values
        return out.reshape(-1).view(np.uint8).data

    def arrays(self, part: Part) -> StoredPixels:
        """Return the sections as arrays, of what gives a part by type, shape and first byte."""
        views, starts, index = (self.views, self.height, self.width), self.places(0), torch.arange(self.views)
        return StoredPixels(
            PixelArray(part("u1", (*views, self.channels), starts[0]), index),
            PixelArray(part("?", (*views, 1), starts[1]), index) if self.valid else None,
            PixelArray(part("f2", (*views, 1), starts[2]), index) if self.depth else None,
        )


Decode = Callable[[int], ViewBytes]
"""Returns the pixels of a view by its number. Raises ``UserError``."""


def store_pixels(decode: Decode, layout: PixelLayout, key: Sequence[str], where: str) -> StoredPixels:
    """Decode views on all cores, or take them from the cache, where files of the same ``key`` were decoded before.

    Of more than ``AT_ONCE`` views the pixels returned are waited for when they are read, and remarks on their files are
    said when all are there. Raises ``UserError`` where a picture cannot be read (or reading pixels does), and for a
    capture beyond the budget of the cache.
    """
    if layout.size <= IN_MEMORY:
        return _in_memory(decode, layout)
    if layout.size > BUDGET_GB * 1e9:
        raise UserError(
            f"{where}: its pictures take {layout.size / 1e9:.0f} GB; expected at most {BUDGET_GB:g} GB: make them "
            "smaller with data.size"
        )
    folder = cache_folder()
    file = folder / f"{files.digest(FORMAT, repr(layout), *key, size=16)}.pixels"
    record = files.read_record(file.with_suffix(".json"))
    if record is None or not file.is_file() or file.stat().st_size != layout.size:
        make_room(folder, layout.size)
        if layout.views > AT_ONCE and sys.platform != "win32":  # where an open file can be given its name
            return _write_in_background(decode, layout, file, where)
        record = _write(decode, layout, file, where)
    os.utime(file)  # the last to go
    notes = record.get("notes")
    return _in_file(layout, PixelFile(file), tuple(map(str, notes)) if isinstance(notes, list) else ())


def cache_folder() -> Path:
    """Return the folder of decoded pictures."""
    folder = (user_cache() or temporary_cache()) / "usd" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def make_room(folder: Path, size: int) -> None:
    """Remove the files longest unused until ``size`` bytes more are within the budget."""
    kept = sorted(folder.glob("*.pixels"), key=lambda file: file.stat().st_mtime)
    total = size + sum(file.stat().st_size for file in kept)
    for file in kept:
        if total <= BUDGET_GB * 1e9:
            return
        total -= file.stat().st_size
        file.unlink(missing_ok=True)
        file.with_suffix(".json").unlink(missing_ok=True)


T = TypeVar("T")
Put = Callable[[int, memoryview], None]
"""Keeps bytes at a place, whichever thread calls."""


def on_all_cores(work: Callable[[int], T], count: int) -> Iterable[T]:
    """Yield what ``work`` returns for each view, in order, done on all cores a few ahead of what was taken."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # views are worked on beside each other, not rows of one
    workers = os.cpu_count() or 1
    try:
        with ThreadPoolExecutor(workers) as pool:
            ahead = [pool.submit(work, i) for i in range(min(2 * workers, count))]
            for i in each(range(count), "decoding pictures"):
                yield ahead.pop(0).result()
                if i + 2 * workers < count:
                    ahead.append(pool.submit(work, i + 2 * workers))
    finally:
        torch.set_num_threads(threads)


def _decode_into(put: Put, decode: Decode, layout: PixelLayout) -> tuple[str, ...]:
    """Decode all views and put their bytes where the layout says; return remarks on their files, with counts."""
    remarks = Counter[str]()
    for notes in on_all_cores(lambda view: _decode_one(put, decode, layout, view), layout.views):
        remarks.update(notes)
    return _counted(remarks, layout)


def _decode_one(put: Put, decode: Decode, layout: PixelLayout, view: int) -> tuple[str, ...]:
    """Decode a view and put its bytes where the layout says; return remarks on its files."""
    pixels = decode(view)
    for start, part in layout.parts(view, pixels):
        put(start, part)
    return pixels.notes


def _counted(remarks: Counter[str], layout: PixelLayout) -> tuple[str, ...]:
    return tuple(f"{count} of {layout.views} pictures: {note}" for note, count in remarks.items())


def _in_memory(decode: Decode, layout: PixelLayout) -> StoredPixels:
    """Return the pixels without a file."""
    memory = bytearray(layout.size)

    def put(start: int, part: memoryview) -> None:
        memory[start : start + len(part)] = part

    def view_of(dtype: str, shape: tuple[int, int, int, int], offset: int) -> Numbers:
        return np.frombuffer(memory, dtype, int(np.prod(shape)), offset).reshape(shape)

    notes = _decode_into(put, decode, layout)
    return replace(layout.arrays(view_of), notes=notes)


@contextmanager
def _writing(path: Path, size: int) -> Iterator[Put]:
    """Yield what writes to a new file of ``size`` bytes, from any thread. Raises ``OSError``, for lack of room at once.

    One writes at a time: those who wait for a file inside the system do so by spinning.
    """
    alone = threading.Lock()
    with path.open("wb", buffering=0) as out:
        _reserve(out.fileno(), size)

        def write(start: int, part: memoryview) -> None:
            with alone:
                out.seek(start)
                while len(part):
                    part = part[out.write(part) :]

        yield write


def _reserve(descriptor: int, size: int) -> None:
    """Give a file its room on the disk, where the system can: bytes are then put there for half the work."""
    if sys.platform == "linux":
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise


def _write(decode: Decode, layout: PixelLayout, file: Path, where: str) -> dict[str, object]:
    """Decode all views into a file, and write what was remarked beside it; return that."""
    begun = time.monotonic()
    with (
        _room_told(layout, file, where),
        files.replace_atomically(file) as partial,
        _writing(partial, layout.size) as put,
    ):
        notes = _decode_into(put, decode, layout)
    return _record(layout, file, notes, time.monotonic() - begun)


def _write_in_background(decode: Decode, layout: PixelLayout, file: Path, where: str) -> StoredPixels:
    """Return the pixels of a file that is being written, which are there when they are read."""
    begun = time.monotonic()

    def one(view: int) -> tuple[str, ...]:
        with _room_told(layout, file, where):
            return _decode_one(put, decode, layout, view)

    def finish(remarks: Counter[str]) -> None:
        for note in (notes := _counted(remarks, layout)):
            say(f"{where}: {note}")
        _record(layout, file, notes, time.monotonic() - begun)

    with ExitStack() as place:
        with _room_told(layout, file, where):
            partial = place.enter_context(files.replace_atomically(file))
            put = place.enter_context(_writing(partial, layout.size))
            pixels = PixelFile(partial)
        return _in_file(layout, pixels, (), BackgroundDecoding(one, layout.views, place.pop_all(), finish))


@contextmanager
def _room_told(layout: PixelLayout, file: Path, where: str) -> Iterator[None]:
    """Raise ``UserError`` where the block finds no room for a file, or may not write it."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{where}: its decoded pictures ({layout.size / 1e9:.1f} GB) cannot be kept in {file.parent} "
            f"({error.strerror or error}); expected room there, or another XDG_CACHE_HOME"
        ) from error


def _record(layout: PixelLayout, file: Path, notes: tuple[str, ...], seconds: float) -> dict[str, object]:
    """Write what was remarked on the pictures beside their file; return that. Say how long they took."""
    record: dict[str, object] = {"notes": list(notes)}
    files.write_record(file.with_suffix(".json"), record)
    if seconds > WORTH_SAYING:
        say(
            f"{layout.views} pictures decoded in {seconds:.0f} s, once: {layout.size / 1e9:.2f} GB in {file.parent}"
        )
    return record


def _in_file(
    layout: PixelLayout, file: PixelFile, notes: tuple[str, ...], decoding: BackgroundDecoding | None = None
) -> StoredPixels:
    """Return the pixels of a file, which is complete or being written."""

    def part(dtype: str, shape: tuple[int, int, int, int], offset: int) -> FilePart:
        return FilePart(file, dtype, shape, offset, decoding)

    return replace(layout.arrays(part), notes=notes)
