"""Runs of a command, some of them killed at a given training step: python killed.py MODULE '[[["key=value"], null], ...]'.

Everything is imported once and every run is a process of its own. A run is its arguments and either null or where it is
killed, ``{"stage": NAME, "step": N, "signal": S}``. Prints a JSON list with, for every run, its exit code (minus the
signal that ended it) and what it wrote.
"""

import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Kill:
    """A signal that a stage sends to its own process before a training step."""

    stage: str
    step: int
    signal: int


@dataclass(frozen=True)
class Ended:
    code: int
    text: str


def run(module: str, runs: list[tuple[list[str], Kill | None]], seconds: float = 600) -> list[Ended]:
    """``module.main`` with each of the arguments, one after the other."""
    told = json.dumps([(argv, None if kill is None else asdict(kill)) for argv, kill in runs])
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = subprocess.run(
        [sys.executable, __file__, module, told],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert out.returncode == 0, out.stderr[-4000:]
    return [Ended(**one) for one in json.loads(out.stdout.splitlines()[-1])]


def main() -> None:
    sys.path.insert(0, str(ROOT))
    command = importlib.import_module(sys.argv[1]).main
    ended = []
    for argv, kill in json.loads(sys.argv[2]):
        with tempfile.NamedTemporaryFile() as text:
            child = forked(functools.partial(start, command, argv, kill), text.name)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            ended.append({"code": code, "text": Path(text.name).read_text()})
    print(json.dumps(ended))


def forked(work: Callable[[], int], text: str) -> int:
    """A child that does ``work`` and writes to the file ``text``; its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    file = os.open(text, os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = 70
    try:
        code = work()
    except BaseException:  # noqa: BLE001 - the process ends here, with its traceback
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(command: Callable[[list[str]], int], argv: list[str], kill: dict[str, Any] | None) -> int:
    if kill is not None:
        arm(Kill(**kill))
    return command(argv)


def arm(kill: Kill) -> None:
    from usd.system import System

    before = System.on_train_batch_start

    def on_train_batch_start(self: System, batch_idx: int) -> None:
        if self.save_dir.parent.name == kill.stage and self.global_step == kill.step:
            os.kill(os.getpid(), kill.signal)
        before(self, batch_idx)

    System.on_train_batch_start = on_train_batch_start  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
