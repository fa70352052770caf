"""The tetrahedral grid fitted to shapes from images alone: ``python benchmarks/fit_mesh.py --json results.json``.

Ground truth is rendered as masks and normals from cameras all around; no depth, no point of the surface is used. The
grid is put around what all masks agree on (their visual hull) and starts as that, or with ``--start sphere`` as a ball
around it. Distances start at two cells at most, so that what is wrong can change its sign soon. The rasterizer trains
it: silhouettes, normals, a little smoothness, ever less of ``lambda_sign_changes``; and grid points that a mask shows
to be outside are pushed there, since a silhouette pulls only where there is one.

The exported mesh is measured against the true one: Chamfer distance as a share of the bounding box's diagonal, whether
it is closed, its Euler number beside the true one, and the smallest tetrahedron (1 where nothing moved, negative where
one turned over). The true Euler number of a toy is that of its surface, and of those a third of a pixel inside and
outside of it: what joins or parts within so little no picture shows. Mostly the three are one number.
"""

import argparse
import json
import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from usd.core.config import parse, spec
from usd.core.registry import build
from usd.core.types import Mesh, Render
from usd.evaluation.surface import area_samples, chamfer, nearest, normal_consistency
from usd.geometry import ExplicitSurface
from usd.geometry.tetrahedra_sdf_grid import TetrahedraSDFGrid, box_around
from usd.losses.mesh import laplacian_smoothness, sign_changes
from usd.math import mesh as meshes
from usd.math.camera import Cameras, join_cameras, orbit_cameras_deg
from usd.math.isosurface import grid_points, marching_cubes, sample_grid
from usd.math.tetrahedra import volumes
from usd.renderer import Renderer
from usd.toybox.distance import signed_distance
from usd.toybox.mesh import toy_mesh
from usd.toybox.objects import make_toy
from usd.toybox.scene import RADIUS, Toy

FOV_DEG, DISTANCE = 40.0, 2.2
RINGS = {-60.0: 5, -20.0: 8, 15.0: 8, 45.0: 8, 75.0: 5}  # elevation: views
NEEDS = frozenset({"normal", "mesh"})
SAMPLES = 50_000
LATTICE = 160  # points a side, of true toys
UNSEEN = 0.004  # a third of what a pixel measures
COARSE = 48  # points a side of the lattice that finds where the object is
MARGIN = 1.15  # the grid is so much larger than the hull
BAND = 1.5  # cells: distances start no larger
SURE_PX = 1.0  # a point so far outside of a mask is outside


@dataclass(frozen=True)
class Setting:
    """How a shape is fitted: ``rate`` is of distances, ``shift_rate`` of moves, both in cells; the rest are weights."""

    resolution: int = 96
    size_px: int = 128
    steps: int = 200
    views_a_step: int = 4
    rate: float = 0.08
    smooth: float = 0.3
    normal: float = 0.3
    signs: float = 0.02
    outside: float = 1.0
    shift_rate: float = 0.02
    start: str = "hull"


@dataclass(frozen=True)
class Result:
    """How near the fitted surface is."""

    shape: str
    chamfer_of_diagonal: float
    start_chamfer_of_diagonal: float
    normal_agreement: float
    closed: bool
    euler: int
    true_euler: tuple[int, ...]
    volume_ratio: float
    smallest_tetrahedron: float
    vertices: int
    faces: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Truth:
    """The true mesh, and the Euler numbers that pictures cannot tell from its own."""

    mesh: Mesh
    euler: tuple[int, ...]


class Fixed(ExplicitSurface):
    """A mesh that stays as it is."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(None)
        self.made, self.n_features, self.radius = mesh, 3, 1.0

    def surface(self) -> Mesh:
        return self.made

    def features(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        return torch.zeros_like(x)


def around(size_px: int) -> Cameras:
    """Rings of cameras, each turned against the one before."""
    rings = [
        orbit_cameras_deg(elevation, [360 * (i + 0.5 * k) / n for i in range(n)], DISTANCE, FOV_DEG, size_px)
        for k, (elevation, n) in enumerate(RINGS.items())
    ]
    return join_cameras(rings)


def renderer_of(geometry: ExplicitSurface) -> Renderer:
    """The rasterizer, over black."""
    parts = {"material": "no-material", "background": "solid-color-background"}
    built = {kind: build(spec(kind, name)) for kind, name in parts.items()}
    return build(spec("renderer", "rasterizer"), geometry=geometry, **built)


def sphere_mesh() -> Mesh:
    return field_mesh(lambda x: 0.6 - x.norm(dim=-1))


def torus_mesh() -> Mesh:
    return field_mesh(lambda x: 0.22 - torch.stack([x[:, :2].norm(dim=-1) - 0.5, x[:, 2]], -1).norm(dim=-1))


def field_mesh(field: Callable[[Tensor], Tensor]) -> Mesh:
    return Mesh(*marching_cubes(sample_grid(field, 96, 1.0, torch.zeros(())), 0.0, 1.0))


def shapes(toys: list[int]) -> dict[str, Callable[[], Truth]]:
    """How each true mesh is made, by name."""
    made: dict[str, Callable[[], Truth]] = {"sphere": lambda: Truth(sphere_mesh(), (2,))}
    made["torus"] = lambda: Truth(torus_mesh(), (0,))
    return made | {
        f"toy {seed}: {make_toy(seed).caption}": lambda seed=seed: toy_truth(make_toy(seed)) for seed in toys
    }


def toy_truth(toy: Toy) -> Truth:
    """A toy's mesh; Euler numbers of its surface moved in, left, and moved out by UNSEEN."""
    reach = 1.05 * RADIUS
    values = sample_grid(lambda x: -signed_distance(toy, x)[0], LATTICE, reach, torch.zeros(()))
    found = [marching_cubes(values, level, reach)[1] for level in (-UNSEEN, 0.0, UNSEEN)]
    return Truth(toy_mesh(toy, LATTICE), tuple(sorted({meshes.euler_number(faces) for faces in found})))


# ------------------------------------------------------------------------------------------------------------- start


def hull_distance(
    x: Float[Tensor, "N 3"], cameras: Cameras, masks: Float[Tensor, "B 1 H W"]
) -> Float[Tensor, "N"]:
    """About how far points are outside of what all masks agree on, in world units; negative inside.

    In each picture the distance to the mask's rim, in pixels, times what a pixel measures at the point's depth.
    """
    pixels, depth = cameras.project(x)
    per_view = []
    for mask, at, far, focal in zip(masks[:, 0] > 0.5, pixels, depth, cameras.focal_px):
        rim = torch.from_numpy(distance_transform_edt(~mask.numpy()) - distance_transform_edt(mask.numpy()))
        grid = (at / at.new_tensor([cameras.width, cameras.height]) * 2 - 1).view(1, 1, -1, 2)
        found = torch.nn.functional.grid_sample(
            rim[None, None].float(), grid, padding_mode="border", align_corners=False
        )
        per_view.append(found.flatten() * far / focal)
    return torch.stack(per_view).amax(0)


def box_of_masks(cameras: Cameras, masks: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "2 3"]:
    """A cube around the visual hull, some larger."""
    x = grid_points(0, COARSE, COARSE, -1.0, 1.0, masks)
    spacing = 2 / (COARSE - 1)
    inside = x[hull_distance(x, cameras, masks) < spacing]
    return box_around(inside, MARGIN)


def outside_of_masks(
    x: Float[Tensor, "N 3"], cameras: Cameras, masks: Float[Tensor, "B 1 H W"]
) -> Bool[Tensor, "N"]:
    """Which points some mask shows to be outside, by SURE_PX and more."""
    pixel = 2 * DISTANCE * math.tan(math.radians(FOV_DEG / 2)) / cameras.height
    return hull_distance(x, cameras, masks) > SURE_PX * pixel


# --------------------------------------------------------------------------------------------------------------- fit


def fit(
    truth: Mesh, setting: Setting, log: Callable[[str], None] = lambda _: None
) -> tuple[TetrahedraSDFGrid, Mesh]:
    """The grid after training, and the mesh it started from."""
    torch.manual_seed(0)
    cameras = around(setting.size_px)
    with torch.no_grad():
        seen = renderer_of(Fixed(truth)).render(cameras, NEEDS)
    options = {"isosurface_resolution": setting.resolution, "geometry_only": True}
    grid = TetrahedraSDFGrid(parse(TetrahedraSDFGrid.Config, options, "geometry"))
    grid.box.copy_(box_of_masks(cameras, seen.opacity))
    x = grid.positions().detach()
    hull, edge = hull_distance(x, cameras, seen.opacity), float(grid.box[1, 0] - grid.box[0, 0]) / grid.cells
    ball = (x - grid.box.mean(0)).norm(dim=-1) - 0.45 * edge * grid.cells
    begun = hull if setting.start == "hull" else ball
    grid.sdf.data.copy_(begun.clamp(-BAND * edge, BAND * edge))
    start = grid.export_mesh()
    train(grid, cameras, seen, setting, log)
    grid.config = replace(grid.config, isosurface_remove_outliers=True)
    return grid, start


def train(
    grid: TetrahedraSDFGrid, cameras: Cameras, seen: Render, setting: Setting, log: Callable[[str], None]
) -> None:
    """Descent on a few views a step; rates fall to a tenth."""
    renderer, source = renderer_of(grid), torch.Generator().manual_seed(0)
    outside = outside_of_masks(grid.positions().detach(), cameras, seen.opacity)
    edge = float(grid.box[1, 0] - grid.box[0, 0]) / grid.cells
    groups = [{"params": [grid.sdf], "lr": setting.rate * edge}]
    groups += [{"params": [grid.deformation], "lr": setting.shift_rate / grid.cells}]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1 / setting.steps))
    for step in range(setting.steps):
        chosen = torch.randperm(len(cameras), generator=source)[: setting.views_a_step]
        render = renderer.render(cameras[chosen], NEEDS)
        assert render.mesh is not None
        loss = image_loss(render, seen, chosen, setting.normal)
        loss = loss + setting.smooth * laplacian_smoothness(render)
        loss = loss + setting.signs * (1 - step / setting.steps) * sign_changes(render)
        lacking = (edge / 10 - grid.sdf[outside]).relu().sum() / edge
        loss = loss + setting.outside * lacking / len(render.mesh.vertices)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        if step % 50 == 0:
            log(f"  step {step}: {float(loss.detach()):.5f}")


def image_loss(render: Render, seen: Render, chosen: Tensor, weight: float) -> Float[Tensor, ""]:
    """Masks and normals (over black), mean squares."""
    assert render.normal is not None and seen.normal is not None
    mask = (render.opacity - seen.opacity[chosen]).square().mean()
    normal = render.normal * render.opacity - seen.normal[chosen] * seen.opacity[chosen]
    return mask + weight * normal.square().sum(1).mean()


# ------------------------------------------------------------------------------------------------------------ result


def measure(
    name: str, known: Truth, grid: TetrahedraSDFGrid, start: Mesh, seconds: tuple[float, float]
) -> Result:
    """``seconds``: on the clock, and of all cores."""
    truth = known.mesh
    made, diagonal = grid.export_mesh(), float((truth.vertices.amax(0) - truth.vertices.amin(0)).norm())
    points = [area_samples(Mesh(m.vertices, m.faces), SAMPLES, 0) for m in (made, truth, start)]
    forth, back = nearest(points[0], points[1]), nearest(points[1], points[0])
    before = chamfer(nearest(points[2], points[1]), nearest(points[1], points[2]))
    inner = volumes(grid.positions().detach(), grid.grid.tetrahedra)
    edge = float(grid.box[1, 0] - grid.box[0, 0]) / grid.cells
    return Result(
        name,
        chamfer(forth, back) / diagonal,
        before / diagonal,
        normal_consistency(forth, back),
        meshes.is_closed(made.faces),
        meshes.euler_number(made.faces),
        known.euler,
        float(meshes.volume(made.vertices, made.faces) / meshes.volume(truth.vertices, truth.faces)),
        float(inner.min()) / edge**3 * 12,
        len(made.vertices),
        len(made.faces),
        *seconds,
    )


def shown(result: Result) -> str:
    wanted = f"true: {' or '.join(map(str, result.true_euler))}"
    distances = (
        f"{result.chamfer_of_diagonal:.5f} of the diagonal (start {result.start_chamfer_of_diagonal:.5f})"
    )
    topology = f"{'closed' if result.closed else 'NOT CLOSED'}, Euler {result.euler} ({wanted})"
    spent = f"{result.seconds:.0f} s, {result.cpu_seconds:.0f} s of cores"
    rest = f"volume {result.volume_ratio:.3f}, {result.faces} faces, {spent}"
    return f"{result.shape}: Chamfer {distances}, normals {result.normal_agreement:.3f}, {topology}, {rest}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--toys",
        type=int,
        nargs="*",
        default=[1_000_001, 1_000_005, 1_000_010],
        help="seeds of toybox objects",
    )
    parser.add_argument("--only", nargs="*", help="shapes whose name starts so")
    for name, value in asdict(Setting()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--json", type=Path, help="write results here")
    parser.add_argument("--meshes", type=Path, help="write truth, start and result as PLY to this folder")
    args = parser.parse_args()
    setting = Setting(**{name: getattr(args, name) for name in asdict(Setting())})
    results = []
    for name, make in shapes(args.toys).items():
        if args.only and not any(name.startswith(start) for start in args.only):
            continue
        truth, began = make(), clocks()
        grid, start = fit(truth.mesh, setting, print)
        clock, cores = (now - then for now, then in zip(clocks(), began))
        results.append(measure(name, truth, grid, start, (clock, cores)))
        print(shown(results[-1]), flush=True)
        if args.meshes:
            write(args.meshes, name, {"truth": truth.mesh, "start": start, "fitted": grid.export_mesh()})
        if args.json:
            found = {"setting": asdict(setting), "results": [asdict(r) for r in results]}
            args.json.write_text(json.dumps(found, indent=2))


def clocks() -> tuple[float, float]:
    """Seconds on the clock, and of all cores."""
    return time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_utime


def write(folder: Path, name: str, made: dict[str, Mesh]) -> None:
    import trimesh

    folder.mkdir(parents=True, exist_ok=True)
    for kind, mesh in made.items():
        stem = "".join(c if c.isalnum() else "_" for c in name)
        trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False).export(
            folder / f"{stem}_{kind}.ply"
        )


if __name__ == "__main__":
    main()
