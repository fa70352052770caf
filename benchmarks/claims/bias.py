#!/usr/bin/env python3
"""The bias of unconditional predictions: what a model told nothing predicts, against the noise that was added.

    python benchmarks/claims/bias.py                                     12 toys of the test split, embedded models
    python benchmarks/claims/bias.py --image photo.png --zero123 zero123-xl --stable-diffusion sd-2.1-base --device cuda

For every picture and timestep, ``--draws`` noises are added and predicted, the same ones by both models. With d the
predicted minus the added noise, in units of the noise's own spread:

    error       root mean square of d
    systematic  root mean square of what of d is the same in all draws: the bias that averaging over draws leaves,
                estimated without the draws' own scatter from two independent halves
    mean        the plain mean of d over entries and draws: how far the predicted noise is off as a whole

No model predicts without error: a picture that is rarer than others is pulled towards them. What the claim is about is
the difference between Zero-1-to-3's unconditional branch and its base model's.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import chart, runs, tables
from benchmarks.claims import shared
from usd.core.errors import UserError
from usd.denoiser import Denoiser
from usd.math.diffusion import add_noise, timestep_range

MODELS = {"base": "base model told nothing", "zero123": "Zero-1-to-3 told nothing"}
FIGURES = {"error": "error", "systematic": "systematic part", "mean": "mean difference"}


def differences(
    model: Denoiser, z: Float[Tensor, "1 c h w"], noise: Float[Tensor, "K c h w"], t: int
) -> Float[Tensor, "K c h w"]:
    """Predicted minus added noise when told nothing."""
    at = torch.full((len(noise),), t, device=z.device)
    xt = add_noise(z.expand_as(noise), noise, model.alphas_cumprod, at)
    return model.eps(xt, at, model.unconditional(len(noise))) - noise


def summary(d: Float[Tensor, "K c h w"]) -> dict[str, float]:
    """The figures of the head, of the differences at one timestep."""
    first, second = d[0::2].mean(0), d[1::2].mean(0)
    same = float((first * second).mean())
    return {
        "error": float(d.square().mean().sqrt()),
        "systematic": max(same, 0.0) ** 0.5,
        "mean": float(d.mean()),
    }


def measured(pair: shared.Pair, subject: shared.Subject, times: Sequence[int], draws: int) -> tables.Figures:
    """``<model>_<figure>``: one number a timestep."""
    device = pair.view.alphas_cumprod.device
    z = pair.view.encode(subject.picture.to(device)).detach()
    found: dict[str, float | list[float]] = {f"{m}_{f}": [] for m in MODELS for f in FIGURES}
    for t in times:
        source = torch.Generator("cpu").manual_seed(t)
        noise = torch.randn(draws, *z.shape[1:], generator=source).to(device)
        for name, model in {"zero123": pair.view, "base": pair.text}.items():
            for key, value in summary(differences(model, z, noise, t)).items():
                series = found[f"{name}_{key}"]
                assert isinstance(series, list)
                series.append(value)
    return found


def timesteps(count: int, low: float, high: float, total: int) -> list[int]:
    """``count`` timesteps, evenly from ``low`` to ``high`` of the schedule. Raises UserError for a bad range."""
    try:
        first, last = timestep_range(low, high, total)
    except ValueError as problem:
        raise UserError(f"--min-step-percent, --max-step-percent: {problem}") from None
    return [round(first + (last - first) * i / max(count - 1, 1)) for i in range(count)]


def table(found: tables.Found, times: Sequence[int]) -> str:
    """A row a timestep, then one of all: both errors, and the difference of every figure."""
    heads = [
        "t",
        "error: Zero-1-to-3",
        "error: base model",
        *(f"{name}: difference" for name in FIGURES.values()),
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for label, indices in [*((str(t), [i]) for i, t in enumerate(times)), ("all", list(range(len(times))))]:
        bases, views = ({key: _at(found, f"{model}_{key}", indices) for key in FIGURES} for model in MODELS)
        cells = [label, tables.spread(views["error"], 3), tables.spread(bases["error"], 3)]
        cells += [tables.paired(views[key], bases[key]).words(3) for key in FIGURES]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _at(found: tables.Found, key: str, indices: Sequence[int]) -> list[float]:
    """Per object, the mean of a figure over these timesteps."""
    return [statistics.fmean(row[i] for i in indices) for row in tables.series(found, key)]


def report(args: argparse.Namespace, found: tables.Found, times: Sequence[int]) -> str:
    """What goes into the page: one sentence on what was measured, then the table."""
    told = (
        f"{len(found)} pictures, {len(times)} timesteps, {args.draws} draws each; `{args.zero123}` against "
    )
    told += f"`{args.stable_diffusion}`; mean ± standard deviation over pictures; differences are paired, ± their "
    return told + "standard error.\n\n" + table(found, times)


def draw(args: argparse.Namespace, found: tables.Found, times: Sequence[int]) -> list[Path]:
    """Charts of the error and of its systematic part over t."""
    files = []
    for key, title in (
        ("error", "Error of the unconditional prediction"),
        ("systematic", "Its systematic part"),
    ):
        lines = [chart.curve(name, tables.series(found, f"{model}_{key}")) for model, name in MODELS.items()]
        axes = chart.Axes(title, "timestep", "in units of the added noise; band: spread over pictures")
        files.append(chart.write_image(args.out / f"{key}.png", chart.line_chart(axes, times, lines)))
    return files


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    flags = shared.parser(__doc__, "bias")
    flags.add_argument("--image", nargs="+", help="pictures of your own instead of toys")
    flags.add_argument("--times", type=int, default=12, help="timesteps")
    flags.add_argument("--draws", type=int, default=8, help="noises per picture and timestep")
    flags.add_argument("--min-step-percent", type=float, default=0.02, help="first timestep, of the schedule")
    flags.add_argument("--max-step-percent", type=float, default=0.98, help="last timestep, of the schedule")
    args = shared.checked(flags.parse_args(argv))
    if args.times < 1 or args.draws < 2:
        raise UserError(f"--times, --draws: are {args.times}, {args.draws}; expected at least 1 and 2")
    return args


def run(args: argparse.Namespace) -> str:
    pair = shared.open_pair(args)
    total = len(pair.view.alphas_cumprod)
    times = timesteps(args.times, args.min_step_percent, args.max_step_percent, total)
    ledger, found = runs.Ledger(args.out / "figures"), {}
    for subject in shared.subjects(args, pair.view.latent.image_size):
        settings = {**pair.marks, "times": times, "draws": args.draws, **subject.mark}
        measure = partial(measured, pair, subject, times, args.draws)
        found[subject.name] = ledger.figures(subject.name, settings, measure)
        print(f"{subject.name}: measured", flush=True)
    text = report(args, found, times)
    shared.finish(args, "bias", text, draw(args, found, times))
    return text


if __name__ == "__main__":
    sys.exit(runs.command(lambda: print(run(arguments()))))
