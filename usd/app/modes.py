"""The four modes of the launcher: training, validating, testing and exporting one experiment."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from usd.app import interrupts
from usd.app.callbacks import Interrupted
from usd.app.devices import choose_devices, first_device
from usd.app.elevation_estimate import resolve_data
from usd.app.experiment import (
    Changes,
    Experiment,
    Mode,
    Outcome,
    Trial,
    load_experiment,
    recipe_changes,
    short_path,
    snapshot,
    trial_folder,
)
from usd.app.export import export_object
from usd.app.loop import Loop
from usd.app.machine_errors import plain_errors
from usd.app.open_viewer import viewer_until_the_end
from usd.app.processes import ending_together, publish_timestamp, refuse_undivided
from usd.app.reporting import recorded, report_trial
from usd.app.resuming import compare_optimizers, how_to_resume, last_saved, saved_at, say_differences
from usd.app.trainer import make_trainer, silence_lightning
from usd.core import checkpoint, ranks
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.random import mix
from usd.core.registry import build
from usd.data import Data
from usd.kernels.runtime import prefer
from usd.system import System, SystemConfig


def run(
    mode: Mode,
    files: Sequence["str | Path"],
    overrides: Sequence[str] = (),
    gpu: str | None = None,
    argv: Sequence[str] = (),
) -> Outcome:
    """Run the launcher once. ``gpu`` is ``"0,1"``, ``"cpu"`` or None for the best there is.

    Raises ``UserError`` for anything the user can mend, ``KeyboardInterrupt`` after Ctrl-C, with the state saved.
    """
    experiment, raw = load_experiment(files, overrides)
    with viewer_until_the_end(stays=False):
        return execute(mode, experiment, raw, gpu, argv, recipe_changes(files, overrides))


def execute(
    mode: Mode,
    experiment: Experiment,
    raw: DictConfig,
    gpu: str | None = None,
    argv: Sequence[str] = (),
    changes: Changes | None = None,
) -> Outcome:
    """Do what ``run`` does for an experiment that is parsed already; ``raw`` is the YAML it came from.

    ``changes`` is what differs from the recipe.
    """
    is_new = experiment.use_timestamp and raw.get("timestamp") is None
    with interrupts.listening() as stop, trial_folder(experiment, is_new, mode == "train") as (own, trial):
        say(f"{experiment.name}: {experiment.description}" if experiment.description else experiment.name)
        say(f"trial: {short_path(trial.folder)}")
        with warnings.catch_warnings(), plain_errors(trial.folder):
            silence_lightning()
            prefer_kernels(experiment.kernels)
            experiment = resolve_data(own, mode, choose_devices(first_device(gpu)))
            stop.check()
            # an export into a folder of its own is a trial, too: it says what it was made by, and has a report
            is_export = mode == "export" and experiment.resume is not None
            is_first = is_export and not (trial.configs / "parsed.yaml").is_file()
            if ranks.rank() == 0 and (mode == "train" or is_first):
                snapshot(trial, experiment, raw, argv, changes)
            if mode != "train":
                return evaluate_checkpoint(mode, experiment, trial, gpu)
            return train(experiment, trial, gpu)


def prefer_kernels(names: "str | Sequence[str]") -> None:
    """Choose what computes from now on. Raises ``UserError`` for a package that cannot be used here."""
    try:
        prefer([names] if isinstance(names, str) else names)
    except ValueError as problem:
        raise UserError(f"kernels: {problem}; expected auto") from problem


def build_experiment(experiment: Experiment, trial: Trial) -> tuple[System, Data]:
    """Return the system and the data of an experiment, seeded."""
    torch.manual_seed(mix(experiment.seed, "weights"))
    system, data = build(experiment.system, System), build(experiment.data, Data)
    system.seed = data.seed = experiment.seed
    system.save_dir = trial.save
    return system, data


def train(experiment: Experiment, trial: Trial, gpu: str | None = None) -> Outcome:
    """Train, then test as the configuration says. Raises ``UserError`` that says what is saved."""
    before = None if experiment.resume == trial.last else saved_at(trial)
    if experiment.resume is None and before is not None:
        say(f"note: starting over in a folder that holds a trial; to continue it pass {how_to_resume(trial)}")
    system, data = build_experiment(experiment, trial)
    interrupts.current().check()
    if experiment.resume is not None:
        _take_up(experiment.resume, system, experiment.trainer.max_steps)
    trainer, loop = make_trainer(experiment, trial, gpu), Loop(system, data)
    refuse_undivided(system, data, trainer.world_size, experiment.trainer.batch_parts)
    if trainer.world_size > 1:
        publish_timestamp(experiment)
    try:
        with (
            plain_errors(trial.folder),
            interruptible(trial, before),
            ending_together(trainer),
            recorded(trial, system),
        ):
            trainer.fit(loop, ckpt_path=experiment.resume)
    except UserError as error:
        raise UserError(f"{error}{last_saved(trial, before)}") from error
    interrupts.current().check(last_saved(trial, before))
    if experiment.trainer.test_after_fit:
        with interruptible(trial), ending_together(trainer):
            trainer.test(loop, verbose=False)
    ranks.leave()
    report_trial(trial, system)
    return Outcome(trial, system.step)


def _take_up(file: Path, system: System, max_steps: int) -> None:
    """Check the checkpoint that a training goes on from. Raises ``UserError`` where it cannot."""
    saved, config = checkpoint.load(file), system.config
    checkpoint.refuse_unresumable(saved, file)
    say_differences(saved, system, max_steps)
    assert isinstance(config, SystemConfig)
    compare_optimizers(saved, config.optimizer)


def evaluate_checkpoint(mode: Mode, experiment: Experiment, trial: Trial, gpu: str | None = None) -> Outcome:
    """Validate, test or export a checkpoint. No diffusion model is loaded. Raises ``UserError``."""
    if experiment.resume is None:
        raise UserError(f"--{mode} needs a trained checkpoint; pass resume=<trial>/ckpts/last.ckpt")
    saved = checkpoint.load(experiment.resume)
    system, data = build_experiment(experiment, trial)
    say_differences(saved, system)
    system.restore(saved)
    interrupts.current().check()
    if mode == "export":
        return export_object(experiment, trial, system, data, gpu)
    trainer = make_trainer(experiment, trial, first_device(gpu), train=False)
    with interruptible(trial):
        (trainer.test if mode == "test" else trainer.validate)(Loop(system, data), verbose=False)
    return Outcome(trial, system.step)


@contextlib.contextmanager
def interruptible(trial: Trial, before: int | None = None) -> Iterator[None]:
    """Turn both ways in which training stops at Ctrl-C into a ``KeyboardInterrupt`` that says what is saved.

    ``before`` as for ``last_saved``.
    """
    try:
        yield
    except Interrupted as stop:
        raise KeyboardInterrupt(f"; to continue pass {how_to_resume(trial)}") from stop
    except SystemExit as stop:  # how Lightning ends when Ctrl-C comes between steps, or a second time
        raise KeyboardInterrupt(last_saved(trial, before)) from stop
