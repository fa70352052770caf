"""A batch of objects: what is to do, what is done before, what is tried again; with Ray and a worker killed, too."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from tests.tiny_configs import save_disc
from usd.batch import Result, Task, command, worker
from usd.batch.launchers import Local, cards
from usd.batch.scheduler import run_all
from usd.batch.summary import columns, figures_of, table, write_sheet, write_table
from usd.batch.tasks import (
    digest,
    done_before,
    from_json,
    read_task_record,
    sources,
    to_json,
    write_task_record,
)
from usd.core import checkpoint
from usd.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CUSTOM = ROOT / "tests" / "core" / "custom"
TINY = CUSTOM / "tiny.yaml"


def task(folder: Path, name: str = "duck", *overrides: str) -> Task:
    return Task(name, "words", str(folder / name), (str(TINY),), overrides, here=str(folder))


# ------------------------------------------------------------------------------------------------- what is to do


def test_sources_are_pictures_of_folders_and_lines_of_files(tmp_path):
    for name in ("b.png", "a.jpg", "notes.md", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "more.txt").write_text("# said\na red car\n\nan owl: teal\n")
    found, notes = sources([tmp_path, tmp_path / "more.txt"])
    assert list(found) == ["a", "b", "a-red-car", "an-owl--teal"]
    assert found["a"].text == str(tmp_path / "a.jpg") and found["an-owl--teal"].text == "an owl: teal"
    assert [found[name].is_picture for name in found] == [True, True, False, False]
    assert notes == [f"note: {tmp_path}: left out what is no picture: .hidden.png, more.txt, notes.md"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds nothing to make"),
        (None, "no such picture"),
    ],
)
def test_sources_that_make_no_sense_are_one_line(tmp_path, names, message):
    for name in names or []:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        sources([tmp_path if names is not None else tmp_path / "nothing"])


def test_a_task_travels_as_text(tmp_path):
    assert from_json(to_json(task(tmp_path, "duck", "seed=3"))) == task(tmp_path, "duck", "seed=3")


def test_done_is_what_was_asked_for_in_the_same_way(tmp_path):
    picture = save_disc(tmp_path / "disc.png")
    one = Task("disc", str(picture), str(tmp_path / "disc"), (str(TINY),), ("seed=1",), is_picture=True)
    (tmp_path / "disc").mkdir()
    assert done_before(one) is None
    write_task_record(tmp_path / "disc", {"done": digest(one), "figures": {"loss": 1.0}})
    assert done_before(one) == {"done": digest(one), "figures": {"loss": 1.0}}
    assert done_before(Task(**{**vars(one), "overrides": ("seed=2",)})) is None
    save_disc(picture, 16)
    assert done_before(one) is None


def meshed(folder: Path) -> Task:
    """A task whose mesh and picture are files."""
    picture, mesh = save_disc(folder / "disc.png"), folder / "mesh.glb"
    mesh.write_bytes(b"one")
    (folder / "disc").mkdir()
    return Task("disc", str(picture), str(folder / "disc"), (str(TINY),), (), is_picture=True, mesh=str(mesh))


def test_another_mesh_is_another_task(tmp_path):
    one = meshed(tmp_path)
    before = digest(one)
    assert before != digest(Task(**{**vars(one), "mesh": ""}))
    Path(one.mesh).write_bytes(b"two")
    assert digest(one) != before
    Path(one.mesh).unlink()
    with pytest.raises(UserError, match=r"mesh\.glb: cannot be read"):
        digest(one)


def test_the_axes_of_a_mesh_are_fitted_once_for_all_attempts(tmp_path, monkeypatch):
    fits = []

    def fit(mesh: Path, *_: object) -> list[str]:
        fits.append(mesh.read_bytes())
        return [f"system.geometry.shape_init=mesh:{mesh}", f"seed={len(fits)}"]

    monkeypatch.setattr("usd.app.improve.settings_for", fit)
    one = meshed(tmp_path)
    first = worker.placement(one)
    assert first[1] == "seed=1" and worker.placement(one) == first and fits == [b"one"]
    Path(one.mesh).write_bytes(b"two")
    assert worker.placement(one)[1] == "seed=2", "another mesh stands elsewhere"
    assert worker.placement(task(tmp_path)) == []


# ------------------------------------------------------------------------------------------------------- the loop


class Script:
    """A launcher that plays what it is told, at once."""

    def __init__(self, plays: dict[str, list[Result | Exception]]) -> None:
        self.plays, self.asked = plays, []

    def submit(self, task: Task) -> "Future[Result]":
        self.asked.append(task.name)
        future: Future[Result] = Future()
        play = self.plays[task.name].pop(0)
        future.set_exception(play) if isinstance(play, Exception) else future.set_result(play)
        return future

    def close(self) -> None:
        pass


def ended(name: str, status: str, error: str = "") -> Result:
    return Result(name, status, 2.0, 1, error, "here", {"loss": 0.5} if status == "done" else {})


def test_failures_stay_apart_and_only_crashes_are_tried_again(tmp_path):
    there = Script(
        {
            "good": [ended("good", "done")],
            "bad": [ended("bad", "failed", "no such picture")],
            "lost": [RuntimeError("worker died\nat dawn"), ended("lost", "done")],
            "hopeless": [ended("hopeless", "crashed", "killed by SIGKILL")] * 3,
        }
    )
    tasks = [task(tmp_path, name) for name in there.plays]
    heard: list[Result] = []
    results = {result.name: result for result in run_all(tasks, there, retries=2, tell=heard.append)}
    assert [results[t.name].status for t in tasks] == ["done", "failed", "done", "crashed"]
    assert there.asked.count("bad") == 1 and there.asked.count("lost") == 2
    assert there.asked.count("hopeless") == 3
    assert results["hopeless"].attempts == 3 and results["hopeless"].seconds == 6.0
    assert next(r.error for r in heard if r.name == "lost") == "RuntimeError: worker died"


def test_why_a_process_ended_is_its_last_error_or_its_signal():
    assert worker.reason(-9, b"error: something else\n") == "killed by SIGKILL"
    assert worker.reason(2, b"trial: x\nerror: a.png: no such picture\nbye\n") == "a.png: no such picture"
    assert worker.reason(1, b"Traceback\n  ...\nKeyError: 'x'\n\n") == "KeyError: 'x'"
    assert worker.reason(3, b"") == "exit code 3"


def test_what_is_done_is_not_started(tmp_path):
    one = task(tmp_path)
    Path(one.folder).mkdir()
    write_task_record(Path(one.folder), {"done": digest(one), "figures": {"loss": 0.25}})
    (result,) = run_all([one], Script({}), 2, lambda _: None)
    assert (result.status, result.attempts, result.figures) == ("done", 0, {"loss": 0.25})


def test_local_workers_share_cards_and_hold_them_apart(tmp_path):
    used: list[str] = []

    def note(one: Task) -> Result:
        used.append(str(one.gpu))
        time.sleep(0.02)
        return ended(one.name, "done")

    there = Local(2, ["0", "1"], note)
    results = run_all([task(tmp_path, str(i)) for i in range(6)], there, 0, lambda _: None)
    there.close()
    assert len(results) == 6 and set(used) == {"0", "1"}
    assert cards(0) == []
    with pytest.raises(UserError, match="one GPU"):
        cards(2.0)


# ------------------------------------------------------------------------------------------------------ the summary


def test_the_table_has_every_figure_and_every_error(tmp_path):
    results = [ended("a", "done"), Result("b", "failed", 1.0, 1, "b.png: no such file", "", {"psnr": 20.0})]
    assert columns(results) == ["name", "status", "seconds", "attempts", "node", "loss", "psnr", "error"]
    with open(write_table(tmp_path / "summary.csv", results), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["loss"] for row in rows] == ["0.5", ""] and rows[1]["error"] == "b.png: no such file"
    assert table(results).splitlines()[0].split()[:2] == ["name", "status"]
    assert write_sheet(tmp_path / "sheet.png", []) is None


def test_the_sheet_has_a_row_for_each_object(tmp_path):
    from PIL import Image

    tasks = []
    for name in ("one", "two"):
        picture = save_disc(tmp_path / f"{name}.png")
        tasks.append(Task(name, str(picture), str(tmp_path / name), (str(TINY),), (), is_picture=True))
    for index in range(5):
        folder = tmp_path / "one" / "object" / "save" / "it3-test"
        folder.mkdir(parents=True, exist_ok=True)
        save_disc(folder / f"{index}.png")
    sheet = Image.open(write_sheet(tmp_path / "sheet.png", tasks, views=3, size=20))
    assert sheet.size == (4 * 22 - 2, 2 * 22 - 2)


# --------------------------------------------------------------------------------------- real processes, tiny system


def batch(out: Path, *argv: str) -> list[str]:
    """The command for three objects of words, by the system of the tests."""
    return ["-m", "usd.batch", "--config", str(TINY), "--out", str(out), "--no-export", *argv]


def environment() -> dict[str, str]:
    own = {"USD_CUSTOM": str(CUSTOM), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **own, "RAY_worker_niceness": "0"}


def test_an_object_is_made_once_and_its_process_leaves_with_its_watcher(tmp_path, monkeypatch):
    """One process that trains, orphaned after some steps; another one that goes on; a third that has nothing to do."""
    monkeypatch.setenv("USD_CUSTOM", str(CUSTOM))
    one = task(tmp_path, "duck", "trainer.max_steps=35", "system.pause=0.1")
    Path(one.folder).mkdir()
    last = Path(one.folder) / "object" / "ckpts" / "last.ckpt"
    first = subprocess.Popen(
        [sys.executable, "-m", "usd.batch.worker", to_json(one)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    wait_for(last.exists, first)
    assert first.stdin is not None
    first.stdin.close()  # as when whoever watches is killed
    assert first.wait(timeout=300) == 130
    step = checkpoint.load(last)["global_step"]
    assert 5 <= step < 35
    quick = task(tmp_path, "duck", "trainer.max_steps=35", "system.pause=0.1")
    assert worker.main([to_json(quick)]) == 0
    assert first_steps(Path(one.folder) / "object")[1] == step  # not from the start
    record = read_task_record(Path(one.folder))
    assert record["done"] == digest(quick) and record["figures"]["step"] == 35
    assert figures_of(Path(one.folder)) == record["figures"]


def first_steps(trial: Path) -> list[int]:
    """The first step that each run of a trial logged."""
    logs = sorted(trial.glob("csv_logs/version_*/metrics.csv"))
    return [int(next(csv.DictReader(log.read_text().splitlines()))["step"]) for log in logs]


def wait_for(condition, process: subprocess.Popen, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def test_mistakes_are_one_line(tmp_path, capsys):
    words = tmp_path / "words.txt"
    words.write_text("a car\n")
    for argv, message in (
        (["--lokal", "2"], "--lokal: unknown option"),
        (["--local", "0"], "--local 0: expected at least 1"),
        (["--local", "1", "--address", "auto"], "exclude each other"),
        (["--local", "1", "--gpus", "-1"], "not negative"),
    ):
        assert command.main([str(words), "--config", str(TINY), "--out", str(tmp_path / "out"), *argv]) == 2
        errors = capsys.readouterr().err
        assert message in errors and "Traceback" not in errors


@pytest.mark.slow
def test_six_objects_on_two_workers_of_ray_one_of_which_is_killed(tmp_path):
    pytest.importorskip("ray")
    words = tmp_path / "words.txt"
    words.write_text("\n".join(f"object {i}" for i in range(5)) + "\nbroken\n")
    settings = [
        "trainer.max_steps=40",
        "system.pause=0.1",
        "--key",
        "description",
        "--workers",
        "2",
        "--gpus",
        "0",
    ]
    started = subprocess.Popen(
        [sys.executable, *batch(tmp_path / "out", str(words), *settings)],
        env=environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    victim = tmp_path / "out" / "object-1"
    wait_for((victim / "object" / "ckpts" / "last.ckpt").exists, started, 600)
    assert listening(started) == {"127.0.0.1"}
    worker = worker_of("object-1", started)
    killed_at = checkpoint.load(victim / "object" / "ckpts" / "last.ckpt")["global_step"]
    worker.send_signal(signal.SIGKILL)
    text, _ = started.communicate(timeout=900)
    assert started.returncode == 0, text
    with open(tmp_path / "out" / "summary.csv", encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert len(rows) == 6 and {row["status"] for row in rows.values()} == {"done"}, text
    assert rows["object-1"]["attempts"] == "2" and rows["object-0"]["attempts"] == "1"
    runs = first_steps(victim / "object")
    assert len(runs) == 2 and killed_at <= runs[1] < 40
    assert all(len(first_steps(tmp_path / "out" / n / "object")) == 1 for n in rows if n != "object-1")
    assert json.loads((victim / "object" / "stage.json").read_text())["step"] == 40


def listening(started: subprocess.Popen) -> set[str]:
    """The addresses at which a process and all that it started wait for connections."""
    root = psutil.Process(started.pid)
    sockets = [
        one
        for process in [root, *root.children(recursive=True)]
        for one in process.net_connections(kind="inet")
    ]
    return {one.laddr.ip.removeprefix("::ffff:") for one in sockets if one.status == psutil.CONN_LISTEN}


def worker_of(name: str, started: subprocess.Popen) -> psutil.Process:
    """The Ray worker that watches over an object's process; both were started by the batch."""
    for process in psutil.Process(started.pid).children(recursive=True):
        if "usd.batch.worker" in process.cmdline() and any(f'"{name}"' in part for part in process.cmdline()):
            parent = process.parent()
            assert parent is not None and parent.pid != started.pid
            return parent
    raise AssertionError("the object's process was not found")
