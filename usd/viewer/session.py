"""What a viewer does, without the page itself: which picture is due, what it may cost, and what people asked for.

Everything that touches the object happens where ``work`` is called, between two steps. The page's own threads only
leave wishes: poses in ``Watcher``, and a ``Request`` for whatever changes the training.
"""

import contextlib
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from usd.core.config import Plain, Spec
from usd.core.errors import UserError
from usd.core.types import Render
from usd.math.camera import Cameras
from usd.system.distillation import DistillationSystem
from usd.viewer.budget import Clock, PixelRate, TimeBudget
from usd.viewer.insight import captioned_sheet, guidance_pictures, open_guidance_of
from usd.viewer.options import ViewerOptions
from usd.viewer.pictures import PictureKind, Scene, picture_of, render_in_bands, view_depth
from usd.viewer.poses import Pose

Bytes = UInt8[NDArray, "H W 3"]
RequestKind = Literal["pause", "resume", "save", "stop", "change", "mesh", "export", "video", "step", "close"]
SHARED: frozenset[RequestKind] = frozenset({"save", "stop", "change"})
"""Requests that all processes of a training carry out."""
FAILURES = (UserError, RuntimeError, ValueError, TypeError, AssertionError, IndexError)
"""What a picture may fail with. A training goes on without its pictures."""
COARSE_SECONDS, BAND_SECONDS, STILL_AFTER = 0.06, 0.08, 0.3
SMALLEST = 48
BEHIND = 0.09
"""Gray behind the object, as the page's own background."""


@dataclass(frozen=True)
class Request:
    """Something that somebody asked for on the page; ``key`` and ``value`` say what an option is to be."""

    kind: RequestKind
    key: str = ""
    value: Plain = None


@dataclass
class Subject:
    """A system with an object that is looked at, the folder that its files go to, and how it would be exported."""

    system: Scene
    save: Path
    exporter: Spec | None = None
    cameras: dict[str, Cameras] = field(default_factory=dict)  # by name: reference, training, evaluation
    device: torch.device = torch.device("cpu")  # where pictures are made
    version: int = 0  # rises when the object is another one, or another step's


@dataclass
class Watcher:
    """One open page: its camera, when that last moved, and what is shown there already."""

    pose: Pose
    rows: int
    moved: float
    coarse: object = None
    full: object = None
    full_step: int = -1


@runtime_checkable
class Page(Protocol):
    """The page, as far as a session needs it. Every method may be called from the training's thread."""

    kind: PictureKind | None
    insight: bool
    live: bool
    noise_level: float

    def watchers(self) -> Mapping[int, Watcher]:
        """Return the open pages by number."""

    def show_picture(self, client: int, picture: Bytes, depth: "Float[NDArray, 'H W'] | None") -> None:
        """Show a picture of the object behind everything else."""

    def show_insight(self, sheet: Bytes) -> None:
        """Show what the guidance sees and wants."""

    def say(self, text: str) -> None:
        """Tell everybody something that has happened."""


class Session:
    """Serves a page with pictures of a subject. ``share`` and ``idle_share`` of the options bound what that costs.

    ``serving`` says how many processor seconds the threads behind the page have taken so far: they count, too.
    """

    def __init__(
        self, page: Page, options: ViewerOptions, clock: Clock = time.monotonic, serving: Clock = lambda: 0.0
    ) -> None:
        self.page, self.options, self.clock, self.serving = page, options, clock, serving
        self.subject: Subject | None = None
        self.requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self.moving = TimeBudget(options.share, clock=clock)
        self.idle = TimeBudget(options.idle_share, clock=clock)
        self.rate = PixelRate()
        self.background: Iterator[None] | None = None  # a video, a frame at a time
        self._job: Iterator[None] | None = None
        self._job_is_current: Callable[[], bool] = lambda: True
        self._job_budget = self.moving
        self._insight_of: object = None
        self._served = 0.0  # seconds of the serving threads that are accounted for

    def ask(self, kind: RequestKind, key: str = "", value: Plain = None) -> None:
        """Leave a request, from any thread."""
        self.requests.put(Request(kind, key, value))

    def asked(self) -> list[Request]:
        """Return the requests since the last call; of several that replace one another the last one."""
        found: list[Request] = []
        while not self.requests.empty():
            request = self.requests.get()
            if request.kind in ("change", "mesh"):
                found = [other for other in found if (other.kind, other.key) != (request.kind, request.key)]
            found.append(request)
        return found

    # --------------------------------------------------------------------------------------------------- working

    def work(self, free: bool = False) -> bool:
        """Do one small piece of what is due, if time allows; ``free`` where nobody waits. Returns whether it did.

        What is free is not charged: after a pause pictures are made as they were before it.
        """
        self._charge_serving(free)
        if not self._has_job():
            return False
        if free:
            self._go_on()
            return True
        if not self._job_budget.allows():
            self._give_way()
            return False
        with self.charged():
            self._go_on()
        return True

    def _has_job(self) -> bool:
        """Return whether there is work, with the most urgent piece chosen where none is begun."""
        if self._job is not None and not self._job_is_current():
            self._job = None
        return self._job is not None or self._next_job()

    def _go_on(self) -> None:
        """Do a piece of the work that is begun."""
        if self._job is not None and next(self._job, self) is self:
            self._job = None

    def charged(self) -> contextlib.AbstractContextManager[None]:
        """Charge the time of a block, which does something else for the page."""
        return self._job_budget.spending()

    def _charge_serving(self, free: bool) -> None:
        """Charge what the threads behind the page have taken since the last time."""
        served = self.serving()
        if not free:
            self._job_budget.charge(served - self._served)
        self._served = served

    def _give_way(self) -> None:
        """Forget a picture that only refreshes another: something more urgent may be due by the time it is allowed."""
        if self._job_budget is self.idle and self._is_moving():
            self._job = None

    def _is_moving(self) -> bool:
        kind = self.page.kind
        return any(self._key(watcher, kind) != watcher.coarse for watcher in self.page.watchers().values())

    def _next_job(self) -> bool:
        """Choose the most urgent piece of work; return whether there is one."""
        kind, subject = self.page.kind, self.subject
        if subject is None:
            return False
        watchers = self.page.watchers()
        if kind is not None:
            for find in (self._coarse_job, self._full_job):
                for client, watcher in watchers.items():
                    if find(subject, kind, client, watcher):
                        return True
        if watchers and self.page.insight and self._insight_job(subject, next(iter(watchers.values()))):
            return True
        if self.background is not None:
            return self._begin(self._background_frame(), self.moving)
        return kind is not None and any(
            self._refresh_job(subject, kind, client, watcher) for client, watcher in watchers.items()
        )

    def _begin(
        self, job: Iterator[None], budget: TimeBudget, is_current: Callable[[], bool] = lambda: True
    ) -> bool:
        self._job, self._job_budget, self._job_is_current = job, budget, is_current
        return True

    def _key(self, watcher: Watcher, kind: PictureKind | None) -> object:
        """Return what a picture depends on, apart from the step."""
        version = -1 if self.subject is None else self.subject.version
        return watcher.pose, kind, version, watcher.rows

    def _coarse_job(self, subject: Subject, kind: PictureKind, client: int, watcher: Watcher) -> bool:
        key = self._key(watcher, kind)
        if key in (watcher.coarse, watcher.full):
            return False
        largest = min(self._full_rows(watcher), 192)
        rows = self.rate.height(watcher.pose.aspect, COARSE_SECONDS, min(SMALLEST, largest), largest)

        def done() -> None:
            watcher.coarse = key
            if rows == self._full_rows(watcher):
                watcher.full, watcher.full_step = key, subject.system.step

        return self._begin(self._picture(subject, kind, client, watcher, rows, done), self.moving)

    def _full_job(self, subject: Subject, kind: PictureKind, client: int, watcher: Watcher) -> bool:
        key = self._key(watcher, kind)
        if key == watcher.full or self.clock() - watcher.moved < STILL_AFTER:
            return False
        return self._full(subject, kind, client, watcher, self.moving)

    def _refresh_job(self, subject: Subject, kind: PictureKind, client: int, watcher: Watcher) -> bool:
        if watcher.full_step == subject.system.step or watcher.full is None:
            return False
        budget = self.moving if self.page.live else self.idle
        return self._full(subject, kind, client, watcher, budget)

    def _full(
        self, subject: Subject, kind: PictureKind, client: int, watcher: Watcher, budget: TimeBudget
    ) -> bool:
        key, step = self._key(watcher, kind), subject.system.step

        def done() -> None:
            watcher.full, watcher.full_step = key, step

        job = self._picture(subject, kind, client, watcher, self._full_rows(watcher), done)
        return self._begin(job, budget, lambda: self._key(watcher, self.page.kind) == key)

    def _full_rows(self, watcher: Watcher) -> int:
        return max(SMALLEST, min(self.options.max_size, watcher.rows))

    def _picture(
        self,
        subject: Subject,
        kind: PictureKind,
        client: int,
        watcher: Watcher,
        rows: int,
        done: Callable[[], None],
    ) -> Iterator[None]:
        """Render what a watcher sees, a band at a time, and show it."""
        cameras = watcher.pose.cameras(rows)
        for render in render_in_bands(subject.system, cameras, kind, self.rate, BAND_SECONDS):
            if render is None:
                yield
                continue
            self._show(client, render, cameras, kind)
            done()

    def _show(self, client: int, render: Render, cameras: Cameras, kind: PictureKind) -> None:
        self.page.show_picture(client, picture_of(render, kind, BEHIND), view_depth(render, cameras))

    def _insight_job(self, subject: Subject, watcher: Watcher) -> bool:
        if not isinstance(subject.system, DistillationSystem) or open_guidance_of(subject.system) is None:
            return False
        if self.clock() - watcher.moved < STILL_AFTER:
            return False
        place = (watcher.pose, self.page.noise_level, subject.version)
        key = (*place, subject.system.step) if self.page.live else place
        if key == self._insight_of:
            return False
        self._insight_of = key
        return self._begin(self._insight(subject.system, watcher), self.moving)

    def _insight(self, system: DistillationSystem, watcher: Watcher) -> Iterator[None]:
        """Show what the guidance sees of a watcher's view: a square picture, as large as the model's own."""
        guidance = open_guidance_of(system)
        if guidance is None:
            return
        rows = min(guidance.model.latent.image_size, 256)
        cameras = watcher.pose.cameras(rows).resize(rows, rows)
        try:
            pictures = guidance_pictures(system, guidance, cameras, self.page.noise_level)
        except FAILURES as error:
            self.page.insight = False
            self.page.say(f"the guidance cannot be asked: {error}")
        else:
            self.page.show_insight(captioned_sheet(pictures))
        yield

    def _background_frame(self) -> Iterator[None]:
        if self.background is not None and next(self.background, self) is self:
            self.background = None
        yield
