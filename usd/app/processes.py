"""Several processes that train one object, from the launcher's side: how they meet, and how they end together."""

import contextlib
import os
import signal
from collections.abc import Iterator

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from usd.app.callbacks import Interrupted
from usd.app.experiment import Experiment
from usd.core.errors import UserError
from usd.data import Data
from usd.system import System


def refuse_undivided(system: System, data: Data, processes: int, parts: int) -> None:
    """Raise ``UserError`` where batches cannot be divided among so many processes, and each share into parts."""
    name = type(system).__name__
    if processes > 1 and not system.shares_batches:
        raise UserError(f"--gpu: {name} is trained by one process; expected one device")
    if parts > 1 and not system.shares_batches:
        raise UserError(f"trainer.batch_parts: {name} works on whole batches; expected 1")
    if processes * parts > 1:
        data.refuse_uneven(processes * parts)


def publish_timestamp(experiment: Experiment) -> None:
    """Hand the trial's time to the processes that Lightning will start. Raises ``UserError`` where others did."""
    if experiment.use_timestamp and os.environ.get("USD_TIMESTAMP") is None and "LOCAL_RANK" in os.environ:
        raise UserError(
            "use_timestamp: processes that were started from outside would write to folders of their own; "
            "expected false, with a tag"
        )
    if experiment.timestamp is not None:
        os.environ["USD_TIMESTAMP"] = experiment.timestamp


@contextlib.contextmanager
def ending_together(trainer: Trainer) -> Iterator[None]:
    """End all processes when one of them fails inside the block."""
    try:
        yield
    except Interrupted:  # agreed on: all of them end
        raise
    except (Exception, SystemExit) as error:
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(signal.SIGKILL)
        if trainer.world_size > 1 and isinstance(error, RuntimeError) and not isinstance(error, UserError):
            _blame_another(error)
        raise


def _blame_another(error: RuntimeError) -> None:
    """Raise ``UserError`` for a lost connection: that is all a process sees of another that is gone."""
    text = str(error)
    if isinstance(error, torch.distributed.DistError) or "onnection" in text or "gloo" in text:
        reason = text.strip().splitlines()[-1][:200]
        raise UserError(f"another of the processes stopped; see what it said ({reason})") from error
