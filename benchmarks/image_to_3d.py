#!/usr/bin/env python3
"""Image to 3D on toybox objects of the test split: methods side by side, against ground truth.

    python benchmarks/image_to_3d.py                          12 objects, every method
    python benchmarks/image_to_3d.py --objects 6 --methods usd sds trainer.max_steps=600
    python benchmarks/image_to_3d.py --kind nameless --objects 4 --methods usd

The objects are the first from ``--first-seed`` on that a person would name; ``--kind nameless`` takes the random
compositions of primitives between them, whose hidden sides nobody can know, and ``--kind all`` takes both.

Each (object, method) is one run of ``launch.py`` and one file ``runs/<seed>-<method>.json``. A second call continues
where the first was stopped, also in the middle of a run. ``table.md`` and ``sheet.png`` are written to ``--out`` after
every run. ``key=value`` arguments apply to every trained method and belong to the identity of a run.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from usd.data.pictures import over, read_rgba, resize_rgba, to_bytes  # noqa: E402
from usd.evaluation.views import ViewScore, mean_score, score_view  # noqa: E402
from usd.toybox import TEST_SEED  # noqa: E402
from usd.toybox.__main__ import write_toy  # noqa: E402
from usd.toybox.objects import NAMELESS, make_toy  # noqa: E402

STRONG = ["system.guidance.lambda=0", "system.guidance.guidance_scale=5", "system.loss.lambda_usd=0.5"]
METHODS: dict[str, list[str]] = {
    "usd": [],
    "usd-lambda0": STRONG,
    "sds": ["system.guidance.unconditional=own"],
    "lambda0": ["system.guidance.unconditional=own", *STRONG],
    "reference-only": ["system.loss.lambda_usd=0"],
    "copy-reference": [],
}
MEANING = {
    "usd": "the configuration as it is: Stable Diffusion's unconditional prediction, lambda 1, scale 2",
    "usd-lambda0": "the same with lambda 0, at the scale and weight that suit it (5, 0.5)",
    "sds": "as usd, but against Zero-1-to-3's own unconditional prediction",
    "lambda0": "as usd-lambda0, but against Zero-1-to-3's own unconditional prediction",
    "reference-only": "the reference picture's losses and the regularizers alone",
    "copy-reference": "the reference picture shown for every view",
}
VIEWS, SIZE, SHOWN = 16, 128, (2, 5, 8, 12)  # held-out views, their size, and those on the sheet


@dataclass(frozen=True)
class Bench:
    """What is compared, and where it is kept."""

    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    config: Path
    out: Path
    gpu: str | None
    overrides: tuple[str, ...]

    def toy(self, seed: int) -> Path:
        return self.out / "toys" / str(seed)

    def result(self, seed: int, method: str) -> Path:
        return self.out / "runs" / f"{seed}-{method}.json"

    def trial(self, seed: int, method: str) -> Path:
        return self.out / "trials" / "bench" / f"{seed}-{method}"

    def views(self, seed: int, method: str) -> Path | None:
        """The folder of rendered views of a finished run."""
        return next(iter(sorted(self.trial(seed, method).glob("save/it*-test"))), None)


@dataclass(frozen=True)
class Result:
    """One run. ``overrides`` are compared when a benchmark is continued."""

    seed: int
    method: str
    caption: str
    psnr: float
    ssim: float
    mask_iou: float
    minutes: float
    overrides: list[str]


def known(bench: Bench, seed: int, method: str) -> Result | None:
    """The stored result, if it was made with the same settings."""
    file = bench.result(seed, method)
    stored = Result(**json.loads(file.read_text())) if file.is_file() else None
    return stored if stored and stored.overrides == settings(bench, method) else None


def settings(bench: Bench, method: str) -> list[str]:
    return [] if method == "copy-reference" else [bench.config.name, *METHODS[method], *bench.overrides]


def perform(bench: Bench, seed: int, method: str) -> None:
    """Make one result and store it."""
    began = time.monotonic()
    score = copied(bench.toy(seed)) if method == "copy-reference" else trained(bench, seed, method)
    minutes = (time.monotonic() - began) / 60
    result = Result(
        seed,
        method,
        caption(bench, seed),
        **asdict(score),
        minutes=minutes,
        overrides=settings(bench, method),
    )
    file = bench.result(seed, method)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(result), indent=1))
    print(
        f"{seed} {method}: PSNR {score.psnr:.2f}, SSIM {score.ssim:.3f}, IoU {score.mask_iou:.3f}, {minutes:.1f} min",
        flush=True,
    )


def copied(toy: Path) -> ViewScore:
    return mean_score([score_view(toy / "input.png", toy / f"views/{i:04d}.png") for i in range(VIEWS)])


def trained(bench: Bench, seed: int, method: str) -> ViewScore:
    """Run the launcher to the end, continuing a run that was cut off with the same settings."""
    trial, toy = bench.trial(seed, method), bench.toy(seed)
    command = [sys.executable, str(ROOT / "launch.py"), "--config", str(bench.config), "--train"]
    command += ["--gpu", bench.gpu] if bench.gpu else []
    command += [
        f"exp_root_dir={bench.out / 'trials'}",
        "name=bench",
        f"tag={trial.name}",
        "use_timestamp=false",
    ]
    command += [
        f"system.guidance.image_path={toy / 'input.png'}",
        f"data.eval_transforms={toy / 'transforms.json'}",
    ]
    command += ["data.eval_turntable=false", "trainer.enable_progress_bar=false"]
    command += [*METHODS[method], *bench.overrides]
    last, mark = trial / "ckpts" / "last.ckpt", trial / "settings.json"
    if last.is_file() and mark.is_file() and json.loads(mark.read_text()) == settings(bench, method):
        command.append(f"resume={last}")
    trial.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(settings(bench, method)))
    with open(trial / "log.txt", "a") as log:
        subprocess.run(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=True, env=dict(os.environ)
        )
    views = bench.views(seed, method)
    assert views is not None
    found = json.loads((views / "metrics.json").read_text())
    return ViewScore(found["psnr"], found["ssim"], found["mask_iou"])


def caption(bench: Bench, seed: int) -> str:
    return (bench.toy(seed) / "caption.txt").read_text().strip()


def table(bench: Bench, results: list[Result]) -> str:
    """Means and spreads by method, then every object."""
    lines = [
        f"Image to 3D, {VIEWS} held-out views of {len(bench.seeds)} test objects, `{bench.config.name}`."
    ]
    lines += ["Mean +- standard deviation over objects; PSNR over white, per view then mean.", ""]
    lines += ["| method | objects | PSNR, dB | SSIM | mask IoU | minutes |", "|---|---|---|---|---|---|"]
    for method in bench.methods:
        mine = [result for result in results if result.method == method]
        if mine:
            cells = [
                spread([getattr(result, key) for result in mine])
                for key in ("psnr", "ssim", "mask_iou", "minutes")
            ]
            lines.append(f"| {method} | {len(mine)} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {method}: {MEANING[method]}" for method in bench.methods), ""]
    lines += ["| object | " + " | ".join(bench.methods) + " |", "|---" * (len(bench.methods) + 1) + "|"]
    for seed in bench.seeds:
        mine_by = {result.method: result for result in results if result.seed == seed}
        cells = [f"{r.psnr:.2f} / {r.mask_iou:.2f}" if (r := mine_by.get(m)) else "-" for m in bench.methods]
        lines.append(f"| {seed} {caption(bench, seed)} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "Cells of the second table: PSNR / mask IoU.", ""])


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.3g} +- {deviation:.2g}"


def sheet(bench: Bench, cell: int = 80) -> Image.Image:
    """One row an object: reference, true views, then the same views of every trained method."""
    groups = ["truth", *(method for method in bench.methods if method != "copy-reference")]
    width = 1 + len(SHOWN) * len(groups)
    canvas = Image.new("RGB", (width * cell + 8 * len(groups), 16 + len(bench.seeds) * cell), "white")
    draw = ImageDraw.Draw(canvas)
    for i, name in enumerate(groups):
        draw.text(((1 + i * len(SHOWN)) * cell + 8 * (i + 1), 2), name, fill="black")
    for row, seed in enumerate(bench.seeds):
        top = 16 + row * cell
        paste(canvas, bench.toy(seed) / "input.png", 0, top, cell)
        for i, name in enumerate(groups):
            for j, view in enumerate(SHOWN):
                left = (1 + i * len(SHOWN) + j) * cell + 8 * (i + 1)
                paste(canvas, picture_of(bench, seed, name, view), left, top, cell)
    return canvas


def picture_of(bench: Bench, seed: int, group: str, view: int) -> Path | None:
    if group == "truth":
        return bench.toy(seed) / f"views/{view:04d}.png"
    views = bench.views(seed, group)
    return None if views is None else views / f"{view}.png"


def paste(canvas: Image.Image, file: Path | None, left: int, top: int, cell: int) -> None:
    if file is not None and file.is_file():
        canvas.paste(Image.fromarray(to_bytes(over(resize_rgba(read_rgba(file), cell, cell)))), (left, top))


def write_summary(bench: Bench) -> str:
    results = [r for seed in bench.seeds for method in bench.methods if (r := known(bench, seed, method))]
    text = table(bench, results)
    (bench.out / "table.md").write_text(text)
    sheet(bench).save(bench.out / "sheet.png")
    return text


def seeds_of(kind: str, first: int) -> Iterator[int]:
    """Seeds from ``first`` on whose toys are named, nameless, or either."""
    wanted = {"named": (True,), "nameless": (False,), "all": (True, False)}[kind]
    return (seed for seed in itertools.count(first) if (make_toy(seed).category != NAMELESS) in wanted)


def arguments(argv: list[str] | None = None) -> tuple[Bench, int]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=12, help="how many objects")
    parser.add_argument("--kind", choices=("named", "nameless", "all"), default="named", help="of objects")
    parser.add_argument("--first-seed", type=int, default=TEST_SEED + 100, help="seed of the first object")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "usd-patch-mini.yaml")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "image_to_3d")
    parser.add_argument("--gpu", help="passed on to the launcher")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    args, rest = parser.parse_known_args(argv)
    wrong = [item for item in rest if "=" not in item or item.startswith("-")]
    if wrong:
        parser.error(f"{wrong[0]}: expected key=value")
    if args.first_seed < TEST_SEED:
        parser.error(f"--first-seed {args.first_seed}: expected the test split, {TEST_SEED} and up")
    seeds = tuple(itertools.islice(seeds_of(args.kind, args.first_seed), args.objects))
    out = args.out.resolve()
    return Bench(seeds, tuple(args.methods), args.config.resolve(), out, args.gpu, tuple(rest)), args.jobs


def main() -> int:
    bench, jobs = arguments()
    for seed in bench.seeds:
        bench.toy(seed).mkdir(parents=True, exist_ok=True)
        if not (bench.toy(seed) / "caption.txt").is_file():
            write_toy(make_toy(seed), bench.toy(seed), VIEWS, SIZE)
    todo = [
        (seed, method)
        for method in bench.methods
        for seed in bench.seeds
        if known(bench, seed, method) is None
    ]
    print(
        f"{len(todo)} of {len(bench.seeds) * len(bench.methods)} runs to do; results in {bench.out}",
        flush=True,
    )
    failures = 0
    with ThreadPoolExecutor(jobs) as pool:
        for job, future in [(job, pool.submit(perform, bench, *job)) for job in todo]:
            try:
                future.result()
            except subprocess.CalledProcessError:
                failures += 1
                print(f"{job[0]} {job[1]}: failed; see {bench.trial(*job) / 'log.txt'}", flush=True)
            write_summary(bench)
    print(write_summary(bench))
    return 1 if failures else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
