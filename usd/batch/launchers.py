"""Where tasks run: threads here that watch over processes, or workers of Ray on one or many machines."""

import os
import queue
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from usd.batch import Result, Task
from usd.batch.worker import run_task
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.places import PACKAGE

HERE = "127.0.0.1"
OPEN_CLUSTER = (
    "whoever reaches this cluster can run programs on it, since RAY_AUTH_MODE=token is not set "
    "(docs/real-models.md, A cluster)"
)


@dataclass(frozen=True)
class Share:
    """The resources of one task: ``gpus`` may be a fraction, so that several tasks share a card."""

    cpus: float | int = 1
    gpus: float | int = 0


@runtime_checkable
class Launcher(Protocol):
    """Runs tasks as there is room for them. A future fails where whoever watched over the task is gone."""

    def submit(self, task: Task) -> "Future[Result]":
        """Return the future result of a task, started when there is room."""

    def close(self) -> None:
        """Release the workers; no task starts any more."""


class Local:
    """``workers`` at a time on this machine, without Ray. ``cards`` are GPU indices; tasks are dealt to them."""

    def __init__(self, workers: int, cards: list[str], perform: Callable[[Task], Result] = run_task) -> None:
        self._perform = perform
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="usd-batch")
        self._cards: queue.SimpleQueue[str] = queue.SimpleQueue()
        for index in range(workers):
            self._cards.put(cards[index % len(cards)] if cards else "cpu")

    def submit(self, task: Task) -> "Future[Result]":
        """Return the future result of a task, started when a thread is free."""
        return self._pool.submit(self._run, task)

    def _run(self, task: Task) -> Result:
        card = self._cards.get()
        try:
            return self._perform(replace(task, gpu=card))
        finally:
            self._cards.put(card)

    def close(self) -> None:
        """Cancel the tasks that have not started, and wait for the others."""
        self._pool.shutdown(cancel_futures=True)


class Cluster:
    """Workers of Ray: of a cluster at ``address``, or of one that is started here for ``workers`` tasks."""

    def __init__(self, address: str | None, share: Share, workers: int | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address is None:
            keep_to_this_machine()
        self._ray = package()
        cpus = None if address or workers is None else max(1, round(workers * share.cpus))
        self._connect(address, cpus)
        self._check(share)
        if address and os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
            say(f"note: --address {address}: {OPEN_CLUSTER}")
        remote = self._ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0, max_calls=1)
        self._perform = remote(run_task)
        self._on_gpu = share.gpus > 0

    def _connect(self, address: str | None, cpus: int | None, tries: int = 3) -> None:
        """To a cluster, or one that is started here; that may take several tries, since Ray waits 30 s at most."""
        settings: dict[str, Any] = {"address": address or "local", "log_to_driver": False}
        own = {"num_cpus": cpus, "include_dashboard": False, "_node_ip_address": HERE}
        settings |= {} if address else own
        try:
            self._ray.init(
                **settings, logging_level="warning", runtime_env={"env_vars": {"PYTHONPATH": _path()}}
            )
        except Exception as error:  # of many kinds, some of them plain
            self._ray.shutdown()
            if tries > 1 and "timed out" in str(error):
                return self._connect(address, cpus, tries - 1)
            where = f"--address {address}" if address else "Ray"
            raise UserError(
                f"{where}: cannot be reached ({(str(error) or repr(error)).splitlines()[0]})"
            ) from error

    def _check(self, share: Share) -> None:
        there = self._ray.cluster_resources()
        for what, wanted in (("CPU", share.cpus), ("GPU", share.gpus)):
            if wanted > there.get(what, 0):
                self.close()
                raise UserError(
                    f"--{what.lower()}s {wanted:g}: the cluster has {there.get(what, 0):g} {what}(s); no task could run"
                )

    def submit(self, task: Task) -> "Future[Result]":
        """Return the future result of a task, started when the cluster has its share free."""
        return self._perform.remote(replace(task, gpu=None if self._on_gpu else "cpu")).future()

    def close(self) -> None:
        """Disconnect from the cluster; one that was started here ends."""
        self._ray.shutdown()


def keep_to_this_machine() -> None:
    """Have a Ray that is started here listen on the loopback interface, to those who have a token of this run.

    Ray replaces a loopback address by that of the network, except where it is told that it may not be part of a
    cluster. It reads these variables when it is imported and started, and its workers inherit them.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if os.environ.setdefault("RAY_AUTH_MODE", "token").lower() == "token" and not _has_token():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _has_token() -> bool:
    return any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))


def package() -> ModuleType:
    """Return the module ``ray``. Raises ``UserError`` where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise UserError(
            'the package ray is not installed; expected `pip install ".[batch]"`, or --local N for N processes here'
        ) from error
    return ray


def _path() -> str:
    return os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])


def cards(share: float | int) -> list[str]:
    """GPU indices of this machine, each as often as tasks fit on it; none where a task takes no GPU."""
    if share <= 0:
        return []
    if share > 1:
        raise UserError(f"--gpus {share:g}: a task trains on one GPU; expected at most 1")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise UserError(f"--gpus {share:g}: no CUDA GPU is visible; expected 0")
    return [str(index) for _ in range(int(1 / share)) for index in range(count)]
