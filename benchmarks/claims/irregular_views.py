#!/usr/bin/env python3
"""Freedom of viewing angle: one picture to a 3D object, the picture taken from anywhere between -20 and 70 degrees.

    python benchmarks/claims/irregular_views.py                       12 toys, six assumptions, 300 steps each
    python benchmarks/claims/irregular_views.py --objects 1 --settings given estimated
    python benchmarks/claims/irregular_views.py trainer.max_steps=800   `key=value` goes to every run

    given        the true elevation
    off by 15    it is wrong by 15 degrees, too high for every other toy
    off by 30    likewise by 30
    estimated    `data.reference_elevation_deg: auto`
    assumed 15   the published code's fixed reference camera, whatever the picture
    assumed 30   another fixed view that is common (SyncDreamer's)

Every setting is one run of launch.py on the same picture; 16 held-out views around the toy are compared with the truth.
A wrong elevation tilts the object, so that even a perfect copy of its shape loses: that is what the user would get.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import chart, runs, tables
from benchmarks.claims import shared
from benchmarks.claims.elevation import Case, true_elevation
from benchmarks.claims.shared import Trials
from usd.data.pictures import over, read_rgba, write_picture

CONFIG = Path(__file__).with_name("image.yaml")
SETTINGS = ("given", "off by 15", "off by 30", "estimated", "assumed 15", "assumed 30")
COLUMNS = (
    tables.Column("psnr", "PSNR, dB"),
    tables.Column("ssim", "SSIM", 3),
    tables.Column("mask_iou", "mask IoU", 3),
)
SHOWN = (2, 8)  # of the 16 held-out views
SIZE = 128


def assumed(setting: str, truth: float, index: int) -> str:
    """What the run is told, degrees or auto. Errors alternate in sign and stay within [-90, 90]."""
    if setting == "estimated":
        return "auto"
    kind, _, amount = setting.rpartition(" ")
    if kind == "off by":
        return f"{truth + float(amount) * (-1) ** index:g}"
    return f"{truth:g}" if setting == "given" else amount


def trial_name(case: Case, setting: str) -> str:
    """Return the name of the run of a toy under a setting."""
    return f"irregular/{case.seed}-{setting.replace(' ', '-')}"


def picture(trials: Trials, case: Case) -> Path:
    """Return the toy's picture from its elevation, made when missing."""
    file = trials.out / "pictures" / f"{case.seed}.png"
    return file if file.is_file() else write_picture(file, case.rgba(size=SIZE)[0])


def measured(trials: Trials, marks: runs.Settings, case: Case, setting: str, told: str) -> tables.Figures:
    """Scores of one run, and the elevation that it used."""
    view, text = trials.models
    overrides = [
        f"system.guidance.image_path={picture(trials, case)}",
        "system.reference.framing=keep",
        f"data.eval_transforms={trials.toy(case.seed) / 'transforms.json'}",
        f"data.reference_elevation_deg={told}",
        f"system.guidance.zero123_model_name_or_path={view}",
        f"system.guidance.pretrained_model_name_or_path={text}",
    ]
    launch = trials.launch(trial_name(case, setting), CONFIG, overrides)
    scores = runs.view_scores(launch.trained(marks))
    found = (
        json.loads((launch.trial / "save" / "elevation.json").read_text())["degrees"]
        if told == "auto"
        else float(told)
    )
    return {**scores, "assumed": found, "off": abs(found - case.elevation)}


def report(cases: Sequence[Case], rows: tables.Rows) -> str:
    heights = ", ".join(f"{case.elevation:.0f}" for case in cases)
    text = (
        f"{len(cases)} toys, pictures from {heights} degrees; 300 steps of image to 3D "
        f"(`benchmarks/claims/{CONFIG.name}`), 16 held-out views; "
        "mean ± standard deviation over toys; differences to the true elevation given are paired, ± their standard "
        "error.\n\n"
    )
    columns = [*COLUMNS, tables.Column("off", "wrong by, deg", 1)]
    return text + tables.table(rows, columns, next(iter(rows)), "elevation")


def sheet(trials: Trials, cases: Sequence[Case], settings: Sequence[str], file: Path) -> Path:
    """A row a toy: its picture, the truth, and every setting's views from two sides."""
    heads = ["picture"] + [f"truth\n{i + 1}" for i in range(len(SHOWN))]
    heads += [f"{setting}\n{i + 1}" for setting in settings for i in range(len(SHOWN))]
    rows = []
    for case in cases:
        toy = trials.toy(case.seed)
        row = [over(read_rgba(picture(trials, case)))]
        row += [over(read_rgba(toy / f"views/{view:04d}.png")) for view in SHOWN]
        for setting in settings:
            views = runs.newest_views(trials.out / "trials" / trial_name(case, setting))
            row += [chart.picture_of(views / f"{view}.png" if views else None) for view in SHOWN]
        rows.append(row)
    return chart.write_image(file, chart.titled_sheet(rows, heads, 72))


def arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, Trials]:
    flags = shared.parser(__doc__, "irregular_views")
    flags.add_argument(
        "--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="what is compared"
    )
    args, rest = flags.parse_known_args(argv)
    shared.checked(args)
    return args, shared.trials(args, rest)


def run(args: argparse.Namespace, trials: Trials) -> str:
    marks = shared.open_pair(args).marks
    seeds = runs.chosen_seeds(args)
    cases = [Case(seed, round(true_elevation(i), 1)) for i, seed in enumerate(seeds)]
    ledger = runs.Ledger(args.out / "figures")
    rows: dict[str, dict[str, tables.Figures]] = {setting: {} for setting in args.settings}
    for index, case in enumerate(cases):
        for setting in args.settings:
            told = assumed(setting, case.elevation, index)
            said: Mapping[str, object] = {
                **marks,
                "recipe": runs.recipe(CONFIG),
                "elevation": case.elevation,
                "told": told,
                "overrides": list(trials.overrides),
            }
            measure = partial(measured, trials, marks, case, setting, told)
            figures = rows[setting][str(case.seed)] = ledger.figures(str(case.seed), said, measure)
            print(
                f"{case.seed} {case.elevation:.0f} degrees, {setting}: PSNR {figures['psnr']:.2f}", flush=True
            )
    text = report(cases, rows)
    shared.finish(
        args, "irregular_views", text, [sheet(trials, cases, args.settings, args.out / "sheet.png")]
    )
    return text


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(runs.command(lambda: print(run(*arguments()))))
