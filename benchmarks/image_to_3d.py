#!/usr/bin/env python3
"""Image to 3D on toybox objects of the test split: methods side by side, against ground truth.

    python benchmarks/image_to_3d.py                          12 objects, every method
    python benchmarks/image_to_3d.py --objects 6 --methods usd sds trainer.max_steps=600
    python benchmarks/image_to_3d.py --each-category 2 --first-seed 6000000 --methods usd copy-reference
    python benchmarks/image_to_3d.py --kind nameless --objects 4 --methods usd

The objects are the first from ``--first-seed`` on that a person would name; ``--kind nameless`` takes the random
compositions of primitives between them, whose hidden sides nobody can know, and ``--kind all`` takes both.

Each (object, method) is one run of ``launch.py`` and one file ``runs/<seed>/<digest>.json``. A second call continues
where the first was stopped, also in the middle of a run. ``table.md`` and ``sheet.png`` are written to ``--out`` after
every run. ``key=value`` arguments apply to every trained method and belong to the identity of a run.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import chart, runs, tables
from benchmarks.runs import VIEWS
from usd.data.pictures import read_rgba
from usd.evaluation.metrics import speckle
from usd.evaluation.views import mean_score, score_view
from usd.toybox.objects import make_toy

STRONG = ["system.guidance.lambda=0", "system.guidance.guidance_scale=5", "system.loss.lambda_usd=0.5"]
COPY = "copy-reference"
METHODS: dict[str, list[str]] = {
    "usd": [],
    "usd-lambda0": STRONG,
    "sds": ["system.guidance.unconditional=own"],
    "lambda0": ["system.guidance.unconditional=own", *STRONG],
    "reference-only": ["system.loss.lambda_usd=0"],
    COPY: [],
}
MEANING = {
    "usd": "the configuration as it is: Stable Diffusion's unconditional prediction, lambda 1, scale 2",
    "usd-lambda0": "the same with lambda 0, at the scale and weight that suit it (5, 0.5)",
    "sds": "as usd, but against Zero-1-to-3's own unconditional prediction",
    "lambda0": "as usd-lambda0, but against Zero-1-to-3's own unconditional prediction",
    "reference-only": "the reference picture's losses and the regularizers alone",
    COPY: "the reference picture shown for every view",
}
SHOWN = (2, 5, 8, 12)  # of the held-out views, on the sheet
COLUMNS = (
    tables.Column("psnr", "PSNR, dB"),
    tables.Column("ssim", "SSIM", 3),
    tables.Column("mask_iou", "mask IoU", 3),
    tables.Column("speckle", "speckle, 1/1000", 1),
    tables.Column("cpu_seconds", "CPU seconds", 0),
)


class PictureBench(runs.Bench[int]):
    """Seeds of toys under the methods that make an object of a picture."""

    def toy(self, seed: int) -> Path:
        return runs.toy_folder(seed, self.out)

    def settings(self, method: str) -> dict[str, object]:
        if method == COPY:
            return {"method": method}
        return super().settings(method) | {"overrides": [*METHODS[method], *self.overrides]}

    def launch(self, seed: int, method: str) -> runs.Launch:
        """The run of a trained method."""
        toy = self.toy(seed)
        data = (
            f"system.guidance.image_path={toy / 'input.png'}",
            f"data.eval_transforms={toy / 'transforms.json'}",
        )
        overrides = (*data, "data.eval_turntable=false", *METHODS[method], *self.overrides)
        return runs.Launch(self.trial(seed, method), (self.config,), overrides, self.gpu)


def measured(bench: PictureBench, seed: int, method: str) -> tables.Figures:
    """Figures of one result, its training included."""
    toy = bench.toy(seed)
    if method == COPY:
        files = [toy / f"views/{i:04d}.png" for i in range(VIEWS)]
        score = mean_score([score_view(toy / "input.png", file) for file in files])
        found: tables.Figures = {"psnr": score.psnr, "ssim": score.ssim, "mask_iou": score.mask_iou}
        return {**found, "speckle": grain([toy / "input.png"]), "cpu_seconds": 0.0}
    launch = bench.launch(seed, method)
    views = launch.trained({})
    found = {**runs.view_scores(views), "speckle": grain([views / f"{i}.png" for i in range(VIEWS)])}
    return {**found, "cpu_seconds": 60 * launch.times["cpu_minutes"]}


def grain(pictures: Sequence[Path]) -> float:
    """Mean speckle of pictures, in thousandths; those without an inside do not count."""
    found = torch.stack([speckle(read_rgba(file)[None])[0] for file in pictures])
    return 1000 * found.nanmean().item()


def table(bench: PictureBench) -> str:
    """Means and spreads by method with paired differences to the first, then every object."""
    rows: dict[str, dict[str, tables.Figures]] = {}
    for method in bench.methods:
        mine = bench.found(method)
        rows |= {method: mine} if mine else {}
    if not rows:
        return "nothing measured yet\n"
    lines = [
        f"Image to 3D, {VIEWS} held-out views of {len(bench.subjects)} test objects, `{bench.config.name}`. Mean ±",
        "standard deviation over objects; PSNR over white, per view then mean; differences are paired, ± standard",
        "error. Speckle of the true views: "
        f"{tables.spread([true_grain(bench, seed) for seed in bench.subjects], 1)}.",
        "",
        tables.table(rows, COLUMNS, next(iter(rows)), "method"),
        "",
        *(f"- {method}: {MEANING[method]}" for method in rows),
        "",
        "| object | " + " | ".join(rows) + " |",
        "|---" * (len(rows) + 1) + "|",
    ]
    for seed in bench.subjects:
        cells = [cell(found.get(f"{seed}")) for found in rows.values()]
        lines.append(f"| {seed} {make_toy(seed).caption} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "Cells of the second table: PSNR / mask IoU.", ""])


def true_grain(bench: PictureBench, seed: int) -> float:
    """The speckle of a toy's true views."""
    return grain([bench.toy(seed) / f"views/{i:04d}.png" for i in range(VIEWS)])


def cell(found: tables.Figures | None) -> str:
    return (
        "-"
        if found is None
        else f"{tables.number(found['psnr']):.2f} / {tables.number(found['mask_iou']):.2f}"
    )


def sheet(bench: PictureBench) -> Image.Image:
    """One row an object: reference, true views, then the same views of every trained method."""
    trained = [method for method in bench.methods if method != COPY]
    rows = []
    for seed in bench.subjects:
        files: list[Path | None] = [bench.toy(seed) / "input.png"]
        files += [bench.toy(seed) / f"views/{i:04d}.png" for i in SHOWN]
        for method in trained:
            views = runs.newest_views(bench.launch(seed, method).trial)
            files += [views / f"{i}.png" if views else None for i in SHOWN]
        rows.append([chart.picture_of(file) for file in files])
    groups = [("reference", 1), *((name, len(SHOWN)) for name in ("truth", *trained))]
    return chart.grouped_sheet(rows, groups, 80)


def write_summary(bench: PictureBench) -> str:
    text = table(bench)
    (bench.out / "table.md").write_text(text, encoding="utf-8")
    sheet(bench).save(bench.out / "sheet.png")
    return text


def arguments(argv: Sequence[str] | None = None) -> tuple[PictureBench, int]:
    """What is asked for, and how many runs at a time. Raises UserError."""
    parser = runs.bench_parser(__doc__, METHODS, "image_to_3d")
    runs.config_flag(parser, "usd-patch-mini.yaml")
    runs.object_flags(parser, 12)
    args, rest = parser.parse_known_args(argv)
    return PictureBench(runs.chosen_seeds(args), *runs.bench_fields(args, rest)), args.jobs


def main(argv: Sequence[str] | None = None) -> bool:
    bench, jobs = arguments(argv)
    return bench.run(partial(measured, bench), partial(write_summary, bench), jobs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(runs.command(main))
