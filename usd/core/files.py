"""Files that others read later: replaced whole or not at all, told apart by digests, set aside instead of deleted.

A process that is killed leaves the old content of a file, and beside it at most a hidden ``.name.PID.partial.suffix``,
which ``clear_partials`` removes. Standard library only.
"""

import contextlib
import hashlib
import itertools
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from usd.core.errors import UserError

PARTIAL = re.compile(r"\.(?P<name>.*?)(\.(?P<pid>\d+)(-\d+)?)?\.(partial|part)(?P<suffix>\.\w+)?", re.DOTALL)
LONGEST_NAME = 255  # bytes, on every common file system
_numbers = itertools.count()


# ---------------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def replace_atomically(path: "Path | str") -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; when the block ends without error, it takes the place of ``path``.

    The yielded path has the suffix of ``path``, in a folder that is made. A link in the place of ``path`` is itself
    replaced: what it points to is left alone. A device, a pipe and the like are written to directly. Content is
    flushed to disk before the renaming. ``OSError`` passes through, as does what the block raises; the old content is
    then intact.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_no_file(path):
        yield path
        return
    partial = partial_name(path)
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path)
        _flush(path.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _is_no_file(path: Path) -> bool:
    """Return whether nothing can take the place of ``path``: a device, a pipe, a folder, ``/dev/stdout``."""
    return (path.exists() and not path.is_file()) or path.absolute().parts[:2] in (
        ("/", "dev"),
        ("/", "proc"),
    )


def partial_name(path: Path) -> Path:
    """Return a hidden name beside ``path``, with its suffix, that nobody else in this process or another uses."""
    suffix = path.suffix if re.fullmatch(r"\.\w{1,20}", path.suffix) else ""
    tail = f".{os.getpid()}-{next(_numbers)}.partial{suffix}"
    stem = path.name.encode()[: LONGEST_NAME - len(tail) - 1].decode(errors="ignore")
    return path.with_name(f".{stem}{tail}")


def write_atomically(path: "Path | str", content: "str | bytes") -> Path:
    """Replace ``path`` by ``content`` (text as UTF-8). Raises ``UserError`` where that is not possible."""
    path = Path(path)
    with writable(path), replace_atomically(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@contextlib.contextmanager
def writable(path: "Path | str") -> Iterator[None]:
    """Turn what the file system refuses inside the block into a ``UserError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror or error})") from error


def refuse_unwritable(folder: Path) -> None:
    """Raise ``UserError`` where a folder cannot be made, or written to. It is not made, and nothing is left."""
    with writable(folder):
        nearest = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
        with tempfile.TemporaryFile(dir=nearest):
            pass


def _flush(path: Path) -> None:
    """Ask the disk to keep a file or folder now; those that cannot (folders on Windows, pipes) are left."""
    mode = os.O_RDWR if path.is_file() else os.O_RDONLY
    try:
        descriptor = os.open(path, mode)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        if mode == os.O_RDWR:
            raise
    finally:
        os.close(descriptor)


def clear_partials(folder: Path) -> list[Path]:
    """Remove what killed processes left half-written anywhere below ``folder``; return what was removed.

    Partial files of other processes that still run are kept.
    """
    removed = []
    for root, _, names in os.walk(folder):
        for name in names:
            found = PARTIAL.fullmatch(name)
            if found and not _is_alive(found["pid"]):
                with contextlib.suppress(OSError):
                    (Path(root) / name).unlink()
                    removed.append(Path(root) / name)
    return removed


def _is_alive(pid: str | None) -> bool:
    """Return whether another process of this number runs on this machine."""
    if pid is None or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


# ---------------------------------------------------------------------------------------------------------- digests


def digest(*parts: "str | bytes", size: int = 12) -> str:
    """Return the blake2b digest of ``size`` bytes, in hexadecimal, of texts (as UTF-8) and bytes one after another."""
    found = hashlib.blake2b(digest_size=size)
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else part)
    return found.hexdigest()


def digest_of_file(path: "Path | str") -> bytes:
    """Return the full blake2b digest (64 bytes) of a file's content. Raises ``OSError``."""
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "blake2b").digest()


# ---------------------------------------------------------------------------------------------------------- records


def read_record(file: Path) -> dict[str, object] | None:
    """Return the JSON object in ``file``; None where there is none, or none that can be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def write_record(file: Path, content: Mapping[str, object]) -> Path:
    """Replace ``file`` by a JSON object. Raises ``UserError`` where that is not possible."""
    return write_atomically(file, json.dumps(dict(content), indent=1) + "\n")


# ---------------------------------------------------------------------------------------------------- setting aside


def set_aside(path: Path) -> Path:
    """Rename a file or folder to the first free ``name~1``, ``name~2``, ...; return where it is now."""
    for number in itertools.count(1):
        aside = path.with_name(f"{path.name}~{number}")
        if not os.path.lexists(aside):
            path.rename(aside)
            return aside
    raise AssertionError("endless")


# ------------------------------------------------------------------------------------------------------------ locks


@contextlib.contextmanager
def locked(file: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on ``file`` (made, and left behind) inside the block, waiting ``patience`` seconds for it.

    The lock ends with the process, however it ends, and forked children do not share it; it holds where the file
    system knows locks. Raises ``UserError`` that names the process in the way, and ``OSError`` where ``file`` cannot
    be opened.
    """
    with open(_opened(file), "r+", encoding="utf-8") as content:
        end = time.monotonic() + patience
        while not _acquired(content):
            if time.monotonic() > end:
                raise UserError(
                    f"{file.parent}: in use by {_owner(content)}; wait for it, end it, or choose another folder"
                )
            time.sleep(0.1)
        _sign(content)
        _held.add(content)
        try:
            yield
        finally:
            _held.discard(content)


_held: set[IO[str]] = set()


def _close_in_child() -> None:
    """Close a forked child's copies: otherwise a worker that outlives its parent keeps the lock."""
    for content in _held:
        with contextlib.suppress(OSError):
            content.close()
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_in_child)


def _opened(file: Path) -> int:
    """Return a descriptor of ``file`` itself: a link in its place is refused."""
    return os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)


def _acquired(content: IO[str]) -> bool:
    """Return whether the lock is ours now; also where the file system knows no locks."""
    try:
        import fcntl
    except ImportError:
        return _acquired_on_windows(content)
    try:
        fcntl.flock(content.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _acquired_on_windows(content: IO[str]) -> bool:
    import msvcrt

    content.seek(0)
    try:
        msvcrt.locking(content.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:
        return False
    return True


def _sign(content: IO[str]) -> None:
    """Write into the lock file who holds it; only for messages."""
    with contextlib.suppress(OSError):
        content.seek(0)
        content.truncate()
        content.write(
            f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        )
        content.flush()


def _owner(content: IO[str]) -> str:
    with contextlib.suppress(OSError, ValueError):
        content.seek(0)
        return content.read(200).strip() or "another process"
    return "another process"
