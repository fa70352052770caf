"""Jobs on disk: one folder each, with what was asked for, how far it is, and everything that it makes."""

import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from usd.batch import Task
from usd.core import files, loading, places
from usd.core.console import say
from usd.core.errors import UserError
from usd.serve.recipes import source_overrides
from usd.serve.uploads import MESH, CheckedPicture

State = Literal["queued", "running", "pausing", "paused", "cancelling", "cancelled", "done", "failed"]
AFTER_RESTART: dict[State, State] = {"running": "queued", "pausing": "paused", "cancelling": "cancelled"}
"""States that end with the server, and what they are when it is started again."""
RECORD = "job.json"
RESULT = "object"
"""Folder of what a job makes, in the job's own."""
JOB_ID = re.compile(r"\d{5,9}-[0-9a-f]{6}")


@dataclass(frozen=True)
class JobRequest:
    """A request for an object: a recipe, the sentence or the title of the picture, and options."""

    recipe: str
    title: str
    prompt: str = ""
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """A job as its record says it. ``picture`` and ``mesh`` name files in its folder; ``created`` is Unix time."""

    id: str
    request: JobRequest
    picture: str = ""
    mesh: str = ""
    state: State = "queued"
    created: float = 0.0
    seconds: float = 0.0
    attempts: int = 0
    error: str = ""
    figures: dict[str, float] = field(default_factory=dict)


def job_from(record: dict[str, object]) -> Job:
    """Return the job that a record describes. Raises ``UserError`` for one that no server wrote."""
    try:
        request = dict(record.pop("request"))  # type: ignore[call-overload]
        request["overrides"] = tuple(request["overrides"])
        job = Job(request=JobRequest(**request), **record)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{RECORD}: is no record of a job ({error})") from error
    if not JOB_ID.fullmatch(job.id) or job.state not in get_args(State):
        raise UserError(f"{RECORD}: is no record of a job (id {job.id!r}, state {job.state!r})")
    return job


def new_job(job_id: str, request: JobRequest, picture: CheckedPicture | None, mesh: bytes) -> Job:
    """Return a job of now that waits, with the names that its files are given."""
    name = f"input{picture.suffix}" if picture else ""
    return Job(job_id, request, name, MESH if mesh else "", created=time.time())


class JobStore:
    """All jobs below a folder, oldest first. Every change is on disk before it is seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        with files.writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for half in folder.glob(".new-*"):  # a submission that a killed server was at
            shutil.rmtree(half, ignore_errors=True)
        self._jobs = {job.id: job for job in self._read_all()}

    def _read_all(self) -> Iterator[Job]:
        for file in sorted(self.folder.glob(f"*/{RECORD}")):
            try:
                job = job_from(files.read_record(file) or {})
            except UserError as error:
                say(f"note: {file.parent}: left out: {error}")
                continue
            if job.id == file.parent.name:
                yield replace(job, state=AFTER_RESTART.get(job.state, job.state))

    def all(self) -> list[Job]:
        """Return every job, oldest first."""
        with self._lock:
            return list(self._jobs.values())

    def get(self, job_id: str) -> Job:
        """Return a job. Raises ``KeyError`` for an id that none has."""
        with self._lock:
            return self._jobs[job_id]

    def path(self, job: Job) -> Path:
        """Return the job's folder."""
        return self.folder / job.id

    def result(self, job: Job) -> Path:
        """Return the folder of what the job makes."""
        return self.path(job) / RESULT

    def add(self, request: JobRequest, picture: CheckedPicture | None = None, mesh: bytes = b"") -> Job:
        """Write down a new job, whole or not at all, and return it. Raises ``UserError``."""
        with self._lock:
            job = new_job(self._new_id(), request, picture, mesh)
            half = self.folder / f".new-{job.id}"
            with files.writable(half):
                half.mkdir()
                if picture:
                    (half / job.picture).write_bytes(picture.content)
                if mesh:
                    (half / MESH).write_bytes(mesh)
                files.write_record(half / RECORD, asdict(job))
                half.rename(self.path(job))
            self._jobs[job.id] = job
        return job

    def _new_id(self) -> str:
        last = max((int(name.partition("-")[0]) for name in self._jobs), default=0)
        return f"{last + 1:05d}-{secrets.token_hex(3)}"

    def save(self, job: Job) -> Job:
        """Replace a job by its new state, and return it. Raises ``UserError``."""
        with self._lock:
            files.write_record(self.path(job) / RECORD, asdict(job))
            self._jobs[job.id] = job
        return job

    def task(self, job: Job, threads: int = 1) -> Task:
        """Return the batch's task that makes the job's object."""
        picture = str(self.path(job) / job.picture) if job.picture else ""
        recipe = places.recipes()[job.request.recipe]
        return Task(
            name=job.id,
            source=picture or job.request.prompt,
            folder=str(self.result(job)),
            configs=(str(recipe),),
            overrides=(*source_overrides(recipe, picture, job.request.prompt), *job.request.overrides),
            threads=threads,
            here=str(Path.cwd()),
            is_picture=bool(job.picture),
            mesh=str(self.path(job) / job.mesh) if job.mesh else "",
        )


def checked_overrides(given: Sequence[str]) -> tuple[str, ...]:
    """Return ``key=value`` options that a stranger may set. Raises ``UserError`` for any other.

    Where things are written, the server's other files, its environment and its pages are not theirs to choose.
    """
    for item in given:
        key, _, value = item.partition("=")
        if not loading.is_override(item) or item.startswith("-") or len(item) > 2000:
            raise UserError(f"overrides: {item[:80]}: expected key=value")
        names = key.strip().split(".")
        if names[0] == "stages":
            names = names[2:]
        if not names or names[0] in SERVERS_OWN:
            raise UserError(
                f"overrides: {key}: is the server's own; expected an option of the system or data"
            )
        if FOREIGN.search(json.dumps(value, ensure_ascii=False)):
            raise UserError(
                f"overrides: {key}: names a file or variable of the server; expected numbers, words or names"
            )
    return tuple(given)


SERVERS_OWN = {"exp_root_dir", "name", "tag", "use_timestamp", "timestamp", "resume", "viewer", "base"}
FOREIGN = re.compile(r"""(^|[\s"'\[{(,:=])(~|/|\\\\|[A-Za-z]:[\\/])|(^|[^.])\.\.([/\\"]|$)|\$\{""")
"""Absolute paths, ``..`` and interpolations, anywhere in a value as JSON."""
