"""A report in a real browser, opened from disk: the object is drawn, without a network, on screens of any width."""

import pytest

from benchmarks.report import table, visit
from tests.report.trials import write_trial
from usd.report.compare import write_comparison
from usd.report.page import write_report

pytestmark = pytest.mark.slow
LIMIT = 6e6
"""Bytes of a report that can be sent to somebody."""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(write_trial(tmp_path_factory.mktemp("trials") / "car"))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trials")
    trials = [write_trial(folder / name, color) for name, color in (("light", 0.8), ("dark", 0.2))]
    return write_comparison(trials, folder / "compare.html", size=64)


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_the_object_is_drawn_without_a_network_and_nothing_is_cut_off(browser, request, kind, width):
    file = request.getfixturevalue(kind)
    found = visit(browser, file, width)
    assert file.stat().st_size < LIMIT
    assert found.requests == [] and found.errors == []
    assert 0.05 < found.covered < 0.95, "the canvas shows the object, and what is around it"
    assert found.overflow == 0, "nothing is to the right of the screen"


def test_curves_are_drawn_and_a_figure_a_line_says_what_was_measured(browser, report):
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(report.as_uri())
        page.wait_for_selector(".plot canvas")
        assert page.locator(".plot canvas").count() == 2
    found = visit(browser, report)
    lines = table(report, [found], found).splitlines()
    assert [line.split()[0] for line in lines] == ["first", "requests", "size", "object", "at"]


def test_a_page_that_asks_the_network_is_found_out(browser, report, tmp_path):
    told = report.read_text().replace("<main>", '<main><img src="http://127.0.0.1:9/x.png">', 1)
    (tmp_path / "report.html").write_text(told)
    assert visit(browser, tmp_path / "report.html").requests == ["http://127.0.0.1:9/x.png"]
