"""A page, its session and its controls together: what is looked at, and what is done when somebody asks for it."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from usd.core.config import Plain
from usd.core.errors import UserError
from usd.viewer.history import History
from usd.viewer.options import ViewerOptions
from usd.viewer.panel import Panel
from usd.viewer.results import mesh_export, mesh_preview, video_frames, write_export
from usd.viewer.server import ViewerServer
from usd.viewer.session import FAILURES, Request, Session, Subject
from usd.viewer.stage import Stage, usual_view

log = logging.getLogger(__name__)
STATUS_SECONDS = 1.0


class Viewer:
    """Serves one subject after the other, at one address."""

    def __init__(self, options: ViewerOptions) -> None:
        self.options = options
        self.server = ViewerServer(options)
        self.stage = Stage(self.server.page)
        self.session = Session(self.stage, options, serving=self.server.seconds)
        self.panel: Panel | None = None
        self.history = History()
        self.closed = False
        self.on_step: Callable[[int], None] | None = None  # goes to another saved step
        self.broken = False
        self._told = 0.0

    def open(self, title: str, subject: Subject | None, training: bool) -> Panel:
        """Begin to show a subject, with controls of its own; without one there is only what is put on the stage."""
        self.server.page.gui.reset()
        self.server.page.scene.reset()
        self.stage.forget()
        self.session.subject, self.history, self.broken = subject, History(), False
        cameras = {} if subject is None else subject.cameras
        self.stage.place(cameras.get("reference", usual_view())[0:1])
        self.panel = Panel(self.stage, self.session, title, training)
        return self.panel

    def requests(self) -> list[Request]:
        """Return what was asked for since the last call, apart from what is done here at once."""
        if self.panel is not None:
            self.panel.settle()
        return [request for request in self.session.asked() if not self._did(request)]

    def work(self, free: bool = False) -> bool:
        """Do a piece of what is due, as ``Session.work`` does; pictures that fail once are not tried again."""
        if self.broken:
            return False
        try:
            return self.session.work(free)
        except FAILURES as error:
            self.broken = True
            log.debug("the viewer's picture failed", exc_info=True)
            self.stage.say(f"no more pictures: {error}")
            return False

    def tell(self, text: Callable[[], str]) -> None:
        """Bring the line at the top and the curves up to date, at most once a second; the line is made when due."""
        if self.panel is None or time.monotonic() - self._told < STATUS_SECONDS:
            return
        self._told = time.monotonic()
        if self.stage.watchers():
            with self.session.charged():
                self.panel.status.content = text()
                self.panel.show_curves(self.history)

    def close(self) -> None:
        """End the page."""
        self.closed = True
        self.server.close()

    # ------------------------------------------------------------------------------------------------- requests

    def _did(self, request: Request) -> bool:
        """Carry out a request that concerns the object alone; return whether it was one."""
        subject, act = (
            self.session.subject,
            {"mesh": self._mesh, "export": self._export, "video": self._video},
        )
        if request.kind == "close":
            self.closed = True
            return True
        if request.kind == "step" and self.on_step is not None and isinstance(request.value, int):
            self.on_step(request.value)
            return True
        if request.kind not in act or subject is None:
            return request.kind in act
        try:
            act[request.kind](subject, request.value)
        except FAILURES as error:
            self.stage.say(f"{request.kind}: {error}")
        return True

    def _mesh(self, subject: Subject, crop: Plain) -> None:
        self.stage.say("Extracting the mesh…")
        self.stage.show_mesh(mesh_preview(subject, crop_corners(crop)))

    def _export(self, subject: Subject, crop: Plain) -> None:
        self.stage.say("Exporting…")
        folder = subject.save / f"it{subject.system.step}-export"
        files = write_export(subject, mesh_export(subject, crop_corners(crop)), folder)
        self.stage.say(f"Wrote {names(files)} to {folder}")

    def _video(self, subject: Subject, value: Plain) -> None:
        if not isinstance(value, Mapping) or not isinstance(value["path"], Mapping):
            raise UserError("a video needs a camera path")
        if self.session.background is not None:
            raise UserError("one is being made already; ask again when it is written")
        size = int(float(str(value["size"])))
        self.session.background = self._video_job(subject, value["path"], size)

    def _video_job(self, subject: Subject, path: Mapping[str, Plain], size: int) -> Iterator[None]:
        """Render a video, a frame whenever there is time, and say where it is."""
        for done, frames, files in video_frames(subject, path, size):
            if self.panel is not None:
                self.panel.show_video(done, frames)
            if files:
                self.stage.say(f"Wrote {names(files)} to {files[0].parent}")
            yield

    def finish_video(self) -> None:
        """Make the rest of a video that was asked for: the page may close with the training."""
        job, self.session.background = self.session.background, None
        try:
            for _ in job or ():
                pass
        except FAILURES as error:
            self.stage.say(f"video: {error}")


def crop_corners(crop: Plain) -> list[float] | None:
    """Return the six numbers of a crop box; None where there is none."""
    return [float(str(value)) for value in crop] if isinstance(crop, list | tuple) else None


def names(files: "list[Path] | tuple[Path, ...]") -> str:
    """Return the names of files in a row."""
    return ", ".join(file.name for file in files)
