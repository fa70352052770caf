"""Launcher commands in several processes that import everything once: python processes.py '[[2, ["--config", ...]]]'.

Prints a JSON list with, for every command, the exit codes of its processes and what each of them wrote.
"""

import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Ended:
    codes: list[int]
    texts: list[str]


def run(commands: list[tuple[int, list[str]]], seconds: float = 300) -> list[Ended]:
    """Runs each command in as many processes as it says; one that hangs is an error."""
    script = [sys.executable, __file__, json.dumps(commands)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = subprocess.run(
        script, env=env, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert out.returncode == 0, out.stderr[-4000:]
    return [Ended(**one) for one in json.loads(out.stdout.splitlines()[-1])]


def main() -> None:
    sys.path.insert(0, str(ROOT))
    for module in ("usd.app.stages", "usd.app.modes"):  # once, for all children
        importlib.import_module(module)
    print(json.dumps([together(count, argv) for count, argv in json.loads(sys.argv[1])]))


def together(count: int, argv: list[str]) -> dict:
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        sys.stdout.flush()
        texts = [Path(folder) / f"{rank}.txt" for rank in range(count)]
        children = [fork(rank, count, port, argv, texts[rank]) for rank in range(count)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        return {"codes": codes, "texts": [text.read_text() for text in texts]}


def fork(rank: int, count: int, port: int, argv: list[str], text: Path) -> int:
    child = os.fork()
    if child:
        return child
    if count > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
        os.environ |= {**address, "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    file = os.open(text, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = 70
    try:
        import launch

        began = time.monotonic()
        code = launch.main([*argv, "--gpu", f"cpu:{count}"])
        print(f"{time.monotonic() - began:.1f} s", flush=True)
    except BaseException:  # noqa: BLE001 - the process ends here, with its traceback
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
