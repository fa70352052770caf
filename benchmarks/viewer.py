"""What a viewer costs a training: nobody looking, a page that is open, a camera that moves.

    python -m benchmarks.viewer --steps 720

One training of ``configs/usd-patch-mini.yaml`` with a real page in a headless Chromium. Blocks of steps alternate
between three states, so that whatever else the machine does falls on all of them alike: ``off`` (the page is open and
gets nothing), ``idle`` (it is served and nobody touches it), ``moving`` (its camera turns all the time). Printed are
the median times of a step, and the share of each state's time that went into pictures.
"""

import argparse
import json
import math
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback
from typing_extensions import override

from usd.app import modes, open_viewer, viewing
from usd.core import places
from usd.math.camera import orbit_cameras_deg
from usd.viewer.poses import Pose

STATES = ("off", "idle", "moving")
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]


class Alternate(Callback):
    """Changes the state every ``block`` steps and takes the time of each step, the first third of a block left out."""

    def __init__(self, block: int) -> None:
        self.block, self.state = block, "off"
        self.seconds: dict[str, list[float]] = {state: [] for state in STATES}
        self.pictures = dict.fromkeys(STATES, 0.0)
        self.last = self.spent = 0.0
        self.subject = None

    @override
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Note the step's time; go to the next state when the block is over."""
        viewer, now, step = open_viewer._viewer, time.perf_counter(), trainer.global_step
        if viewer is None or not viewer.stage.watchers():
            self.last = now
            return
        spent = viewer.session.moving.spent + viewer.session.idle.spent
        if step % self.block > self.block // 3:  # by then what the state before had begun is done
            self.seconds[self.state].append(now - self.last)
            self.pictures[self.state] += spent - self.spent
        if step % self.block == 0:
            self.state = STATES[step // self.block % len(STATES)]
            self.subject = self.subject or viewer.session.subject
            viewer.session.subject = None if self.state == "off" else self.subject
        self.last, self.spent = now, spent

    def turn(self, stop: threading.Event) -> None:
        """Turn the pages' cameras while the state is ``moving``."""
        angle = 0.0
        while not stop.wait(0.05):
            viewer = open_viewer._viewer
            if viewer is None or self.state != "moving":
                continue
            angle += 4.0
            pose = Pose.of(orbit_cameras_deg(15.0, angle % 360.0, 1.8, math.degrees(0.8), 64))
            for client in viewer.server.page.get_clients().values():
                viewer.stage.jump(client, pose)

    def table(self) -> str:
        """Median times, and what pictures took."""
        off = statistics.median(self.seconds["off"])
        lines = ["state    steps   ms a step   against off   in pictures"]
        for state, times in self.seconds.items():
            middle, share = statistics.median(times), self.pictures[state] / sum(times)
            against = 100 * (middle / off - 1)
            lines.append(
                f"{state:<8} {len(times):>5} {1000 * middle:>11.1f} {against:>+12.1f}% {100 * share:>12.1f}%"
            )
        return "\n".join(lines)


def browse(stop: threading.Event) -> None:
    """Keep a page open until ``stop``."""
    from playwright.sync_api import sync_playwright

    while open_viewer._viewer is None or open_viewer._viewer.panel is None:
        time.sleep(0.1)
    with sync_playwright() as play:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        page = play.chromium.launch(executable_path=chromium, args=FLAGS).new_page()
        page.goto(open_viewer._viewer.server.address)
        while not stop.is_set():
            page.wait_for_timeout(200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=720)
    parser.add_argument("--block", type=int, default=30, help="steps until the next state")
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    alternate, stop = Alternate(args.block), threading.Event()
    usual = viewing.LiveViewer.on_train_batch_end

    def both(live, trainer, *rest) -> None:
        usual(live, trainer, *rest)
        alternate.on_train_batch_end(trainer, *rest)

    viewing.LiveViewer.on_train_batch_end = both
    threads = [
        threading.Thread(target=browse, args=(stop,)),
        threading.Thread(target=alternate.turn, args=(stop,)),
    ]
    for thread in threads:
        thread.start()
    with tempfile.TemporaryDirectory() as out:
        picture = places.resource("load/images/kettle.png")
        options = [
            f"system.guidance.image_path={picture}", f"exp_root_dir={out}", f"trainer.max_steps={args.steps}",
            "trainer.val_check_interval=0", "trainer.test_after_fit=false", "viewer.enable=true",
            f"viewer.share={args.share}", "checkpoint.last_every_n_steps=0",
        ]  # fmt: skip
        try:
            modes.run("train", [places.resource("configs/usd-patch-mini.yaml")], options, "cpu")
        finally:  # also after Ctrl-C: what was measured until then
            stop.set()
            print(alternate.table())
    if args.json:
        args.json.write_text(json.dumps({"seconds": alternate.seconds, "pictures": alternate.pictures}))


if __name__ == "__main__":
    main()
