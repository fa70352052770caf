#!/usr/bin/env python3
"""Reconstruction of objects from ground-truth views: pictures and surfaces against the truth.

    python benchmarks/reconstruct.py                              6 objects from 64 views of 128 px
    python benchmarks/reconstruct.py --objects 1 trainer.max_steps=1000
    python benchmarks/reconstruct.py --inputs syncdreamer wonder3d     from those systems' views, made of the truth
    python benchmarks/reconstruct.py --meshes a.glb b.obj:picture.png  from 64 views of these mesh files instead of toys
    python benchmarks/reconstruct.py --objects 6 --meshes a.glb        toys and mesh files
    python benchmarks/reconstruct.py --inputs views splats --docs      surfaces and splats, also into docs/splats.md

``views`` and ``splats`` are made of the same views, the one a surface and the other Gaussian splats, whose mesh is what
their depth pictures say. A mesh file is centered and made as large as toys are; behind a colon may stand the texture of
one that does not name it.
Each (object, input) is one training and one export by ``launch.py`` and one file ``runs/<name>-<input>/<digest>.json``.
A second call continues where the first was stopped, also in the middle of a run. ``table.md`` and ``sheet.png`` are
written to ``--out`` after every run. ``key=value`` arguments apply to every run and belong to its identity. Minutes are
wall clock of the training, its validations and test included; the export is not counted. CPU minutes are those that its
threads spent (on a busy machine more than they need: idle threads wait for the late ones by spinning).
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import ROOT, runs
from benchmarks.claims.shared import publish
from benchmarks.export_round_trip import read_file
from benchmarks.tables import Figures, number, spread
from usd.app.toys import write_toy
from usd.core.errors import UserError
from usd.core.types import Mesh
from usd.data.convert import layout_cameras, write_layout
from usd.data.pictures import contact_sheet, over, read_rgba, resize_rgba, write_picture
from usd.data.toy_views import render_toy_views
from usd.data.transforms import write_transforms
from usd.evaluation.mesh_views import open_mesh
from usd.evaluation.protocol import compare_surfaces
from usd.mesh_io.colored_mesh import ColoredMesh
from usd.mesh_io.pictures import pictures
from usd.toybox import REFERENCE_AZIMUTH_DEG, TEST_SEED
from usd.toybox.cameras import held_out_cameras
from usd.toybox.mesh import toy_mesh
from usd.toybox.objects import make_toy

CONFIGS = ROOT / "configs"
VIEWS, SIZE, JUDGED, SHOWN = 64, 128, 16, (1, 6, 11, 15)
TOYS = 6
INPUTS = {
    "views": "reconstruct.yaml",
    "splats": "reconstruct-splats.yaml",
    "syncdreamer": "reconstruct-generated.yaml",
    "wonder3d": "reconstruct-generated.yaml",
}
SPLATS = "splats"
PAGE = ROOT / "docs" / "splats.md"
SHEET = ROOT / "docs" / "pictures" / "splats_objects.png"
FIGURES = {
    "psnr": 1,
    "ssim": 3,
    "mask_iou": 3,
    "chamfer_area": 4,
    "chamfer_floor": 4,
    "volume_iou": 3,
    "normal_consistency": 3,
    "minutes": 1,
    "cpu_minutes": 1,
}  # and their digits


@dataclass(frozen=True)
class ToyObject:
    """A toy of the toybox."""

    seed: int

    @property
    def name(self) -> str:
        return str(self.seed)

    @property
    def caption(self) -> str:
        return make_toy(self.seed).caption

    def mesh(self) -> Mesh:
        return toy_mesh(make_toy(self.seed))

    def write_views(self, folder: Path, count: int) -> None:
        write_toy(make_toy(self.seed), folder, count, SIZE)

    def write_layout(self, folder: Path, kind: str) -> None:
        truth = render_toy_views(self.seed, layout_cameras(kind, 256, REFERENCE_AZIMUTH_DEG))
        write_layout(truth, folder, kind, REFERENCE_AZIMUTH_DEG)


@dataclass(frozen=True)
class FileObject:
    """A mesh file, seen without light in its own colors."""

    path: Path
    texture: Path | None = None

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def caption(self) -> str:
        return self.path.name

    def read(self) -> ColoredMesh:
        return read_file(self.path, self.texture)

    def mesh(self) -> Mesh:
        loaded = self.read()
        return Mesh(loaded.vertices.float(), loaded.faces)

    def write_views(self, folder: Path, count: int) -> None:
        cameras = held_out_cameras(count, SIZE)
        names = [f"views/{i:04d}.png" for i in range(count)]
        for name, made in zip(names, pictures(self.read(), cameras, 3), strict=True):
            straight = torch.cat([made[:3] / made[3:].clamp_min(1e-6), made[3:]])
            write_picture(folder / name, straight.clamp(0, 1))
        write_transforms(folder / "transforms.json", [cameras[[i]] for i in range(count)], names)

    def write_layout(self, folder: Path, kind: str) -> None:
        raise UserError(f"{folder}: --inputs {kind}: has no views of mesh files; expected views")


Object = ToyObject | FileObject


class ViewsBench(runs.Bench[Object]):
    """Objects under the kinds of views that they are reconstructed from."""

    def name(self, subject: Object) -> str:
        return subject.name

    def views(self, name: str, kind: str) -> Path:
        """Return the folder of an object's views of a kind; splats are made of those that surfaces are made of."""
        return self.out / "toys" / f"{name}-{'views' if kind == SPLATS else kind}"

    def settings(self, method: str) -> dict[str, object]:
        return {
            "recipe": runs.recipe(self.config / INPUTS[method]),
            "input": method,
            "overrides": list(self.overrides),
        }

    def launch(self, it: Object, kind: str) -> runs.Launch:
        data = [f"data.path={self.views(it.name, kind)}", f"data.eval_path={self.views(it.name, 'judged')}"]
        if kind not in ("views", SPLATS):
            data.append(f"data.input_azimuth_deg={REFERENCE_AZIMUTH_DEG}")
        return runs.Launch(
            self.trial(it, kind), (self.config / INPUTS[kind],), (*data, *self.overrides), self.gpu
        )


def make_views(bench: ViewsBench, it: Object, kind: str) -> None:
    """The input of a run, and the views that judge it: from the same heights, between those of training."""
    folder = bench.views(it.name, kind)
    if (folder / "done").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if kind in ("views", SPLATS, "judged"):
        (folder / "views").mkdir(exist_ok=True)
        it.write_views(folder, JUDGED if kind == "judged" else VIEWS)
    else:
        it.write_layout(folder, kind)
    (folder / "done").touch()


def measured(bench: ViewsBench, it: Object, kind: str) -> Figures:
    """Figures of the test's pictures, of the surface by the protocol of usd.evaluation, and the times."""
    make_views(bench, it, kind)
    make_views(bench, it, "judged")
    launch = bench.launch(it, kind)
    launch.trained({})
    times = launch.times
    exporter = ["exporter_type=mesh-exporter", "exporter.fmt=ply", "exporter.target_faces=null"]
    launch("--export", f"resume={launch.last}", *exporter)
    shown = json.loads((newest(launch.trial, "it*-test") / "metrics.json").read_text())
    mesh = open_mesh(newest(launch.trial, "it*-export/model.ply")).mesh
    figures = compare_surfaces(mesh, it.mesh(), "none")[0].figures
    return {key: float({**figures, **shown, **times}[key]) for key in FIGURES}


def newest(trial: Path, pattern: str) -> Path:
    return max((trial / "save").glob(pattern), key=lambda path: path.stat().st_mtime)


def table(bench: ViewsBench, rows: Mapping[str, Mapping[str, Figures]]) -> str:
    """Means and spreads by input, then every object."""
    lines = [
        f"Reconstruction, {JUDGED} held-out views of {SIZE} px; means ± standard deviation over objects.",
        "",
    ]
    head = "| input | objects | " + " | ".join(FIGURES) + " |"
    lines += [head, "|---" * (len(FIGURES) + 2) + "|"]
    for kind, found in rows.items():
        if found:
            columns = {key: [number(figures[key]) for figures in found.values()] for key in FIGURES}
            cells = [spread(columns[key], digits) for key, digits in FIGURES.items()]
            lines.append(f"| {kind} | {len(found)} | " + " | ".join(cells) + " |")
    lines += ["", "| object | input | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 2) + "|"]
    captions = {it.name: it.caption for it in bench.subjects}
    for kind, found in rows.items():
        for name, figures in found.items():
            cells = [f"{number(figures[key]):.{digits}f}" for key, digits in FIGURES.items()]
            lines.append(f"| {name} {captions[name]} | {kind} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def sheet(bench: ViewsBench, made: Sequence[tuple[Object, str]], cell: int = 128) -> torch.Tensor:
    """A row a run, (object, input): true views, and the same views of the reconstruction."""
    files = []
    for it, kind in made:
        views = newest(bench.trial(it, kind), "it*-test")
        files += [bench.views(it.name, "judged") / f"views/{i:04d}.png" for i in SHOWN]
        files += [views / f"{i}.png" for i in SHOWN]
    cells = [over(resize_rgba(read_rgba(file), cell, cell)) for file in files]
    return contact_sheet(torch.stack(cells), 2 * len(SHOWN))


def write_summary(bench: ViewsBench, docs: bool = False) -> str:
    """Write the table and the sheet; with ``docs`` also into the page of splats."""
    rows: dict[str, dict[str, Figures]] = {kind: bench.found(kind) for kind in bench.methods}
    text = table(bench, rows)
    (bench.out / "table.md").write_text(text, encoding="utf-8")
    made = [(it, kind) for kind, found in rows.items() for it in bench.subjects if it.name in found]
    if made:
        write_picture(bench.out / "sheet.png", sheet(bench, made))
    if docs:
        publish("reconstruct", text, PAGE)
        shutil.copyfile(bench.out / "sheet.png", SHEET)
    return text


def arguments(argv: Sequence[str] | None = None) -> tuple[ViewsBench, argparse.Namespace]:
    """Return what is asked for. Raises ``UserError``."""
    parser = runs.bench_parser(__doc__, INPUTS, "reconstruct-bench", flag="--inputs")
    parser.set_defaults(methods=["views"], config=CONFIGS)  # the input says which recipe
    runs.object_flags(parser, TOYS, kind="all", first=TEST_SEED)
    parser.set_defaults(objects=None)  # so many toys, or none beside mesh files
    parser.add_argument(
        "--meshes",
        nargs="+",
        default=[],
        metavar="FILE[:TEXTURE]",
        help="instead of toys, or with --objects beside",
    )
    parser.add_argument("--docs", action="store_true", help="put table and sheet into docs/splats.md")
    args, rest = parser.parse_known_args(argv)
    rest += [item for item in args.meshes if "=" in item]
    files: list[Object] = [FileObject(*map(Path, name.split(":"))) for name in args.meshes if "=" not in name]
    toys: list[Object] = []
    if args.objects is not None or not files:
        args.objects = TOYS if args.objects is None else args.objects
        toys = [ToyObject(seed) for seed in runs.chosen_seeds(args)]
    return ViewsBench((*files, *toys), *runs.bench_fields(args, rest)), args


def main(argv: Sequence[str] | None = None) -> bool:
    """Measure what is not known yet. Returns whether all went well."""
    bench, args = arguments(argv)
    return bench.run(partial(measured, bench), partial(write_summary, bench, args.docs), args.jobs)


if __name__ == "__main__":
    sys.exit(runs.command(main))
