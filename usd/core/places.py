"""The three kinds of place: resources that are only read, outputs below the working directory, caches of the user.

    resources   configs/ and load/: the repository's in a checkout, the package's own where it is installed
    outputs     whatever a command makes; a relative folder means the working directory
    caches      what can be computed or fetched again: XDG_CACHE_HOME, ~/.cache, else a temporary folder

Nothing is ever written beside the package. The standard library only.
"""

import os
import tempfile
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
RESOURCES = ("configs", "load")
"""Folders of resources. A relative path is looked for among them only if it starts with one of these names."""


# --------------------------------------------------------------------------------------------------------- resources


@cache
def checkout() -> Path | None:
    """Return the repository that the package lies in; None where it is installed."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "configs").is_dir() else None


def resources() -> Path:
    """Return the folder that holds ``configs`` and ``load``. It may be read-only."""
    return checkout() or PACKAGE


def resource(name: "str | Path") -> Path:
    """Return the path of a resource, such as ``load/models.yaml``, whether or not it is there."""
    return resources() / name


def find_resource(name: "str | Path") -> Path | None:
    """Return what a relative path means among the resources; None where there is no such file or folder."""
    path = Path(os.path.normpath(name))
    is_resource = not path.is_absolute() and path.parts[:1] and path.parts[0] in RESOURCES
    return resource(path) if is_resource and os.path.exists(resource(path)) else None


@cache
def recipes() -> dict[str, Path]:
    """Return every shipped configuration by its bare name, ``usd-patch-mini``; presets and the toybox's included."""
    return {file.stem: file for file in sorted(resource("configs").rglob("*.yaml"))}


# ----------------------------------------------------------------------------------------------------------- outputs


def output(folder: "str | Path") -> Path:
    """Return where something is written: a relative folder means the working directory."""
    return Path(os.path.abspath(folder))


# ------------------------------------------------------------------------------------------------------------ caches


def user_cache() -> Path | None:
    """Return the user's cache folder, as libraries find it; None where nothing says where it is."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named)
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / ".cache" if home.is_absolute() else None


def is_writable(folder: Path) -> bool:
    """Return whether files can be made in a folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def temporary_cache() -> Path:
    """Return this user's own cache below the system's temporary folder, the same in every run if possible."""
    user = os.environ.get("USERNAME", "user") if os.name == "nt" else os.getuid()
    folder = Path(tempfile.gettempdir()) / f"usd-cache-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        own = not folder.is_symlink() and (os.name == "nt" or folder.stat().st_uid == user)
    except OSError:
        own = False
    return folder if own else Path(tempfile.mkdtemp(prefix="usd-cache-"))


# ------------------------------------------------------------------------------------------------------------- words


def command(mode: str) -> str:
    """Return what a user types for a mode, to be named in a message: the launcher in a checkout, else ``usd``."""
    return f"usd {mode}" if checkout() is None else f"launch.py --{mode}"
