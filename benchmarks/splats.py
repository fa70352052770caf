#!/usr/bin/env python3
"""Gaussian splats: seconds of forward and backward, of the kernels and their twin, by number, size and threads.

    python benchmarks/splats.py                     the whole table
    python benchmarks/splats.py --most 100000       no scene larger than that

All figures of a table are of one run. A scene is a cloud of Gaussians whose sizes shrink as their number grows, so that
the picture is covered nearly everywhere; its loss is the sum of all colors and opacities. Milliseconds are clock
time, the best of a few repetitions, and beside them those that the process computed: on a machine shared with other
work the second is the one to compare.
"""

import argparse
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from usd.core.console import say
from usd.kernels.runtime import Implementation
from usd.kernels.splat import Splats, composite, project, splat_view
from usd.math.camera import orbit_cameras_deg

SCENES = (
    (1_000, 128),
    (10_000, 64),
    (10_000, 128),
    (10_000, 256),
    (100_000, 512),
    (1_000_000, 512),
    (1_000_000, 1024),
)
TWIN = (10_000, 128)
SIZE_AT_10K = 0.02
REPEATS = 5


@dataclass(frozen=True)
class Seconds:
    """The fastest repetition of each part, and the least time that the process computed for both."""

    forward: float
    backward: float
    computed: float


def scene(count: int) -> tuple[Splats, Tensor]:
    """Return Gaussians in a ball, and their colors, all with gradients."""
    source = torch.Generator().manual_seed(0)
    means, spread, turn = (torch.randn(count, n, generator=source) for n in (3, 3, 4))
    scales = SIZE_AT_10K * (10_000 / count) ** 0.5 * (0.4 * spread).exp()
    opacity, colors = torch.rand(count, generator=source), torch.rand(1, count, 3, generator=source)
    values = [one.requires_grad_() for one in (0.25 * means, scales, turn, opacity, colors)]
    return Splats(*values[:4]), values[4]


def measured(count: int, size: int, implementation: Implementation, repeats: int = REPEATS) -> Seconds:
    """Return the time of a picture and of its gradients."""
    splats, colors = scene(count)
    view = splat_view(orbit_cameras_deg(10.0, 20.0, 1.5, 45.0, size))
    times = []
    for _ in range(repeats + 1):  # the first compiles
        start, began = time.perf_counter(), time.process_time()
        picture = composite(project(splats, view, True, implementation), colors, implementation)
        middle = time.perf_counter()
        (picture.sums.sum() + picture.opacity.sum()).backward()
        times.append((middle - start, time.perf_counter() - middle, time.process_time() - began))
    return Seconds(*(min(part) for part in zip(*times[1:], strict=True)))


def row(count: int, size: int, name: str, found: Seconds) -> str:
    """Return a line of the table, with the most memory that the process ever had."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"| {count} | {size} | {name} | {1e3 * found.forward:.1f} | {1e3 * found.backward:.1f} "
        f"| {1e3 * found.computed:.1f} | {memory:.2f} |"
    )


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--most", type=int, default=1_000_000, help="largest number of Gaussians")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args(argv)
    say("| Gaussians | px | computed by | forward, ms | backward, ms | computed, ms | GiB so far |")
    say("|---|---|---|---|---|---|---|")
    for count, size in SCENES:
        if count > args.most:
            continue
        for threads in args.threads:
            torch.set_num_threads(threads)
            found = measured(count, size, "warp", 2 if count > 100_000 else REPEATS)
            say(row(count, size, f"kernels, {threads} threads", found))
        if (count, size) == TWIN:
            torch.set_num_threads(args.threads[0])
            twin = measured(count, size, "torch", 1)
            say(row(count, size, f"twin, {args.threads[0]} threads", twin))
    return 0


if __name__ == "__main__":
    sys.exit(main())
