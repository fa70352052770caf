"""What training steps cost: wall time, processor time, the UNets' share, and memory, after a warm-up."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from typing_extensions import override

from usd.denoiser.latent import UNetDenoiser


@dataclass(frozen=True)
class StepCost:
    """Seconds of steps (median, and the slowest of ten), the share of them inside UNets, and bytes at most.

    ``reserved_bytes`` is what PyTorch holds of a GPU, and 0 on a CPU, where ``peak_bytes`` are the process's own.
    """

    seconds: float
    slow_seconds: float
    cpu_seconds: float
    unet_share: float
    peak_bytes: int
    reserved_bytes: int


class StepMeter(Callback):
    """Times the steps ``warm_up`` to ``warm_up + steps``. One more is needed: a step ends where the next begins."""

    def __init__(self, warm_up: int, steps: int) -> None:
        self.first, self.last = warm_up, warm_up + steps
        self._starts: list[tuple[float, float]] = []
        self._unets: list[CallTimer] = []
        self._resident = 0

    @property
    def max_steps(self) -> int:
        """Return the length of a training that can be measured."""
        return self.last + 1

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the memory of whatever ran before on the GPU."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Note the time; start to listen to the UNets when the warm-up is over, and stop after the last step."""
        self._resident = max(self._resident, int(psutil.Process().memory_info().rss))
        if not self.first <= batch_idx <= self.last:
            return
        synchronize(pl_module.device)
        self._starts.append((time.perf_counter(), time.process_time()))
        if batch_idx == self.first:
            self._unets = [CallTimer(unet, pl_module.device) for unet in loaded_unets(pl_module)]
        if batch_idx == self.last:
            for unet in self._unets:
                unet.stop()

    def cost(self, device: torch.device) -> StepCost:
        """Return what the measured steps cost."""
        wall, cpu = (
            [now[clock] - before[clock] for before, now in zip(self._starts, self._starts[1:])]
            for clock in (0, 1)
        )
        inside = sum(unet.seconds() for unet in self._unets)
        on_gpu = device.type == "cuda"
        return StepCost(
            seconds=statistics.median(wall),
            slow_seconds=sorted(wall)[int(0.9 * (len(wall) - 1) + 0.5)],
            cpu_seconds=statistics.median(cpu),
            unet_share=inside / sum(wall),
            peak_bytes=torch.cuda.max_memory_allocated(device) if on_gpu else self._resident,
            reserved_bytes=torch.cuda.max_memory_reserved(device) if on_gpu else 0,
        )


class CallTimer:
    """The time inside a module's forward passes: by events of the GPU where it runs there, else by the clock."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._now: Callable[[], float | torch.cuda.Event] = (
            recorded_event if device.type == "cuda" else time.perf_counter
        )
        self._marks: list[float | torch.cuda.Event] = []
        self._hooks = [
            module.register_forward_pre_hook(lambda *_: self._marks.append(self._now())),
            module.register_forward_hook(lambda *_: self._marks.append(self._now())),
        ]

    def stop(self) -> None:
        """Let the module run unwatched again."""
        for hook in self._hooks:
            hook.remove()

    def seconds(self) -> float:
        """Return the sum over all calls. The GPU must have come to their end."""
        return sum(map(seconds_between, self._marks[::2], self._marks[1::2]))


def recorded_event() -> torch.cuda.Event:
    """Return an event at the present end of the GPU's queue."""
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    """Return the time between two readings of a clock or two events."""
    if isinstance(start, float) or isinstance(end, float):
        assert isinstance(start, float) and isinstance(end, float)
        return end - start
    return start.elapsed_time(end) / 1e3


def loaded_unets(module: nn.Module) -> list[nn.Module]:
    """Return the UNets in memory of all denoisers below a module, each once."""
    denoisers = [m for m in module.modules() if isinstance(m, UNetDenoiser) and m.unet.loaded]
    found = [denoiser.unet.network for denoiser in denoisers]
    return list({id(unet): unet for unet in found}.values())


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
