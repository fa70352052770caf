"""A dry run: two steps, a validation view and the export, at tiny size and with random models, in seconds.

It tells whether a configuration runs before gigabytes are downloaded for it, and what the real run would take:

    usd train recipe.yaml --dry-run system.prompt_processor.prompt="a red chair"

Nothing is downloaded, and nothing is left behind.
"""

import contextlib
import io
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from usd.app import interrupts
from usd.app.capture_estimate import capture_lines
from usd.app.experiment import (
    Experiment,
    Mode,
    Trial,
    load_experiment,
    open_trial,
    refuse_missing_inputs,
    trial_of,
)
from usd.app.machine_errors import plain_errors
from usd.app.memory_estimate import memory_lines
from usd.app.modes import evaluate_checkpoint, prefer_kernels, train
from usd.app.shrink import STEPS, shrink
from usd.app.stages import Plan, is_staged, plans
from usd.app.trainer import silence_lightning
from usd.core import checkpoint
from usd.core.config import Spec
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.loading import override
from usd.denoiser.rehearsal import Rehearsal, rehearsal
from usd.system import System
from usd.system.threestudio_training import threestudio_state


@dataclass(frozen=True)
class DryRun:
    """The result of a dry run: lines on it and on the cost of the real run; ``checkpoint`` is its own, tiny one."""

    lines: tuple[str, ...]
    seconds: float
    checkpoint: Path


def rehearse(
    configs: Sequence["str | Path"], overrides: Sequence[str], gpu: str | None = None
) -> list[DryRun]:
    """Run a configuration dry, every stage where it has some, and leave nothing behind. Raises ``UserError``."""
    with tempfile.TemporaryDirectory(prefix="usd-dry-run-", ignore_cleanup_errors=True) as folder:
        if not is_staged(configs):
            return [run_experiment(load_experiment(configs, overrides)[0], Path(folder), gpu)]
        return [
            _run_plan(plan, gpu) for plan in plans(configs, [*overrides, override("exp_root_dir", folder)])
        ]


def run_experiment(experiment: Experiment, root: Path, gpu: str | None = None) -> DryRun:
    """Run an experiment dry; its tiny trial is below ``root``. Raises ``UserError``."""
    place = {"name": "dry-run", "tag": "dry-run", "use_timestamp": False, "timestamp": None, "resume": None}
    return _rehearse_one("train", replace(experiment, exp_root_dir=root, **place), gpu)  # type: ignore[arg-type]


def _run_plan(plan: Plan, gpu: str | None) -> DryRun:
    """Run a stage dry, on what the stages before it have left."""
    say(f"stage {plan.name}")
    for note in plan.notes:
        say(note)
    return _rehearse_one(plan.mode, plan.experiment, gpu)


def _rehearse_one(mode: Mode, experiment: Experiment, gpu: str | None) -> DryRun:
    refuse_missing_inputs(mode, experiment)
    begun = time.monotonic()
    tiny = _with_loadable_weights(shrink(experiment))
    trial = trial_of(tiny)
    open_trial(trial)
    with ExitStack() as stack:
        stack.enter_context(interrupts.listening())
        models = stack.enter_context(rehearsal())
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(plain_errors(trial.folder))
        silence_lightning()
        prefer_kernels(experiment.kernels)
        if mode == "train":
            train(tiny, trial, gpu)
            done = _export(tiny, trial, gpu)
        else:
            evaluate_checkpoint(mode, tiny, trial, gpu)
            done = mode
        seconds = time.monotonic() - begun
        costs = [*memory_lines(experiment, models), *capture_lines(experiment, gpu)]
        return DryRun((*_lines(models, done, seconds), *costs), seconds, trial.last)


def _with_loadable_weights(tiny: Experiment) -> Experiment:
    """Leave out weights of the real size, which a tiny system has no place for, once their file is read."""
    config = tiny.system.config
    weights, geometry = getattr(config, "weights", None), getattr(config, "geometry", None)
    if weights is None or not isinstance(config, System.Config) or not isinstance(geometry, Spec):
        return tiny
    try:
        if _is_of_size(Path(weights), geometry):
            return tiny
    except UserError as error:
        raise UserError(f"system.weights: {error}") from error
    say(
        f"note: system.weights: {weights} can be read; its weights are not taken over, since a dry run is smaller"
    )
    without = replace(config, weights=None)  # it has the option
    return replace(tiny, system=replace(tiny.system, config=without))


def _is_of_size(path: Path, geometry: Spec) -> bool:
    """Return whether a checkpoint's geometry is just this one. Raises ``UserError`` for what holds no weights."""
    try:
        saved = checkpoint.load(checkpoint.checkpoint_of(path))
    except checkpoint.ForeignCheckpointError:
        if threestudio_state(path) is None:
            raise
        return False
    return not checkpoint.differences(saved["components"], {"geometry": geometry})


def _export(tiny: Experiment, trial: Trial, gpu: str | None) -> str:
    """Export what two steps have made, where it is an object; return what was done, in words."""
    if getattr(tiny.system.config, "geometry", None) is None:
        return f"{STEPS} steps and a validation view"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # names of files that are gone in a moment
            evaluate_checkpoint("export", replace(tiny, resume=trial.last), trial, gpu)
    except UserError as error:
        if not str(error).startswith("empty surface"):
            raise
        return f"{STEPS} steps, a validation view, and no export: after {STEPS} steps there is no surface yet"
    return f"{STEPS} steps, a validation view and the export"


def _lines(models: Rehearsal, done: str, seconds: float) -> tuple[str, ...]:
    """Return what was done, and what the real run downloads."""
    total = sum(model.download_bytes for model in models.models.values())
    fetched = f"the real run downloads {total / 1e9:.1f} GB" if total else "the real run downloads nothing"
    return (
        f"dry run: {done} at tiny size in {seconds:.1f} s; nothing was downloaded, nothing is kept",
        f"{fetched}{':' if models.models else ''}",
        *[f"  {line}" for line in models.lines()],
    )
