#!/usr/bin/env python3
"""Export, read back, render again: how far exported files are from the objects they are of.

    python benchmarks/export_round_trip.py                              6 toys, and one with 200k faces
    python benchmarks/export_round_trip.py 1000040 1000041              these toys
    python benchmarks/export_round_trip.py --fmt obj-mtl a.glb b.obj    these mesh files, or toys and files together
    python benchmarks/export_round_trip.py b.obj:picture.png            a mesh file that does not name its texture

A toy's truth is sphere tracing of its exact surface, a file's its own texture; then each goes through ``mesh-exporter``
(a toy as a mesh with its sharp edges), is read back and rendered from the same views. PSNR over white, per
view then mean. Any exporter option may be given as ``key=value``. ``s`` is the whole export, ``unwrap s`` decimation
and unwrapping, ``CPU s`` what these two took of all cores. The table is printed and, with a sheet (source above, export
below), written to ``--out`` after every object.
"""

import argparse
import logging
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor
from typing_extensions import override

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from usd.core.config import parse  # noqa: E402
from usd.core.errors import UserError  # noqa: E402
from usd.core.types import Field, Mesh  # noqa: E402
from usd.data.pictures import contact_sheet, write_picture  # noqa: E402
from usd.exporter.mesh import MeshExporter  # noqa: E402
from usd.geometry import Geometry, Level  # noqa: E402
from usd.material import Material  # noqa: E402
from usd.math.camera import Cameras  # noqa: E402
from usd.math.mesh import coincident, drop_unused, face_cross  # noqa: E402
from usd.mesh_io.atlas import Atlas  # noqa: E402
from usd.mesh_io.colored_mesh import BaseColor, ColoredMesh, Texture  # noqa: E402
from usd.mesh_io.images import decode_image  # noqa: E402
from usd.mesh_io.pictures import pictures  # noqa: E402
from usd.mesh_io.read import read_mesh  # noqa: E402
from usd.toybox import TEST_SEED  # noqa: E402
from usd.toybox.cameras import held_out_cameras  # noqa: E402
from usd.toybox.mesh import sharp_toy_mesh, surface_normals, toy_mesh  # noqa: E402
from usd.toybox.objects import make_toy  # noqa: E402
from usd.toybox.render import Light, lit_colors, render  # noqa: E402
from usd.toybox.scene import RADIUS, Toy  # noqa: E402

LATTICE = 128
LARGE_FACES = 200_000
NEAREST = 4  # candidates for the face that a point is nearest to
Y_UP = (".glb", ".gltf", ".obj")


def merge_vertices(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], tolerance: float = 1e-6
) -> tuple[Float[Tensor, "U 3"], Int[Tensor, "K 3"]]:
    """Return the mesh with coincident vertices as one, and without the faces that collapse by that."""
    label = coincident(vertices, tolerance)
    merged = vertices.new_zeros(int(label.max()) + 1, 3).index_copy(0, label, vertices)
    a, b, c = label[faces].unbind(1)
    return drop_unused(merged, label[faces][(a != b) & (b != c) & (c != a)])


class Colors(Material):
    """Features that are colors already."""

    n_features = 3

    def __init__(self) -> None:
        super().__init__(None)

    @override
    def color(
        self, features: Tensor, positions: Tensor, directions: Tensor, normals: Tensor | None
    ) -> Tensor:
        return features


class Source(Geometry):
    """An object whose surface and colors are known exactly."""

    n_features, radius = 3, 1.0

    def __init__(self, name: str, mesh: Mesh) -> None:
        super().__init__(None)
        self.name, self.found = name, mesh

    @override
    def export_mesh(self, resolution: int | None = None, threshold: Level | None = None) -> Mesh:
        return Mesh(self.found.vertices, self.found.faces)

    @override
    def query(self, x: Float[Tensor, "N 3"], needs: frozenset[str]) -> Field:
        return Field(torch.zeros_like(x[:, 0]), self.colors(x))

    def colors(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        raise NotImplementedError

    def views(self, cameras: Cameras) -> Float[Tensor, "B 4 H W"]:
        """Premultiplied colors and alpha."""
        raise NotImplementedError


class ToySource(Source):
    """A toy of the toybox, lit."""

    def __init__(self, seed: int, lattice: int = LATTICE) -> None:
        self_toy = make_toy(seed)
        super().__init__(f"toy {seed}", sharp_toy_mesh(self_toy, lattice))
        self.toy: Toy = self_toy

    def colors(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        return lit_colors(self.toy, x, surface_normals(self.toy, x), Light())

    def views(self, cameras: Cameras) -> Float[Tensor, "B 4 H W"]:
        made = render([self.toy], cameras)
        return torch.cat([made.rgb * made.alpha[..., None], made.alpha[..., None]], -1).permute(0, 3, 1, 2)


class FileSource(Source):
    """A mesh file, centered, as large as toys are."""

    def __init__(self, path: Path, texture: Path | None = None) -> None:
        loaded = read_file(path, texture)
        super().__init__(path.name, Mesh(*merge_vertices(loaded.vertices, loaded.faces)))
        self.loaded = loaded
        points, self.face_of = scattered(loaded, 400_000)
        self.tree = cKDTree(points.numpy())

    def colors(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Of the nearest point of the surface."""
        near = torch.from_numpy(self.tree.query(x.numpy(), NEAREST)[1])
        faces = self.face_of[near]
        weights, distance = nearest_weights(x[:, None], self.loaded.vertices[self.loaded.faces[faces]])
        best = distance.argmin(1)
        rows = torch.arange(len(x))
        return self.loaded.display_colors(faces[rows, best], weights[rows, best])

    def views(self, cameras: Cameras) -> Float[Tensor, "B 4 H W"]:
        return pictures(self.loaded, cameras)


def read_file(path: Path, texture: Path | None) -> ColoredMesh:
    if not path.is_file():
        raise UserError(f"{path}: no such mesh file")
    loaded = read_mesh(path)
    loaded = loaded.move(loaded.vertices.float())
    center = (loaded.vertices.amin(0) + loaded.vertices.amax(0)) / 2
    vertices = loaded.vertices - center
    vertices = vertices * (RADIUS / vertices.norm(dim=1).max())
    if texture is None:
        return loaded.move(vertices)
    color = BaseColor(texture=Texture(decode_image(texture.read_bytes())))
    plain = torch.zeros(len(loaded.faces)).long()
    return replace(loaded, vertices=vertices, colors=(color,), color_of_face=plain)


def scattered(loaded: ColoredMesh, count: int) -> tuple[Float[Tensor, "P 3"], Tensor]:
    """Points all over the surface, and their faces. Every face has its corners' middle among them."""
    size = face_cross(loaded.vertices, loaded.faces).norm(dim=-1)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.multinomial(size.double(), count, replacement=True, generator=generator)
    face = torch.cat([torch.arange(len(loaded.faces)), chosen])
    weights = torch.rand(len(face), 3, generator=generator).clamp_min(1e-6).log()
    weights = weights / weights.sum(1, keepdim=True)
    return (loaded.vertices[loaded.faces[face]] * weights[..., None]).sum(1), face


def nearest_weights(x: Float[Tensor, "N 1 3"], corners: Float[Tensor, "N K 3 3"]) -> tuple[Tensor, Tensor]:
    """Weights of the corners at the points of triangles nearest to ``x`` (on rims nearly so), and the distances."""
    a, b, c = corners.unbind(2)
    normal = torch.linalg.cross(b - a, c - a)
    square = normal.square().sum(-1).clamp_min(1e-30)
    v = (torch.linalg.cross(x - a, c - a) * normal).sum(-1) / square
    w = (torch.linalg.cross(b - a, x - a) * normal).sum(-1) / square
    weights = torch.stack([1 - v - w, v, w], -1).clamp_min(0)
    weights = weights / weights.sum(-1, keepdim=True)
    return weights, ((corners * weights[..., None]).sum(2) - x).norm(dim=-1)


class Timed(MeshExporter):
    """The exporter, and the seconds (clock, all cores) that decimation and unwrapping took."""

    def __init__(self, config: MeshExporter.Config) -> None:
        super().__init__(config)
        self.clock, self.cores = 0.0, 0.0

    @contextmanager
    def _counted(self) -> Iterator[None]:
        clock, cores = time.monotonic(), core_seconds()
        yield
        self.clock, self.cores = self.clock + time.monotonic() - clock, self.cores + core_seconds() - cores

    def _decimated(self, mesh: Mesh) -> Mesh:
        with self._counted():
            return super()._decimated(mesh)

    def _atlas(self, mesh: Mesh) -> Atlas | None:
        with self._counted():
            return super()._atlas(mesh)


def core_seconds() -> float:
    """What this process and those it has waited for took of all cores."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@dataclass(frozen=True)
class Row:
    """One object: faces of its source, what was written, and how near that is."""

    name: str
    faces: int
    written: int
    kilobytes: float
    charts: str
    closed: str
    seconds: float
    unwrap: float
    unwrap_cores: float
    psnr: float
    worst: float

    def cells(self) -> list[str]:
        counts = [self.name, str(self.faces), str(self.written), f"{self.kilobytes:.0f}"]
        return [
            *counts,
            self.charts,
            self.closed,
            *(f"{value:.0f}" for value in (self.seconds, self.unwrap, self.unwrap_cores)),
            f"{self.psnr:.1f}",
            f"{self.worst:.1f}",
        ]


HEAD = ["object", "faces", "written", "kB", "charts", "watertight, genus"]
HEAD += ["s", "unwrap s", "CPU s", "PSNR, dB", "worst view"]


def round_trip(source: Source, options: dict, cameras: Cameras, out: Path) -> tuple[Row, Tensor]:
    """Export, read back and compare. Returns the row and a picture of both."""
    exporter = Timed(parse(MeshExporter.Config, options, "exporter"))
    began = time.monotonic()
    files = exporter.export(source, Colors(), out / source.name.replace(" ", "-"))
    seconds = time.monotonic() - began
    report = yaml.safe_load(files[-1].read_text())
    loaded = read_mesh(files[0])
    ours, truth = (
        rgba[:, :3] + 1 - rgba[:, 3:] for rgba in (pictures(loaded, cameras), source.views(cameras))
    )
    psnr = -10 * torch.log10((ours - truth).square().mean((1, 2, 3)).clamp_min(1e-10))
    texture = report["texture"]
    row = Row(
        source.name,
        report["faces_before"],
        report["faces"],
        sum(file.stat().st_size for file in files[:-1]) / 1024,
        f"{texture['charts']} {texture['method']}" if texture else "-",
        f"yes, {report['genus']}" if report["watertight"] else "no",
        seconds,
        exporter.clock,
        exporter.cores,
        float(psnr.mean()),
        float(psnr.min()),
    )
    return row, torch.cat([truth[:3], ours[:3]])


def table(rows: Sequence[Row]) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def sources(names: Sequence[str], large: bool) -> list[Source]:
    seeds = [int(name) for name in names if name.isdigit()]
    files = [tuple(map(Path, name.split(":"))) for name in names if not name.isdigit()]
    made: list[Source] = [*map(ToySource, seeds), *(FileSource(*pair) for pair in files)]
    return [*made, large_toy(TEST_SEED + 100)] if large else made


def large_toy(seed: int) -> Source:
    """A toy on so fine a lattice that its mesh has LARGE_FACES faces or more."""
    faces = len(toy_mesh(make_toy(seed), LATTICE).faces)
    source = ToySource(seed, int(LATTICE * (LARGE_FACES / faces) ** 0.5) + 4)
    source.name += " fine"
    return source


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "objects", nargs="*", help="seeds of toys, mesh files, and key=value exporter options"
    )
    parser.add_argument("--fmt", default="glb", help="format to write")
    parser.add_argument("--views", type=int, default=6)
    parser.add_argument("--size", type=int, default=512, help="pixels a side")
    parser.add_argument(
        "--large", action="store_true", help="add a toy with 200k faces (default without objects)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "export_round_trip")
    args = parser.parse_intermixed_args(argv)
    given = dict(item.split("=", 1) for item in args.objects if "=" in item)
    options = {
        "texture_size": 2048,
        **{key: yaml.safe_load(value) for key, value in given.items()},
        "fmt": args.fmt,
    }
    names = [item for item in args.objects if "=" not in item]
    chosen = names or [str(TEST_SEED + 100 + i) for i in range(6)]
    cameras = held_out_cameras(args.views, args.size)
    rows, sheet = [], []
    try:
        for source in sources(chosen, args.large or not names):
            row, both = round_trip(source, options, cameras, args.out)
            print(" ".join(f"{head}: {cell};" for head, cell in zip(HEAD, row.cells())), flush=True)
            rows.append(row)
            sheet.append(both)
            write_summary(args.out, rows, sheet, args.size)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(rows))
    return 0


def write_summary(out: Path, rows: Sequence[Row], sheet: Sequence[Tensor], size: int) -> None:
    (out / "table.md").write_text(table(rows) + "\n")
    small = torch.nn.functional.avg_pool2d(torch.cat(list(sheet)), max(1, size // 256))
    write_picture(out / "sheet.png", contact_sheet(small, 3))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("usd.exporter").setLevel(logging.INFO)
    torch.set_num_threads(1)
    sys.exit(main())
