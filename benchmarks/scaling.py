"""How cost grows with what a user may turn up: parts of ``benchmarks/speed.py``, each one axis, all else as it ships.

A figure is a list over the part's sizes: CPU seconds of a call or a step, and the memory of a process of its own beside
what it held before.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch

from benchmarks import ROOT
from benchmarks.speed_parts import bumpy_ball, disc_picture, peak_memory, read_views, timed
from benchmarks.tables import Figures
from usd.app.benchmark import PRESETS, benchmark_experiment, train_measured
from usd.app.experiment import load_experiment
from usd.app.step_meter import StepMeter
from usd.core import loading
from usd.core.config import spec
from usd.core.registry import build
from usd.data.pictures import write_picture
from usd.exporter import Exporter
from usd.exporter.decimate import decimate
from usd.geometry import Geometry
from usd.kernels.rasterize import Tracer
from usd.material import Material
from usd.math.camera import orbit_cameras_deg
from usd.system.usd import UsdConfig

Cost = dict[str, float]


@dataclass(frozen=True)
class Axis:
    """What is turned up, its sizes, and one measurement in a process of its own."""

    name: str
    sizes: tuple[int, ...]
    measure: Callable[[int], Cost]


def step_of(option: str, size: int) -> Cost:
    """Return the CPU seconds of a step of image to 3D with one option at this size; ``data.width`` is a square's."""
    meter = StepMeter(4, 8)
    options = [f"{option}={size}", *([f"data.height={size}"] if option == "data.width" else [])]
    with tempfile.TemporaryDirectory() as folder:
        flags = argparse.Namespace(options=options, tiny=False)
        train_measured(
            benchmark_experiment(PRESETS["mini"], flags, Path(folder), meter.max_steps), "cpu", meter
        )
    return {"CPU s": meter.cost(torch.device("cpu")).cpu_seconds}


def given_views(count: int) -> Cost:
    """Return what it takes to read so many views of 256 px."""
    return {"CPU s": timed(lambda: read_views(256, count), 1, warm_up=0).cpu}


def decimated(faces: int) -> Cost:
    """Return what decimation to a tenth of the faces takes."""
    mesh = bumpy_ball(faces)
    return {"CPU s": timed(lambda: decimate(*mesh, len(mesh[1]) // 10), 1, warm_up=0).cpu}


def looked_at(faces: int) -> Cost:
    """Return what a mesh's tree and the rays of a picture of 512 px take."""
    vertices, triangles = bumpy_ball(faces)
    origins, directions = (r.reshape(-1, 3) for r in orbit_cameras_deg(20.0, 30.0, 2.0, 40.0, 512).rays())
    origins = origins + vertices.mean(0)
    return {"CPU s": timed(lambda: Tracer(vertices, triangles).cast(origins, directions), 3).cpu}


def exported(size: int) -> Cost:
    """Return what the export of a field as a textured mesh takes, but for unwrapping, which has its own process."""
    recipe = loading.find_config("usd-patch-mini")
    system = load_experiment([recipe], ["system.guidance.image_path=none.png"])[0].system.config
    assert isinstance(system, UsdConfig)
    geometry, material = build(system.geometry, Geometry), build(system.material, Material)
    options = {"texture_size": size, "unwrap_time_limit": 600.0}
    exporter = build(spec("exporter", "mesh-exporter", options), Exporter)
    with tempfile.TemporaryDirectory() as folder:
        cost = timed(lambda: exporter.export(geometry, material, Path(folder)), 1, warm_up=0)
    return {"CPU s": cost.cpu}


def batched(objects: int) -> Cost:
    """Return what a batch of so many pictures takes, ten steps each, and the memory of its largest process."""
    short = ["trainer.max_steps=10", "trainer.val_check_interval=0", "trainer.test_after_fit=false"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i in range(objects):
            write_picture(folder / "pictures" / f"{i}.png", disc_picture(128))
        command = [
            sys.executable,
            "-m",
            "usd",
            "batch",
            str(folder / "pictures"),
            "--out",
            str(folder / "made"),
        ]
        command += ["--config", "usd-patch-mini", "--local", "1", "--no-export", *short]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"CPU s": seconds, "GiB": after.ru_maxrss / 2**20}


AXES = {
    "scale-resolution": Axis(
        "pixels a side of a training view", (32, 64, 128), partial(step_of, "data.width")
    ),
    "scale-samples": Axis(
        "samples a ray", (32, 64, 128, 256), partial(step_of, "system.renderer.num_samples_per_ray")
    ),
    "scale-batch": Axis("views a step", (1, 2, 4), partial(step_of, "data.batch_size")),
    "scale-views": Axis("given views of 256 px", (16, 64, 256), given_views),
    "scale-decimation": Axis("faces, decimated to a tenth", (10_000, 50_000, 247_000, 1_000_000), decimated),
    "scale-objects": Axis("objects of a batch, 10 steps each", (1, 2, 4), batched),
    "scale-rays": Axis("faces, seen at 512 px", (20_000, 50_000, 247_000), looked_at),
    "scale-texture": Axis("texels a side of an exported texture", (1024, 2048, 4096, 8192), exported),
}


def measure_axis(part: str) -> Figures:
    """Return the figures of all sizes of an axis."""
    found = [in_process(part, size) for size in AXES[part].sizes]
    return {key: [each[key] for each in found] for key in found[0]}


def in_process(part: str, size: int) -> Cost:
    """Return what one size costs in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", part, str(size)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measured_here(part: str, size: int) -> Cost:
    """Measure one size here; the memory is the most there was beyond what the process held before, or as measured."""
    torch.set_num_threads(1)
    before = psutil.Process().memory_info().rss
    cost = AXES[part].measure(size)
    return {"GiB": (peak_memory() - before) / 2**30} | cost


def growth(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return the exponent of the growth between the two largest sizes: 1 is in proportion."""
    return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


def tables(runs: Mapping[str, Sequence[Figures]]) -> str:
    """Return a row for each axis that is measured: costs by size, and how they grow. The newest run counts."""
    lines = [
        "| what grows | sizes | CPU s | grows as size to the power of | GiB more |",
        "|---|---|---|---|---|",
    ]
    for part, axis in AXES.items():
        if runs[part]:
            seconds, memory = (values_of(runs[part][-1], key) for key in ("CPU s", "GiB"))
            cells = [axis.name, listed(axis.sizes, ","), listed(seconds, ".3g")]
            cells += [f"{growth(axis.sizes, seconds):.2f}", listed(memory, ".2f")]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def listed(values: Sequence[float], how: str) -> str:
    """Return numbers as text in this format."""
    return ", ".join(f"{value:{how}}" for value in values)


def values_of(figures: Figures, key: str) -> list[float]:
    """Return a figure over sizes."""
    values = figures[key]
    assert isinstance(values, list)
    return values


PARTS: dict[str, Callable[[], Figures]] = {part: partial(measure_axis, part) for part in AXES}

if __name__ == "__main__":
    print(json.dumps(measured_here(sys.argv[1], int(sys.argv[2]))))
