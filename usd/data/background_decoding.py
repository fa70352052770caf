"""Pictures that are decoded in the background while the first of them are already trained on.

Thousands of pictures take as long as hundreds of steps. Whoever reads pixels waits for the pictures that these are of,
and for no others: those go first.
"""

import atexit
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack

Decode = Callable[[int], tuple[str, ...]]
"""Decodes the picture of a number to where it belongs; returns remarks on its file."""
Finish = Callable[[Counter[str]], None]
"""Takes the remarks, each with a count, when all pictures are there."""


class BackgroundDecoding:
    """``count`` pictures, decoded by as many threads as there are cores.

    ``place`` is what they are decoded to: it is closed when all are there, with an error where there was one, which
    every reader is told, and when the program ends before that.
    """

    def __init__(self, decode: Decode, count: int, place: ExitStack, finish: Finish) -> None:
        self._decode, self._place, self._finish = decode, place, finish
        self._there, self._taken = bytearray(count), bytearray(count)
        self._wanted, self._rest = deque[int](), iter(range(count))
        self._remarks = Counter[str]()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ended = False
        self._workers = [
            threading.Thread(target=self._work, daemon=True) for _ in range(min(count, os.cpu_count() or 1))
        ]
        self._running = len(self._workers)
        atexit.register(self.stop)
        for worker in self._workers:
            worker.start()

    def wait(self, numbers: Iterable[int]) -> None:
        """Return when these pictures are there; they go first. Raises what decoding any picture has raised."""
        if self._ended and self._error is None:
            return
        with self._changed:
            missing = [number for number in dict.fromkeys(numbers) if not self._there[number]]
            self._wanted.extend(missing)
            self._changed.wait_for(lambda: self._error or all(self._there[number] for number in missing))
            if self._error is not None:
                raise self._error

    def wait_for_all(self) -> None:
        """Return when all pictures are there and their place is closed. Raises what decoding has raised."""
        for worker in self._workers:
            worker.join()
        self.wait(())

    def stop(self) -> None:
        """Decode no further pictures; the place is closed as after an error."""
        with self._changed:
            if not self._ended:
                self._error = self._error or InterruptedError("decoding pictures was stopped")
                self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def _work(self) -> None:
        """Decode pictures until none is left; the last thread closes the place."""
        while (number := self._take()) is not None:
            try:
                remarks = self._decode(number)
            except BaseException as error:  # noqa: BLE001 - for those who wait: nobody else hears of it
                self._fail(error)
                break
            self._keep(number, remarks)
        with self._changed:
            self._running -= 1
            last = not self._running
        if last:
            self._end()

    def _take(self) -> int | None:
        """Return the number of the next picture: of those that somebody waits for, if there are any."""
        with self._changed:
            while self._error is None:
                number = self._wanted.popleft() if self._wanted else next(self._rest, None)
                if number is None or not self._taken[number]:
                    if number is not None:
                        self._taken[number] = True
                    return number
            return None

    def _keep(self, number: int, remarks: tuple[str, ...]) -> None:
        with self._changed:
            self._there[number] = True
            self._remarks.update(remarks)
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def _end(self) -> None:
        """Close the place, and hand over the remarks where all pictures are there."""
        try:
            with self._place:
                if self._error is not None:
                    raise self._error
            self._finish(self._remarks)
        except BaseException as error:  # noqa: BLE001 - as above: closing can fail, too
            self._fail(error)
        self._ended = True
        atexit.unregister(self.stop)


def spread_order(count: int) -> list[int]:
    """Return the numbers below ``count`` so that the first n are spread over all, for every n: by their bits reversed.

    Source: van der Corput's sequence.
    """
    bits = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda number: int(f"{number:0{bits}b}"[::-1], 2))
