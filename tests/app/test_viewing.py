"""A training with a viewer: it is the same training, whatever is looked at; and what is asked for happens."""

import importlib.util
import threading
import time

import pytest
import torch

import launch
from benchmarks.browser import EXECUTABLE, chromium
from tests.tiny_configs import command, save_disc, trial
from usd.app import open_viewer, viewing
from usd.app.option_changes import RECORD, read_changes
from usd.core import checkpoint
from usd.math.camera import orbit_cameras_deg
from usd.viewer.budget import PixelRate
from usd.viewer.poses import Pose
from usd.viewer.session import Watcher

pytestmark = pytest.mark.skipif(importlib.util.find_spec("viser") is None, reason="needs the extra viewer")
STEPS = 5
SHORT = [f"trainer.max_steps={STEPS}", "trainer.val_check_interval=0", "trainer.test_after_fit=false"]


def run(out, picture, tag: str, *overrides: str) -> int:
    path = [f"system.guidance.image_path={picture}", "viewer.stay_open=false", "viewer.share=1"]
    return launch.main(command("usd-patch-mini.yaml", out, *SHORT, *path, *overrides, tag=tag))


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    return save_disc(tmp_path_factory.mktemp("pictures") / "disc.png")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, picture):
    out = tmp_path_factory.mktemp("alone")
    assert run(out, picture, "alone") == 0
    return checkpoint.load(trial(out, "alone").last)


class Visitor:
    """Somebody who looks from another side at every step, without a browser, and asks for ``wishes`` by step."""

    def __init__(self, monkeypatch, wishes=None):
        self.wishes, self.seen, self.said, self.works = wishes or {}, [], [], []
        original = viewing.LiveViewer._serve
        visitor = self

        def serve(live, trainer):
            if live.viewer is not None:
                visitor.look(live.viewer, trainer.global_step)
            original(live, trainer)

        monkeypatch.setattr(viewing.LiveViewer, "_serve", serve)

    def look(self, viewer, step: int) -> None:
        stage = viewer.stage
        stage.show_picture = lambda client, picture, depth: self.seen.append((step, picture.shape))
        stage.show_insight = lambda sheet: self.seen.append((step, "insight"))
        stage.say = self.said.append
        pose = Pose.of(orbit_cameras_deg(15.0, 40.0 * step, 1.5, 50.0, 32))
        stage._watchers[0] = Watcher(pose, 32, 0.0)
        stage.insight = True
        viewer.session.rate = PixelRate(1e-8)  # a picture is one piece of work, however slow the machine is
        for wish in self.wishes.pop(step, []):
            viewer.session.ask(*wish)


def equal(one: dict, other: dict) -> bool:
    states = one["state_dict"], other["state_dict"]
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_training_that_is_watched_paused_and_resumed_is_bit_equal_to_one_alone(
    tmp_path, picture, alone, monkeypatch, capsys
):
    visitor = Visitor(monkeypatch, {2: [("pause",), ("save",)]})
    paused = []

    def work(viewer, free=False):
        if free:  # while it is paused
            paused.append(viewer.session.subject.system.step)
            viewer.session.ask("resume")
        return type(viewer).usual_work(viewer, free=True)

    from usd.viewer.viewer import Viewer

    monkeypatch.setattr(Viewer, "usual_work", Viewer.work, raising=False)
    monkeypatch.setattr(Viewer, "work", work)
    assert run(tmp_path, picture, "watched", "viewer.enable=true") == 0
    out = capsys.readouterr().out
    assert "viewer: http://127.0.0.1:" in out and "ssh -L " in out
    assert set(paused) == {2}
    assert len({step for step, _ in visitor.seen}) >= STEPS, "pictures between the steps"
    assert "insight" in {what for _, what in visitor.seen} and visitor.said == ["saved step 2"]
    assert equal(alone, checkpoint.load(trial(tmp_path, "watched").last))
    saved = trial(tmp_path, "watched").ckpts / "epoch=0-step=2.ckpt"
    assert run(tmp_path, picture, "resumed", f"resume={saved}") == 0
    assert equal(alone, checkpoint.load(trial(tmp_path, "resumed").last))
    assert open_viewer._viewer is None, "closed at the end"


def test_what_is_asked_for_on_the_page_happens(tmp_path, picture, monkeypatch):
    key = "system.guidance.guidance_scale"
    keys = [{"position": [1.5, 0, 0.3]}, {"position": [0, 1.5, 0.3]}]
    video = {"path": {"keyframes": keys, "seconds": 0.1}, "size": 16}
    wishes = {
        1: [("change", key, 9.0), ("change", key, -3.0)],
        2: [("change", key, 11.0), ("video", "", video), ("video", "", video)],
        3: [("export", "", [-0.1, -9.0, -9.0, 9.0, 9.0, 9.0]), ("stop",)],
    }
    visitor = Visitor(monkeypatch, wishes)
    small = ["exporter_type=mesh-exporter", "exporter.texture_size=32", "exporter.unwrap_time_limit=0"]
    assert run(tmp_path, picture, "asked", "viewer.enable=true", *small) == 0
    made = trial(tmp_path, "asked")
    assert checkpoint.load(made.last)["global_step"] == 3, "stopped there"
    assert [(c.step, c.key, c.value, c.was) for c in read_changes(made.folder / RECORD)] == [
        (2, key, 11.0, 2.0)
    ]
    said = "\n".join(map(str, visitor.said))
    assert "-3 is out of range" in said
    assert (made.save / "it3-export" / "model.glb").is_file(), said
    assert "video: one is being made already" in said
    for ending in ("mp4", "json"):  # of a video whose frames were not all made when the training ended
        assert (made.save / f"it3-path-1.{ending}").is_file(), said


def test_a_system_without_an_object_trains_on(tmp_path, capsys, monkeypatch):
    from pathlib import Path

    custom = Path(__file__).parents[1] / "core" / "custom"
    monkeypatch.setenv("USD_CUSTOM", str(custom))
    out = [f"exp_root_dir={tmp_path}", "trainer.max_steps=2", "viewer.enable=true"]
    assert launch.main(["--config", str(custom / "tiny.yaml"), "--train", *out]) == 0
    assert "trains no object to look at" in capsys.readouterr().out


def test_a_viewer_shows_a_training_and_nothing_else(capsys):
    assert launch.main(["--config", "configs/usd-patch-mini.yaml", "--test", "--viewer"]) == 2
    assert "usd view TRIAL" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ a real browser


class Browser(threading.Thread):
    """Somebody with a real browser, in a thread beside the training: ``visit`` is what they do."""

    def __init__(self, visit):
        super().__init__()
        self.visit, self.trouble, self.errors = visit, None, []

    def run(self) -> None:
        try:
            wait_for(lambda: open_viewer._viewer is not None and open_viewer._viewer.panel is not None)
            with chromium() as browser:
                page = browser.new_page(viewport={"width": 1000, "height": 700})
                page.set_default_timeout(60_000)
                page.on("pageerror", lambda error: self.errors.append(str(error)))
                page.goto(open_viewer._viewer.server.address)
                self.visit(page)
        except BaseException as error:  # noqa: BLE001 - the training must end, whatever went wrong
            self.trouble = error
        viewer = open_viewer._viewer
        if viewer is not None and self.trouble is not None:
            viewer.session.ask("resume")
            viewer.session.ask("stop")
            viewer.session.ask("close")


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(EXECUTABLE is None, reason="needs a chromium")
def test_a_real_browser_steers_a_running_training(tmp_path, picture):
    pytest.importorskip("playwright")
    seen = {}

    def visit(page) -> None:
        viewer = open_viewer._viewer
        step = lambda: viewer.session.subject.system.step  # noqa: E731
        wait_for(viewer.stage.watchers)
        (watcher,) = viewer.stage.watchers().values()
        wait_for(lambda: watcher.full is not None)
        seen["before"] = watcher.pose
        page.mouse.move(300, 350)
        page.mouse.down()
        for k in range(10):
            page.mouse.move(300 + 15 * k, 350 + 4 * k)
        page.mouse.up()
        wait_for(lambda: watcher.pose != seen["before"])
        page.get_by_role("button", name="Pause").click()
        page.get_by_text("paused", exact=True).wait_for()
        seen["at"] = step()
        page.get_by_role("tab", name="Options").click()
        page.get_by_label("guidance_scale").fill("7")
        wait_for((trial(tmp_path, "steered").folder / RECORD).is_file)
        page.get_by_text("Run", exact=True).click()
        page.get_by_role("button", name="Save a checkpoint now").click()
        wait_for((trial(tmp_path, "steered").ckpts / f"epoch=0-step={seen['at']}.ckpt").is_file)
        assert step() == seen["at"], "it was paused all the time"
        seen["moved"] = watcher.pose
        page.get_by_role("button", name="Resume").click()
        wait_for(lambda: step() > seen["at"])
        page.get_by_role("button", name="End the training here").click()
        page.get_by_text("finished", exact=True).wait_for()
        page.get_by_role("button", name="Close the viewer").click()

    visitor = Browser(visit)
    visitor.start()
    options = ["viewer.enable=true", "viewer.stay_open=true", "trainer.max_steps=1000000", "viewer.port=7311"]
    code = run(tmp_path, picture, "steered", *options)
    visitor.join(60)
    if visitor.trouble is not None:
        raise visitor.trouble
    assert code == 0 and not visitor.errors
    (change,) = read_changes(trial(tmp_path, "steered").folder / RECORD)
    assert (change.step, change.key, change.value) == (seen["at"], "system.guidance.guidance_scale", 7.0)
    assert seen["moved"] != seen["before"]
