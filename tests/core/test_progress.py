"""Progress: seen in a terminal and in a notebook, by nobody else; several works at once; times that are right."""

import io
import sys
import types

import pytest
import torch
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


# --------------------------------------------------------------------------------------------------- long works


def test_calls_are_counted_up_to_the_total():
    work = Work("counting", 5)
    double = progress.counted(lambda items: 2 * items, work, len)
    assert double([1, 2]) == [1, 2, 1, 2] and work.done == 2
    double([1, 2]), double([1, 2])
    assert work.done == 5


def sample(folder):
    from usd.core.config import parse
    from usd.denoiser.gaussian import GaussianDenoiser
    from usd.denoiser.sample import Sampler, sample_text

    model = GaussianDenoiser(parse(GaussianDenoiser.Config, {"size": 8}))
    sample_text(model, ["a"], Sampler(4), torch.Generator().manual_seed(0))


def decode(folder):
    from usd.data.picture_cache import on_all_cores

    assert list(on_all_cores(lambda i: i, 3)) == [0, 1, 2]


def keep_pictures(folder):
    from usd.system.specialize_sets import picture_set

    picture_set(folder / "set", "key", 3, 2, lambda first, last: torch.zeros(last - first, 3, 4, 4))


def find_surface(folder):
    from usd.core.config import spec
    from usd.core.registry import build
    from usd.geometry import Geometry

    options = {"pos_encoding_config": {"n_levels": 2, "log2_hashmap_size": 8}, "isosurface_resolution": 16}
    geometry = build(spec("geometry", "implicit-volume", options), Geometry)
    geometry.export_mesh(None, 0.0)


def bake(folder):
    from tests.exporter.solids import AsIs, Painted, exporter, sphere

    exporter(fmt="glb").export(Painted(sphere(12)), AsIs(), folder)


def render_mesh(folder):
    from tests.report.trials import textured_cube
    from usd.math.camera import orbit_cameras_deg
    from usd.mesh_io.pictures import pictures
    from usd.mesh_io.read import read_mesh

    (folder / "cube.glb").write_bytes(textured_cube())
    pictures(read_mesh(folder / "cube.glb"), orbit_cameras_deg(0.0, [0.0, 90.0], 2.0, 40.0, 8))


WORKS = {
    "sampling, steps": sample,
    "decoding pictures": decode,
    "pictures of the set set, batches": keep_pictures,
    "looking for the surface, slices": find_surface,
    "baking the texture, texels": bake,
    "rendering the mesh": render_mesh,
}


@pytest.mark.parametrize("what", WORKS)
def test_a_long_work_says_how_far_it_is_and_reaches_its_end(what, monkeypatch, tmp_path):
    shown = {}

    class Remembered:
        def __init__(self, what):
            self.what = what

        def show(self, done, total, note):
            shown[self.what] = done / total

        def close(self):
            shown[f"{self.what} closed"] = True

    monkeypatch.setattr(progress, "open_display", lambda what, total, done: Remembered(what))
    monkeypatch.setattr(progress, "LEAST_SECONDS", 0.0)
    WORKS[what](tmp_path)
    assert shown[what] == pytest.approx(1, abs=0.15) and shown[f"{what} closed"]
