#!/usr/bin/env python3
"""Rectified sampling: novel views by DDIM, with whose unconditional prediction?

    python benchmarks/claims/rectified.py                                12 toys of the test split, embedded models
    python benchmarks/claims/rectified.py --zero123 zero123-xl --stable-diffusion sd-2.1-base --device cuda

    eps = eps_0 + s (eps_phi(x_t, picture, camera) - eps_0)          (arXiv 2312.06198, supplement 1)

*plain*: eps_0 is Zero-1-to-3's own unconditional prediction; *rectified*: its base model's. Both start from the same
noise at every scale s; s = 1 needs no eps_0 and is the same for both. Figures are means over a toy's held-out views,
against their true pictures.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import chart, runs, tables
from benchmarks.claims import shared
from usd.core.errors import UserError
from usd.denoiser.sample import Sampler, sample_views
from usd.evaluation.embedded import ToyTruth, held_out_views
from usd.evaluation.metrics import psnr, ssim
from usd.toybox.cameras import reference_camera
from usd.toybox.objects import make_toy

SCALES = (1.5, 3.0, 5.0)
COLUMNS = (tables.Column("psnr", "PSNR, dB"), tables.Column("ssim", "SSIM", 3))
SHOWN = 3


def name_of(way: str, scale: float) -> str:
    return "s = 1" if scale == 1 else f"{way}, s = {scale:g}"


@dataclass(frozen=True)
class Task:
    """One toy's views, sampled in one way."""

    subject: str
    views: ToyTruth
    way: str
    scale: float
    steps: int


@torch.no_grad()
def sampled(pair: shared.Pair, task: Task) -> Float[Tensor, "V 3 S S"]:
    """The views from the reference alone, always from the same noise."""
    device, reference = pair.view.alphas_cumprod.device, task.views.reference
    reading = pair.view.encode_reference(
        reference.to(device), reference_camera(reference.shape[-1]).to(device)
    )
    source = torch.Generator("cpu").manual_seed(0)
    prior = pair.text if task.way == "rectified" else None
    sampler = Sampler(task.steps, task.scale)
    return sample_views(pair.view, reading, task.views.cameras.to(device), sampler, source, prior).cpu()


def measured(pair: shared.Pair, task: Task, ledger: runs.Ledger, settings: runs.Settings) -> tables.Figures:
    """The figures of one toy in one way; its pictures are kept."""
    made, truth = sampled(pair, task), task.views.pictures
    ledger.keep(task.subject, settings, made)
    return {"psnr": float(psnr(made, truth).mean()), "ssim": float(ssim(made, truth).mean())}


def sheet(rows: Sequence[tuple[ToyTruth, dict[str, Tensor]]]) -> Image.Image:
    """A row a toy: the reference, a true view, then that view in every way."""
    names = list(rows[0][1])
    heads = ["reference", "truth", *(name.replace(", ", "\n") for name in names)]
    shown = [
        [views.reference[0], views.pictures[1], *(pictures[name][1] for name in names)]
        for views, pictures in rows
    ]
    return chart.titled_sheet(shown, heads, 80)


def table(rows: tables.Rows, scales: Sequence[float]) -> str:
    """Against ``s = 1``, then rectified against plain at every scale."""
    lines = [
        tables.table(rows, COLUMNS, "s = 1"),
        "",
        "| rectified minus plain | PSNR, dB | SSIM |",
        "|---|---|---|",
    ]
    for scale in scales:
        ours, theirs = rows[name_of("rectified", scale)], rows[name_of("plain", scale)]
        cells = [tables.compared(ours, theirs, column).words(column.digits) for column in COLUMNS]
        lines.append(f"| s = {scale:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    flags = shared.parser(__doc__, "rectified")
    flags.add_argument("--scales", nargs="+", type=float, default=SCALES, help="guidance scales beside 1")
    flags.add_argument("--steps", type=int, default=15, help="DDIM steps")
    flags.add_argument("--views", type=int, default=4, help="held-out views of every toy")
    args = shared.checked(flags.parse_args(argv))
    bad = [scale for scale in args.scales if scale < 0]
    if bad:
        raise UserError(f"--scales: {bad[0]:g} is out of range; expected 0 or more")
    if args.steps < 1 or args.views < 2:
        raise UserError(f"--steps, --views: are {args.steps}, {args.views}; expected at least 1 and 2")
    args.scales = sorted(set(args.scales) - {1.0})
    return args


def run(args: argparse.Namespace) -> str:
    pair = shared.open_pair(args)
    ledger = runs.Ledger(args.out / "figures")
    ways = [("plain", 1.0), *((way, scale) for scale in args.scales for way in ("plain", "rectified"))]
    rows: dict[str, dict[str, tables.Figures]] = {name_of(*way): {} for way in ways}
    shown: list[tuple[ToyTruth, dict[str, Tensor]]] = []
    for seed in runs.chosen_seeds(args):
        subject, views = str(seed), held_out_views(make_toy(seed), args.views, pair.view.latent.image_size)
        pictures = {}
        for way, scale in ways:
            settings = {**pair.marks, "way": way, "scale": scale, "steps": args.steps, "views": args.views}
            measure = partial(measured, pair, Task(subject, views, way, scale, args.steps), ledger, settings)
            rows[name_of(way, scale)][subject] = ledger.figures(subject, settings, measure)
            pictures[name_of(way, scale)] = ledger.pictures(subject, settings)
        shown.append((views, pictures))
        print(f"{subject}: sampled", flush=True)
    text = f"{args.views} held-out views of each of {len(shown)} test toys, {args.steps} DDIM steps, the same noise; "
    text += "mean ± standard deviation over toys; differences are paired, ± their standard error.\n\n"
    text += table(rows, args.scales)
    shared.finish(args, "rectified", text, [chart.write_image(args.out / "sheet.png", sheet(shown[:SHOWN]))])
    return text


if __name__ == "__main__":
    sys.exit(runs.command(lambda: print(run(arguments()))))
