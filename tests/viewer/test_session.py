"""What a viewer does without a page: what it costs, which picture is due when, and what is left as it was."""

import asyncio
import math
import threading
import time

import pytest
import torch

from usd.core.config import spec
from usd.core.registry import build
from usd.math.camera import orbit_cameras_deg
from usd.system import System
from usd.viewer.budget import LoopTime, PixelRate, TimeBudget
from usd.viewer.history import History
from usd.viewer.options import ViewerOptions
from usd.viewer.pictures import available_kinds, picture_of, render_in_bands, undisturbed, view_depth
from usd.viewer.poses import Pose, quaternion_of, rotation_of
from usd.viewer.session import Session, Subject, Watcher


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_budget_keeps_its_share_over_a_long_time():
    clock = Clock()
    budget = TimeBudget(0.2, clock=clock)
    began = clock.now
    for _ in range(2000):
        clock.now += 0.03  # a step of the training
        if budget.allows():
            with budget.spending():
                clock.now += 0.05
    assert budget.spent / (clock.now - began) == pytest.approx(0.2, abs=0.01)


def test_a_budget_saves_no_more_than_its_reserve():
    clock = Clock()
    budget = TimeBudget(0.5, reserve=0.25, clock=clock)
    clock.now += 1000
    assert budget.allows() and budget.saved == 0.25


def test_the_thread_of_a_loop_says_what_it_has_taken():
    clock, loop = Clock(), asyncio.new_event_loop()
    taken = LoopTime(loop, clock)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        held = threading.Event()
        loop.call_soon_threadsafe(held.wait)
        assert taken.read() == 0, "it is asked, and not waited for"
        held.set()
        first = told_after(busy(0.05), taken, loop, clock)
        assert first >= 0.05
        assert told_after(busy(0.05), taken, loop, clock) >= first + 0.05
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    clock.now += 1
    assert taken.read() > 0, "also after the loop is closed"


def told_after(work, taken, loop, clock):
    """Return what the loop's thread says of itself after some work, and a moment later."""
    asyncio.run_coroutine_threadsafe(work, loop).result(10)
    clock.now += LoopTime.EVERY
    taken.read()
    asyncio.run_coroutine_threadsafe(busy(0.0), loop).result(10)
    return taken.read()


async def busy(seconds: float) -> None:
    """Keep the processor busy."""
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


def test_a_rate_learns_and_says_sizes():
    rate = PixelRate()
    for _ in range(40):
        rate.learn(10_000, 1.0)
    assert rate.seconds == pytest.approx(1e-4, rel=1e-3)
    assert rate.height(2.0, 2.0, 8, 512) == 100
    assert rate.height(1.0, 1e9, 8, 512) == 512 and rate.height(1.0, 0.0, 8, 512) == 8
    assert rate.rows(100, 64, 0.1) == 10
    assert rate.rows(100, 64, 1e-9) == 8, "no more than eight bands"


def test_poses_turn_into_cameras_and_back():
    cameras = orbit_cameras_deg([20.0, -80.0, 0.0], [10.0, 200.0, 300.0], 2.0, 40.0, 32)
    for i in range(3):
        pose = Pose.of(cameras[[i]])
        again = pose.cameras(32)
        torch.testing.assert_close(again.c2w, cameras.c2w[[i]], atol=1e-5, rtol=0)
        assert math.hypot(*pose.wxyz) == pytest.approx(1)
    torch.manual_seed(0)
    for _ in range(50):
        q = torch.nn.functional.normalize(torch.randn(4), dim=0).tolist()
        torch.testing.assert_close(
            rotation_of(quaternion_of(rotation_of(q))), rotation_of(q), atol=1e-5, rtol=0
        )


def test_a_history_stays_short_and_keeps_both_ends():
    history = History(most=50)
    for step in range(1000):
        history.add(step, {"loss": float(step), **({"late": 1.0} if step > 500 else {})})
    steps, loss, late = history.curves(["loss", "late"])
    assert len(steps) <= 50 and steps[0] == 0 and steps[-1] >= 960
    assert (loss == steps).all() and math.isnan(late[0]) and late[-1] == 1
    assert history.names() == ["loss", "late"]
    history.add(2**20, {"late": 1.0})
    assert history.names() == ["loss", "late"], "a number that skips steps keeps its place"


# ---------------------------------------------------------------------------------------------------- an object


class Page:
    """A page that only remembers."""

    def __init__(self, *watchers: Watcher):
        self.kind, self.insight, self.live, self.noise_level = "colors", False, False, 0.5
        self.open = dict(enumerate(watchers))
        self.pictures, self.said, self.sheets = [], [], []

    def watchers(self):
        return self.open

    def show_picture(self, client, picture, depth):
        self.pictures.append((client, picture, depth))

    def show_insight(self, sheet):
        self.sheets.append(sheet)

    def say(self, text):
        self.said.append(text)


def view(azimuth: float = 0.0) -> Pose:
    return Pose.of(orbit_cameras_deg(15.0, azimuth, 1.5, 50.0, 32))


def session_of(system, page, clock, tmp_path, **options) -> Session:
    session = Session(page, ViewerOptions(**{"max_size": 64, **options}), clock)
    session.subject = Subject(system, tmp_path)
    return session


def test_pictures_in_bands_are_the_picture(system):
    cameras = view().cameras(24)
    whole = system.render_views(cameras, "depth", "normal")
    *none, banded = render_in_bands(system, cameras, "normals", PixelRate(1.0), 1e-9)
    assert none == [None] * 7
    for name in ("rgb", "opacity", "depth", "normal", "foreground"):
        torch.testing.assert_close(getattr(banded, name), getattr(whole, name), atol=1e-5, rtol=1e-4)
    for kind in available_kinds(system):
        assert picture_of(banded, kind).shape == (24, 24, 3)
    depth = view_depth(banded, cameras)
    assert depth.shape == (24, 24) and (depth > 0).all()


@pytest.fixture(scope="module")
def splats() -> System:
    """A red ball of Gaussians."""
    ball = {"shape_init": "sphere", "shape_init_params": 0.4, "n_splats": 400, "initial_opacity": 0.9}
    options = {
        "geometry_type": "gaussian-splatting",
        "geometry": ball,
        "renderer_type": "splat-renderer",
        "guidance_type": "usd-guidance",
        "optimizer": {"args": {"lr": 0.01}},
    }
    built = build(spec("system", "usd-system", options), System)
    built.geometry.initialize()
    built.geometry.paint(torch.tensor([[0.8, 0.1, 0.1]]).expand(400, 3))
    return built


def test_gaussians_are_shown_by_their_own_renderer(splats):
    """In bands as whole, in every kind of picture, and without a trace in what decides of their number."""
    cameras = view().cameras(24)
    splats.train()
    assert available_kinds(splats) == ["colors", "opacity", "depth", "normals"]
    whole = splats.render_views(cameras, "depth", "normal")
    *none, banded = render_in_bands(splats, cameras, "normals", PixelRate(1.0), 1e-9)
    assert none == [None] * 7
    for name in ("rgb", "opacity", "depth", "normal", "foreground"):
        torch.testing.assert_close(getattr(banded, name), getattr(whole, name), atol=1e-5, rtol=1e-4)
    middle = picture_of(banded, "colors")[12, 12]
    assert middle[0] > 150 and middle[1] < 80, "red where the ball is"
    depth = view_depth(banded, cameras)
    assert depth[12, 12] == pytest.approx(depth.min(), abs=0.1) and depth[0, 0] == 160
    assert not splats.geometry._seen and not splats.geometry.count.any()


def test_looking_leaves_random_numbers_and_modes_alone(system):
    system.train()
    system.geometry.eval()
    modes = [module.training for module in system.modules()]
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with undisturbed(system):
        torch.rand(7)
        assert not any(module.training for module in system.renderer.modules())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [module.training for module in system.modules()] == modes


def test_a_view_that_moves_is_coarse_and_becomes_full_when_it_is_still(system, tmp_path):
    clock, watcher = Clock(), Watcher(view(), 64, 100.0)
    page = Page(watcher)
    session = session_of(system, page, clock, tmp_path)
    session.rate = PixelRate(1e-3)
    while session.work(free=True):
        pass
    assert [picture.shape[0] for _, picture, _ in page.pictures] == [48], "coarse at once"
    clock.now += 1
    while session.work(free=True):
        pass
    assert [picture.shape[0] for _, picture, _ in page.pictures] == [48, 64], "full after a while"
    assert not session.work(free=True), "and then there is nothing to do"
    watcher.pose, watcher.moved = view(30.0), clock.now
    session.rate = PixelRate(1e-3)
    while len(page.pictures) == 2:
        assert session.work(free=True)
    assert page.pictures[-1][1].shape[0] == 48


def test_a_picture_of_an_old_view_is_given_up(system, tmp_path):
    clock, watcher = Clock(), Watcher(view(), 64, 0.0)
    watcher.coarse = (watcher.pose, "colors", 0, 64)
    page = Page(watcher)
    session = session_of(system, page, clock, tmp_path)
    session.rate = PixelRate(1.0)
    assert session.work(free=True) and not page.pictures, "the first of eight bands"
    watcher.pose, watcher.moved = view(90.0), clock.now
    session.rate = PixelRate(1e-6)
    assert session.work(free=True)
    assert len(page.pictures) == 1 and watcher.coarse[0] == view(90.0)


@pytest.mark.parametrize(
    ("picture", "serving", "rest"), [(0.07, 0.0, 0.0), (0.05, 0.02, 0.004), (0.03, 0.03, 0.01)]
)
def test_everything_that_a_moving_page_takes_stays_within_the_share(tmp_path, system, picture, serving, rest):
    """Pictures, threads that serve the page and the rest of what is done between steps, all of it."""
    clock, watcher, taken, served = Clock(), Watcher(view(), 64, 0.0), [0.0], [0.0]
    session = Session(Page(watcher), ViewerOptions(share=0.2), clock, serving=lambda: sum(served))
    session.subject = Subject(system, tmp_path)

    def take(seconds: float) -> None:
        clock.now += seconds
        taken.append(seconds)

    def pieces(*_):
        take(picture)
        served.append(serving)  # sends it to the browser, during the next step
        yield from ()

    session._picture = pieces
    began, before, views = clock.now, 0.0, [view(0.0), view(20.0)]
    for step in range(600):
        clock.now += 0.2
        take(sum(served) - before)
        before = sum(served)
        watcher.pose, watcher.moved = views[step % 2], clock.now
        with session.charged():
            take(rest)
        session.work()
    assert sum(taken) / (clock.now - began) == pytest.approx(0.2, abs=0.005)


def test_what_is_done_in_a_pause_is_not_paid_for_afterwards(system, tmp_path):
    clock, watcher = Clock(), Watcher(view(), 64, 0.0)
    served = iter(range(10_000))
    session = Session(Page(watcher), ViewerOptions(), clock, serving=lambda: float(next(served)))
    session.subject = Subject(system, tmp_path)

    def pieces(*_):
        clock.now += 0.5
        yield

    session._picture = pieces
    for step in range(20):
        watcher.pose, watcher.moved = view(float(step)), clock.now
        assert session.work(free=True)
    assert session.moving.spent == 0


def test_nobody_looking_costs_nothing_and_no_object_either(system, tmp_path):
    session = session_of(system, Page(), Clock(), tmp_path)
    assert not session.work() and session.moving.spent == 0
    session.subject = None
    session.page.open = {0: Watcher(view(), 64, 0.0)}
    assert not session.work()


def test_a_still_view_is_refreshed_at_the_idle_share_alone(system, tmp_path):
    clock, watcher = Clock(), Watcher(view(), 64, 0.0)
    page = Page(watcher)
    session = session_of(system, page, clock, tmp_path)
    clock.now += 1
    for _ in range(30):
        session.work(free=True)
    assert watcher.full is not None
    system._restored_step += 1
    spent = session.moving.spent
    clock.now += 60
    assert session.work() and session.moving.spent == spent
    assert session._job_budget is session.idle


def test_of_several_changes_of_an_option_the_last_one_counts(system, tmp_path):
    session = session_of(system, Page(), Clock(), tmp_path)
    session.ask("change", "a", 1)
    session.ask("save")
    session.ask("change", "b", 2)
    session.ask("change", "a", 3)
    assert [(r.kind, r.key, r.value) for r in session.asked()] == [
        ("save", "", None), ("change", "b", 2), ("change", "a", 3),
    ]  # fmt: skip
    assert session.asked() == []
