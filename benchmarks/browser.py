"""A real browser without a window, for what is measured and tested in one."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the library is a requirement of the tests alone
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
EXECUTABLE = next(filter(None, map(shutil.which, NAMES)), None)
"""The browser of this machine; None where there is none."""
FLAGS = ("--no-sandbox", "--enable-unsafe-swiftshader")
"""WebGL computed on the processor, so that a page with three dimensions works on any machine."""


@contextlib.contextmanager
def chromium() -> "Iterator[Browser]":
    """Open a browser for the block, to be used by the thread that opened it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=list(FLAGS))
        yield browser
        browser.close()


class Traffic:
    """What a page asks for, and what goes wrong in it."""

    def __init__(self, page: "Page") -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def beyond(self, *own: str) -> list[str]:
        """Return the requests for anything but what lies in the page or begins with one of ``own``."""
        return [url for url in self.requests if not url.startswith(("data:", "blob:", *own))]
