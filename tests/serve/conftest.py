"""A service whose jobs are small scripts instead of trainings, and pictures to send to it."""

import io
import subprocess
import sys
import time

import pytest
from PIL import Image

SCRIPT = """
import os, pathlib, sys, threading, time
folder, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
ready, left = folder / "started", threading.Event()
with open(ready, "a") as log:
    log.write("x")
threading.Thread(target=lambda: (sys.stdin.read(), left.set()), daemon=True).start()
if mode == "wait":
    left.wait(60)
    os._exit(130)
if mode == "crash":
    print("error: out of paper")
    os._exit(1)
if mode == "refuse":
    print("error: no such option")
    os._exit(2)
save = folder / "object" / "save"
(folder / "object" / "configs").mkdir(parents=True, exist_ok=True)
save.mkdir(exist_ok=True)
(save / "it5-0.png").write_bytes(b"picture of step 5")
(save / "model.glb").write_bytes(b"glTF")
(folder / "object" / "report.html").write_text("<p>report</p>")
os._exit(0)
"""
"""A job that behaves as ``usd.batch.worker`` does: the option ``mode=`` says how it ends."""


def start_script(task, out):
    mode = next((item.partition("=")[2] for item in task.overrides if item.startswith("mode=")), "done")
    command = [sys.executable, "-S", "-c", SCRIPT, task.folder, mode]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out)


def png(width=8, height=8) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(content, "PNG")
    return content.getvalue()


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


@pytest.fixture
def make_queue():
    """Queues on folders, closed at the end."""
    from usd.serve.job_queue import JobQueue
    from usd.serve.jobs import JobStore

    made = []

    def make(folder, workers=1, start=start_script, check=lambda task: None):
        made.append(JobQueue(JobStore(folder), ["cpu"] * workers, start=start, check=check))
        return made[-1]

    yield make
    for queue in made:
        queue.close()
