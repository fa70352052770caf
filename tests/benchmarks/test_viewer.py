"""The benchmark of the viewer: states alternate when they are reached, and costs are held against their own round."""

import threading
import types

import pytest

from benchmarks import viewer
from benchmarks.viewer import OTHERS, STATES, Alternation, Clock, cost_text


class Page:
    """A viewer whose page somebody opens and closes, and whose full picture is there or not."""

    def __init__(self):
        self.open, self.full = False, True
        budget = types.SimpleNamespace(spent=0.0)
        self.session = types.SimpleNamespace(moving=budget, idle=types.SimpleNamespace(spent=0.0))
        self.stage = types.SimpleNamespace(watchers=self.watchers)

    def watchers(self):
        return {0: types.SimpleNamespace(full=self.full or None)} if self.open else {}


@pytest.fixture
def clock(monkeypatch):
    now = types.SimpleNamespace(wall=100.0, cpu=50.0)
    monkeypatch.setattr(viewer.time, "perf_counter", lambda: now.wall)
    monkeypatch.setattr(viewer.time, "process_time", lambda: now.cpu)
    return now


def alternate(alternation, page, clock, seconds):
    """Go through all states, a step of each taking ``seconds(state)``; return those that had to be waited for."""
    waited = []
    for _ in range(200):
        if alternation.is_over:
            break
        state = alternation.state
        if alternation.at != state:  # the browser is a step late
            waited.append(state)
            alternation.step(page)
            alternation.at, page.open = state, state in OTHERS
        clock.wall += seconds(state)
        clock.cpu += seconds(state) / 2
        page.session.moving.spent += 0.21 if state == "moving" else 0.0
        alternation.callback += 0.1 if state == "moving" else 0.0
        alternation.step(page)
    assert alternation.is_over
    return waited


def test_a_block_begins_when_its_state_is_reached_and_has_settled(clock):
    alternation = Alternation(block=4, rounds=2)
    seconds = {"none": 1.0, "still": 1.0, "idle": 1.01, "elsewhere": 1.05, "moving": 1.3125}
    waited = alternate(alternation, Page(), clock, seconds.__getitem__)
    assert waited == [*STATES, *STATES[-2::-1]], "the second round goes back"
    assert {state: len(blocks) for state, blocks in alternation.blocks.items()} == dict.fromkeys(STATES, 2)
    assert alternation.costs("idle", "wall") == pytest.approx([1.0, 1.0])
    assert alternation.costs("moving", "cpu") == pytest.approx([31.25, 31.25])
    idle, _, moving, *more = alternation.table().splitlines()[3:]
    assert idle.split()[:2] == ["idle", "2"] and "+1.0 % [+1.0, +1.0]" in idle
    assert moving.split()[-4:] == ["18.0", "%", "16.0", "%"]
    assert more == [
        "of a step in idle, more than in still: wall +1.0 % [+1.0, +1.0], CPU +1.0 % [+1.0, +1.0]",
        "of a step in moving, more than in elsewhere: wall +20.0 % [+20.0, +20.0], CPU +20.0 % [+20.0, +20.0]",
    ]


def test_fewer_states(clock):
    alternation = Alternation(block=2, rounds=2, states=["none", "idle"])
    waited = alternate(alternation, Page(), clock, {"none": 1.0, "idle": 1.5}.__getitem__)
    assert waited == ["none", "idle", "none"]
    _, none, idle = alternation.table().splitlines()
    assert [none.split()[0], idle.split()[0]] == ["none", "idle"] and "+50.0 %" in idle


def test_steps_that_slow_down_by_themselves_are_no_state_s_cost(clock):
    alternation, began = Alternation(block=4, rounds=2), clock.wall
    alternate(alternation, Page(), clock, lambda _: 1.0 + 0.0005 * (clock.wall - began))
    costs = alternation.costs("moving", "wall")
    assert min(map(abs, costs)) > 0.5 and abs(sum(costs) / 2) < 0.1


def test_threads_that_begin_after_the_page_serve_it():
    alternation, go = Alternation(block=1, rounds=1), threading.Event()
    threads = [threading.Thread(target=go.wait, name=name) for name in ("pool", "asyncio-waitpid-0")]
    for thread in threads:
        thread.start()
    assert alternation.serving() == {threads[0].native_id}
    go.set()


def test_an_idle_page_is_measured_once_its_full_picture_is_there(clock):
    alternation, page = Alternation(block=1, rounds=1, states=["idle"]), Page()
    page.open, page.full, alternation.at = True, False, "idle"
    for _ in range(5):
        clock.wall += 10
        alternation.step(page)
    assert alternation._began is None
    page.full = True
    for _ in range(2):
        clock.wall += 10
        alternation.step(page)
    assert len(alternation.blocks["idle"]) == 1


def test_what_the_browser_takes_in_this_process_is_not_the_training_s(clock):
    alternation = Alternation(block=1, rounds=1)
    alternation.own = 20.0
    assert alternation.read(Page()) == Clock(100.0, 30.0, 0.0, 0.0)


def test_a_single_round_has_no_spread():
    assert cost_text([1.5]) == "+1.5 %" and cost_text([0.0, 1.0, 5.0]) == "+1.0 % [+0.5, +3.0]"
