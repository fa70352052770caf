"""Progress: seen in a terminal and in a notebook, by nobody else; several works at once; times that are right."""

import io
import sys
import types

import pytest
from rich.console import Console

from usd.core import progress
from usd.core.progress import Bars, Work, each, progress_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    stream = Terminal()
    streams = types.SimpleNamespace(stderr=stream, stdout=stream, modules=sys.modules)
    monkeypatch.setattr(progress, "sys", streams)  # pytest puts its own streams in the place of ours
    monkeypatch.setattr(
        progress, "error_console", lambda: Console(file=stream, force_terminal=True, width=120)
    )
    monkeypatch.setattr(progress, "LEAST_SECONDS", 0.0)
    yield stream
    assert Bars.active is None, "the terminal is free again"


def test_nothing_is_shown_where_nobody_looks(capsys):
    assert list(each([1, 2, 3], "counting")) == [1, 2, 3]
    with Work("counting", 3) as work:
        work.step("one")
        assert not work.is_shown and work.done == 1
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_what_how_much_and_the_time_left(terminal):
    with Work("counting", 4, done=1) as work:
        work.step("the second")
        Bars.active.progress.refresh()
    text = terminal.getvalue()
    assert "counting" in text and "2/4" in text and "the second" in text and "left" in text


def test_works_inside_one_another_have_a_row_each(terminal):
    with Work("outer", 2) as outer:
        for _ in each(["a", "b"], "inner"):
            assert len(Bars.active.progress.tasks) == 2
        outer.step()
        assert len(Bars.active.progress.tasks) == 1
    assert "inner" in terminal.getvalue() and "outer" in terminal.getvalue()


def test_an_error_frees_the_terminal(terminal):
    with pytest.raises(ZeroDivisionError), Work("failing", 2):
        raise ZeroDivisionError


def test_a_notebook_has_a_line_that_changes(monkeypatch):
    lines = []

    class ZMQInteractiveShell:
        pass

    handle = types.SimpleNamespace(update=lambda data, raw: lines.append(data["text/plain"]))
    shell = types.ModuleType("IPython")
    shell.get_ipython = ZMQInteractiveShell
    shown = types.ModuleType("IPython.display")
    shown.display = lambda data, raw, display_id: handle
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    list(each(["a", "b"], "counting"))
    assert lines[-1].startswith("counting  2/2")


@pytest.mark.parametrize("rank", ["1", "3"])
def test_only_the_first_process_shows_any(terminal, monkeypatch, rank):
    monkeypatch.setattr("usd.core.ranks.rank", lambda: int(rank))
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert not Work("counting", 2).is_shown


def test_the_time_left_follows_from_the_time_so_far():
    assert progress_text("x", 30, 120, 60.0) == "x  30/120  0:01:00 passed  0:03:00 left"
    assert progress_text("x", 120, 120, 60.0, "end") == "x  120/120  0:01:00 passed  end"
    assert progress_text("x", 5, None, 3661.0) == "x  5  1:01:01 passed"
