"""Forward and backward of the mesh renderer: ``python benchmarks/rasterizer.py --json results.json``.

A ball of about 20,000 triangles with free vertices, at 256 x 256, through the renderer a configuration names:
visibility, interpolation, smooth normals, colors by position, antialiased silhouettes, background. Forward
ends with the picture (color, opacity, depth, normal), backward with the gradient of every vertex. Required:
0.25 s together, on 2 cores.

Then the parts of a forward pass one by one, and visibility beside its twin in plain torch, on a mesh small
enough for it. Times are medians over rounds after a warm-up, with the quartiles. ``--clock cpu`` counts
processor time of all threads instead of the wall clock: the fairer one, with ``--threads 1``, on a machine
busy with something else.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.kernels import CLOCKS, machine
from usd.core.config import spec
from usd.core.registry import build
from usd.core.types import Mesh
from usd.geometry import ExplicitSurface
from usd.kernels.rasterize import Tracer, barycentric, interpolate, rasterize, whole
from usd.kernels.rasterize_antialias import antialias, crossings
from usd.math.camera import Cameras, orbit_cameras_deg
from usd.math.isosurface import marching_cubes
from usd.renderer import Renderer

REQUIRED_MS = 250.0
NEEDS = frozenset({"depth", "normal"})


class Ball(ExplicitSurface):
    """Free vertices on a ball; features are the position."""

    def __init__(self, vertices: Tensor, faces: Tensor) -> None:
        super().__init__(None)
        self.radius, self.n_features = 1.0, 3
        self.vertices = torch.nn.Parameter(vertices)
        self.register_buffer("faces", faces)
        self.faces: Tensor

    def surface(self) -> Mesh:
        return Mesh(self.vertices, self.faces)

    def features(self, x: Tensor) -> Tensor:
        return 4 * x


@dataclass(frozen=True)
class Figure:
    """Milliseconds: median and quartiles."""

    name: str
    median_ms: float
    quartiles_ms: tuple[float, float]


def ball(side: int) -> tuple[Tensor, Tensor]:
    """A ball of radius 1/2 on a lattice of ``side`` points a side; 94 give about 20,000 faces."""
    axis = torch.linspace(-1, 1, side)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return marching_cubes(0.5 - (x * x + y * y + z * z).sqrt(), 0.0, 1.0)


def figure(name: str, seconds: list[float]) -> Figure:
    low, middle, high = (1e3 * value for value in statistics.quantiles(seconds, n=4))
    return Figure(name, middle, (low, high))


def both_ways(renderer: Renderer, cameras: Cameras, rounds: int, now: Callable[[], float]) -> list[Figure]:
    """Forward, backward and their sum, of a loss on every number that comes out."""
    forward, backward = [], []
    for round_ in range(rounds + 2):
        start = now()
        shown = renderer.render(cameras, NEEDS)
        assert shown.depth is not None and shown.normal is not None
        picture = torch.cat([shown.rgb, shown.opacity, shown.depth, shown.normal], 1)
        middle = now()
        picture.square().sum().backward()
        if round_ > 1:
            forward.append(middle - start)
            backward.append(now() - middle)
    total = [f + b for f, b in zip(forward, backward, strict=True)]
    return [figure("forward", forward), figure("backward", backward), figure("forward + backward", total)]


def parts(
    vertices: Tensor, faces: Tensor, cameras: Cameras, rounds: int, now: Callable[[], float]
) -> list[Figure]:
    """The steps of a forward pass."""
    spent: dict[str, list[float]] = {}
    for round_ in range(rounds + 2):
        view, clock = whole(cameras), [now()]
        _ = view.rays
        clock.append(now())
        tracer = Tracer(vertices, faces)
        clock.append(now())
        seen = rasterize(tracer, view)
        clock.append(now())
        weights, _ = barycentric(vertices, faces, view, seen)
        picture = seen.picture(interpolate(vertices, faces, seen, weights))
        clock.append(now())
        found = crossings(tracer, view, seen)
        clock.append(now())
        antialias(picture, vertices, found, view)
        clock.append(now())
        names = ("rays", "tree of boxes", "visibility", "interpolation", "silhouettes", "blending")
        for name, start, end in zip(names, clock, clock[1:], strict=False):
            if round_ > 1:
                spent.setdefault(name, []).append(end - start)
    return [figure(name, seconds) for name, seconds in spent.items()]


def twins(cameras: Cameras, rounds: int, now: Callable[[], float]) -> list[Figure]:
    """Visibility by the kernel and by its twin, the tree included, on a ball of fewer faces."""
    vertices, faces = ball(13)
    small = cameras.resize(64, 64)
    spent: dict[str, list[float]] = {"kernel": [], "twin": []}
    for round_ in range(rounds + 1):
        for name, implementation in (("kernel", "warp"), ("twin", "torch")):
            view = whole(small)
            start = now()
            rasterize(Tracer(vertices, faces, implementation), view)  # type: ignore[arg-type]
            if round_ > 0:
                spent[name].append(now() - start)
    label = f"visibility, {len(faces)} faces at 64 x 64"
    return [figure(f"{label}: {name}", seconds) for name, seconds in spent.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--rounds", type=int, default=15, help="rounds after the warm-up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=256, help="side of the picture, pixels")
    parser.add_argument("--lattice", type=int, default=94, help="94: about 20,000 faces")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    now = timer(options.clock, options.device)
    cameras = orbit_cameras_deg(15.0, 40.0, 1.6, 45.0, options.size).to(options.device)
    vertices, faces = (part.to(options.device) for part in ball(options.lattice))
    scene = {
        "geometry": Ball(vertices, faces),
        "material": build(spec("material", "no-material")),
        "background": build(spec("background", "solid-color-background")).to(options.device),
    }
    renderer = build(spec("renderer", "rasterizer"), **scene)
    about = {**machine(options.threads, options.clock), "faces": len(faces), "pixels": options.size}
    print(json.dumps(about))
    figures = both_ways(renderer, cameras, options.rounds, now)
    figures += parts(vertices, faces, cameras, options.rounds, now) + twins(cameras, options.rounds, now)
    for one in figures:
        verdict = f"  (required {REQUIRED_MS:.0f})" if one.name == "forward + backward" else ""
        low, high = one.quartiles_ms
        print(f"{one.name:44s} {one.median_ms:8.1f} ms  ({low:.1f}-{high:.1f}){verdict}")
    if options.json:
        options.json.write_text(
            json.dumps({"machine": about, "figures": [asdict(f) for f in figures]}, indent=2)
        )


def timer(clock: str, device: str) -> Callable[[], float]:
    """The clock, read when the device has finished."""
    read = CLOCKS[clock]

    def now() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return read()

    return now


if __name__ == "__main__":
    main()
