"""What a run leaves for its trial's report: figures of the run, a small model of the object, and the page itself.

A report that cannot be made is one line; it never fails a training.
"""

import contextlib
import importlib.metadata
import logging
import platform
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import torch

import usd
from usd.app.callbacks import peak_memory_gib
from usd.app.experiment import Trial, short_path
from usd.core import files, ranks
from usd.core.config import spec
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.registry import build
from usd.data.pictures import write_picture
from usd.evaluation.gallery import rendered_rgba
from usd.exporter import Exporter
from usd.geometry import SplatCloud
from usd.report.page import write_report
from usd.report.records import PREVIEW, PREVIEW_SPLATS, PREVIEW_TURN, RUN
from usd.system import System
from usd.system.scene import SceneSystem, evaluating

log = logging.getLogger(__name__)

PREVIEW_RESOLUTION = 80
TURN, TURN_SIZE = 24, 320
"""Pictures of Gaussians in a report, and rows of each."""
PACKAGES = ("torch", "lightning", "warp-lang", "diffusers")


@contextlib.contextmanager
def recorded(trial: Trial, system: System) -> Iterator[None]:
    """Write what the training inside took to ``run.json``, however it ends, once there is a checkpoint."""
    began = time.monotonic()
    try:
        yield
    finally:
        if ranks.rank() == 0 and trial.last.is_file():
            with contextlib.suppress(OSError, UserError):  # what ended the training is what has to be said
                write_run(trial, system, time.monotonic() - began)


def write_run(trial: Trial, system: System, seconds: float) -> Path:
    """Write step, time, memory, device and versions of a training; the time of earlier runs is added."""
    file = trial.folder / RUN
    before = (files.read_record(file) or {}).get("seconds", 0)
    on_gpu = torch.cuda.is_initialized()
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else peak_memory_gib()
    content = {
        "step": system.step,
        "seconds": round((before if isinstance(before, int | float) else 0) + seconds, 1),
        "peak_memory_gib": round(peak, 2),
        "memory_of": "of the GPU" if on_gpu else "of the process",
        "device": device_name(system),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {"usd": usd.__version__, **{name: package_version(name) for name in PACKAGES}},
        "finished": datetime.now().isoformat(" ", "minutes"),
    }
    return files.write_record(file, content)


def device_name(system: System) -> str:
    """Return what a training ran on."""
    device = system.device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def package_version(package: str) -> str:
    """Return a package's version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def report_trial(trial: Trial, system: System | None = None) -> Path | None:
    """Write a trial's report, after a training with a preview of its object; None, and a line, where it cannot be.

    Whatever goes wrong: the results are there, and ``usd report`` makes the page again.
    """
    if ranks.rank() != 0 or not (trial.configs / "parsed.yaml").is_file():  # a dry run has no page
        return None
    try:
        if isinstance(system, SceneSystem):
            write_preview(trial, system)
        file = write_report(trial.folder)
    except Exception as error:  # nothing about a page may fail a training
        log.debug("report", exc_info=True)
        say(
            f"note: no report.html ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        )
        return None
    say(f"report: {short_path(file)}")
    return file


def write_preview(trial: Trial, system: SceneSystem) -> None:
    """Write a coarse model with colors at its vertices, for the report; nothing where there is no surface.

    Gaussians are also shown as they are: pictures that turn, and a file.
    """
    options = {
        "resolution": PREVIEW_RESOLUTION,
        "target_faces": None,
        "save_uv": False,
        "save_report": False,
        "save_name": Path(PREVIEW).stem,
    }
    if isinstance(system.geometry, SplatCloud):
        write_splat_preview(trial, system)
    exporter = build(spec("exporter", "mesh-exporter", options), Exporter)
    with contextlib.suppress(Exception):  # a training that found no surface has pictures all the same
        system.export(exporter, (trial.folder / PREVIEW).parent)


def write_splat_preview(trial: Trial, system: SceneSystem) -> None:
    """Write pictures of Gaussians by their own renderer, for the report to turn, and the Gaussians as PLY."""
    cameras = system.preview_cameras(TURN, TURN_SIZE).to(system.device)
    with evaluating(system):
        pictures = rendered_rgba(system.evaluation_views(cameras))
    for i, picture in enumerate(pictures):
        write_picture(trial.folder / PREVIEW_TURN / f"{i:02d}.png", picture)
    exporter = build(spec("exporter", "splat-exporter", {"save_name": Path(PREVIEW_SPLATS).stem}), Exporter)
    system.export(exporter, (trial.folder / PREVIEW_SPLATS).parent)
