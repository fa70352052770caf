"""The process of a command: caches where the home cannot be written, any text in any locale."""

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from usd.core import places, process
from usd.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_home(tmp_path, monkeypatch):
    """A home below a plain file, as one that cannot be written is; no variable names a cache."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "me"))
    for name in ("XDG_CACHE_HOME", "HF_HOME", *process.CACHES):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


def test_without_a_home_that_can_be_written_caches_are_temporary_and_said(no_home, capsys):
    process.move_caches()
    there = Path(os.environ["XDG_CACHE_HOME"])
    assert there.parent == no_home / "temporary" and there.is_dir()
    assert os.environ["WARP_CACHE_PATH"] == str(there / "warp")
    text = capsys.readouterr().out
    assert text == (
        f"note: {no_home / 'file' / 'me' / '.cache'} cannot be written; kernels and models are cached in {there} "
        "(set XDG_CACHE_HOME to choose)\n"
    )
    process.move_caches()  # the second command of a process, or one that it starts, has a cache
    assert capsys.readouterr().out == "" and os.environ["XDG_CACHE_HOME"] == str(there)


def test_a_folder_of_somebody_else_in_the_place_of_the_temporary_cache_is_not_used(no_home):
    mine = places.temporary_cache()
    assert places.temporary_cache() == mine
    mine.rmdir()
    mine.symlink_to(no_home)
    assert places.temporary_cache() not in (mine, no_home)


def test_models_fetched_before_are_read_from_a_cache_that_cannot_be_written(no_home, monkeypatch):
    (no_home / "cache" / "huggingface").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(no_home / "cache"))
    monkeypatch.setattr(process, "is_writable", lambda folder: False)
    process.move_caches()
    assert os.environ["HF_HOME"] == str(no_home / "cache" / "huggingface")


def test_a_cache_that_can_be_written_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new" / "cache"))
    process.move_caches()
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / "new" / "cache")
    assert capsys.readouterr().out == ""


def test_a_terminal_that_lacks_a_sign_gets_its_number(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(process, "move_caches", lambda: None)
    process.prepare()
    print("größe 日", flush=True)
    assert raw.getvalue().rstrip() == rb"gr\xf6\xdfe \u65e5"


def test_cycles_are_looked_for_rarely_and_a_switch_of_the_user_s_holds():
    report = "from usd.core import process; import gc; {}; process.prepare(); print(gc.get_threshold()[0])"
    for before, after in (("pass", 10_000), ("gc.set_threshold(0)", 0), ("gc.set_threshold(50_000)", 50_000)):
        code = [sys.executable, "-c", report.format(before)]
        out = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, check=True)
        assert out.stdout.splitlines()[-1] == str(after)


def test_a_locale_without_utf8_starts_python_again_once(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda program, argv: started.append(argv))
    monkeypatch.setenv("PYTHONUTF8", "0")
    process.restart_in_utf8()
    assert started == []
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    process.restart_in_utf8()
    assert started == [[sys.executable, *sys.orig_argv[1:]]] and os.environ["PYTHONUTF8"] == "1"


def failing(error: BaseException):
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "code", "line"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (failing(UserError("--seed -1: expected 0 or more")), 2, "error: --seed -1: expected 0 or more\n"),
        (
            failing(PermissionError(13, "Permission denied", "/r.json")),
            2,
            "error: /r.json: Permission denied\n",
        ),
        (
            failing(MemoryError()),
            2,
            "error: out of memory; lower the sizes that were asked for (no more is free)\n",
        ),
        (failing(KeyboardInterrupt("; 2 of 3 are done")), 130, "interrupted; 2 of 3 are done\n"),
    ],
)
def test_every_end_of_a_command_is_a_code_and_one_line(work, code, line, capsys):
    assert process.run_command(work) == code
    assert capsys.readouterr().err == line


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        process.run_command(lambda: 1 // 0)


def test_every_module_that_is_a_command_is_started_and_performed_alike():
    helpers = {"usd/exporter/xatlas_process.py", "usd/batch/worker.py"}  # started by us, with what they need
    helpers.add("usd/toybox/__main__.py")  # runs usd.app.toys by name: no toybox imports the application
    for file in sorted((ROOT / "usd").rglob("*.py")):
        text, name = file.read_text(encoding="utf-8"), file.relative_to(ROOT).as_posix()
        if '__name__ == "__main__"' in text and name not in helpers:
            assert text.endswith('if __name__ == "__main__":\n    process.start(main)\n'), name
            source = re.search(r"^from (usd[\w.]*) import main$", text, re.MULTILINE)
            place = ROOT / f"{source[1].replace('.', '/')}.py" if source else file
            ends = (
                "process.run_command(",
                "launcher.guarded(",
            )  # the second also remembers lost requests to stop
            assert any(end in place.read_text(encoding="utf-8") for end in ends), name


def test_idle_threads_sleep_unless_the_environment_says_otherwise(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    process.wait_without_spinning()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    process.wait_without_spinning()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    process.wait_without_spinning()
    assert "OMP_WAIT_POLICY" not in os.environ


FAULTS = """
import ctypes, resource, sys
from usd.core import process
if sys.argv[1] == "keep":
    process.keep_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def use(count=4, size=16 << 20):
    buffers = [library.malloc(size) for _ in range(count)]
    for buffer in buffers:
        ctypes.memset(buffer, 1, size)
    for buffer in buffers:
        library.free(buffer)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_memory_that_is_freed_serves_the_next_buffer_without_being_mapped_anew():
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def faults(how: str) -> int:
        command = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=True).stdout)

    pages = 5 * 4 * (16 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert faults("keep") < pages / 100 < pages / 2 < faults("as the library has it")


THREADS = """
import resource
from usd.core import process
process.prepare()
import torch
x, weight = torch.rand(4, 64, 32, 32), torch.rand(64, 64, 3, 3)
def seconds(threads):
    torch.set_num_threads(threads)
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(60):
        torch.nn.functional.conv2d(x, weight, padding=1).relu().sum()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
rounds = [(seconds(1), seconds(2)) for _ in range(4)]
print(*(min(times) for times in zip(*rounds)))
"""


def test_two_threads_on_a_busy_machine_take_hardly_more_processor_time_than_one():
    env = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        done = subprocess.run(
            [sys.executable, "-c", THREADS], cwd=ROOT, env=env, capture_output=True, check=True
        )
    finally:
        for process_in_the_way in busy:
            process_in_the_way.kill()
    one, two = map(float, done.stdout.split()[-2:])
    assert two < 1.3 * one
