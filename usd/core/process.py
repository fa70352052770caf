"""The process that a command runs in: text as UTF-8, caches that can be written, an exit code.

A command is a function ``main`` that returns ``run_command(...)``, and ends its file with ``start(main)``. It is called
before anything else; the standard library only.
"""

import ctypes
import io
import os
import sys
from collections.abc import Callable

from usd.core.console import say, say_error
from usd.core.deferred_package import defer_packages
from usd.core.errors import UserError
from usd.core.places import is_writable, temporary_cache, user_cache

CACHES = {
    "WARP_CACHE_PATH": "warp",
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
}
"""Variables that say where a library caches, and our name of that folder."""
KEPT = {-1: 1 << 30, -2: 64 << 20, -3: 32 << 20}
"""glibc's M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD (its largest) in bytes."""


def start(main: Callable[[], int]) -> None:
    """Run ``main`` as the program, in UTF-8, and leave with its exit code."""
    restart_in_utf8()
    sys.exit(main())


def run_command(action: Callable[[], int | None]) -> int:
    """Do the work of a command; return its exit code, 0 where ``action`` returns none.

    What the user can mend is one line and 2, and so is what the file system refuses; Ctrl-C is one line and 130.
    """
    prepare()
    try:
        code = action() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UserError as error:
        return _refused(str(error))
    except MemoryError as error:
        return _refused(
            f"out of memory; lower the sizes that were asked for ({str(error) or 'no more is free'})"
        )
    except OSError as error:
        if error.errno is None:
            raise
        return _refused(f"{error.filename or 'output'}: {error.strerror}")
    except KeyboardInterrupt as stop:
        say_error(f"interrupted{stop}")
        return 130


def _refused(reason: str) -> int:
    say_error(f"error: {reason}")
    return 2


def prepare() -> None:
    """Make output, caches, threads, memory and imports usable; one line says what was assumed."""
    wait_without_spinning()
    keep_memory()
    defer_packages()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a sign that the terminal has not
    move_caches()


def wait_without_spinning() -> None:
    """Let idle threads of OpenMP sleep, unless the environment says otherwise; before torch is imported.

    By default they spin, which costs nothing on an idle machine and many times the work's own time on a busy one.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def keep_memory() -> None:
    """Let the C library keep up to 1 GiB of freed buffers for the next ones, where it is glibc.

    By default every tensor of some size is mapped anew, and its pages are zeroed at their first touch.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and not any(name.startswith("MALLOC_") for name in os.environ):
        for parameter, size in KEPT.items():
            mallopt(parameter, size)


def restart_in_utf8() -> None:
    """Start this program again with UTF-8 for names of files, where the locale has another encoding.

    The encoding of names is fixed when Python starts. Nothing happens on a second try.
    """
    if sys.getfilesystemencoding().lower().replace("-", "") == "utf8" or sys.flags.utf8_mode:
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def move_caches() -> None:
    """Point libraries to a temporary folder where the user's cache cannot be written: no home, or a read-only one.

    Models that were fetched before are still read from where they are.
    """
    cache = user_cache()
    if cache is not None and is_writable(cache):
        return
    there = temporary_cache()
    if cache is not None and (cache / "huggingface").is_dir():
        os.environ.setdefault("HF_HOME", str(cache / "huggingface"))
    os.environ["XDG_CACHE_HOME"] = str(there)
    for variable, name in CACHES.items():
        os.environ.setdefault(variable, str(there / name))
    reason = f"{cache} cannot be written" if cache is not None else "there is no home folder"
    say(f"note: {reason}; kernels and models are cached in {there} (set XDG_CACHE_HOME to choose)")
