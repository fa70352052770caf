"""The loop around tasks: what is done is skipped, what crashed is tried again, what failed is left."""

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace

from usd.batch import Result, Task
from usd.batch.launchers import Launcher
from usd.batch.tasks import done_before

Tell = Callable[[Result], None]


def run_all(tasks: Iterable[Task], launcher: Launcher, retries: int, tell: Tell) -> list[Result]:
    """Every task once, and up to ``retries`` times more where it crashed; results in the tasks' order.

    ``tell`` hears of every attempt. After Ctrl-C the results so far are returned, the others as interrupted.
    """
    tasks = list(tasks)
    results: dict[str, Result] = {}
    pending: dict[Future[Result], Task] = {}
    for task in tasks:
        known = known_result(task)
        if known is None:
            pending[launcher.submit(task)] = task
        else:
            results[task.name] = known
            tell(known)
    with contextlib.suppress(KeyboardInterrupt):
        while pending:
            ended, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in ended:
                task = pending.pop(future)
                result = _added(results.get(task.name), _result(task, future))
                results[task.name] = result
                tell(result)
                if result.again and result.attempts <= retries:
                    pending[launcher.submit(task)] = task
    return [results.get(task.name) or Result(task.name, "interrupted") for task in tasks]


def known_result(task: Task) -> Result | None:
    """Return the result of a task that need not start: done before, or its source is unusable; else None."""
    if task.problem:
        return Result(task.name, "failed", error=task.problem)
    record = done_before(task)
    return None if record is None else Result(task.name, "done", figures=record.get("figures", {}))


def _result(task: Task, future: "Future[Result]") -> Result:
    """Return the future's result; a crash where there is none, because the watching process is gone."""
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 - Ray's are many; none of them may stop the others
        line = (str(error).strip().splitlines() or [""])[0].partition(". ")[0][:200]
        return Result(task.name, "crashed", attempts=1, error=f"{type(error).__name__}: {line}")


def _added(before: Result | None, now: Result) -> Result:
    """Return the result of a further attempt, with the time of all of them."""
    if before is None:
        return now
    return replace(now, seconds=before.seconds + now.seconds, attempts=before.attempts + now.attempts)
