"""The work on one object: ``run_task`` watches over a process that runs the launcher; ``main`` is that process.

The process ends with whoever watches it, wherever that is: it reads its standard input, which nobody writes to, and
when that is closed it saves its step and leaves. A lock in the folder keeps two processes from the same object.
"""

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from usd.batch import Result, Status, Task, log_of
from usd.batch.tasks import digest, fingerprint, from_json, read_task_record, to_json, write_task_record
from usd.core import files, loading, process
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.places import PACKAGE

PLACEMENT = "placement.json"
"""Record of where a task's mesh was put."""
PATIENCE = 60.0  # seconds that a predecessor gets to leave
Watch = Callable[[Task, IO[bytes]], int]
"""Runs a task's process, its output to a file; returns its exit code."""
STATUS: dict[int, Status] = {0: "done", 2: "failed", 130: "interrupted"}


def run_task(task: Task, watch: "Watch | None" = None) -> Result:
    """Run a task to its end in a process of its own, which ``watch`` starts and waits for."""
    began = time.monotonic()
    log, before = log_of(task), 0
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as out:
            before = out.tell()
            code = (watch or _watched)(task, out)
    except OSError as problem:
        error = f"{problem.filename or log}: {problem.strerror}"
        return Result(task.name, "failed", time.monotonic() - began, 1, error, platform.node())
    status = STATUS.get(code, "crashed")
    error = "" if status == "done" else reason(code, log.read_bytes()[before:])
    figures = read_task_record(log.parent).get("figures", {}) if status == "done" else {}
    return Result(task.name, status, time.monotonic() - began, 1, error, platform.node(), figures)


def start_process(task: Task, out: IO[bytes], own_session: bool = False) -> "subprocess.Popen[bytes]":
    """Start the task's process, its output to ``out``; it saves its step and leaves when its stdin is closed.

    In a session of its own it does not hear the terminal's Ctrl-C.
    """
    paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {
        **os.environ,
        "OMP_NUM_THREADS": str(task.threads),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "usd.batch.worker", to_json(task)],
        env=env,
        cwd=task.here,
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=out,
        start_new_session=own_session,
    )


def _watched(task: Task, out: IO[bytes]) -> int:
    """Run the task's process, its output to ``out``; return its exit code."""
    process = start_process(task, out)
    try:
        return process.wait()
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait()


def reason(code: int, log: bytes) -> str:
    """One line on why a process did not end well: what it said last, or which signal ended it."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line.strip() for line in log.decode("utf-8", errors="replace").splitlines()]
    said = [line for line in lines if line]
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    return (errors or said or [f"exit code {code}"])[-1][:300]


# ------------------------------------------------------------------------------------------------- in the process


def main(argv: list[str]) -> int:
    """Trains and exports one object, going on where an earlier process stopped."""
    process.prepare()
    task = from_json(argv[0])
    try:
        with alone(task):
            record = _begin(task)
            write_task_record(Path(task.folder), {**record, "figures": _made(task), "done": digest(task)})
    except UserError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt as stop:
        say(f"interrupted{stop}")
        return 130
    return 0


def _leave_with_the_watcher() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1):  # not sys.stdin: its lock would be held when the interpreter ends
            pass
    os.kill(os.getpid(), signal.SIGTERM)  # a training saves its step first
    time.sleep(PATIENCE / 2)
    os._exit(1)


@contextlib.contextmanager
def alone(task: Task) -> Iterator[None]:
    """Wait for an earlier process that is still at this object. Raises ``UserError`` when it does not leave."""
    folder = Path(task.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with files.locked(folder.parent / f".{folder.name}.lock", PATIENCE):
        yield


def _begin(task: Task) -> dict[str, object]:
    """Leaves what was made of another picture of this name aside; notes what this one is."""
    folder = Path(task.folder)
    record: dict[str, object] = {"source": task.source, "fingerprint": fingerprint(task)}
    before = read_task_record(folder).get("fingerprint")
    if before is not None and before != record["fingerprint"]:
        aside = files.set_aside(folder)
        folder.mkdir()
        (aside / log_of(task).name).rename(log_of(task))  # the watcher writes to it, and reads it at the end
        say(f"{task.name}: another picture; what was made of the old one is now {aside}")
    write_task_record(folder, record)
    return record


def _made(task: Task) -> dict[str, float]:
    """Run what is left to do; return the figures of the object."""
    from usd.app.stages import run_stages
    from usd.batch.summary import figures_of

    run_stages("train", [configuration(task)], [*task.overrides, *placement(task)], task.gpu, sys.argv)
    return figures_of(Path(task.folder))


def placement(task: Task) -> list[str]:
    """Return the options that put the task's mesh where its picture shows it; none where it has no mesh.

    They are found once: another attempt at the same task reads them, so that a resumed object stands as it stood.
    """
    if not task.mesh:
        return []
    from usd.app.improve import settings_for

    record, asked = Path(task.folder) / PLACEMENT, digest(task)
    known = files.read_record(record) or {}
    if known.get("asked") == asked:
        return [str(item) for item in cast(list[object], known["settings"])]
    found = settings_for(Path(task.mesh), Path(task.source), Path(task.configs[0]), list(task.overrides))
    files.write_record(record, {"asked": asked, "settings": found})
    return found


def configuration(task: Task) -> Path:
    """Write the task's configuration of stages, with an export if wanted, and return its path."""
    from usd.app.stages import is_staged

    folder = Path(task.folder)
    root, name = folder.parent.parent, folder.parent.name
    place = loading.literal({"exp_root_dir": str(root), "name": name, "tag": folder.name})
    if is_staged(task.configs):
        content: dict[str, object] = {"base": list(task.configs), **place}
    else:
        stages: dict[str, object] = {"object": {"base": list(task.configs)}}
        if task.export:
            stages["mesh"] = {"mode": "export", "of": "object"}
        content = {**place, "stages": stages}
    return files.write_atomically(folder / "batch.yaml", json.dumps(content, indent=1))  # which is YAML, too


if __name__ == "__main__":
    threading.Thread(target=_leave_with_the_watcher, daemon=True).start()
    sys.exit(main(sys.argv[1:]))
