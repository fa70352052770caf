"""Lightning's trainer with this project's checkpoints, progress line and loggers."""

import logging
import warnings
from datetime import timedelta
from typing import cast

from lightning.fabric.connector import _PRECISION_INPUT
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy, Strategy

from usd.app.callbacks import AtomicCheckpointIO, Checkpoints, ProgressLine, SafePoints, SkippedStepsLimit
from usd.app.devices import choose_devices, count_processes, usable_precision
from usd.app.experiment import Experiment, Trial
from usd.app.option_changes import OptionChanges, read_changes
from usd.app.viewing import LiveViewer
from usd.core.errors import UserError
from usd.system import SystemConfig


def make_trainer(experiment: Experiment, trial: Trial, gpu: str | None = None, train: bool = True) -> Trainer:
    """Return the trainer of an experiment; one that does not ``train`` has neither loggers nor checkpoints."""
    options = experiment.trainer
    accelerator, devices = choose_devices(gpu)
    return Trainer(
        default_root_dir=trial.folder,
        accelerator=accelerator,
        devices=devices,
        strategy=training_strategy(count_processes(devices)),
        use_distributed_sampler=False,
        max_steps=options.max_steps,
        max_epochs=-1,
        precision=cast(_PRECISION_INPUT, usable_precision(options.precision, accelerator)),
        logger=loggers(experiment, trial) if train else False,
        log_every_n_steps=options.log_every_n_steps,
        num_sanity_val_steps=options.num_sanity_val_steps,
        accumulate_grad_batches=options.batch_parts,
        val_check_interval=options.val_check_interval * options.batch_parts or None,
        limit_val_batches=1.0 if options.val_check_interval or not train else 0,
        check_val_every_n_epoch=None,
        gradient_clip_val=options.gradient_clip_val,
        callbacks=callbacks(experiment, trial) if train else [*progress_line(experiment), SafePoints()],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        inference_mode=False,
    )


def training_strategy(processes: int) -> "Strategy | str":
    """Return Lightning's strategy for one process, or for several whose gradients are averaged.

    Processes that wait while the first makes pictures do so for up to six hours.
    """
    if processes == 1:
        return "auto"
    return DDPStrategy(find_unused_parameters=True, timeout=timedelta(hours=6))


def callbacks(experiment: Experiment, trial: Trial) -> list[Callback]:
    """Return what happens around the steps of a training."""
    limit = SkippedStepsLimit(trial, experiment.trainer.max_skipped_steps)
    planned = experiment.trainer.option_changes
    changes = OptionChanges(trial, [] if planned is None else read_changes(planned))
    checkpoints = Checkpoints(trial, experiment.checkpoint)
    viewer = [LiveViewer(experiment, checkpoints, changes)] if experiment.viewer.enable else []
    return [*progress_line(experiment), SafePoints(), checkpoints, limit, changes, *viewer]


def progress_line(experiment: Experiment) -> list[Callback]:
    """Return what shows how far a run is, where that is wanted."""
    return [ProgressLine()] if experiment.trainer.enable_progress_bar else []


def loggers(experiment: Experiment, trial: Trial) -> list[Logger]:
    """Return TensorBoard and CSV; Weights & Biases, too, where the configuration enables it. Raises ``UserError``."""
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


LIGHTNING_LOGGERS = (
    "lightning",
    "lightning.pytorch",
    "lightning.fabric",
    "lightning.pytorch.utilities.rank_zero",
)
LIGHTNING_WARNINGS = (
    ".*does not have many workers.*",
    ".*`IterableDataset`.*",
    ".*Checkpoint directory.*",
    ".*LeafSpec.*",
)


def silence_lightning() -> None:
    """Silence what Lightning says to everybody, unless a log level asks for it."""
    if not 0 < logging.getLogger("usd").level <= logging.DEBUG:
        for name in LIGHTNING_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        for text in LIGHTNING_WARNINGS:
            warnings.filterwarnings("ignore", text)
