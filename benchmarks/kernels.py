"""Each kernel against its twin in plain torch, in one run: ``python benchmarks/kernels.py --json results.json``.

Kernel and twin take turns, so that whatever else the machine does meets both. Times are medians over rounds after
a warm-up, with the interquartile range; a ratio is that of the medians. Forward and backward run from inputs to
gradients, with everything a caller pays for (allocation, packing, launch). ``--clock cpu`` counts processor time of
all threads instead of the wall clock: the fairer one, with ``--threads 1``, on a machine busy with something else.

By default both sides have one thread: what a core gains. With ``--threads 2`` short launches gain little, because the
workers of torch's own operations spin on the second core for a while after each (docs/lab-book.md).

"normals" is the hash grid twice differentiated, as analytic normals of a signed distance train.

The twins are the vectorized formulations (all levels, all corners, all samples at once). ``--formulations`` sets the
hash grid beside two others in torch, so that nobody has to believe that the twin is not a straw man.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from usd.app.doctor import processor_name
from usd.kernels.hash_grid import PRIMES, HashGridSpec, hash_grid
from usd.kernels.occupancy import Occupancy, occupied_everywhere, step_size
from usd.kernels.ray_march import composite_density, march
from usd.kernels.runtime import Implementation, import_warp
from usd.kernels.trilinear import sample_volumes
from usd.math.camera import orbit_cameras_deg

POINTS = 131_072
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
GRIDS = {
    "hash grid, 16 levels of 2^19 x 2": HashGridSpec(16, 2, 19),
    "hash grid, 8 levels of 2^15 x 2": HashGridSpec(8, 2, 15),
}
Phases = tuple[Callable[[], object], Callable[[object], object]]


@dataclass(frozen=True)
class Timing:
    """Milliseconds: medians, and the quartiles of the sum."""

    forward_ms: float
    backward_ms: float
    total_ms: float
    quartiles_ms: tuple[float, float]
    rounds: int


@dataclass(frozen=True)
class Row:
    """One comparison; ``ratio`` is the other's total over the kernel's."""

    name: str
    other: str
    kernel: Timing
    torch: Timing
    ratio: float
    required: float | None


def timing(samples: Sequence[tuple[float, float]]) -> Timing:
    forward, backward = ([1e3 * s[i] for s in samples] for i in (0, 1))
    total = sorted(f + b for f, b in zip(forward, backward, strict=True))
    low, _, high = statistics.quantiles(total, n=4) if len(total) > 1 else (total * 3)
    medians = [statistics.median(values) for values in (forward, backward, total)]
    return Timing(medians[0], medians[1], medians[2], (low, high), len(total))


def measure(candidates: dict[str, Phases], rounds: int, repeats: int, clock: str) -> dict[str, Timing]:
    """Candidates in turn, round after round; the first (the kernel) is repeated within each, for it is short."""
    now = CLOCKS[clock]
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for round_ in range(rounds + 1):
        for index, (name, (forward, backward)) in enumerate(candidates.items()):
            for _ in range(repeats if index == 0 else 1):
                start = now()
                result = forward()
                middle = now()
                backward(result)
                if round_ > 0:
                    samples[name].append((middle - start, now() - middle))
                del result
    return {name: timing(values) for name, values in samples.items()}


def index_select(x: Tensor, table: Tensor, spec: HashGridSpec) -> Tensor:
    """The twin with ``index_select`` for ``table[rows]``: the fastest in plain torch that we know."""
    from usd.kernels.hash_grid import _corner_rows, _corner_weights

    size = torch.tensor(spec.resolutions)
    scaled = x.clamp(0, 1)[:, None] * size[:, None]
    cell = torch.minimum(scaled.floor().long(), size[:, None] - 1)
    weight, rows = _corner_weights(scaled - cell), _corner_rows(cell, spec)
    corners = table.index_select(0, rows.flatten()).view(*rows.shape, -1)
    return (weight[..., None] * corners).sum(2).flatten(1)


def level_by_level(x: Tensor, table: Tensor, spec: HashGridSpec) -> Tensor:
    """A loop over levels and corners with small intermediate results: kinder to the cache."""
    return torch.cat([one_level(x, table, spec, level) for level in range(spec.n_levels)], 1)


def one_level(x: Tensor, table: Tensor, spec: HashGridSpec, level: int) -> Tensor:
    cells, offset, dense = spec.resolutions[level], spec.offsets[level], spec.dense[level]
    scaled = x.clamp(0, 1) * cells
    cell = scaled.floor().clamp(max=cells - 1)
    steps = (1, cells + 1, (cells + 1) ** 2) if dense else PRIMES
    low = [cell[:, d].long() * steps[d] for d in range(3)]
    part = scaled - cell
    result = torch.zeros(len(x), spec.n_features_per_level)
    for k in range(8):
        bits = [k >> d & 1 for d in range(3)]
        i, j, m = (low[d] + bits[d] * steps[d] for d in range(3))
        row = i + j + m if dense else (i ^ j ^ m) & (2**spec.log2_hashmap_size - 1)
        wx, wy, wz = (part[:, d] if bits[d] else 1 - part[:, d] for d in range(3))
        result = result + (wx * wy * wz)[:, None] * table.index_select(0, row + offset)
    return result


def grid_candidates(spec: HashGridSpec, formulations: bool) -> dict[str, Phases]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(POINTS, 3, generator=generator)
    table = spec.init_table(generator, scale=1.0).requires_grad_()
    g = torch.randn(POINTS, spec.n_output, generator=generator)
    functions: dict[str, Callable[[], Tensor]] = {
        "kernel": lambda: hash_grid(x, table, spec, "warp"),
        "twin": lambda: hash_grid(x, table, spec, "torch"),
    }
    if formulations:
        functions["index_select"] = lambda: index_select(x, table, spec)
        functions["level by level"] = lambda: level_by_level(x, table, spec)
    expected = functions["kernel"]().detach()
    for name, function in functions.items():
        torch.testing.assert_close(function().detach(), expected, rtol=1e-4, atol=1e-4, msg=f"{name} differs")
    return {name: (f, lambda y: torch.autograd.grad(y, table, g)) for name, f in functions.items()}


def normal_candidates(spec: HashGridSpec) -> dict[str, Phases]:
    """Analytic normals and their training: d(encoding . g) / dx, then its gradient by all, as ``backward`` takes it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(POINTS, 3, generator=generator).requires_grad_()
    table = spec.init_table(generator, scale=1.0).requires_grad_()
    g = torch.randn(POINTS, spec.n_output, generator=generator).requires_grad_()
    v = torch.randn(POINTS, 3, generator=generator)

    def forward(implementation: Implementation) -> Tensor:
        y = hash_grid(x, table, spec, implementation)
        return torch.autograd.grad(y, x, g, create_graph=True)[0]

    def backward(normal: object) -> object:
        assert isinstance(normal, Tensor)
        return torch.autograd.grad(normal, (x, table, g), v)

    return {"kernel": (lambda: forward("warp"), backward), "twin": (lambda: forward("torch"), backward)}


def ball_grid(resolution: int, radius: float) -> Occupancy:
    """A ball of half the cube's radius is occupied: 6.5 % of the cells."""
    c = (torch.arange(resolution) + 0.5) * (2 / resolution) - 1
    square = c[:, None, None] ** 2 + c[None, :, None] ** 2 + c**2
    return Occupancy(occupied_everywhere(resolution, radius).value, square < 0.25, radius)


def ray_candidates(grid: Occupancy) -> dict[str, Phases]:
    """64 x 64 rays through a cube, 256 steps along its diagonal: march, composite, gradients."""
    camera = orbit_cameras_deg(15.0, 30.0, 3.0, 40.0, 64)
    origins, directions = (r.reshape(-1, 3) for r in camera.rays())
    step = step_size(grid.radius, 256)

    def forward(implementation: Implementation) -> object:
        generator = torch.Generator().manual_seed(1)
        samples = march(origins, directions, grid, step, generator, implementation=implementation)
        density, color = fields(len(samples))
        view = composite_density(density, color, samples, implementation=implementation)
        return view, (density, color)

    def backward(result: object) -> object:
        view, inputs = result  # type: ignore[misc]
        return torch.autograd.grad((view.color, view.opacity, view.depth), inputs, incoming)

    value = torch.rand(2_000_000, generator=torch.Generator().manual_seed(2))
    n = len(origins)
    incoming = tuple(value[: n * c].view(shape) for c, shape in ((3, (n, 3)), (1, (n,)), (1, (n,))))

    def fields(n_samples: int) -> tuple[Tensor, Tensor]:
        color = value[: 3 * n_samples].view(n_samples, 3)
        return (5 * value[:n_samples]).requires_grad_(), color.detach().requires_grad_()

    return {"kernel": (lambda: forward("warp"), backward), "twin": (lambda: forward("torch"), backward)}


def volume_candidates() -> dict[str, Phases]:
    """Eight volumes of a view model, each seen by two cameras of 32 px with 16 samples a ray, and their gradients."""
    source = torch.Generator().manual_seed(0)
    volumes = torch.randn(8, 13, 32, 32, 32, generator=source).requires_grad_()
    rays = orbit_cameras_deg([15.0] * 16, [23.0 * i for i in range(16)], 1.5, 40.0, 32).rays()
    origins, directions = (each[..., None, :] for each in rays)
    depth = torch.linspace(1.0, 2.0, 16)[:, None]
    places = ((origins + depth * directions) / 0.52).reshape(8, -1, 3)
    g = torch.randn(8, 13, places.shape[1], generator=source)

    def forward(implementation: Implementation) -> Tensor:
        return sample_volumes(volumes, places, implementation)

    def backward(values: object) -> object:
        assert isinstance(values, Tensor)
        return torch.autograd.grad(values, volumes, g)

    return {"kernel": (lambda: forward("warp"), backward), "twin": (lambda: forward("torch"), backward)}


def rows(name: str, timings: dict[str, Timing], required: float | None) -> list[Row]:
    kernel = timings["kernel"]
    others = [(other, t) for other, t in timings.items() if other != "kernel"]
    return [
        Row(name, other, kernel, t, t.total_ms / kernel.total_ms, required if other == "twin" else None)
        for other, t in others
    ]


def machine(threads: int, clock: str) -> dict[str, object]:
    wp = import_warp()
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "clock": clock,
        "load": os.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "warp": None if wp is None else wp.__version__,
        "commit": commit(),
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def commit() -> str:
    here = Path(__file__).parent
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def show(row: Row) -> str:
    def cells(t: Timing) -> str:
        return f"{t.forward_ms:8.1f} + {t.backward_ms:7.1f} ({t.quartiles_ms[0]:.0f}-{t.quartiles_ms[1]:.0f})"

    verdict = "" if row.required is None else f"  (required {row.required:.0f}x)"
    return f"{row.name:42s} {cells(row.kernel)}   {row.other:18s} {cells(row.torch)}   {row.ratio:6.1f}x{verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--rounds", type=int, default=7, help="rounds after the warm-up")
    parser.add_argument("--only", default="", help="run the comparisons whose name contains this")
    parser.add_argument("--threads", type=int, default=1, help="of kernel and twin alike")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--formulations", action="store_true", help="hash grid: other torch formulations too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    about = machine(options.threads, options.clock)
    print(json.dumps(about))
    print("milliseconds, forward + backward (quartiles of the sum)")
    cases: list[tuple[str, Callable[[], dict[str, Phases]], float]] = [
        (name, functools.partial(grid_candidates, spec, options.formulations), 20.0)
        for name, spec in reversed(GRIDS.items())
    ]
    cases += [
        (f"normals, {name}", functools.partial(normal_candidates, spec), 15.0)
        for name, spec in reversed(GRIDS.items())
    ]
    cases += [
        ("rays 64 x 64 x 256, all occupied", lambda: ray_candidates(occupied_everywhere(64, 1.0)), 10.0),
        ("rays 64 x 64 x 256, a ball", lambda: ray_candidates(ball_grid(64, 1.0)), 10.0),
        ("volumes 8 x 13 x 32^3, 16 views of 32 px", volume_candidates, 2.0),
    ]
    found: list[Row] = []
    for name, make, required in (case for case in cases if options.only in case[0]):
        new = rows(name, measure(make(), options.rounds, 5, options.clock), required)
        print("\n".join(show(row) for row in new), flush=True)
        found += new
    if options.json:
        options.json.write_text(
            json.dumps({"machine": about, "rows": [asdict(row) for row in found]}, indent=2)
        )


if __name__ == "__main__":
    main()
