"""Requests to stop: Ctrl-C and SIGTERM (a job scheduler, ``docker stop``), none of which is lost.

Python raises ``KeyboardInterrupt`` wherever it happens to be. Inside a weakref callback or a ``__del__`` it is
printed and dropped, and the run would go on. So a request is also remembered, and ``check`` is called between steps,
views and stages. While a training steps, a first request is only remembered: the step ends, and its state is saved.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from usd.core.console import say_error

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequests:
    """Requests to stop that reached this process. ``patient`` while somebody calls ``check`` often and saves first.

    ``raised`` once ``KeyboardInterrupt`` was raised where the process happened to be.
    """

    def __init__(self) -> None:
        self.asked = False
        self.raised = False
        self.patient = False
        self.speaks = True

    def check(self, where: str = "") -> None:
        """Raise ``KeyboardInterrupt``, with ``where`` as its text, if there was a request."""
        if self.asked:
            raise KeyboardInterrupt(where)

    def listen(self) -> None:
        """Take the signals, also back from a library that took them. Possible in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        first, self.asked = not self.asked, True
        if not (first and self.patient):
            self.raised = True
            raise KeyboardInterrupt
        if self.speaks:
            say_error("\nstopping after this step; press Ctrl-C again to abort at once")


_active: StopRequests | None = None


def current() -> StopRequests:
    """Return the stop requests of the current run; outside of one, an instance that never receives any."""
    return _active or StopRequests()


@contextlib.contextmanager
def listening() -> Iterator[StopRequests]:
    """Take requests inside the block, and at its end raise ``KeyboardInterrupt`` for one that nobody acted on.

    So it does for an error that is what a library made of the ``KeyboardInterrupt`` raised in it.
    Inside another such block this changes nothing. Signal handlers are put back.
    """
    global _active  # noqa: PLW0603
    if _active is not None:
        yield _active
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    stop = _active = StopRequests()
    stop.listen()
    try:
        with _quiet_where_nothing_can_be_raised():
            yield stop
        stop.check()
    except Exception as error:
        if stop.raised:
            raise KeyboardInterrupt from error
        raise
    finally:
        _active = None
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _quiet_where_nothing_can_be_raised() -> Iterator[None]:
    """Drop Python's report of a ``KeyboardInterrupt`` in a ``__del__``: the request is remembered."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:  # noqa: ANN401 - its class exists only for type checkers
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
