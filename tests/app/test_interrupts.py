"""Ctrl-C and SIGTERM, wherever they come: the run stops, says so, ends with 130, and the same command goes on."""

import functools
import gc
import os
import signal
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import launch
from usd.app import callbacks, interrupts, modes, stages
from usd.core import checkpoint
from usd.core.errors import UserError

CUSTOM = Path(__file__).parents[1] / "core" / "custom"


class Thing:
    """Something that can be watched."""


def in_a_weakref_callback(number: int) -> None:
    thing = Thing()
    watcher = weakref.ref(thing, lambda _: os.kill(os.getpid(), number))
    del thing
    assert watcher() is None


def in_a_del(number: int) -> None:
    class Dying:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)

    Dying()
    gc.collect()


PLACES = [in_a_weakref_callback, in_a_del]


@pytest.mark.parametrize("number", interrupts.SIGNALS)
@pytest.mark.parametrize("place", PLACES)
def test_a_request_that_python_drops_is_acted_on_at_the_next_safe_point(place, number, capsys):
    reached = []

    def work() -> None:
        with interrupts.listening() as stop:
            place(number)
            reached.append("after the dropped exception")
            stop.check()
            reached.append("after the safe point")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["after the dropped exception"]
    assert "Traceback" not in capsys.readouterr().err


def test_a_request_that_nobody_checked_ends_the_block():
    with pytest.raises(KeyboardInterrupt), interrupts.listening():
        in_a_weakref_callback(signal.SIGINT)


def test_an_error_that_a_library_made_of_a_request_is_the_request():
    def parse() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise UserError("c.yaml: not valid YAML ('NoneType' object has no attribute 'x')") from None

    def save() -> None:
        interrupts.current().patient = True
        os.kill(os.getpid(), signal.SIGINT)
        raise UserError("last.ckpt: no space left on the device")  # which is what the request asked for

    with pytest.raises(KeyboardInterrupt), interrupts.listening():
        parse()
    with pytest.raises(UserError, match="no space left"), interrupts.listening():
        save()


def test_the_patient_are_asked_once_and_interrupted_the_second_time(capsys):
    def work() -> None:
        with interrupts.listening() as stop:
            stop.patient = True
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.asked
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second request was not raised")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert capsys.readouterr().err.count("stopping after this step; press Ctrl-C again to abort at once") == 1


def test_handlers_are_put_back_and_blocks_inside_share_them():
    before = [signal.getsignal(number) for number in interrupts.SIGNALS]
    with interrupts.listening() as stop, interrupts.listening() as same:
        assert stop is same is interrupts.current()
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == before
    assert interrupts.current() is not stop


# ----------------------------------------------------------------------------------------------- of a staged run


@pytest.fixture
def staged(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("USD_CUSTOM", str(CUSTOM))
    tiny = {"base": str(CUSTOM / "tiny.yaml")}
    said = {
        "name": "both",
        "tag": "run",
        "exp_root_dir": str(tmp_path),
        "trainer": {"max_steps": 3, "enable_progress_bar": False},
        "stages": {"first": tiny, "second": tiny},
    }
    (tmp_path / "staged.yaml").write_text(yaml.safe_dump(said, sort_keys=False))
    return str(tmp_path / "staged.yaml")


MOMENTS: dict[str, tuple[object, str]] = {
    "the parts are built": (modes, "build_experiment"),
    "training begins": (callbacks.SafePoints, "on_train_start"),
    "a step ends": (callbacks.ProgressLine, "on_train_batch_end"),
    "training ends": (callbacks.Checkpoints, "on_train_end"),
    "the test begins": (callbacks.SafePoints, "on_test_start"),
    "a picture is written": (callbacks.SafePoints, "on_test_batch_end"),
    "models are let go": (stages.gc, "collect"),
    "the record is written": (stages, "write_record"),
}


def once_after(original: Callable[..., object], act: Callable[[], None]) -> Callable[..., object]:
    done = []

    def wrapped(*args: object, **kwargs: object) -> object:
        result = original(*args, **kwargs)
        if not done:
            done.append(True)
            act()
        return result

    return wrapped


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_staged_run_stops_at_any_moment_and_goes_on(staged, tmp_path, capsys, monkeypatch, moment):
    owner, name = MOMENTS[moment]
    act = functools.partial(in_a_weakref_callback, signal.SIGINT)
    run = ["--config", staged, "--train", "--gpu", "cpu", "trainer.enable_progress_bar=true"]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, once_after(getattr(owner, name), act))
        assert launch.main(run) == 130
    seen = capsys.readouterr()
    assert seen.err.strip().splitlines()[-1].startswith("interrupted") and "Traceback" not in seen.err
    assert "stage second: starting" not in seen.out
    assert launch.main(run) == 0
    last = [
        checkpoint.load(tmp_path / "both" / "run" / name / "ckpts" / "last.ckpt")
        for name in ("first", "second")
    ]
    assert [content["global_step"] for content in last] == [3, 3]
