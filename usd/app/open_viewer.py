"""The viewer of a run: one address for all its stages, open to the end. Nothing is loaded before it is used."""

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from usd.app import interrupts
from usd.core.console import say
from usd.viewer.options import ViewerOptions

if TYPE_CHECKING:  # the library behind the page is an extra
    from usd.viewer.viewer import Viewer

NAP = 0.02
"""Seconds between two looks at the page while there is nothing to do."""

_viewer: "Viewer | None" = None


def open_viewer(options: ViewerOptions) -> "Viewer":
    """Return the viewer of this run, opened at the first call. Raises ``UserError`` where it cannot be served."""
    global _viewer  # noqa: PLW0603
    if _viewer is None:
        from usd.viewer.viewer import Viewer

        _viewer = Viewer(options)
        for line in _viewer.server.invitation():
            say(line)
    return _viewer


def close_viewer() -> None:
    """Close the viewer of this run, if one is open."""
    global _viewer
    viewer, _viewer = _viewer, None
    if viewer is not None:
        viewer.close()


@contextlib.contextmanager
def viewer_until_the_end(stays: bool) -> Iterator[None]:
    """Close the viewer after the block; where it ``stays``, and all went well, only when somebody says so."""
    try:
        yield
        viewer = _viewer
        if stays and viewer is not None and viewer.options.stay_open and not viewer.closed:
            say(f"viewer: stays open at {viewer.server.address}; Ctrl-C closes it")
            serve_until_closed(viewer)
    finally:
        close_viewer()


def serve_until_closed(viewer: "Viewer") -> None:
    """Serve what a viewer shows until somebody closes the page or presses Ctrl-C."""
    subject = viewer.session.subject
    if subject is not None:
        subject.system.to(subject.device)
    with interrupts.listening() as stop:
        stop.patient = False
        try:
            while not viewer.closed and not stop.asked:
                viewer.requests()
                if not viewer.work(free=True):
                    time.sleep(NAP)
        except KeyboardInterrupt:
            pass  # that is how it is closed
        stop.asked = stop.raised = False
