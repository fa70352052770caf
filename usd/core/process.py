"""What a command needs of the process it runs in: text as UTF-8, and caches that can be written.

Called by the commands before anything else; the standard library only.
"""

import io
import os
import sys

from usd.core.places import is_writable, temporary_cache, user_cache

CACHES = {
    "WARP_CACHE_PATH": "warp",
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
}
"""Variables that say where a library caches, and our name of that folder."""


def prepare() -> None:
    """Make output and caches usable; one line says what was assumed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a sign that the terminal has not
    move_caches()


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
    shown = f"{cache} cannot be written" if cache is not None else "there is no home folder"
    sys.stdout.write(
        f"note: {shown}; kernels and models are cached in {there} (set XDG_CACHE_HOME to choose)\n"
    )
