"""The devices that ``--gpu`` names, and the arithmetic they can do."""

import torch

from usd.core.console import say
from usd.core.errors import UserError

Devices = tuple[str, int | list[int]]
"""Lightning's accelerator, and its number of processes or indices of GPUs."""


def choose_devices(gpu: str | None) -> Devices:
    """Return Lightning's accelerator and devices for ``--gpu``. Raises ``UserError`` for an index that is not there."""
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu is None and not visible:
        return "cpu", 1
    if gpu is not None and gpu.partition(":")[0] == "cpu":
        return "cpu", _cpu_processes(gpu)
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


def _cpu_processes(gpu: str) -> int:
    """Return the number of processes of ``cpu`` or ``cpu:2``."""
    count = gpu.removeprefix("cpu").removeprefix(":") or "1"
    if not count.isdecimal() or int(count) < 1:
        raise UserError(f"--gpu {gpu}: expected 'cpu', or 'cpu:2' for two processes on it")
    return int(count)


def count_processes(devices: int | list[int]) -> int:
    """Return how many processes Lightning starts for these devices."""
    return len(devices) if isinstance(devices, list) else devices


def first_device(gpu: str | None) -> str | None:
    """Return the first of several devices: rendering an object needs no more."""
    return gpu if gpu is None else gpu.split(",")[0].split(":")[0]


def single_device(gpu: str | None) -> torch.device:
    """Return the device of a run that needs one only."""
    accelerator, devices = choose_devices(first_device(gpu))
    return (
        torch.device("cuda", devices[0])
        if accelerator == "gpu" and isinstance(devices, list)
        else torch.device("cpu")
    )


def usable_device(name: str) -> str:
    """Return the name of a device of torch that is here, as given to ``--device``. Raises ``UserError``."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: is no device; expected cpu, cuda, cuda:1 ...") from None
    if device.type == "cuda":
        visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= visible:
            other = f", or cuda:0 to cuda:{visible - 1}" if visible else ""
            raise UserError(
                f"--device {name}: {visible or 'no'} CUDA GPU(s) are visible; expected cpu{other}"
            )
    return name


def usable_precision(precision: "int | str", accelerator: str) -> "int | str":
    """Return the precision; half floats, which CPUs have no arithmetic for, are replaced by 32 bits there."""
    if accelerator == "cpu" and str(precision).startswith("16"):
        say("note: trainer.precision 16 needs a GPU; using 32")
        return 32
    return {"16": "16-mixed", "bf16": "bf16-mixed"}.get(str(precision), precision)
