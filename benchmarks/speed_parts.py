"""What ``benchmarks/speed.py`` measures, a function for each part; figures are named as in speed_record.json.

``python -m benchmarks.speed_parts WORKER`` is a measurement that wants a process of its own: threads, memory and views
depend on what a process did before.
"""

import contextlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks import ROOT
from benchmarks.kernels import GRIDS
from usd.core.config import parse
from usd.data.pictures import write_picture
from usd.data.transforms import write_transforms
from usd.data.views import ViewsConfig, ViewsData
from usd.denoiser import open_text_denoiser
from usd.evaluation.metrics import ssim
from usd.exporter.decimate import decimate
from usd.exporter.unwrap import UnwrapSettings, unwrap_with_xatlas
from usd.kernels.accelerators import ACCELERATORS
from usd.kernels.hash_grid import hash_grid
from usd.kernels.mesh_distance import mesh_distance
from usd.kernels.rasterize import Tracer
from usd.math.camera import orbit_cameras_deg
from usd.math.isosurface import marching_cubes, sample_grid

Triangles = tuple[Float[Tensor, "V 3"], Int[Tensor, "F 3"]]
Measured = dict[str, float]
AS_TORCH_SHIPS = {
    "KMP_BLOCKTIME": "200"
}  # said to another OpenMP: ours changes nothing where anything is said
AS_THE_LIBRARY = {"MALLOC_ARENA_TEST": "8"}  # the default, said: ours keeps no memory where anything is said
LATTICES = {10_000: 49, 20_000: 69, 50_000: 109, 247_000: 242, 1_000_000: 486}
"""Faces of the bumpy ball -> cells a side of its lattice."""


@dataclass(frozen=True)
class Cost:
    """Medians over rounds: seconds of all the process's threads, and on the clock."""

    cpu: float
    wall: float


def timed(function: Callable[[], object], rounds: int, warm_up: int = 1) -> Cost:
    """Return what a call costs."""
    for _ in range(warm_up):
        function()
    times = []
    for _ in range(rounds):
        before = time.process_time(), time.perf_counter()
        function()
        times.append((time.process_time() - before[0], time.perf_counter() - before[1]))
    return Cost(*(statistics.median(each) for each in zip(*times)))


def worker(name: str, environment: Mapping[str, str]) -> Measured:
    """Return what a measurement finds in a process of its own, under this environment."""
    said = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_", "MALLOC_"))}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed_parts", name],
        cwd=ROOT, env={**said, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


def children_seconds(argv: Sequence[str]) -> float:
    """Return the CPU seconds of a command, whatever its exit code; its modules are compiled once, as for users."""
    said = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, cwd=ROOT, env={**said, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peak_memory() -> int:
    """Return the most bytes that this process has had in memory, as Linux knows it."""
    # The usage that getrusage tells starts at the memory of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@contextlib.contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Have so many processes compute something else meanwhile."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def bumpy_ball(faces: int) -> Triangles:
    """Return a closed surface of about so many faces, one of ``LATTICES``, in the unit cube."""

    def level(x: Tensor) -> Tensor:
        bumps = 0.08 * torch.sin(9 * x[:, 0]) * torch.cos(7 * x[:, 1])
        return 0.5 + bumps + 0.05 * torch.sin(11 * x[:, 2] + 4 * x[:, 0]) - x.norm(dim=-1)

    vertices, triangles = marching_cubes(sample_grid(level, LATTICES[faces], 0.8, torch.zeros(1)), 0.0, 0.8)
    low, high = vertices.amin(0), vertices.amax(0)
    return (vertices - low) / (high - low).amax(), triangles


# ------------------------------------------------------------------------------------------------------------- workers


def unet_worker() -> Measured:
    """Time calls of the embedded UNet with the threads that the environment says."""
    denoiser = open_text_denoiser("toybox-sd", "speed")
    space, condition = denoiser.latent, denoiser.unconditional(1)
    x = torch.randn(1, space.channels, space.height, space.width, generator=torch.Generator().manual_seed(0))
    cost = timed(lambda: denoiser.eps(x, torch.tensor([500]), condition), 30, warm_up=5)
    two = timed(
        lambda: denoiser.eps(x.repeat(2, 1, 1, 1), torch.tensor([500, 500]), denoiser.unconditional(2)), 15
    )
    return {"cpu": cost.cpu, "wall": cost.wall, "batch of two": two.cpu}


def hash_grid_worker() -> Measured:
    """Time the forward pass of the recipe's hash grid at 65,536 points, its result thrown away each time."""
    torch.set_num_threads(1)
    spec = GRIDS["hash grid, 8 levels of 2^15 x 2"]
    source = torch.Generator().manual_seed(0)
    x, table = torch.rand(65_536, 3, generator=source), spec.init_table(source, scale=1.0)
    return {"cpu": timed(lambda: hash_grid(x, table, spec, "auto"), 40, warm_up=5).cpu}


def views_worker() -> Measured:
    """Read 32 pictures of 512 px for a reconstruction, then 160; return the bytes that a further pixel took at most."""
    peaks = []
    for count in (32, 160):
        read_views(512, count)
        peaks.append(peak_memory())
    return {"bytes": (peaks[1] - peaks[0]) / ((160 - 32) * 512**2)}


def read_views(side: int, count: int) -> None:
    """Write pictures of a disc with their cameras, read them as a reconstruction does, and draw its first rays."""
    cameras = [orbit_cameras_deg(15.0, 360.0 * i / count, 2.5, 40.0, side) for i in range(count)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_picture(folder / "0.png", disc_picture(side))
        for i in range(1, count):
            (folder / f"{i}.png").hardlink_to(folder / "0.png")
        write_transforms(folder / "transforms.json", cameras, [f"{i}.png" for i in range(count)])
        data = ViewsData(parse(ViewsConfig, {"path": name, "n_rays": 256}, "data"))
        data.setup("fit")
        data.rays(256, torch.Generator().manual_seed(0))


def disc_picture(side: int) -> Float[Tensor, "4 S S"]:
    """Return a picture of a disc of many colors, on nothing."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    disc = ((x**2 + y**2) < 0.4).float()
    return torch.stack([x.abs(), y.abs(), disc, disc])


WORKERS = {"unet": unet_worker, "hash-grid": hash_grid_worker, "views": views_worker}


# --------------------------------------------------------------------------------------------------------------- parts


def start_up() -> Measured:
    """Measure what a user waits for before anything is computed."""
    usd = [sys.executable, "-m", "usd"]
    with tempfile.TemporaryDirectory() as folder:
        first = [f"exp_root_dir={folder}", "trainer.max_steps=1", "trainer.val_check_interval=0"]
        first += [
            "trainer.test_after_fit=false",
            "checkpoint.save_last=false",
            "system.expected_views.fit_steps=0",
        ]
        commands = {
            "import usd": [sys.executable, "-c", "import usd"],
            "import torch, by itself": [sys.executable, "-c", "import torch"],
            "a misspelt key is told": [*usd, "train", "usd-patch-mini", "system.guidnce=1"],
            "to the end of the first step": [*usd, "train", "usd-patch-mini", "--gpu", "cpu", *first],
        }
        rounds = [{name: children_seconds(argv) for name, argv in commands.items()} for _ in range(4)]
    return {name: statistics.median(costs[name] for costs in rounds[1:]) for name in commands}


def threads() -> Measured:
    """Measure a call of a UNet with one thread and with two, beside two busy processes and without them."""
    cases = {
        "one thread": {"OMP_NUM_THREADS": "1"},
        "two threads as torch ships": {"OMP_NUM_THREADS": "2", **AS_TORCH_SHIPS},
        "two threads": {"OMP_NUM_THREADS": "2"},
    }
    with busy_cores(2):
        busy = {name: worker("unet", said) for name, said in cases.items()}
    idle = {name: worker("unet", cases[name]) for name in ("one thread", "two threads")}
    found = {f"UNet call, {name}, busy": 1e3 * cost["cpu"] for name, cost in busy.items()}
    found |= {f"UNet call, {name}, busy, wall": 1e3 * cost["wall"] for name, cost in busy.items()}
    found["CPU time of two threads over one, busy"] = busy["two threads"]["cpu"] / busy["one thread"]["cpu"]
    ratio = idle["two threads"]["wall"] / idle["one thread"]["wall"]
    return found | {"UNet call, two threads over one, idle, wall": ratio}


def memory() -> Measured:
    """Measure what it is worth that freed memory is kept."""
    return {
        "hash grid forward, memory as the C library has it": 1e3 * worker("hash-grid", AS_THE_LIBRARY)["cpu"],
        "hash grid forward, as commands run": 1e3 * worker("hash-grid", {})["cpu"],
    }


def step() -> Measured:
    """Measure a step of image to 3D with the embedded models, by ``usd benchmark``."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "usd", "benchmark", "--preset", "mini", "--gpu", "cpu"]
        subprocess.run(
            [*command, "--steps", "40", "--json", str(file)],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True,
        )  # fmt: skip
        cost = json.loads(file.read_text())["rows"][0]["cost"]
    unet = worker("unet", {"OMP_NUM_THREADS": "1"})
    return {
        "step of image to 3D": 1e3 * cost["cpu_seconds"],
        "UNets of a step": 1e3 * cost["cpu_seconds"] * cost["unet_share"],
        "a view more in a UNet's batch, over another call": unet["batch of two"] / unet["cpu"] - 1,
    }


def decimation() -> Measured:
    """Measure decimation of a closed mesh beside fast-simplification, where that is installed."""
    mesh = bumpy_ball(247_000)
    cost, ours = once(lambda: decimate(*mesh, 20_000))
    found = {"decimation, 247k to 20k faces": cost.cpu}
    if importlib.util.find_spec("fast_simplification"):
        import fast_simplification

        arrays = mesh[0].numpy(), mesh[1].numpy().astype("int32")
        theirs, (points, faces) = once(lambda: fast_simplification.simplify(*arrays, target_count=20_000))
        peer = torch.from_numpy(points), torch.from_numpy(faces).long()
        found["the same by fast-simplification"] = theirs.cpu
        found["mean error over fast-simplification's"] = surface_error(mesh, ours) / surface_error(mesh, peer)
    return found


def once(function: Callable[[], Triangles]) -> tuple[Cost, Triangles]:
    """Return what one call costs, and its result: for what takes seconds."""
    kept: list[Triangles] = []
    cost = timed(lambda: kept.append(function()), 1, warm_up=0)
    return cost, kept[0]


def surface_error(mesh: Triangles, simpler: Triangles) -> float:
    """Return the mean distance of every seventh vertex from a simpler surface."""
    return float(mesh_distance(mesh[0][::7].float(), simpler[0].float(), simpler[1]).abs().mean())


def decimation_large() -> Measured:
    """Measure decimation of a million faces."""
    mesh = bumpy_ball(1_000_000)
    return {"decimation, 1M to 50k faces": once(lambda: decimate(*mesh, 50_000))[0].cpu}


def unwrapping() -> Measured:
    """Measure texture coordinates of meshes as files have them."""
    return {
        f"unwrapping {faces // 1000}k faces": unwrapping_seconds(bumpy_ball(faces))
        for faces in (20_000, 50_000)
    }


def unwrapping_large() -> Measured:
    """Measure texture coordinates of a mesh that nobody decimated."""
    return {"unwrapping 200k faces": unwrapping_seconds(decimate(*bumpy_ball(247_000), 200_000))}


def unwrapping_seconds(mesh: Triangles) -> float:
    """Return the CPU seconds of xatlas's process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = unwrap_with_xatlas(*mesh, UnwrapSettings(2048, 900))
    assert not isinstance(found, str), found
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def similarity() -> Measured:
    """Measure the similarity of four pictures."""
    pictures = torch.rand(2, 4, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    return {"SSIM, 4 pictures of 512 px": 1e3 * timed(lambda: ssim(*pictures), 7).cpu}


def rays() -> Measured:
    """Measure the rays of a picture of 512 px against a mesh beside Embree, where that is installed."""
    vertices, faces = bumpy_ball(247_000)
    origins, directions = (
        each.reshape(-1, 3).contiguous() for each in orbit_cameras_deg(20.0, 30.0, 2.0, 40.0, 512).rays()
    )
    origins = origins + vertices.mean(0)
    tracer = Tracer(vertices, faces)
    found = {"262k rays against 247k faces": 1e3 * timed(lambda: tracer.cast(origins, directions), 7).cpu}
    if not ACCELERATORS["embreex"].obstacle():
        embree = Tracer(vertices, faces, "embreex")
        found["the same by Embree"] = 1e3 * timed(lambda: embree.cast(origins, directions), 7).cpu
        cost = timed(lambda: Tracer(vertices, faces), 3), timed(lambda: Tracer(vertices, faces, "embreex"), 3)
        found |= {"the tree of 247k faces": 1e3 * cost[0].cpu, "the tree by Embree": 1e3 * cost[1].cpu}
    return found


def views() -> Measured:
    """Measure the memory of given views."""
    return {"views in memory, at most": worker("views", {"OMP_NUM_THREADS": "1"})["bytes"]}


PARTS: dict[str, Callable[[], Measured]] = {
    "start": start_up,
    "threads": threads,
    "memory": memory,
    "step": step,
    "decimate": decimation,
    "decimate-large": decimation_large,
    "unwrap": unwrapping,
    "unwrap-large": unwrapping_large,
    "ssim": similarity,
    "rays": rays,
    "views": views,
}

if __name__ == "__main__":
    print(json.dumps(WORKERS[sys.argv[1]]()))
