#!/usr/bin/env python3
"""Reconstruction of toybox objects from ground-truth views: pictures and surfaces against the truth.

    python benchmarks/reconstruct.py                              6 objects from 64 views of 128 px
    python benchmarks/reconstruct.py --objects 1 trainer.max_steps=1000
    python benchmarks/reconstruct.py --inputs syncdreamer wonder3d     from those systems' views, made of the truth

Each (object, input) is one training and one export by ``launch.py`` and one file ``runs/<seed>-<input>.json``. A second
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

from usd.data.convert import layout_cameras, write_layout  # noqa: E402
from usd.data.pictures import contact_sheet, over, read_rgba, resize_rgba, write_picture  # noqa: E402
from usd.data.toy_views import see_toy  # noqa: E402
from usd.evaluation.mesh_source import read_mesh  # noqa: E402
from usd.evaluation.protocol import compare_surfaces  # noqa: E402
from usd.toybox import REFERENCE_AZIMUTH_DEG, TEST_SEED  # noqa: E402
from usd.toybox.__main__ import write_toy  # noqa: E402
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
class Bench:
    """What is reconstructed, and where it is kept."""

    seeds: tuple[int, ...]
    inputs: tuple[str, ...]
    out: Path
    gpu: str | None
    overrides: tuple[str, ...]

    def views(self, seed: int, kind: str) -> Path:
        return self.out / "toys" / f"{seed}-{kind}"

    def trial(self, seed: int, kind: str) -> Path:
        return self.out / "trials" / "bench" / f"{seed}-{kind}"

    def result(self, seed: int, kind: str) -> Path:
        return self.out / "runs" / f"{seed}-{kind}.json"

    def settings(self, kind: str) -> list[str]:
        return [INPUTS[kind], *self.overrides]


def make_views(bench: Bench, seed: int, kind: str) -> None:
    """The input of a run, and the views that judge it: from the same heights, between those of training."""
    folder = bench.views(seed, kind)
    if (folder / "done").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if kind in ("views", "judged"):
        (folder / "views").mkdir(exist_ok=True)
        write_toy(make_toy(seed), folder, VIEWS if kind == "views" else JUDGED, SIZE)
    else:
        truth = see_toy(seed, layout_cameras(kind, 256, REFERENCE_AZIMUTH_DEG))
        write_layout(truth, folder, kind, REFERENCE_AZIMUTH_DEG)
    (folder / "done").touch()


def known(bench: Bench, seed: int, kind: str) -> dict | None:
    """The stored result, if it was made with the same settings."""
    file = bench.result(seed, kind)
    stored = json.loads(file.read_text()) if file.is_file() else None
    return stored if stored and stored["settings"] == bench.settings(kind) else None


def launch(bench: Bench, seed: int, kind: str, mode: str, *more: str) -> None:
    trial = bench.trial(seed, kind)
    command = [sys.executable, str(ROOT / "launch.py"), "--config", str(CONFIGS / INPUTS[kind]), mode]
    command += ["--gpu", bench.gpu] if bench.gpu else []
    command += [f"exp_root_dir={bench.out / 'trials'}", "name=bench", f"tag={trial.name}"]
    command += ["use_timestamp=false", f"data.path={bench.views(seed, kind)}"]
    command += [f"data.eval_path={bench.views(seed, 'judged')}", "trainer.enable_progress_bar=false"]
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


def perform(bench: Bench, seed: int, kind: str) -> None:
    """Train (or go on), export, measure, store."""
    trial = bench.trial(seed, kind)
    last, mark = trial / "ckpts" / "last.ckpt", trial / "settings.json"
    state = json.loads(mark.read_text()) if mark.is_file() else {}
    same = last.is_file() and state.get("settings") == bench.settings(kind)
    trial.mkdir(parents=True, exist_ok=True)
    began, before = spent(), {key: state.get(key, 0.0) if same else 0.0 for key in TIMES}
    mark.write_text(json.dumps({"settings": bench.settings(kind), **before}))
    try:
        launch(bench, seed, kind, "--train", *([f"resume={last}"] if same else []))
    finally:
        times = {key: before[key] + now - then for key, now, then in zip(TIMES, spent(), began)}
        mark.write_text(json.dumps({"settings": bench.settings(kind), **times}))
    launch(bench, seed, kind, "--export", f"resume={last}", "exporter.fmt=ply", "exporter.target_faces=null")
    result = {"seed": seed, "input": kind, "settings": bench.settings(kind), **measured(bench, seed, kind)}
    result |= {**times, "caption": make_toy(seed).caption}
    file = bench.result(seed, kind)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1))
    print(f"{seed} {kind}: " + ", ".join(f"{key} {result[key]:.4g}" for key in FIGURES), flush=True)


def spent() -> tuple[float, float]:
    """Minutes on the clock, and minutes of all cores that finished runs took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() / 60, (used.ru_utime + used.ru_stime) / 60


def newest(trial: Path, pattern: str) -> Path:
    return max((trial / "save").glob(pattern), key=lambda path: path.stat().st_mtime)


def measured(bench: Bench, seed: int, kind: str) -> dict[str, float]:
    """Figures of the pictures as the test wrote them, and of the surface by the protocol of usd.evaluation."""
    trial = bench.trial(seed, kind)
    pictures = json.loads((newest(trial, "it*-test") / "metrics.json").read_text())
    mesh = read_mesh(newest(trial, "it*-export/model.ply")).mesh
    figures = compare_surfaces(mesh, toy_mesh(make_toy(seed)), "none")[0].figures
    return {key: {**figures, **pictures}[key] for key in FIGURES if key not in TIMES}


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
            f"| {result['seed']} {result['caption']} | {result['input']} | " + " | ".join(cells) + " |"
        )
    return "\n".join([*lines, ""])


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4g} +- {deviation:.2g}"


def sheet(bench: Bench, results: list[dict], cell: int = 128) -> torch.Tensor:
    """Two rows a run: true views, and the same views of the reconstruction."""
    rows = []
    for result in results:
        views = newest(bench.trial(result["seed"], result["input"]), "it*-test")
        rows += [bench.views(result["seed"], "judged") / f"views/{i:04d}.png" for i in SHOWN]
        rows += [views / f"{i}.png" for i in SHOWN]
    pictures = [over(resize_rgba(read_rgba(file), cell, cell)) for file in rows]
    return contact_sheet(torch.stack(pictures), 2 * len(SHOWN))


def write_summary(bench: Bench) -> str:
    found = [known(bench, seed, kind) for kind in bench.inputs for seed in bench.seeds]
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
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "reconstruct-bench")
    parser.add_argument("--gpu", help="passed on to the launcher")
    args, rest = parser.parse_known_args(argv)
    wrong = [item for item in rest if "=" not in item or item.startswith("-")]
    if wrong:
        parser.error(f"{wrong[0]}: expected key=value")
    if args.first_seed < TEST_SEED:
        parser.error(f"--first-seed {args.first_seed}: expected the test split, {TEST_SEED} and up")
    seeds = tuple(range(args.first_seed, args.first_seed + args.objects))
    return Bench(seeds, tuple(args.inputs), args.out.resolve(), args.gpu, tuple(rest))


def main() -> int:
    bench = arguments()
    todo = [(s, kind) for kind in bench.inputs for s in bench.seeds if known(bench, s, kind) is None]
    print(
        f"{len(todo)} of {len(bench.seeds) * len(bench.inputs)} runs to do; results in {bench.out}",
        flush=True,
    )
    failures = 0
    for seed, kind in todo:
        make_views(bench, seed, kind)
        make_views(bench, seed, "judged")
        try:
            perform(bench, seed, kind)
        except subprocess.CalledProcessError:
            failures += 1
            print(f"{seed} {kind}: failed; see {bench.trial(seed, kind) / 'log.txt'}", flush=True)
        write_summary(bench)
    print(write_summary(bench))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
