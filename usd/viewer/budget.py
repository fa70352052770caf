"""How much time viewing may take from a training, and how large a picture fits into a given time."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

Clock = Callable[[], float]


class TimeBudget:
    """A share of the wall clock that may be spent, saved for ``reserve`` seconds of spending at most.

    What is spent beyond the savings is paid back before anything is allowed again, so that the share holds over any
    time that is long beside a single piece of work.
    """

    def __init__(self, share: float, reserve: float = 0.25, clock: Clock = time.monotonic) -> None:
        self.share, self.reserve, self.clock = share, reserve, clock
        self.saved, self.spent = 0.0, 0.0
        self._last = clock()

    def allows(self) -> bool:
        """Return whether work may begin now."""
        now = self.clock()
        self.saved = min(self.reserve, self.saved + self.share * (now - self._last))
        self._last = now
        return self.saved > 0

    def charge(self, seconds: float) -> None:
        """Count what has been spent."""
        self.saved -= seconds
        self.spent += seconds

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """Charge the time that the block takes."""
        began = self.clock()
        try:
            yield
        finally:
            self.charge(self.clock() - began)


class LoopTime:
    """Processor seconds of the thread that runs an event loop, as it said itself a moment ago."""

    EVERY = 0.25  # seconds between two questions, so that asking costs nothing to speak of

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock = time.monotonic) -> None:
        self.loop, self.clock = loop, clock
        self._seconds, self._asked = 0.0, -self.EVERY

    def read(self) -> float:
        """Return the seconds that are known, and let the thread say them anew if it is time."""
        now = self.clock()
        if now - self._asked >= self.EVERY and not self.loop.is_closed():
            self._asked = now
            self.loop.call_soon_threadsafe(self._say)
        return self._seconds

    def _say(self) -> None:
        self._seconds = time.thread_time()


class PixelRate:
    """Seconds that a pixel has taken lately, and the picture sizes that follow."""

    def __init__(self, seconds: float = 2e-5) -> None:
        self.seconds = seconds

    def learn(self, pixels: int, seconds: float) -> None:
        """Take a measurement into account; the latest ones count most."""
        self.seconds += 0.4 * (seconds / max(pixels, 1) - self.seconds)

    def height(self, aspect: float, seconds: float, smallest: int, largest: int) -> int:
        """Return the rows of a picture, as wide as ``aspect`` times its height, that takes about ``seconds``."""
        rows = (seconds / max(self.seconds, 1e-12) / max(aspect, 1e-6)) ** 0.5
        return int(min(max(rows, smallest), largest))

    def rows(self, width: int, height: int, seconds: float, bands: int = 8) -> int:
        """Return how many rows take about ``seconds``; no fewer than leave ``bands`` bands in a picture."""
        fitting = int(seconds / max(self.seconds * width, 1e-12))
        return min(height, max(fitting, -(-height // bands), 1))
