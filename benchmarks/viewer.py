"""What a viewer costs a training: without one, with a page that is open, with a camera that moves.

    python -m benchmarks.viewer --rounds 8

One training of ``configs/usd-patch-mini.yaml`` and a headless Chromium beside it. Blocks of steps alternate between
five states: ``none`` (no page is open, and the training does not call the viewer), ``still`` (the page of another
program is open), ``idle`` (the training's page is open and nobody touches it), ``elsewhere`` (the mouse turns the
camera of the other program's page, which gets as many pictures), ``moving`` (it turns that of the training's page all
the time); ``--states`` names fewer. A block is held against the block without a viewer of the same round, and every
second round goes through the states in reverse, so that whatever else the machine does, and how steps change as the
training goes on, falls on all of them alike (ask for an even number of rounds); printed are the medians over the
rounds, and their quartiles. Seconds of the processor are those of the training's process. Where other work makes steps
differ by more than the viewer does, its own seconds say it more exactly: those of the callback between the steps, and
of the threads that serve the page. ``--apart`` gives the browser a core that the training does not use; without a
graphics card it draws on the processor, and takes caches, memory and clock from the other cores all the same. That is
what ``still`` and ``elsewhere`` show, and what a browser on another computer does not do: the last lines leave it out.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from lightning.pytorch import Trainer

from benchmarks.browser import chromium
from usd.app import modes, open_viewer, viewing
from usd.core import places
from usd.viewer.options import ViewerOptions

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from usd.viewer.viewer import Viewer

STATES = ("none", "still", "idle", "elsewhere", "moving")
OTHERS = {"idle": "still", "moving": "elsewhere"}
"""The state in which another program's page is used as the training's is in the first one."""
COLUMNS = (
    "state", "blocks", "ms a step", "CPU ms", "cost of wall clock", "cost of CPU", "viewer's CPU", "charged",
)  # fmt: skip
PICTURE, PICTURE_EVERY, ELSEWHERE_PORT = (110, 157), 0.3, 7207
"""Size of the other program's pictures, the seconds between two of them, and where it looks for a port."""
SETTLE = 3.0
"""Seconds in a state before anything is measured: a page that opens asks for its first pictures."""
NOBODY = "about:blank"
FOREVER, WARM_UP = 1_000_000, 250
"""Steps of the training, and those before the first block: by then its guidance takes part."""


@dataclass(frozen=True)
class Clock:
    """Seconds so far: of the wall, of the processor, of it for the viewer, and what the viewer was charged for."""

    wall: float
    cpu: float
    viewer: float
    charged: float

    def since(self, other: "Clock", steps: int) -> "Clock":
        """Return the seconds a step since another reading."""
        return Clock(*((now - then) / steps for now, then in zip(astuple(self), astuple(other))))


class Alternation:
    """Goes through the states, ``block`` measured steps each, for some ``rounds``."""

    def __init__(self, block: int, rounds: int, states: Sequence[str] = STATES) -> None:
        self.block, self.rounds, self.states = block, rounds, states
        self.blocks: dict[str, list[Clock]] = {state: [] for state in states}
        self.own = 0.0  # seconds of the processor that the browser's thread in this process took
        self.callback = 0.0  # and those of the viewer between the steps
        self.not_serving = set(threading.enumerate())  # those that were there before the page was
        self.at = ""  # the state that the browser has brought about
        self._settling_since = time.perf_counter()
        self._began: Clock | None = None
        self._steps = 0

    @property
    def state(self) -> str:
        """The state that is measured now."""
        number, place = divmod(self._done, len(self.states))
        return self.states[place] if number % 2 == 0 else self.states[-1 - place]

    @property
    def _done(self) -> int:
        return sum(map(len, self.blocks.values()))

    @property
    def is_over(self) -> bool:
        """True after the last round."""
        return self._done >= self.rounds * len(self.states)

    @property
    def is_watched(self) -> bool:
        """True in the states in which the training's page is open."""
        return self.state in OTHERS

    def read(self, viewer: "Viewer") -> Clock:
        """Return the seconds so far."""
        spent = viewer.session.moving.spent + viewer.session.idle.spent
        serving = self.serving()
        viewers = self.callback + sum(
            thread.user_time + thread.system_time
            for thread in psutil.Process().threads()
            if thread.id in serving
        )
        return Clock(time.perf_counter(), time.process_time() - self.own, viewers, spent)

    def serving(self) -> set[int]:
        """Return the threads that serve the page, also those that began later; asyncio's own waits for the browser."""
        later = set(threading.enumerate()) - self.not_serving
        return {thread.native_id or 0 for thread in later if not thread.name.startswith("asyncio")}

    def step(self, viewer: "Viewer") -> None:
        """Count a step of the training; a block begins when its state has settled, and ends with its last step."""
        now = self.read(viewer)
        if not self.is_reached(viewer):
            self._settling_since, self._began = now.wall, None
        elif self._began is None and now.wall - self._settling_since > SETTLE:
            self._began, self._steps = now, 0
        elif self._began is not None:
            self._steps += 1
            if self._steps == self.block:
                self.blocks[self.state].append(now.since(self._began, self._steps))
                self._settling_since, self._began = now.wall, None

    def is_reached(self, viewer: "Viewer") -> bool:
        """Return whether the browser has brought about the state; an idle page has its full picture by then."""
        watchers = viewer.stage.watchers().values()
        if self.at != self.state or not self.is_watched:
            return self.at == self.state and not watchers
        return bool(watchers) and (self.state == "moving" or all(one.full for one in watchers))

    def table(self) -> str:
        """Return the seconds of a step in every state, and what they cost against no viewer."""
        rows = [COLUMNS, *(self._row(state) for state in self.states)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
        return "\n".join([*lines, *self._beside_others()])

    def _beside_others(self) -> list[str]:
        """Return the share of a step by which it is longer than beside another program's page, where both were open."""
        lines = []
        for state, other in OTHERS.items():
            if {state, other} <= set(self.states):
                shares = [cost_text([-cost for cost in self.costs(other, n, state)]) for n in ("wall", "cpu")]
                lines.append(f"of a step in {state}, more than in {other}: wall {shares[0]}, CPU {shares[1]}")
        return lines

    def _row(self, state: str) -> tuple[str, ...]:
        """Return a line of the table."""
        blocks = self.blocks[state]
        medians = [1000 * statistics.median(getattr(b, name) for b in blocks) for name in ("wall", "cpu")]
        total = Clock(*map(sum, zip(*map(astuple, blocks))))
        # Pictures come in lumps, so these are shares of all blocks together.
        shares = total.viewer / (total.cpu - total.viewer), total.charged / total.wall
        return (
            state,
            str(len(blocks)),
            *(f"{median:.1f}" for median in medians),
            *(cost_text(self.costs(state, name)) for name in ("wall", "cpu")),
            *(f"{100 * share:.1f} %" for share in shares),
        )

    def costs(self, state: str, name: str, base: str = "none") -> list[float]:
        """Return what a state cost in each round, in per cent of the round's block in the state ``base``."""
        pairs = zip(self.blocks[state], self.blocks[base])
        return [100 * (getattr(one, name) / getattr(other, name) - 1) for one, other in pairs]


def cost_text(costs: list[float]) -> str:
    """Return a median in per cent, with the quartiles where there are several rounds."""
    text = f"{statistics.median(costs):+.1f} %"
    if len(costs) < 2:
        return text
    low, _, high = statistics.quantiles(costs, method="inclusive")
    return f"{text} [{low:+.1f}, {high:+.1f}]"


def keep_apart() -> None:
    """Give the calling thread and all programs that it started the last core, and this process the others."""
    *others, last = sorted(os.sched_getaffinity(0))
    if not others:
        raise SystemExit("--apart: there is one core; expected at least two")
    for thread in psutil.Process().threads():
        os.sched_setaffinity(thread.id, [last] if thread.id == threading.get_native_id() else others)
    for child in psutil.Process().children(recursive=True):
        for thread in child.threads():
            os.sched_setaffinity(thread.id, [last])


def browse(alternation: Alternation, stop: threading.Event, apart: bool) -> None:
    """Open and close the page, and turn its camera, as the state has it, until ``stop``."""
    while open_viewer._viewer is None or open_viewer._viewer.panel is None:
        if stop.wait(0.1):
            return
    elsewhere, address = open_elsewhere(), open_viewer._viewer.server.address
    addresses = {
        "none": NOBODY,
        **dict.fromkeys(OTHERS, address),
        **dict.fromkeys(OTHERS.values(), elsewhere),
    }
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 700})
        page.goto(NOBODY)
        if apart:
            keep_apart()
        while not stop.is_set():
            state = alternation.state
            visit(page, addresses[state], moves=state in ("moving", "elsewhere"))
            alternation.at = state
            alternation.own = time.thread_time()


def open_elsewhere() -> str:
    """Start another program with a page of its own; return the page's address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=serve_elsewhere, args=(theirs,), daemon=True).start()
    return str(ours.recv())


def serve_elsewhere(told: Connection) -> None:
    """Serve a page whose camera can be turned, with pictures that are none of an object."""
    from usd.viewer.viewer import Viewer

    viewer = Viewer(ViewerOptions(port=ELSEWHERE_PORT))
    viewer.open("elsewhere", None, training=False)
    viewer.stage.kind = "colors"
    told.send(viewer.server.address)
    rows, columns = np.mgrid[: PICTURE[0], : PICTURE[1]]
    for count in itertools.count():
        picture = np.stack([rows + count, columns, rows + columns], -1).astype(np.uint8)
        for client, watcher in viewer.stage.watchers().items():
            if time.monotonic() - watcher.moved < 1:
                viewer.stage.show_picture(client, picture, 1.0 + 0.01 * rows)
        time.sleep(PICTURE_EVERY)


def visit(page: "Page", address: str, moves: bool) -> None:
    """Bring the page to an address, and keep it there for a moment, in which the mouse turns the camera or does not."""
    if page.url.rstrip("/") != address.rstrip("/"):
        page.goto(address)
    if not moves:
        page.wait_for_timeout(200)
        return
    page.mouse.move(300, 350)
    page.mouse.down()
    for k in range(80):
        page.mouse.move(300 + 150 * math.sin(k / 8), 350 + 40 * math.sin(k / 5))
        page.wait_for_timeout(50)
    page.mouse.up()


def watch(alternation: Alternation) -> None:
    """Let trainings call the viewer only in the states that have one, and stop after the last round."""
    usual, usually_opened = viewing.LiveViewer.on_train_batch_end, viewing.open_viewer

    def opened(options: ViewerOptions) -> "Viewer":
        alternation.not_serving |= set(threading.enumerate())
        return usually_opened(options)

    def alternately(live: viewing.LiveViewer, trainer: Trainer, *rest: object) -> None:
        began = time.thread_time()
        if alternation.is_watched:
            usual(live, trainer, *rest)
        alternation.callback += time.thread_time() - began
        if live.viewer is not None and trainer.global_step > WARM_UP:
            alternation.step(live.viewer)
        trainer.should_stop |= alternation.is_over

    viewing.LiveViewer.on_train_batch_end, viewing.open_viewer = alternately, opened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--block", type=int, default=100, help="steps measured in one state")
    parser.add_argument("--states", nargs="+", choices=STATES, default=STATES, help="'none' among them")
    parser.add_argument("--share", type=float, default=0.2, help="viewer.share")
    parser.add_argument("--apart", action="store_true", help="a core of its own for the browser")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    alternation, stop = Alternation(args.block, args.rounds, args.states), threading.Event()
    watch(alternation)
    thread = threading.Thread(target=browse, args=(alternation, stop, args.apart))
    thread.start()
    with tempfile.TemporaryDirectory() as out:
        picture = places.resource("load/images/kettle.png")
        options = [
            f"system.guidance.image_path={picture}", f"exp_root_dir={out}", f"trainer.max_steps={FOREVER}",
            "trainer.val_check_interval=0", "trainer.test_after_fit=false", "viewer.enable=true",
            f"viewer.share={args.share}", "viewer.stay_open=false", "checkpoint.last_every_n_steps=0",
        ]  # fmt: skip
        try:
            modes.run("train", [places.resource("configs/usd-patch-mini.yaml")], options, "cpu")
        finally:  # also after Ctrl-C: what was measured until then
            stop.set()
            if all(alternation.blocks.values()):
                print(alternation.table())
    if args.json:
        blocks = {state: [asdict(one) for one in blocks] for state, blocks in alternation.blocks.items()}
        args.json.write_text(json.dumps(blocks))


if __name__ == "__main__":
    main()
