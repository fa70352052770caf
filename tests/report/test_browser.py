"""A report in a real browser, opened from disk."""

import shutil

import pytest

from tests.report.trials import write_trial
from usd.report.page import write_report

EXECUTABLE = shutil.which("chromium") or shutil.which("google-chrome")
GRAPHICS = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(EXECUTABLE is None, reason="no chromium on this machine")]


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=EXECUTABLE, args=GRAPHICS)
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [1400, 390])
def test_the_object_is_shown_without_a_network_and_nothing_is_cut_off(browser, tmp_path, width):
    file, requests, problems = write_report(write_trial(tmp_path / "car")), [], []
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(file.as_uri())
    page.wait_for_function("document.querySelector('model-viewer').modelIsVisible === true", timeout=60_000)
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
    assert problems == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".plot canvas").count() == 2
    page.close()
