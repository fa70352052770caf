"""``usd doctor``: this machine and this checkout, for a bug report."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import usd
from usd.core import places
from usd.core.registry import KINDS, custom_folders, names

if TYPE_CHECKING:
    from usd.kernels.accelerators import Accelerator

PACKAGES = (
    "torch",
    "lightning",
    "warp-lang",
    "diffusers",
    "transformers",
    "omegaconf",
    "numpy",
    "trimesh",
    "scipy",
)
OPTIONAL = ("wandb", "xformers", "ray")


def report() -> str:
    """Lines of ``what: value``. A section that fails says so and does not hide the others."""
    sections = [("system", _system), ("packages", _packages), ("devices", _devices), ("kernels", _kernels)]
    return "\n".join(
        _section(title, lines) for title, lines in [*sections, ("models", _models), ("parts", _components)]
    )


def _section(title: str, lines: Callable[[], list[str]]) -> str:
    try:
        found = lines()
    except Exception as error:  # noqa: BLE001 - a report must come out of a broken machine, too
        found = [f"failed: {type(error).__name__}: {error}"]
    return "\n".join([f"{title}:", *[f"  {line}" for line in found]])


def describe_machine() -> list[str]:
    """Return two lines on what computes: versions, and the processor with its GPUs."""
    import torch

    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES[:4])
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cards = [torch.cuda.get_device_properties(index) for index in range(cuda)]
    gpus = "".join(f"; {card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards) or "; no CUDA GPU"
    return [
        f"usd {usd.__version__}, python {platform.python_version()}, {versions}, CUDA {torch.version.cuda or 'none'}",
        f"{platform.system()}, {processor_name()}, {os.cpu_count()} cores, threads: {torch.get_num_threads()}{gpus}",
    ]


def processor_name() -> str:
    """Return the name of the processor, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _system() -> list[str]:
    import psutil

    memory = psutil.virtual_memory()
    return [
        f"usd {usd.__version__}, python {platform.python_version()}, {platform.platform()}",
        f"cpu: {os.cpu_count()} cores",
        f"memory: {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free",
        f"disk: {shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free; command: {Path(sys.argv[0]).name}",
    ]


def _packages() -> list[str]:
    return [
        *[f"{name} {_version(name)}" for name in PACKAGES],
        "optional: " + ", ".join(map(_optional, OPTIONAL)),
    ]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "MISSING"


def _optional(name: str) -> str:
    return f"{name} {'yes' if importlib.util.find_spec(name) else 'no'}"


def _devices() -> list[str]:
    import torch

    lines = [f"torch threads: {torch.get_num_threads()}, built for CUDA {torch.version.cuda or 'none'}"]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        lines.append(
            f"cuda:{index} {card.name}, {card.total_memory / 2**30:.1f} GiB, sm_{card.major}{card.minor}"
        )
    return lines if torch.cuda.is_available() else [*lines, "no CUDA GPU is visible; the CPU is used"]


def _kernels() -> list[str]:
    from usd.kernels.accelerators import ACCELERATORS
    from usd.kernels.runtime import find_warp

    warp = find_warp()
    own = ["warp is not installed: the torch twins serve"]
    if warp is not None:
        devices = ", ".join(map(str, warp.get_devices()))
        own = [f"warp devices: {devices}", f"cache: {warp.config.kernel_cache_dir}"]
    return [*own, *map(_accelerator, ACCELERATORS.values())]


def _accelerator(package: "Accelerator") -> str:
    """Return a line on an optional package for ``kernels``: the operations it serves, and the obstacle, if any."""
    what = f"{package.name} {package.version()}".strip()
    return f"optional: {what} ({', '.join(package.serves)}): {package.obstacle() or 'can be used'}"


def _models() -> list[str]:
    root = places.resources()
    folders = sorted((root / "load").glob("*/*/"))
    sizes = [(f, sum(p.stat().st_size for p in f.rglob("*") if p.is_file()) / 2**20) for f in folders]
    return [f"{folder.relative_to(root)}: {size:.1f} MiB" for folder, size in sizes] or [
        f"none in {root / 'load'}"
    ]


def _components() -> list[str]:
    counts = ", ".join(f"{len(names(kind))} {kind}" for kind in KINDS)
    return [
        counts,
        "custom folders: " + ", ".join(str(folder) for folder in custom_folders() if folder.is_dir()),
    ]
