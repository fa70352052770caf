"""Exporting the object of a trial, and how far the file is from it."""

import contextlib
import logging
from collections.abc import Iterator

from usd.app.devices import single_device
from usd.app.experiment import Experiment, Outcome, Trial, short_path
from usd.app.reporting import report_trial
from usd.core.console import LogLines, say
from usd.core.registry import build
from usd.data import Data
from usd.exporter import Exporter
from usd.system import System


def export_object(
    experiment: Experiment, trial: Trial, system: System, data: Data, gpu: str | None
) -> Outcome:
    """Write a restored system's object as files, by the experiment's exporter; say where they are."""
    system.to(single_device(gpu)).eval()
    exporter = build(experiment.exporter, Exporter)
    with narrated("usd.exporter"):
        files = system.export(exporter, trial.save / f"it{system.step}-export")
        agreement = system.compare_export(exporter, files, data)
    for file in files:
        say(f"wrote {short_path(file)}")
    if agreement:
        say(agreement)
    report_trial(trial)
    return Outcome(trial, system.step, tuple(files))


@contextlib.contextmanager
def narrated(name: str) -> Iterator[None]:
    """Say what a logger says inside the block, unless the log level shows everything already."""
    logger = logging.getLogger(name)
    if logging.getLogger().handlers:
        yield
        return
    handler, level, propagate = LogLines(), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
