"""What a job has made so far: its files, a picture to look at, its report, and how far it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from usd.batch.summary import last_losses
from usd.core.errors import UserError
from usd.report.page import NAME as REPORT
from usd.report.records import TrialRecord
from usd.serve.jobs import RECORD

PREVIEWS = ("save/it*-0.png", "save/it*-test/0.png", "save/it*-turntable/0.png")
LOG_END = 8000
"""Bytes of the log's end that are shown."""


@dataclass(frozen=True)
class ResultFile:
    """A file of a job: its path in the job's folder, with slashes, and its size in bytes."""

    path: str
    bytes: int


@dataclass(frozen=True)
class JobProgress:
    """A job's latest stage: its name, the step it is at, and its number of steps (0: not known yet)."""

    stage: str
    step: int
    steps: int


def result_files(folder: Path) -> list[ResultFile]:
    """Return what may be fetched from a job's folder, in order: no hidden file, no link, not the record."""
    found = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    named = sorted((file.relative_to(folder), file) for file in found)
    return [
        ResultFile(path.as_posix(), file.stat().st_size)
        for path, file in named
        if not any(part.startswith(".") for part in path.parts) and path.as_posix() != RECORD
    ]


def result_file(folder: Path, name: str) -> Path:
    """Return a file of a job by its path. Raises ``FileNotFoundError`` for whatever is not in its folder."""
    path = Path(name)
    if (
        not name.isprintable()
        or "\\" in name
        or path.is_absolute()
        or path.drive
        or path.as_posix() == RECORD
    ):
        raise FileNotFoundError(name)
    if any(part.startswith(".") for part in path.parts):
        raise FileNotFoundError(name)
    whole = (folder / path).resolve()  # follows links, which may lead outside
    if not whole.is_relative_to(folder.resolve()) or not whole.is_file():
        raise FileNotFoundError(name)
    return whole


def trials(result: Path) -> list[Path]:
    """Return the trials of a job, latest last; none that was set aside."""
    found = [
        folder for folder in _folders(result) if (folder / "configs").is_dir() and "~" not in folder.name
    ]
    return sorted(found, key=lambda folder: (folder / "configs").stat().st_mtime)


def _folders(result: Path) -> Iterator[Path]:
    if result.is_dir():
        yield from (folder for folder in result.iterdir() if folder.is_dir())


def newest(result: Path, *patterns: str) -> Path | None:
    """Return the newest file that fits one of some patterns in a job's trials; None where there is none."""
    found = [file for trial in trials(result) for pattern in patterns for file in trial.glob(pattern)]
    return max(found, key=lambda file: file.stat().st_mtime, default=None)


def preview_of(result: Path) -> Path | None:
    """Return the newest picture of a job's object; None while there is none."""
    return newest(result, *PREVIEWS)


def report_of(result: Path) -> Path | None:
    """Return the newest report of a job's trials; None while there is none."""
    return newest(result, REPORT)


def progress_of(result: Path) -> JobProgress | None:
    """Return how far a job is; None before its first trial has begun."""
    latest = trials(result)
    if not latest:
        return None
    try:
        steps = int(str(TrialRecord.of(latest[-1]).option("trainer.max_steps") or 0))
        step = int(last_losses(latest[-1]).get("step", 0))
    except (UserError, OSError, ValueError):  # it is being written
        return JobProgress(latest[-1].name, 0, 0)
    return JobProgress(latest[-1].name, min(step, steps), steps)


def log_end(result: Path) -> str:
    """Return the end of a job's log; empty where there is none."""
    try:
        with open(result / "log.txt", "rb") as file:
            file.seek(max(0, file.seek(0, 2) - LOG_END))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
