"""An experiment as configured, and the folder it writes to: ``outputs/<name>/<tag>@<time>``."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import DictConfig, OmegaConf

from usd.core import loading
from usd.core.config import ROOT, Spec, component, option, parse, plain
from usd.core.errors import UserError

Precision = int | str
KernelName = Literal["auto", "warp", "torch", "tinycudann", "nerfacc", "nvdiffrast"]
PRECISIONS = (
    16,
    32,
    64,
    "16-mixed",
    "bf16-mixed",
    "32-true",
    "64-true",
    "bf16-true",
    "16",
    "32",
    "64",
    "bf16",
)


@dataclass(frozen=True)
class TrainerConfig:
    max_steps: int = option(15000, "optimiser steps", ge=1)
    log_every_n_steps: int = option(1, "how often figures are written", ge=1)
    num_sanity_val_steps: int = option(0, "validation batches before the first step; -1 means all", ge=-1)
    val_check_interval: int = option(100, "steps between validations; 0 means never", ge=0)
    enable_progress_bar: bool = option(True, "show losses, step time, memory and the time left")
    precision: Precision = option(32, "arithmetic; 16 is replaced by 32 on a CPU", choices=PRECISIONS)
    batch_parts: int = option(
        1, "a batch's views are worked on in this many parts, one after the other, in less memory", ge=1
    )
    gradient_clip_val: float | None = option(None, "largest norm of all gradients together", gt=0)
    max_skipped_steps: int = option(
        50,
        "steps in a row that may be skipped because something is not finite; one more stops",
        ge=0,
    )
    test_after_fit: bool = option(True, "run the test when training is done")


@dataclass(frozen=True)
class CheckpointConfig:
    save_last: bool = option(True, "keep ckpts/last.ckpt")
    save_top_k: int = option(-1, "how many numbered checkpoints to keep, newest first; -1 means all", ge=-1)
    every_n_train_steps: int | None = option(
        None, "steps between numbered checkpoints; by default only the end", ge=1
    )
    last_every_n_steps: int = option(500, "steps between refreshments of last.ckpt; 0 means never", ge=0)


@dataclass(frozen=True)
class Experiment:
    """Everything a YAML file can say."""

    name: str = option("default", "folder of this family of trials")
    description: str = option("", "one line, printed at the start")
    tag: str = option("", "folder of this trial")
    seed: int = option(0, "of all randomness", ge=0)
    use_timestamp: bool = option(True, "add the time to the trial's folder")
    timestamp: str | None = option(None, "that time; set by the launcher")
    exp_root_dir: Path = option("outputs", "where trials go; a relative path means the repository")
    resume: Path | None = option(None, "a checkpoint to continue from, test or export")
    data: Spec = component("data", help="what to train on and to look at")
    system: Spec = component("system", help="what is optimised, by which losses")
    exporter: Spec | None = component(
        "exporter", help="how --export writes; mesh-exporter by default", optional=True
    )
    kernels: KernelName | tuple[KernelName, ...] = option(
        "auto",
        "what computes: auto, warp or torch; and tinycudann, nerfacc, nvdiffrast where installed (CUDA)",
    )
    trainer: TrainerConfig = option({}, "how training runs")
    checkpoint: CheckpointConfig = option({}, "what is kept")


@dataclass(frozen=True)
class Trial:
    """The folder of one run, and what goes where in it."""

    folder: Path

    @property
    def ckpts(self) -> Path:
        return self.folder / "ckpts"

    @property
    def save(self) -> Path:
        return self.folder / "save"

    @property
    def configs(self) -> Path:
        return self.folder / "configs"

    @property
    def last(self) -> Path:
        return self.ckpts / "last.ckpt"


def load_experiment(
    files: Sequence["str | Path"], overrides: Sequence[str] = ()
) -> tuple[Experiment, DictConfig]:
    """The parsed experiment, its time set, and the merged YAML it came from. Raises ``ConfigError``."""
    loaded = loading.load(files, overrides)
    experiment: Experiment = parse(Experiment, hoisted(loaded.resolved()), "", loaded.origins)
    return _stamped(experiment), loaded.config


def hoisted(values: dict[str, Any]) -> dict[str, Any]:
    """``system.exporter_type`` and ``system.exporter``, as published, are ``exporter_type`` and ``exporter``."""
    system = values.get("system")
    if not isinstance(system, dict):
        return values
    moved = {key: system[key] for key in ("exporter", "exporter_type") if key in system}
    rest = {key: value for key, value in system.items() if key not in moved}
    return {**values, **moved, "system": rest} if moved else values


def _stamped(experiment: Experiment) -> Experiment:
    if not experiment.use_timestamp and not experiment.tag:
        raise UserError("tag: required when use_timestamp is false; pass tag=<name of the trial>")
    if not experiment.use_timestamp or experiment.timestamp is not None:
        return experiment
    now = datetime.now().strftime("@%Y%m%d-%H%M%S")
    return replace(experiment, timestamp=os.environ.get("USD_TIMESTAMP", now) if joined() else now)


def joined() -> bool:
    """Whether another process started this one to train with it. Its time is in the environment."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


def trial_of(experiment: Experiment) -> Trial:
    """Where an experiment writes. Nothing is created."""
    stamp = (experiment.timestamp or "") if experiment.use_timestamp else ""
    return Trial(
        experiment.exp_root_dir / folder_name(experiment.name) / (folder_name(experiment.tag) + stamp)
    )


def folder_name(text: str) -> str:
    """``text`` without what file systems refuse, at most 120 characters."""
    return re.sub(r'[\x00-\x1f/\\:*?"<>|]+', "-", text).strip(". ")[:120]


def open_trial(trial: Trial) -> None:
    """Makes the folders. Raises ``UserError`` where that is not allowed."""
    try:
        for folder in (trial.ckpts, trial.configs, trial.save):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{trial.folder}: cannot be written ({error.strerror}); choose another exp_root_dir"
        ) from error


def snapshot(trial: Trial, experiment: Experiment, raw: DictConfig, argv: Sequence[str] = ()) -> None:
    """Writes ``configs/raw.yaml`` (as merged), ``configs/parsed.yaml`` (as understood) and appends to ``cmd.txt``."""
    (trial.configs / "raw.yaml").write_text(OmegaConf.to_yaml(raw), encoding="utf-8")
    parsed = yaml.safe_dump(plain(experiment), sort_keys=False, allow_unicode=True, default_flow_style=None)
    (trial.configs / "parsed.yaml").write_text(parsed, encoding="utf-8")
    with open(trial.folder / "cmd.txt", "a", encoding="utf-8") as file:
        file.write(shlex.join(argv or [sys.executable, *sys.argv]) + "\n")


def shown(path: Path) -> str:
    """A path as short as it can be printed: relative to the working directory or absolute."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


__all__ = ["ROOT", "Experiment", "Trial", "load_experiment", "open_trial", "shown", "snapshot", "trial_of"]
