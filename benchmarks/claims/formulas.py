#!/usr/bin/env python3
"""Distillation formulas side by side at equal budget, on pictures alone or in 3D, against the true views.

    python benchmarks/claims/formulas.py                     the playground: 4 views of 12 toys, latents, no 3D
    python benchmarks/claims/formulas.py --in-3d             image to 3D at a reduced budget, about two minutes a run
    python benchmarks/claims/formulas.py --in-3d --formulas usd sds --objects 4 trainer.max_steps=200

Equal budget is equally many optimizer steps; what a step costs is in the table as seconds a run. Every formula runs at
the scale in ``FORMULAS``; ``--reference-term`` adds, in 3D, the paper's three with its reference-view term.
Further ``key=value`` arguments go to every run.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import chart, runs, tables
from benchmarks.claims import shared
from usd.data.pictures import over, read_rgba

PLAYGROUND, IN_3D = (Path(__file__).with_name(name) for name in ("pictures.yaml", "image_short.yaml"))
GUIDANCE, WEIGHT = "system.guidance_type", "system.guidance.guidance_scale"
FORMULAS = {
    "usd": [f"{GUIDANCE}=usd-guidance", f"{WEIGHT}=5", "system.guidance.lambda=0"],
    "csd": [f"{GUIDANCE}=csd-guidance", f"{WEIGHT}=5", "system.guidance.lambda=0"],
    "sds": [f"{GUIDANCE}=zero123-guidance", f"{WEIGHT}=5", "system.guidance.lambda=1"],
    "nfsd": [f"{GUIDANCE}=nfsd-guidance", f"{WEIGHT}=5", "system.guidance.negative_prompt="],
    "dds": [f"{GUIDANCE}=dds-guidance", f"{WEIGHT}=5"],
    "sdi": [f"{GUIDANCE}=sdi-guidance", f"{WEIGHT}=5"],
    "ism": [f"{GUIDANCE}=ism-guidance", f"{WEIGHT}=5"],
    "vsd": [f"{GUIDANCE}=vsd-guidance", f"{WEIGHT}=5"],
}
COMPARED = ("usd", "csd", "sds")  # by the paper
COLUMNS = (
    tables.Column("psnr", "PSNR, dB"),
    tables.Column("ssim", "SSIM", 3),
    tables.Column("mask_iou", "mask IoU", 3),
    tables.Column("seconds", "seconds a run", 0),
)
VIEW = 1  # the view on the sheet
Trials = dict[tuple[int, str], Path]


@dataclass(frozen=True)
class Way:
    """One row of the table."""

    name: str
    overrides: tuple[str, ...]


def ways(args: argparse.Namespace) -> list[Way]:
    """The chosen formulas; in 3D with ``--reference-term`` the paper's three a second time, with it."""
    found = []
    for name in args.formulas:
        given = tuple(FORMULAS[name])
        found.append(Way(name, given))
        if args.in_3d and args.reference_term and name in COMPARED:
            found.append(Way(f"{name} + reference term", (*given, "system.loss.lambda_reference_view=1")))
    return found


def overrides(args: argparse.Namespace, way: Way, toy: Path) -> list[str]:
    """What one run is told, in the order in which later words count."""
    data = [
        f"system.guidance.image_path={toy / 'input.png'}",
        f"data.eval_transforms={toy / 'transforms.json'}",
    ]
    return [*way.overrides, *data, *args.given]


def performed(launch: runs.Launch, marks: runs.Settings) -> tables.Figures:
    """One run of the launcher, and its scores."""
    began = time.monotonic()
    views = launch.trained(marks)
    return {**runs.view_scores(views), "seconds": time.monotonic() - began}


def sheet(
    args: argparse.Namespace, trials: Trials, names: Sequence[str], seeds: Sequence[int]
) -> Image.Image:
    """A row a toy: the reference, the true view, then that view by every formula."""
    rows = []
    for seed in seeds:
        toy = runs.toy_folder(seed, args.out.parent)
        folders = [trials[seed, name] / "save" for name in names]
        made = [sorted(folder.glob("it*-test/"))[-1] / f"{VIEW}.png" for folder in folders]
        true = true_view(toy, made[0].parent)
        rows.append([over(read_rgba(file)) for file in (toy / "input.png", true, *made)])
    return chart.titled_sheet(
        rows, ["reference", "truth", *(name.replace(" + ", "\n+ ") for name in names)], 80
    )


def true_view(toy: Path, views: Path) -> Path:
    """The true picture of the view on the sheet, as the run's own metrics name it."""
    found = json.loads((views / "metrics.json").read_text())
    return toy / str(found["per_view"][VIEW]["file_path"])


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    flags = shared.parser(__doc__, "formulas")
    flags.add_argument("--in-3d", action="store_true", help="image to 3D instead of the playground")
    flags.add_argument("--formulas", nargs="+", default=list(FORMULAS), choices=FORMULAS)
    flags.add_argument(
        "--reference-term", action="store_true", help="in 3D: usd, csd and sds with the term, too"
    )
    args, given = flags.parse_known_args(argv)
    args.given = runs.key_values(given)
    if args.in_3d and args.out == shared.OUT / "formulas":
        args.out = shared.OUT / "formulas_3d"
    args.out = args.out.resolve()
    return shared.checked(args)


def run(args: argparse.Namespace) -> str:
    marks, config = shared.open_pair(args).marks, IN_3D if args.in_3d else PLAYGROUND
    ledger, chosen = runs.Ledger(args.out / "figures"), ways(args)
    folder = args.out / "trials" / "formulas"
    seeds = runs.chosen_seeds(args)
    rows: dict[str, dict[str, tables.Figures]] = {way.name: {} for way in chosen}
    trials: Trials = {}
    models = [f"system.guidance.zero123_model_name_or_path={args.zero123}"]
    models += [f"system.guidance.pretrained_model_name_or_path={args.stable_diffusion}"]
    for seed in seeds:
        toy = runs.toy_folder(seed, args.out.parent)
        for way in chosen:
            given = [*overrides(args, way, toy), *models]
            settings = {**marks, "recipe": runs.recipe(config), "overrides": given}
            trial = trials[seed, way.name] = folder / f"{seed}-{way.name.replace(' ', '_')}"
            launch = runs.Launch(trial, (config,), tuple(given), runs.gpu_flag(args.device))
            measure = partial(performed, launch, marks)
            found = ledger.figures(f"{seed}-{way.name}", settings, measure)
            rows[way.name][str(seed)] = found
            print(f"{seed} {way.name}: PSNR {found['psnr']:.2f}", flush=True)
    where = "image to 3D at a reduced budget" if args.in_3d else "pictures without 3D"
    text = f"{where}: {len(seeds)} test toys; mean ± standard deviation over toys; differences are paired, ± their "
    text += f"standard error.\n\n{tables.table(rows, COLUMNS, chosen[0].name, 'formula')}"
    picture = chart.write_image(
        args.out / "sheet.png", sheet(args, trials, [way.name for way in chosen], seeds[:3])
    )
    shared.finish(args, "formulas_3d" if args.in_3d else "formulas", text, [picture])
    return text


if __name__ == "__main__":
    sys.exit(runs.command(lambda: print(run(arguments()))))
