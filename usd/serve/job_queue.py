"""The queue: jobs one after another, or a few at a time, each in a process of its own.

A job's process saves its step and leaves when its standard input is closed (``usd.batch.worker``). That is how a job
is paused, how it is cancelled, and what happens by itself when the server is killed.
"""

import contextlib
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import IO

from usd.batch import Result, Task
from usd.batch.checks import check_task
from usd.batch.worker import run_task, start_process
from usd.core.errors import UserError
from usd.serve.jobs import Job, JobRequest, JobStore, State, new_job
from usd.serve.uploads import CheckedPicture

Start = Callable[[Task, IO[bytes]], "subprocess.Popen[bytes]"]
Check = Callable[[Task], None]
"""Raises ``UserError`` for a task that is known to fail."""
RETRIES = 1
"""Further attempts at a job whose process crashed."""
MOST_WAITING = 1000
NO_ID = "00000-000000"
"""Id of a job that is not one yet."""
REQUESTS: dict[str, dict[State, State]] = {
    "pause": {"queued": "paused", "running": "pausing"},
    "resume": {"paused": "queued", "failed": "queued", "cancelled": "queued"},
    "cancel": {
        "queued": "cancelled",
        "paused": "cancelled",
        "running": "cancelling",
        "pausing": "cancelling",
    },
}
"""The state that each request leads to, by the state it finds."""
ASKED: dict[State, State] = {"pausing": "paused", "cancelling": "cancelled"}


class QueueFullError(Exception):
    """Too many jobs wait."""


class StateConflictError(Exception):
    """A request that the job's state does not allow."""


def start_apart(task: Task, out: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start a task's process where the terminal's Ctrl-C does not reach it: the server asks it to leave, once."""
    return start_process(task, out, own_session=True)


class JobQueue:
    """Threads that run the jobs of a store, ``devices`` at a time.

    ``start`` starts the process of a job; ``check`` is asked before one is taken.
    """

    def __init__(
        self,
        store: JobStore,
        devices: Sequence[str] = ("cpu",),
        threads: int = 1,
        start: Start = start_apart,
        check: Check = check_task,
    ) -> None:
        self.store = store
        self._start, self._check, self._cores = start, check, threads
        self._changed = threading.Condition(threading.RLock())
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(device,), name=f"usd-serve-{index}", daemon=True)
            for index, device in enumerate(devices)
        ]
        for thread in self._threads:
            thread.start()

    # ------------------------------------------------------------------------------------------------- requests

    def submit(self, request: JobRequest, picture: CheckedPicture | None = None, mesh: bytes = b"") -> Job:
        """Add a job to the end of the queue. Raises ``QueueFullError``, and ``UserError`` where it is known to fail."""
        self._check(self.store.task(new_job(NO_ID, request, picture, mesh)))
        with self._changed:
            if sum(job.state == "queued" for job in self.store.all()) >= MOST_WAITING:
                raise QueueFullError(f"{MOST_WAITING} jobs wait already; try again later")
            job = self.store.add(request, picture, mesh)
            self._changed.notify()
        return job

    def ask(self, job_id: str, request: str) -> Job:
        """Pause, resume or cancel a job; return it as it is now.

        Raises ``KeyError`` for an unknown job and ``StateConflictError`` where its state does not allow that.
        """
        with self._changed:
            job = self.store.get(job_id)
            state = REQUESTS[request].get(job.state)
            if state is None:
                raise StateConflictError(f"{request}: the job is {job.state}")
            again = request == "resume"
            job = self.store.save(
                replace(
                    job, state=state, error="" if again else job.error, attempts=0 if again else job.attempts
                )
            )
            if job_id in self._processes:
                _dismiss(self._processes[job_id])
            self._changed.notify_all()
        return job

    def close(self) -> None:
        """Let every process save its step and leave; what ran is queued again for the next server."""
        with self._changed:
            self._closed = True
            for process in self._processes.values():
                _dismiss(process)
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    # --------------------------------------------------------------------------------------------------- running

    def _work(self, device: str) -> None:
        while (job := self._next()) is not None:
            result = self._result(job, device)
            with self._changed:
                self.store.save(self._ended(self.store.get(job.id), result))
                self._changed.notify_all()

    def _next(self) -> Job | None:
        """Return the next job in the queue, as running, once there is one; None when the queue is closed."""
        with self._changed:
            while not self._closed:
                for job in self.store.all():
                    if job.state == "queued":
                        return self.store.save(replace(job, state="running", error=""))
                self._changed.wait()
        return None

    def _result(self, job: Job, device: str) -> Result:
        """Run a job's process to its end."""
        try:
            task = replace(self.store.task(job, self._cores), gpu=device)
            return run_task(task, lambda task, out: self._watch(job.id, task, out))
        except KeyError:
            return Result(job.id, "failed", error=f"recipe: {job.request.recipe} is no longer there")
        except UserError as error:
            return Result(job.id, "failed", error=str(error))

    def _watch(self, job_id: str, task: Task, out: IO[bytes]) -> int:
        with self._changed:
            process = self._processes[job_id] = self._start(task, out)
            if self._closed or self.store.get(job_id).state != "running":  # asked before there was a process
                _dismiss(process)
        try:
            return process.wait()
        finally:
            with self._changed:
                del self._processes[job_id]
                _dismiss(process)

    def _ended(self, job: Job, result: Result) -> Job:
        """Return the job after an attempt: what it was asked for, unless it is done or cannot be done."""
        job = replace(
            job,
            seconds=job.seconds + result.seconds,
            attempts=job.attempts + result.attempts,
            error=result.error,
            figures=dict(result.figures),
        )
        if result.status in ("done", "failed"):
            return replace(job, state="done" if result.status == "done" else "failed")
        if job.state in ASKED:
            return replace(job, state=ASKED[job.state], error="")
        if self._closed:
            return replace(job, state="queued", error="", attempts=job.attempts - result.attempts)
        return replace(job, state="queued" if job.attempts <= RETRIES else "failed")


def _dismiss(process: "subprocess.Popen[bytes]") -> None:
    """Close a process's standard input, which asks it to save and leave."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
