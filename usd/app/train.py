"""What the launcher does: training, validating, testing and exporting one experiment."""

import contextlib
import errno
import logging
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from omegaconf import DictConfig

from usd.app import interrupts
from usd.app.callbacks import AtomicCheckpointIO, Checkpoints, Interrupted, ProgressLine, SafePoints, Stuck
from usd.app.elevation_estimate import settled
from usd.app.experiment import (
    Experiment,
    Mode,
    Outcome,
    Trial,
    load_experiment,
    say,
    shown,
    snapshot,
    using,
)
from usd.app.loop import Loop
from usd.core import checkpoint, ranks
from usd.core.config import plain_options, spec
from usd.core.errors import UserError
from usd.core.random import generator, mix
from usd.core.registry import build
from usd.data import Data
from usd.data.random_camera import CameraBatch
from usd.exporter import Exporter
from usd.kernels.runtime import prefer
from usd.system import OptimizerConfig, System, SystemConfig
from usd.system.distillation import DistillationSystem


def run(
    mode: Mode,
    files: Sequence["str | Path"],
    overrides: Sequence[str] = (),
    gpu: str | None = None,
    argv: Sequence[str] = (),
) -> Outcome:
    """One run of the launcher. ``gpu`` is ``"0,1"``, ``"cpu"`` or None for the best there is.

    Raises ``UserError`` for anything the user can mend, ``KeyboardInterrupt`` after Ctrl-C, with the state saved.
    """
    experiment, raw = load_experiment(files, overrides)
    return execute(mode, experiment, raw, gpu, argv)


def execute(
    mode: Mode,
    experiment: Experiment,
    raw: DictConfig,
    gpu: str | None = None,
    argv: Sequence[str] = (),
) -> Outcome:
    """``run`` for an experiment that is parsed already; ``raw`` is the YAML it came from."""
    is_new = experiment.use_timestamp and raw.get("timestamp") is None
    with interrupts.listening() as stop, using(experiment, is_new, mode == "train") as (own, trial):
        say(f"{experiment.name}: {experiment.description}" if experiment.description else experiment.name)
        say(f"trial: {shown(trial.folder)}")
        with warnings.catch_warnings(), plain_errors(trial):
            quiet()
            use_kernels(experiment.kernels)
            experiment = settled(own, mode, choose_devices(one_of(gpu)))
            stop.check()
            if mode == "train":
                if ranks.rank() == 0:
                    snapshot(trial, experiment, raw, argv)
                return train(experiment, trial, gpu)
            return look(mode, experiment, trial, gpu)


def use_kernels(names: "str | Sequence[str]") -> None:
    """Says what computes from now on. Raises ``UserError`` for a package that cannot be used here."""
    try:
        prefer([names] if isinstance(names, str) else names)
    except ValueError as problem:
        raise UserError(f"kernels: {problem}; expected auto") from problem


@contextlib.contextmanager
def plain_errors(trial: Trial) -> Iterator[None]:
    """Turns what a machine runs out of, or does not allow, into ``UserError``."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        advice = f"add a preset of configs/presets (docs/real-models.md), or {LOWER}"
        raise UserError(f"out of GPU memory: {advice}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory{_wanted(error)}: {LOWER}") from error
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError | BrokenPipeError):
            raise
        reason = REASONS.get(error.errno, os.strerror(error.errno))
        raise UserError(f"{error.filename or trial.folder}: {reason}") from error


LOWER = (
    "lower data.batch_size, the renderer's num_samples_per_ray, data.width and data.height, or for the test "
    "data.eval_width and data.eval_height"
)
REASONS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "no space left on the device (the quota is used up)",
    errno.EFBIG: "a file of that size is not allowed here (ulimit -f)",
    errno.EMFILE: "too many open files (ulimit -n)",
}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a CPU's memory was not enough. PyTorch has no error of its own for that."""
    said = (
        "can't allocate memory",
        "not enough memory",
        "Cannot allocate memory",
        "Storage size calculation overflowed",
        "numel: integer multiplication overflow",
        "bad allocation",
        "std::bad_alloc",
    )
    return isinstance(error, MemoryError) or any(text in str(error) for text in said)


def _wanted(error: BaseException) -> str:
    """How much memory was asked for, where the error says it."""
    said = re.search(r"(\d+) bytes|allocate ([\d.]+ [KMGTPE]iB)", str(error))
    if said is None:
        return ""
    return f" ({said[2] or f'{int(said[1]) / 2**30:.3g} GiB'} at once were asked for)"


def train(experiment: Experiment, trial: Trial, gpu: str | None = None) -> Outcome:
    """Trains, then tests as the configuration says."""
    if experiment.resume is None and trial.last.exists():
        resume = shlex.quote(shown(trial.last))
        say(f"note: starting over in a folder that holds a trial; to continue it pass resume={resume}")
    system, data = parts(experiment, trial)
    interrupts.current().check()
    if experiment.resume is not None:
        saved = checkpoint.load(experiment.resume)
        checkpoint.refuse_unresumable(saved, experiment.resume)
        _compare(saved, system, experiment.trainer.max_steps)
        compare_optimizers(saved, system.config.optimizer)
    trainer, loop = make_trainer(experiment, trial, gpu), Loop(system, data)
    refuse_undivided((system, data), trainer.world_size, experiment.trainer.batch_parts)
    if trainer.world_size > 1:
        share(experiment)
    try:
        with plain_errors(trial), interruptible(trial), joint(trainer):
            trainer.fit(loop, ckpt_path=experiment.resume)
    except UserError as error:
        raise UserError(f"{error}{_last_saved(trial)}") from error
    interrupts.current().check(_last_saved(trial))
    if experiment.trainer.test_after_fit:
        with interruptible(trial), joint(trainer):
            trainer.test(loop, verbose=False)
    ranks.leave()
    return Outcome(trial, system.step)


def refuse_undivided(made: tuple[System, Data], processes: int, parts: int) -> None:
    """Raises ``UserError`` where batches cannot be divided among so many processes, and each share into parts."""
    (system, data), name = made, type(made[0]).__name__
    if processes > 1 and not system.shares_batches:
        raise UserError(f"--gpu: {name} is trained by one process; expected one device")
    if parts > 1 and not system.shares_batches:
        raise UserError(f"trainer.batch_parts: {name} works on whole batches; expected 1")
    if processes * parts > 1:
        data.refuse_uneven(processes * parts)


def share(experiment: Experiment) -> None:
    """Tells the processes of a training that are to come where it is."""
    if experiment.use_timestamp and os.environ.get("USD_TIMESTAMP") is None and "LOCAL_RANK" in os.environ:
        raise UserError(
            "use_timestamp: processes that were started from outside would write to folders of their own; "
            "expected false, with a tag"
        )
    if experiment.timestamp is not None:
        os.environ["USD_TIMESTAMP"] = experiment.timestamp


@contextlib.contextmanager
def joint(trainer: Trainer) -> Iterator[None]:
    """When one of several processes fails, the others end with it."""
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
    """A process that waits for one that is gone sees no more than a lost connection."""
    text = str(error)
    if isinstance(error, torch.distributed.DistError) or "onnection" in text or "gloo" in text:
        reason = text.strip().splitlines()[-1][:200]
        raise UserError(f"another of the processes stopped; see what it said ({reason})") from error


@contextlib.contextmanager
def interruptible(trial: Trial) -> Iterator[None]:
    """Turns both ways in which training stops at Ctrl-C into a ``KeyboardInterrupt`` that says what is saved."""
    try:
        yield
    except Interrupted as stop:
        raise KeyboardInterrupt(f"; to continue pass resume={shlex.quote(shown(trial.last))}") from stop
    except SystemExit as stop:  # how Lightning ends when Ctrl-C comes between steps, or a second time
        raise KeyboardInterrupt(_last_saved(trial)) from stop


def look(mode: Mode, experiment: Experiment, trial: Trial, gpu: str | None = None) -> Outcome:
    """Validates, tests or exports a checkpoint. No diffusion model is loaded."""
    if experiment.resume is None:
        raise UserError(f"--{mode} needs a trained checkpoint; pass resume=<trial>/ckpts/last.ckpt")
    saved = checkpoint.load(experiment.resume)
    system, data = parts(experiment, trial)
    _compare(saved, system)
    system.restore(saved)
    interrupts.current().check()
    if mode == "export":
        return _export(experiment, trial, (system, data), gpu)
    trainer = make_trainer(experiment, trial, one_of(gpu), train=False)
    with interruptible(trial):
        (trainer.test if mode == "test" else trainer.validate)(Loop(system, data), verbose=False)
    return Outcome(trial, system.step)


def _compare(saved: Mapping[str, Any], system: System, max_steps: int | None = None) -> None:
    """Says where a checkpoint was made with other options than those of this run, and when nothing is left to do."""
    if max_steps is not None and saved["global_step"] >= max_steps:
        say(
            f"note: the checkpoint is at step {saved['global_step']} of {max_steps}; raise trainer.max_steps to go on"
        )
    for key, (then, now) in checkpoint.differences(saved["components"], system.specs()).items():
        say(f"note: system.{key} is {now}, but was {then} when the checkpoint was made")


def compare_optimizers(saved: Mapping[str, Any], config: OptimizerConfig) -> None:
    """Say where the optimizer has other settings than when a checkpoint was made.

    Raises ``UserError`` where the state in the checkpoint is that of another optimizer.
    """
    then = saved.get("system", {}).get("config", {}).get("optimizer", {})
    now = plain_options(config)
    if then.get("name", now["name"]) != now["name"]:
        raise UserError(
            f"system.optimizer.name: {now['name']} cannot go on from the state of {then['name']}, which the checkpoint "
            f"holds; expected {then['name']}, or a new training"
        )
    groups, wanted = list(then.get("params", config.params)), list(config.params)
    if groups != wanted:
        raise UserError(
            f"system.optimizer.params: {wanted} cannot go on from the state of {groups}, which the "
            "checkpoint holds; expected the same names in the same order, or a new training"
        )
    for part in ("args", "params"):
        if part in then and then[part] != now[part]:
            say(
                f"note: system.optimizer.{part} is {now[part]}, but was {then[part]} when the checkpoint was made"
            )


def _export(experiment: Experiment, trial: Trial, made: tuple[System, Data], gpu: str | None) -> Outcome:
    system, data = made
    system.to(single_device(gpu)).eval()
    exporter = build(experiment.exporter or spec("exporter", "mesh-exporter"), Exporter)
    with narrated("usd.exporter"):
        files = system.export(exporter, trial.save / f"it{system.step}-export")
        agreement = _compare_export(system, data, exporter, files)
    for file in files:
        say(f"wrote {shown(file)}")
    if agreement:
        say(agreement)
    return Outcome(trial, system.step, tuple(files))


def _compare_export(system: System, data: Data, exporter: Exporter, files: Sequence[Path]) -> str:
    """How far the exported file is from the object in training views; empty where that cannot be compared."""
    wanted = exporter.comparison
    if wanted is None or not isinstance(system, DistillationSystem):
        return ""
    batches: list[CameraBatch] = []
    while sum(map(len, batches)) < wanted.views:
        batch = data.batch(system.step, generator("cpu", data.seed, "export", len(batches)))
        assert isinstance(batch, CameraBatch)  # what a distillation system computes with
        batches.append(CameraBatch(batch.cameras.resize(wanted.size, wanted.size)).to(system.device))
    views = [view for batch in batches for view in (batch.view(i) for i in range(len(batch)))][: wanted.views]
    renders = [system.look(view) for view in views]
    truth = [r.foreground + 1 - r.opacity for r in renders if r.foreground is not None]
    cameras = replace(
        views[0].cameras,
        c2w=torch.cat([view.cameras.c2w for view in views]),
        fov_y=torch.cat([view.cameras.fov_y for view in views]),
    )
    return exporter.compare(files, cameras, torch.cat(truth))


@contextlib.contextmanager
def narrated(name: str) -> Iterator[None]:
    """Shows what a logger tells, as it is, unless the log level shows everything already."""
    logger = logging.getLogger(name)
    if logging.getLogger().handlers:
        yield
        return
    handler, level, propagate = logging.StreamHandler(sys.stdout), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def parts(experiment: Experiment, trial: Trial) -> tuple[System, Data]:
    """The system and the data of an experiment, seeded."""
    torch.manual_seed(mix(experiment.seed, "weights"))
    system, data = build(experiment.system, System), build(experiment.data, Data)
    system.seed = data.seed = experiment.seed
    system.save_dir = trial.save
    return system, data


def make_trainer(experiment: Experiment, trial: Trial, gpu: str | None = None, train: bool = True) -> Trainer:
    """Lightning's trainer with our checkpoints, progress and loggers."""
    options = experiment.trainer
    accelerator, devices = choose_devices(gpu)
    return Trainer(
        default_root_dir=trial.folder,
        accelerator=accelerator,
        devices=devices,
        strategy=strategy(count_processes(devices)),
        use_distributed_sampler=False,
        max_steps=options.max_steps,
        max_epochs=-1,
        precision=usable_precision(options.precision, accelerator),  # type: ignore[arg-type]
        logger=loggers(experiment, trial) if train else False,
        log_every_n_steps=options.log_every_n_steps,
        num_sanity_val_steps=options.num_sanity_val_steps,
        accumulate_grad_batches=options.batch_parts,
        val_check_interval=options.val_check_interval * options.batch_parts or None,
        limit_val_batches=1.0 if options.val_check_interval or not train else 0,
        check_val_every_n_epoch=None,
        gradient_clip_val=options.gradient_clip_val,
        callbacks=callbacks(experiment, trial) if train else [SafePoints()],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        inference_mode=False,
    )


def single_device(gpu: str | None) -> torch.device:
    """The device of a run that needs one only."""
    accelerator, devices = choose_devices(one_of(gpu))
    return torch.device("cuda", devices[0]) if accelerator == "gpu" else torch.device("cpu")


def strategy(processes: int) -> "Strategy | str":
    """One process, or several whose gradients are averaged. Those that wait while the first makes pictures do so."""
    if processes == 1:
        return "auto"
    return DDPStrategy(find_unused_parameters=True, timeout=timedelta(hours=6))


def callbacks(experiment: Experiment, trial: Trial) -> list[Callback]:
    shown_progress = [ProgressLine()] if experiment.trainer.enable_progress_bar else []
    stuck = Stuck(trial, experiment.trainer.max_skipped_steps)
    return [*shown_progress, SafePoints(), Checkpoints(trial, experiment.checkpoint), stuck]


def loggers(experiment: Experiment, trial: Trial) -> list[Logger]:
    """TensorBoard and CSV always; Weights & Biases when the configuration enables it."""
    root = str(trial.folder)
    flush = max(1, experiment.trainer.log_every_n_steps)
    always: list[Logger] = [
        TensorBoardLogger(root, name="tb_logs"),
        CSVLogger(root, name="csv_logs", flush_logs_every_n_steps=flush),
    ]
    config = experiment.system.config
    assert isinstance(config, SystemConfig)
    wandb = config.loggers.wandb
    if not wandb.enable:
        return always
    try:
        return [
            *always,
            WandbLogger(project=wandb.project, name=wandb.name or trial.folder.name, save_dir=root),
        ]
    except ModuleNotFoundError as error:
        raise UserError(
            "system.loggers.wandb.enable: the package wandb is not installed; pip install wandb"
        ) from error


def choose_devices(gpu: str | None) -> tuple[str, Any]:
    """Lightning's accelerator and devices for ``--gpu``. Raises ``UserError`` for an index that is not there."""
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu is None and not visible:
        return "cpu", 1
    if gpu is not None and gpu.partition(":")[0] == "cpu":
        return "cpu", _count(gpu)
    if not visible:
        say(f"note: --gpu {gpu} was asked for, but no CUDA GPU is visible; using the CPU")
        return "cpu", 1
    chosen = [0] if gpu is None else _indices(gpu)
    if len(set(chosen)) < len(chosen):
        raise UserError(f"--gpu {gpu}: names a GPU twice")
    if max(chosen) >= visible:
        raise UserError(f"--gpu {gpu}: only {visible} GPU(s) are visible; expected indices below {visible}")
    return "gpu", chosen


def _indices(gpu: str) -> list[int]:
    indices = [item.strip() for item in gpu.split(",") if item.strip()]
    if not indices or not all(item.isdecimal() for item in indices):
        raise UserError(f"--gpu {gpu}: expected 'cpu' or indices such as 0 or 0,1")
    return [int(item) for item in indices]


def _count(gpu: str) -> int:
    """Processes of ``cpu`` or ``cpu:2``."""
    count = gpu.removeprefix("cpu").removeprefix(":") or "1"
    if not count.isdecimal() or int(count) < 1:
        raise UserError(f"--gpu {gpu}: expected 'cpu', or 'cpu:2' for two processes on it")
    return int(count)


def count_processes(devices: Any) -> int:
    """How many processes Lightning starts for these devices."""
    return len(devices) if isinstance(devices, list) else int(devices)


def one_of(gpu: str | None) -> str | None:
    """The first of several devices: looking at an object needs no more."""
    return gpu if gpu is None else gpu.split(",")[0].split(":")[0]


def usable_precision(precision: "int | str", accelerator: str) -> "int | str":
    """The precision, with half floats (which CPUs have no arithmetic for) replaced by 32 bits there."""
    if accelerator == "cpu" and str(precision).startswith("16"):
        say("note: trainer.precision 16 needs a GPU; using 32")
        return 32
    return {"16": "16-mixed", "bf16": "bf16-mixed"}.get(str(precision), precision)


def quiet() -> None:
    """Silences what Lightning tells everybody, unless a log level asks for it."""
    if logging.getLogger("usd").level > logging.DEBUG or logging.getLogger("usd").level == 0:
        for name in (
            "lightning",
            "lightning.pytorch",
            "lightning.fabric",
            "lightning.pytorch.utilities.rank_zero",
        ):
            logging.getLogger(name).setLevel(logging.ERROR)
        for text in (
            ".*does not have many workers.*",
            ".*`IterableDataset`.*",
            ".*Checkpoint directory.*",
            ".*LeafSpec.*",
        ):
            warnings.filterwarnings("ignore", text)


def _last_saved(trial: Trial) -> str:
    return f" (last checkpoint: {shown(trial.last)})" if trial.last.exists() else ""


__all__ = ["Mode", "Outcome", "choose_devices", "execute", "run", "say", "train"]
