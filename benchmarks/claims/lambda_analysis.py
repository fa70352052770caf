#!/usr/bin/env python3
"""The lambda analysis: what is left of the term that removes noise, from all of it (1: SDS) to none (0: CSD and USD).

    python benchmarks/claims/lambda_analysis.py                   12 pictures and 12 sentences, lambda 1, 0.5, 0.2, 0
    python benchmarks/claims/lambda_analysis.py --task image --objects 1 --lambdas 1 0
    python benchmarks/claims/lambda_analysis.py system.guidance.guidance_scale=5   `key=value` goes to every run

Nothing but lambda differs between the runs of an object: same scale, weight, steps and randomness.

    PSNR, mask IoU   of image-to-3D: 16 held-out views against the truth
    category, color of text-to-3D: share of 8 views that the embedded CLIP finds among one caption of every category,
                     and also among the sentence in all other colors
    sharpness        how fine what the object shows is (usd.evaluation.metrics.sharpness), 1 / px
    saturation       mean (max - min) / max of the colors that are object
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import chart, runs, tables
from benchmarks.claims import shared
from benchmarks.claims.shared import Trials
from usd.core.errors import UserError
from usd.data.pictures import over, read_rgba
from usd.evaluation.embedded import Clip
from usd.evaluation.metrics import sharpness
from usd.evaluation.text_score import CLIP, text_score
from usd.toybox.objects import make_toy

LAMBDAS = (1.0, 0.5, 0.2, 0.0)
LOOKS = (tables.Column("sharpness", "sharpness", 3), tables.Column("saturation", "saturation", 3))


@dataclass(frozen=True)
class Task:
    """One of the two: its recipe, its figures, and the views that a sheet shows."""

    config: Path
    columns: tuple[tables.Column, ...]
    shown: tuple[int, ...]


TASKS = {
    "image": Task(
        Path(__file__).with_name("image.yaml"),
        (tables.Column("psnr", "PSNR, dB"), tables.Column("mask_iou", "mask IoU", 3), *LOOKS),
        (2, 8),
    ),
    "text": Task(
        Path(__file__).with_name("text.yaml"),
        (tables.Column("category", "category"), tables.Column("caption", "and color"), *LOOKS),
        (2, 5),
    ),
}


def trial_name(task: str, seed: int, lambda_: float) -> str:
    """Return the name of the run of a toy under a lambda."""
    return f"lambda-{task}/{seed}-{lambda_:g}"


# ------------------------------------------------------------------------------------------------------------- runs


def settings(trials: Trials, task: str, seed: int, lambda_: float) -> list[str]:
    """Overrides of one run."""
    view, text = trials.models
    said = [f"system.guidance.lambda={lambda_:g}", f"system.guidance.pretrained_model_name_or_path={text}"]
    if task == "image":
        toy = trials.toy(seed)
        said += [f"system.guidance.image_path={toy / 'input.png'}"]
        said += [f"data.eval_transforms={toy / 'transforms.json'}"]
        said += [f"system.guidance.zero123_model_name_or_path={view}"]
    else:
        said += [f"system.prompt_processor.prompt={make_toy(seed).caption}"]
        said += [f"system.prompt_processor.pretrained_model_name_or_path={text}"]
    return said


def measured(trials: Trials, marks: runs.Settings, task: str, seed: int, lambda_: float) -> tables.Figures:
    overrides = settings(trials, task, seed, lambda_)
    launch = trials.launch(trial_name(task, seed, lambda_), TASKS[task].config, overrides)
    views = launch.trained(marks)
    rgba = runs.test_views(views)
    scores = runs.view_scores(views) if task == "image" else caption_scores(rgba, make_toy(seed).caption)
    return {**scores, **looks(rgba)}


def looks(rgba: Float[Tensor, "B 4 H W"]) -> tables.Figures:
    """Sharpness and saturation, means over views."""
    return {"sharpness": float(sharpness(rgba).mean()), "saturation": float(saturation(rgba).mean())}


def saturation(rgba: Float[Tensor, "B 4 H W"]) -> Float[Tensor, "B"]:
    """Mean of (max - min) / max over the pixels that are object, as in HSV; 0 where there are none."""
    high, low = rgba[:, :3].amax(1), rgba[:, :3].amin(1)
    inside = (rgba[:, 3] > 0.5).to(rgba)
    share = (high - low) / high.clamp_min(1e-3)
    return (share * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)


@cache
def recognizer() -> Clip:
    return Clip.load(CLIP)


def caption_scores(rgba: Float[Tensor, "B 4 H W"], prompt: str) -> tables.Figures:
    seen = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
    score = text_score(recognizer(), seen, prompt)
    return {"category": score.category, "caption": score.caption, "similarity": score.similarity}


# ---------------------------------------------------------------------------------------------------------- summary


def truth_looks(toy: Path) -> tables.Figures:
    """Sharpness and saturation of a toy's own held-out views."""
    return looks(runs.test_views(toy / "views"))


def report(trials: Trials, task: str, seeds: Sequence[int], rows: tables.Rows) -> str:
    recipe = TASKS[task]
    what = "pictures to 3D" if task == "image" else "sentences to 3D"
    text = (
        f"{len(seeds)} {what} (`benchmarks/claims/{recipe.config.name}`); mean ± standard deviation over objects; "
        "differences are paired, ± their standard error.\n\n"
    )
    text += tables.table(rows, recipe.columns, next(iter(rows)), "lambda")
    true = [truth_looks(trials.toy(seed)) for seed in seeds]
    said = [f"{c.heading} {tables.spread([float(t[c.key]) for t in true], c.digits)}" for c in LOOKS]  # type: ignore[arg-type]
    return f"{text}\n\nThe toys themselves, from the held-out views: {', '.join(said)}."


def sheet(trials: Trials, task: str, seeds: Sequence[int], lambdas: Sequence[float]) -> Path:
    """A row an object: the toy from its front, and what each lambda made from two sides."""
    shown, rows = TASKS[task].shown, []
    for seed in seeds:
        row = [over(read_rgba(trials.toy(seed) / "input.png"))]
        for lambda_ in lambdas:
            views = runs.newest_views(trials.out / "trials" / trial_name(task, seed, lambda_))
            row += [chart.picture_of(views / f"{i}.png" if views else None) for i in shown]
        rows.append(row)
    heads = ["toy", *(f"lambda {value:g}\n{i + 1}" for value in lambdas for i in range(len(shown)))]
    return chart.write_image(trials.out / f"{task}.png", chart.titled_sheet(rows, heads))


def arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, Trials]:
    flags = shared.parser(__doc__, "lambda_analysis")
    flags.add_argument(
        "--task", nargs="+", choices=TASKS, default=list(TASKS), help="from pictures, from sentences"
    )
    flags.add_argument("--lambdas", nargs="+", type=float, default=list(LAMBDAS), help="0 and up")
    args, rest = flags.parse_known_args(argv)
    shared.checked(args)
    if min(args.lambdas) < 0:
        raise UserError(f"--lambdas: has {min(args.lambdas):g}; expected 0 and up")
    return args, shared.trials(args, rest)


def run(args: argparse.Namespace, trials: Trials) -> str:
    marks, ledger = shared.open_pair(args).marks, runs.Ledger(args.out / "figures")
    seeds = runs.chosen_seeds(args)
    texts = []
    for task in args.task:
        used = marks if task == "image" else {"text": marks["text"]}
        rows: dict[str, dict[str, tables.Figures]] = {f"{value:g}": {} for value in args.lambdas}
        for seed in seeds:
            for value in args.lambdas:
                said: Mapping[str, object] = {
                    **used,
                    "recipe": runs.recipe(TASKS[task].config),
                    "task": task,
                    "lambda": value,
                    "overrides": list(trials.overrides),
                }
                measure = partial(measured, trials, used, task, seed, value)
                figures = rows[f"{value:g}"][str(seed)] = ledger.figures(str(seed), said, measure)
                first = TASKS[task].columns[0]
                print(
                    f"{task} {seed}, lambda {value:g}: {first.heading} {figures[first.key]:.2f}", flush=True
                )
        texts.append(report(trials, task, seeds, rows))
    text = "\n\n".join(texts)
    shared.finish(args, "lambda_analysis", text, [sheet(trials, t, seeds, args.lambdas) for t in args.task])
    return text


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(runs.command(lambda: print(run(*arguments()))))
