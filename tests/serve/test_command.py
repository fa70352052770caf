"""``usd serve``: its options, its address and token, one server a folder, and what it prints."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.serve.conftest import wait_until
from usd.core.errors import UserError
from usd.serve import command

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "argv", [["--port", "0"], ["--port", "70000"], ["--jobs", "0"], ["--threads", "0"], ["--largest", "0"]]
)
def test_options_that_make_no_sense_are_one_line(argv, capsys, tmp_path):
    assert command.main([*argv, "--out", str(tmp_path / "out")]) == 2
    assert "expected" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_port_that_is_taken_is_not_shared():
    with (
        command.listen("127.0.0.1", 17008) as first,
        command.listen("127.0.0.1", first.getsockname()[1]) as second,
    ):
        assert second.getsockname()[1] > first.getsockname()[1]


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(UserError, match="--port 7008: cannot be served"):
        command.listen("192.0.2.1", 7008)


def test_the_ssh_line_is_for_this_machine_and_the_token_for_any_other(monkeypatch):
    page, ssh = command.invitation("127.0.0.1", 7008, "")
    assert page == "serve: http://127.0.0.1:7008/" and "ssh -L 7008:127.0.0.1:7008 " in ssh
    lines = command.invitation("0.0.0.0", 7009, "t0ken")
    assert lines[0] == "serve: http://127.0.0.1:7009/?token=t0ken"
    assert (
        lines[1].endswith(f"http://{socket.gethostname()}:7009/?token=t0ken") and "not encrypted" in lines[2]
    )
    assert command.invitation("::1", 7008, "")[0] == "serve: http://[::1]:7008/"


def test_a_token_is_random_or_the_environments_and_never_short(monkeypatch):
    monkeypatch.delenv(command.TOKEN, raising=False)
    assert command.new_token() != command.new_token() and len(command.new_token()) >= 32
    monkeypatch.setenv(command.TOKEN, "sixteen-letters-")
    assert command.new_token() == "sixteen-letters-"
    for bad in ("short", "sixteen letters and a blank", "ümlautümlautümlaut"):
        monkeypatch.setenv(command.TOKEN, bad)
        with pytest.raises(UserError, match="at least 16 letters"):
            command.new_token()


def test_two_servers_cannot_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "PATIENCE", 0.0)
    with command.one_server(tmp_path / "jobs"):  # noqa: SIM117 - the second one is refused
        with pytest.raises(UserError, match="in use by process"), command.one_server(tmp_path / "jobs"):
            pass


def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else True)
    assert command.main(["--out", str(tmp_path)]) == 2
    assert "uvicorn is not installed; pip install 'usd[serve]'" in capsys.readouterr().err


def test_devices_are_dealt_to_the_jobs_that_run_at_a_time():
    assert command.devices(command.serve_parser().parse_args(["--gpus", "0", "--jobs", "3"])) == ["cpu"] * 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_command_serves_until_ctrl_c(tmp_path):
    started = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "usd",
            "serve",
            "--gpus",
            "0",
            "--port",
            "17108",
            "--out",
            str(tmp_path / "jobs"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    address = started.stdout.readline().split()[1]

    def answers():
        try:
            return urllib.request.urlopen(f"{address}api/jobs").read() == b"[]"
        except OSError:
            return False

    wait_until(answers, 60)
    started.send_signal(signal.SIGINT)
    text, _ = started.communicate(timeout=60)
    assert started.returncode == 130 and "the same command goes on from there" in text
