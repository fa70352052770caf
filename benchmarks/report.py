"""How long a report takes to show its object, what it asks the network for, and how large it is.

    python -m benchmarks.report outputs/USD-mini/kettle.png@.../report.html --picture report.png

The file is opened from disk in a headless Chromium whose graphics are computed on the processor, once for each of
``--visits``, in a new browser context, so that nothing is remembered. Printed are the seconds until the object is
drawn for the first time (the median and the slowest), the requests for anything but the file itself, its size, the
share of the canvas that the object covers, and whether a screen of 390 px has to be scrolled sideways.
"""

import argparse
import base64
import io
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.browser import Traffic, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDE, NARROW, HEIGHT = 1400, 390, 900
SHOWN = "document.querySelector('model-viewer').modelIsVisible === true && performance.now()"
"""False until the object is drawn; then the milliseconds since the page was opened."""


@dataclass(frozen=True)
class Visit:
    """What one visit of a report showed: seconds to the first frame, requests, errors, and shares of the screen."""

    seconds: float
    requests: list[str]
    errors: list[str]
    covered: float  # share of the canvas that is not background
    overflow: int  # pixels to the right of the screen


def visit(browser: "Browser", file: Path, width: int = WIDE, picture: Path | None = None) -> Visit:
    """Open a report on a screen of a ``width`` in pixels and wait for its object; ``picture`` keeps the whole page."""
    with browser.new_context(viewport={"width": width, "height": HEIGHT}) as context:
        page = context.new_page()
        traffic = Traffic(page)
        page.goto(file.resolve().as_uri())
        shown = page.wait_for_function(SHOWN, timeout=120_000, polling="raf").json_value()
        overflow = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        if picture is not None:
            page.screenshot(path=picture, full_page=True)
        requests = traffic.beyond(file.resolve().as_uri())
        return Visit(shown / 1000, requests, traffic.errors, covered_share(page), overflow)


def covered_share(page: "Page") -> float:
    """Return the share of the first object's canvas that the object covers; its background is transparent."""
    uri = page.evaluate("document.querySelector('model-viewer').toDataURL('image/png')")
    canvas = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA")
    return float((np.asarray(canvas)[..., 3] > 127).mean())


def table(file: Path, visits: list[Visit], narrow: Visit) -> str:
    """Return what visits of a report showed, a figure a line."""
    seconds = [one.seconds for one in visits]
    requests = sorted({url for one in (*visits, narrow) for url in one.requests})
    return "\n".join(
        [
            f"first frame   {statistics.median(seconds):.2f} s, {max(seconds):.2f} s at most, {len(seconds)} visits",
            f"requests      {len(requests)} {' '.join(requests)}".rstrip(),
            f"size          {file.stat().st_size / 1e6:.2f} MB",
            f"object        {100 * visits[0].covered:.0f} % of its canvas",
            f"at {NARROW} px     {narrow.overflow} px beyond the screen",
            *(f"error         {error}" for error in (*visits[0].errors, *narrow.errors)),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a report of a trial")
    parser.add_argument("--visits", type=int, default=5)
    parser.add_argument(
        "--picture", type=Path, help="where to write the page as a picture; NAME-390.png beside it"
    )
    args = parser.parse_args()
    small = args.picture and args.picture.with_stem(f"{args.picture.stem}-{NARROW}")
    with chromium() as browser:
        visits = [visit(browser, args.file, picture=None if i else args.picture) for i in range(args.visits)]
        narrow = visit(browser, args.file, NARROW, small)
    print(table(args.file, visits, narrow))


if __name__ == "__main__":
    main()
