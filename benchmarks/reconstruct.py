#!/usr/bin/env python3
"""Reconstruction of objects from ground-truth views: pictures and surfaces against the truth.

    python benchmarks/reconstruct.py                              6 objects from 64 views of 128 px
    python benchmarks/reconstruct.py --objects 1 trainer.max_steps=1000
    python benchmarks/reconstruct.py --inputs syncdreamer wonder3d     from those systems' views, made of the truth
    python benchmarks/reconstruct.py --meshes a.glb b.obj:picture.png  from 64 views of these mesh files instead of toys

A mesh file is centred and made as large as toys are; behind a colon may stand the texture of one that does not name it.
Each (object, input) is one training and one export by ``launch.py`` and one file ``runs/<name>-<input>.json``. A second
call continues where the first was stopped, also in the middle of a run. ``table.md`` and ``sheet.png`` are written to
``--out`` after every run. ``key=value`` arguments apply to every run and belong to its identity. Minutes are wall clock
of the training, its validations and test included; the export is not counted. CPU minutes are those that its threads
spent (on a busy machine more than they need: idle threads wait for the late ones by spinning).
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.export_round_trip import read_file  # noqa: E402
from usd.core.errors import UserError  # noqa: E402
from usd.core.types import Mesh  # noqa: E402
from usd.data.convert import layout_cameras, write_layout  # noqa: E402
from usd.data.pictures import contact_sheet, over, read_rgba, resize_rgba, write_picture  # noqa: E402
from usd.data.toy_views import see_toy  # noqa: E402
from usd.data.transforms import write_transforms  # noqa: E402
from usd.evaluation.mesh_source import read_mesh  # noqa: E402
from usd.evaluation.protocol import compare_surfaces  # noqa: E402
from usd.exporter.read_back import Loaded, pictures  # noqa: E402
from usd.toybox import REFERENCE_AZIMUTH_DEG, TEST_SEED  # noqa: E402
from usd.toybox.__main__ import write_toy  # noqa: E402
from usd.toybox.cameras import held_out_cameras  # noqa: E402
from usd.toybox.mesh import toy_mesh  # noqa: E402
from usd.toybox.objects import make_toy  # noqa: E402

CONFIGS = ROOT / "configs"
VIEWS, SIZE, JUDGED, SHOWN = 64, 128, 16, (1, 6, 11, 15)
INPUTS = {"views": "reconstruct.yaml", "syncdreamer": "reconstruct-generated.yaml"}
INPUTS["wonder3d"] = INPUTS["syncdreamer"]
FIGURES = (
    "psnr",
    "ssim",
    "mask_iou",
    "chamfer_area",
    "chamfer_floor",
    "volume_iou",
    "normal_consistency",
    "minutes",
    "cpu_minutes",
)
TIMES = ("minutes", "cpu_minutes")


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
        truth = see_toy(self.seed, layout_cameras(kind, 256, REFERENCE_AZIMUTH_DEG))
        write_layout(truth, folder, kind, REFERENCE_AZIMUTH_DEG)


@dataclass(frozen=True)
class FileObject:
    """A mesh file, seen without light in its own colours."""

    path: Path
    texture: Path | None = None

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def caption(self) -> str:
        return self.path.name

    def read(self) -> Loaded:
        return read_file(self.path, self.texture)

    def mesh(self) -> Mesh:
        loaded = self.read()
        return Mesh(loaded.vertices, loaded.faces)

    def write_views(self, folder: Path, count: int) -> None:
        cameras = held_out_cameras(count, SIZE)
        names = [f"views/{i:04d}.png" for i in range(count)]
        for name, made in zip(names, pictures(self.read(), cameras, 3), strict=True):
            straight = torch.cat([made[:3] / made[3:].clamp_min(1e-6), made[3:]])
            write_picture(folder / name, straight.clamp(0, 1))
        write_transforms(folder / "transforms.json", [cameras[[i]] for i in range(count)], names)

    def write_layout(self, folder: Path, kind: str) -> None:
        raise UserError(f"--inputs {kind}: has no views of mesh files; expected views")


Object = ToyObject | FileObject


@dataclass(frozen=True)
class Bench:
    """What is reconstructed, and where it is kept."""

    objects: tuple[Object, ...]
    inputs: tuple[str, ...]
    out: Path
    gpu: str | None
    overrides: tuple[str, ...]

    def views(self, name: str, kind: str) -> Path:
        return self.out / "toys" / f"{name}-{kind}"

    def trial(self, name: str, kind: str) -> Path:
        return self.out / "trials" / "bench" / f"{name}-{kind}"

    def result(self, name: str, kind: str) -> Path:
        return self.out / "runs" / f"{name}-{kind}.json"

    def settings(self, kind: str) -> list[str]:
        return [INPUTS[kind], *self.overrides]


def make_views(bench: Bench, it: Object, kind: str) -> None:
    """The input of a run, and the views that judge it: from the same heights, between those of training."""
    folder = bench.views(it.name, kind)
    if (folder / "done").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if kind in ("views", "judged"):
        (folder / "views").mkdir(exist_ok=True)
        it.write_views(folder, VIEWS if kind == "views" else JUDGED)
    else:
        it.write_layout(folder, kind)
    (folder / "done").touch()


def known(bench: Bench, it: Object, kind: str) -> dict | None:
    """The stored result, if it was made with the same settings."""
    file = bench.result(it.name, kind)
    stored = json.loads(file.read_text()) if file.is_file() else None
    return stored if stored and stored["settings"] == bench.settings(kind) else None


def launch(bench: Bench, name: str, kind: str, mode: str, *more: str) -> None:
    trial = bench.trial(name, kind)
    command = [sys.executable, str(ROOT / "launch.py"), "--config", str(CONFIGS / INPUTS[kind]), mode]
    command += ["--gpu", bench.gpu] if bench.gpu else []
    command += [f"exp_root_dir={bench.out / 'trials'}", "name=bench", f"tag={trial.name}"]
    command += ["use_timestamp=false", f"data.path={bench.views(name, kind)}"]
    command += [f"data.eval_path={bench.views(name, 'judged')}", "trainer.enable_progress_bar=false"]
    if kind != "views":
        command.append(f"data.input_azimuth_deg={REFERENCE_AZIMUTH_DEG}")
    trial.mkdir(parents=True, exist_ok=True)
    with open(trial / "log.txt", "a") as log:
        subprocess.run(
            [*command, *bench.overrides, *more],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
            env=dict(os.environ),
        )


def perform(bench: Bench, it: Object, kind: str) -> None:
    """Train (or go on), export, measure, store."""
    name, trial = it.name, bench.trial(it.name, kind)
    last, mark = trial / "ckpts" / "last.ckpt", trial / "settings.json"
    state = json.loads(mark.read_text()) if mark.is_file() else {}
    same = last.is_file() and state.get("settings") == bench.settings(kind)
    trial.mkdir(parents=True, exist_ok=True)
    began, before = spent(), {key: state.get(key, 0.0) if same else 0.0 for key in TIMES}
    mark.write_text(json.dumps({"settings": bench.settings(kind), **before}))
    try:
        launch(bench, name, kind, "--train", *([f"resume={last}"] if same else []))
    finally:
        times = {key: before[key] + now - then for key, now, then in zip(TIMES, spent(), began)}
        mark.write_text(json.dumps({"settings": bench.settings(kind), **times}))
    launch(bench, name, kind, "--export", f"resume={last}", "exporter.fmt=ply", "exporter.target_faces=null")
    result = {"name": name, "input": kind, "settings": bench.settings(kind), **measured(bench, it, kind)}
    result |= {**times, "caption": it.caption}
    file = bench.result(name, kind)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1))
    print(f"{name} {kind}: " + ", ".join(f"{key} {result[key]:.4g}" for key in FIGURES), flush=True)


def spent() -> tuple[float, float]:
    """Minutes on the clock, and minutes of all cores that finished runs took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() / 60, (used.ru_utime + used.ru_stime) / 60


def newest(trial: Path, pattern: str) -> Path:
    return max((trial / "save").glob(pattern), key=lambda path: path.stat().st_mtime)


def measured(bench: Bench, it: Object, kind: str) -> dict[str, float]:
    """Figures of the pictures as the test wrote them, and of the surface by the protocol of usd.evaluation."""
    trial = bench.trial(it.name, kind)
    shown = json.loads((newest(trial, "it*-test") / "metrics.json").read_text())
    mesh = read_mesh(newest(trial, "it*-export/model.ply")).mesh
    figures = compare_surfaces(mesh, it.mesh(), "none")[0].figures
    return {key: {**figures, **shown}[key] for key in FIGURES if key not in TIMES}


def table(bench: Bench, results: list[dict]) -> str:
    """Means and spreads by input, then every object."""
    lines = [
        f"Reconstruction, {JUDGED} held-out views of {SIZE} px; means +- standard deviation over objects.",
        "",
    ]
    head = "| input | objects | " + " | ".join(FIGURES) + " |"
    lines += [head, "|---" * (len(FIGURES) + 2) + "|"]
    for kind in bench.inputs:
        mine = [result for result in results if result["input"] == kind]
        if mine:
            cells = [spread([result[key] for result in mine]) for key in FIGURES]
            lines.append(f"| {kind} | {len(mine)} | " + " | ".join(cells) + " |")
    lines += ["", "| object | input | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 2) + "|"]
    for result in results:
        cells = [f"{result[key]:.4g}" for key in FIGURES]
        lines.append(
            f"| {result['name']} {result['caption']} | {result['input']} | " + " | ".join(cells) + " |"
        )
    return "\n".join([*lines, ""])


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4g} +- {deviation:.2g}"


def sheet(bench: Bench, results: list[dict], cell: int = 128) -> torch.Tensor:
    """Two rows a run: true views, and the same views of the reconstruction."""
    rows = []
    for result in results:
        views = newest(bench.trial(result["name"], result["input"]), "it*-test")
        rows += [bench.views(result["name"], "judged") / f"views/{i:04d}.png" for i in SHOWN]
        rows += [views / f"{i}.png" for i in SHOWN]
    cells = [over(resize_rgba(read_rgba(file), cell, cell)) for file in rows]
    return contact_sheet(torch.stack(cells), 2 * len(SHOWN))


def write_summary(bench: Bench) -> str:
    found = [known(bench, it, kind) for kind in bench.inputs for it in bench.objects]
    results = [result for result in found if result is not None]
    text = table(bench, results)
    (bench.out / "table.md").write_text(text)
    if results:
        write_picture(bench.out / "sheet.png", sheet(bench, results))
    return text


def arguments(argv: list[str] | None = None) -> Bench:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=6, help="how many objects")
    parser.add_argument("--first-seed", type=int, default=TEST_SEED, help="seed of the first object")
    parser.add_argument("--inputs", nargs="+", default=["views"], choices=INPUTS)
    parser.add_argument("--meshes", nargs="+", default=[], metavar="FILE[:TEXTURE]", help="instead of toys")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "reconstruct-bench")
    parser.add_argument("--gpu", help="passed on to the launcher")
    args, rest = parser.parse_known_args(argv)
    rest += [item for item in args.meshes if "=" in item]
    wrong = [item for item in rest if "=" not in item or item.startswith("-")]
    if wrong:
        parser.error(f"{wrong[0]}: expected key=value")
    if args.first_seed < TEST_SEED:
        parser.error(f"--first-seed {args.first_seed}: expected the test split, {TEST_SEED} and up")
    toys = (ToyObject(args.first_seed + i) for i in range(args.objects))
    files = (FileObject(*map(Path, name.split(":"))) for name in args.meshes if "=" not in name)
    return Bench(
        tuple(files if args.meshes else toys), tuple(args.inputs), args.out.resolve(), args.gpu, tuple(rest)
    )


def main() -> int:
    bench = arguments()
    try:
        return run(bench)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(bench: Bench) -> int:
    """All runs that are missing; how many failed decides the exit code."""
    todo = [(it, kind) for kind in bench.inputs for it in bench.objects if known(bench, it, kind) is None]
    print(
        f"{len(todo)} of {len(bench.objects) * len(bench.inputs)} runs to do; results in {bench.out}",
        flush=True,
    )
    failures = 0
    for it, kind in todo:
        make_views(bench, it, kind)
        make_views(bench, it, "judged")
        try:
            perform(bench, it, kind)
        except subprocess.CalledProcessError:
            failures += 1
            print(f"{it.name} {kind}: failed; see {bench.trial(it.name, kind) / 'log.txt'}", flush=True)
        write_summary(bench)
    print(write_summary(bench))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
