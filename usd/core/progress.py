"""How far long work is, and how long it will still take: bars in a terminal, a line that changes in a notebook.

Where standard error is neither, nothing is shown: logs stay readable. Works inside one another get a bar each. With
several processes only the first one shows any.

    with Work("unwrapping", total=90) as work:
        work.show(12, "12000 faces")

    for shard in each(shards, "rendering toys"):
        ...
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar, runtime_checkable

from usd.core.console import error_console, is_first_process

if TYPE_CHECKING:
    from rich.progress import TaskID

P = ParamSpec("P")
T = TypeVar("T")
Amount = float | int
NOTEBOOK_SECONDS = 0.5
LEAST_SECONDS = 0.05
"""Time between two updates of a bar: showing progress must not slow it."""


@runtime_checkable
class Display(Protocol):
    """Something that shows one work's progress."""

    def show(self, done: Amount, total: Amount | None, note: str) -> None:
        """Show how far it is."""

    def close(self) -> None:
        """Take it away."""


class Work:
    """A long work of ``total`` units (None: nobody knows), ``done`` of which are done when it begins."""

    def __init__(self, what: str, total: Amount | None = None, done: Amount = 0) -> None:
        self.what, self.total, self.done, self.note = what, total, done, ""
        self._display = open_display(what, total, done)
        self._shown = 0.0

    def show(self, done: Amount, note: str = "") -> None:
        """Say how much is done, and what is being done now."""
        self.done, self.note = done, note
        now = time.monotonic()
        is_last = self.total is not None and done >= self.total
        if self._display is not None and (is_last or now - self._shown > LEAST_SECONDS):
            self._shown = now
            self._display.show(done, self.total, note)

    def step(self, note: str = "", units: Amount = 1) -> None:
        """Say that further units are done."""
        self.show(self.done + units, note)

    @property
    def is_shown(self) -> bool:
        """True where progress is drawn: in a terminal or a notebook."""
        return self._display is not None

    def close(self) -> None:
        """Take it away, whatever is done."""
        if self._display is not None:
            self._display.close()
            self._display = None

    def __enter__(self) -> "Work":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def each(items: Sequence[T], what: str) -> Iterator[T]:
    """Yield the items one by one, and show how many are done."""
    with Work(what, len(items)) as work:
        for item in items:
            yield item
            work.step()


def counted(function: Callable[P, T], work: Work, units: Callable[P, Amount]) -> Callable[P, T]:
    """Return the function, each call of which counts for ``units`` of its arguments in a work, up to its total."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        result = function(*args, **kwargs)
        done = work.done + units(*args, **kwargs)
        work.show(done if work.total is None else min(done, work.total))
        return result

    return call


def open_display(what: str, total: Amount | None, done: Amount) -> Display | None:
    """Return what shows a new work here; None where nobody would see it."""
    if not is_first_process():
        return None
    if in_notebook():
        return NotebookLine(what)
    if sys.stderr.isatty():
        return Bar(what, total, done)
    return None


def in_notebook() -> bool:
    """Return whether this process runs a notebook's cells."""
    shell = sys.modules.get("IPython")
    running = None if shell is None else shell.get_ipython()
    return type(running).__name__ == "ZMQInteractiveShell"


class Bar:
    """A row of the terminal: what is done, a bar, how many of how many, the time it took and will take."""

    def __init__(self, what: str, total: Amount | None, done: Amount) -> None:
        self.bars = Bars.shared()
        self.task = self.bars.add(what, total, done)

    def show(self, done: Amount, total: Amount | None, note: str) -> None:
        """Move the bar."""
        self.bars.progress.update(self.task, completed=done, total=total, note=note)

    def close(self) -> None:
        """Take the row away; the terminal is free again after the last one."""
        self.bars.remove(self.task)


class Bars:
    """All rows of the terminal: one block that moves, however many works are inside one another."""

    active: "Bars | None" = None

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=error_console(),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # else what goes to a file would go to the terminal
        )
        self.progress.start()

    @classmethod
    def shared(cls) -> "Bars":
        """Return the block of this process, begun if there is none."""
        cls.active = cls.active or cls()
        return cls.active

    def add(self, what: str, total: Amount | None, done: Amount) -> "TaskID":
        """Add a row."""
        return self.progress.add_task(what, total=total, completed=int(done), note="")

    def remove(self, task: "TaskID") -> None:
        """Take a row away, and end with the last one."""
        self.progress.remove_task(task)
        if not self.progress.task_ids:
            self.progress.stop()
            Bars.active = None


class NotebookLine:
    """A line below a notebook's cell that changes in place."""

    def __init__(self, what: str) -> None:
        from IPython.display import display

        self.what, self.began, self._shown = what, time.monotonic(), 0.0
        self.handle = display({"text/plain": what}, raw=True, display_id=True)

    def show(self, done: Amount, total: Amount | None, note: str) -> None:
        """Write the line anew, at most twice a second."""
        now = time.monotonic()
        if now - self._shown > NOTEBOOK_SECONDS or done == total:
            self._shown = now
            text = progress_text(self.what, done, total, now - self.began, note)
            self.handle.update({"text/plain": text}, raw=True)

    def close(self) -> None:
        """Leave the line as it is."""


def progress_text(what: str, done: Amount, total: Amount | None, seconds: Amount, note: str = "") -> str:
    """Return a line of progress: what, how much of how much, the time so far and the time left."""
    parts = [what, f"{done:g}/{total:g}" if total else f"{done:g}", f"{clock(seconds)} passed"]
    if total and 0 < done < total:
        parts.append(f"{clock(seconds * (total - done) / done)} left")
    return "  ".join([*parts, note] if note else parts)


def clock(seconds: Amount) -> str:
    """Return a duration in seconds as ``h:mm:ss``."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
