"""A checkpoint beside the run that takes it up: what differs, and what cannot go on."""

import shlex
from collections.abc import Mapping

from usd.app.experiment import Trial, short_path
from usd.core.checkpoint import Checkpoint, differences
from usd.core.config import plain_options
from usd.core.console import say
from usd.core.errors import UserError
from usd.system import System
from usd.system.optimizer import OptimizerConfig


def saved_at(trial: Trial) -> int | None:
    """Return when the last checkpoint was written, in nanoseconds; None where there is none."""
    return trial.last.stat().st_mtime_ns if trial.last.exists() else None


def last_saved(trial: Trial, before: int | None = None) -> str:
    """Return where the last checkpoint is, in brackets behind a message; empty where there is none.

    ``before`` is the time of the one that was there when a run started over: of that it says nothing.
    """
    return f" (last checkpoint: {short_path(trial.last)})" if saved_at(trial) not in (None, before) else ""


def how_to_resume(trial: Trial) -> str:
    """Return the ``resume=...`` that continues a trial, as a shell takes it."""
    return f"resume={shlex.quote(short_path(trial.last))}"


def say_differences(saved: Checkpoint, system: System, max_steps: int | None = None) -> None:
    """Say where a checkpoint was made with other options than those of this run, and when nothing is left to do."""
    if max_steps is not None and saved["global_step"] >= max_steps:
        say(
            f"note: the checkpoint is at step {saved['global_step']} of {max_steps}; raise trainer.max_steps to go on"
        )
    for key, (then, now) in differences(saved["components"], system.specs()).items():
        say(f"note: system.{key} is {now}, but was {then} when the checkpoint was made")


def compare_optimizers(saved: Checkpoint, config: OptimizerConfig) -> None:
    """Say where the optimizer has other settings than when a checkpoint was made.

    Raises ``UserError`` where the state in the checkpoint is that of another optimizer.
    """
    then = _mapping(_mapping(saved.get("system", {}).get("config")).get("optimizer"))
    now = plain_options(config)
    if then.get("name", now["name"]) != now["name"]:
        raise UserError(
            f"system.optimizer.name: {now['name']} cannot go on from the state of {then['name']}, which the checkpoint "
            f"holds; expected {then['name']}, or a new training"
        )
    # A path that is null, as recipes take one away that they inherit, is no group.
    params = _mapping(then.get("params", config.groups))
    groups, expected = [path for path, each in params.items() if each is not None], list(config.groups)
    if groups != expected:
        raise UserError(
            f"system.optimizer.params: {expected} cannot go on from the state of {groups}, which the "
            "checkpoint holds; expected the same names in the same order, or a new training"
        )
    for key in ("args", "params"):
        if key in then and then[key] != now[key]:
            say(
                f"note: system.optimizer.{key} is {now[key]}, but was {then[key]} when the checkpoint was made"
            )


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
