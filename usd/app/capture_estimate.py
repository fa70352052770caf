"""What a reconstruction from given views takes on this machine: a few of its steps are run at their real size.

Only where the number of rays follows that of their samples do steps cost the same throughout; elsewhere the first ones
are the dearest, as nothing is known to be empty yet.
"""

import time

import torch

from usd.app.callbacks import peak_memory_gib, seconds_text
from usd.app.devices import single_device
from usd.app.experiment import Experiment
from usd.core.registry import build
from usd.data import Data
from usd.data.views import ViewsData
from usd.system import System
from usd.system.reconstruct import ReconstructSystem

MEASURED = 3
"""Steps that are measured, at most."""
LONG = 10.0
"""Seconds after which no other step is measured."""


def capture_lines(experiment: Experiment, gpu: str | None = None) -> list[str]:
    """Return time and memory of a reconstruction; nothing for other systems. Raises ``UserError``."""
    if experiment.data.name != "views-datamodule":
        return []
    data, system = build(experiment.data, Data), build(experiment.system, System)
    if not isinstance(system, ReconstructSystem) or not isinstance(data, ViewsData):
        return []
    begun = time.monotonic()
    views = data.train_views
    opened = time.monotonic() - begun
    seconds = step_seconds(system, data, experiment.trainer.max_steps, single_device(gpu))
    total = seconds * experiment.trainer.max_steps / 60
    on_gpu = torch.cuda.is_initialized()
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else peak_memory_gib()
    return [
        f"views: {len(views)} of {views.width} x {views.height} pixels, opened in {seconds_text(opened)}",
        f"time, measured here on a few steps of real size: {seconds_text(seconds)} a step, "
        f"{experiment.trainer.max_steps} steps in {total:.0f} minutes; the test comes on top",
        f"memory, measured {'on the GPU' if on_gpu else 'here'}: {peak:.1f} GiB while training",
    ]


def step_seconds(system: ReconstructSystem, data: ViewsData, steps: int, device: torch.device) -> float:
    """Return what a step in the middle of a training takes: update, rays, gradients and optimizer."""
    system.data = data
    system.configure_model()
    system.geometry.initialize()
    system.to(device).train()
    optimizer = torch.optim.Adam(system.parameters(), lr=0.0)
    _take_step(system, data, optimizer, steps // 2)
    if system.config.samples_per_step is not None:
        # A training finds the number of rays within its first tens of steps.
        share = system.config.samples_per_step / max(float(system.figures["samples"]), 1.0)
        system.n_rays.fill_(max(1, int(float(system.figures["rays"]) * share)))
    _take_step(system, data, optimizer, steps // 2)
    begun, taken = time.monotonic(), 0
    while taken < MEASURED and (not taken or time.monotonic() - begun < LONG):
        _take_step(system, data, optimizer, steps // 2 + taken)
        taken += 1
    return (time.monotonic() - begun) / taken


def _take_step(
    system: ReconstructSystem, data: ViewsData, optimizer: torch.optim.Optimizer, step: int
) -> None:
    system.update_modules(step)
    batch = data.batch(step, torch.Generator().manual_seed(step)).to(system.device)
    losses = system.compute(batch, step, system.step_generator(step))
    sum(losses.values(), torch.zeros((), device=system.device)).backward()
    optimizer.step()
    optimizer.zero_grad()
    if system.device.type == "cuda":
        torch.cuda.synchronize(system.device)
