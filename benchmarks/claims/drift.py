#!/usr/bin/env python3
"""Watch a picture drift: noise it a little, remove the noise with a model that is told nothing, look what came back.

    python benchmarks/claims/drift.py                                12 toys of the test split, embedded models
    python benchmarks/claims/drift.py --image my.png --zero123 zero123-xl --stable-diffusion sd-2.1-base --device cuda

A model without bias gives back the picture, or one like it. Two demonstrations, each with Zero-1-to-3's unconditional
prediction and with its base model's, from the same noise:

    levels   noised once to each of ``--levels`` (shares of the schedule) and denoised by DDIM
    rounds   noised to ``--round-level`` and denoised, again and again: a small pull in one direction adds up

PSNR is taken against the picture as the autoencoder alone gives it back, so that it measures drift and nothing else.
``levels.png`` and ``rounds.gif`` show it; ``psnr_levels.png`` and ``psnr_rounds.png`` are the figures over all objects.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import chart, runs, tables
from benchmarks.claims import shared
from usd.core.errors import UserError
from usd.denoiser import Denoiser
from usd.denoiser.sample import conditional_eps
from usd.evaluation.metrics import psnr
from usd.math.diffusion import add_noise, ddim_sample, ddim_timesteps, timestep_range

MODELS = {"base": "base model told nothing", "zero123": "Zero-1-to-3 told nothing"}
SHOWN_SUBJECTS, SHOWN_LEVELS = 3, 3
LEVELS = (0.05, 0.1, 0.2, 0.4)
Latents = Float[Tensor, "B c h w"]


@dataclass(frozen=True)
class Plan:
    """What is done to every picture. Levels are timesteps."""

    levels: tuple[int, ...]
    round_level: int
    rounds: int
    steps: int
    draws: int


def seeded(like: Latents, draws: int, *key: int) -> Latents:
    """Noise for ``draws`` copies of one latent: a function of the key."""
    source = torch.Generator("cpu").manual_seed(sum(k * 1009**i for i, k in enumerate(key)))
    return torch.randn(draws, *like.shape[1:], generator=source).to(like.device)


@torch.no_grad()
def returned(model: Denoiser, z: Latents, noise: Latents, level: int, steps: int) -> Latents:
    """The latents noised to ``level`` and denoised by a model told nothing."""
    at = torch.full((len(z),), level, device=z.device)
    xt = add_noise(z, noise, model.alphas_cumprod, at)
    times = ddim_timesteps(min(steps, level + 1), level)
    return ddim_sample(conditional_eps(model, model.unconditional(len(z))), xt, times, model.alphas_cumprod)


def rounds(model: Denoiser, z: Latents, plan: Plan) -> Iterator[Latents]:
    """The latents after each round of noising and denoising."""
    for number in range(plan.rounds):
        noise = seeded(z, len(z), 7, number)
        z = returned(model, z, noise, plan.round_level, plan.steps)
        yield z


@torch.no_grad()
def measured(
    pair: shared.Pair, subject: shared.Subject, plan: Plan
) -> tuple[tables.Figures, Float[Tensor, "K 3 S S"]]:
    """``<model>_levels``, ``<model>_rounds``: PSNR in dB; and the pictures, in the order of ``Kept``."""
    z = pair.view.encode(subject.picture.to(pair.view.alphas_cumprod.device))
    start = pair.view.decode(z)
    copies = z.expand(plan.draws, -1, -1, -1)
    noises = {level: seeded(z, plan.draws, 3, level) for level in plan.levels}
    kept = [start, *(pair.view.decode(_noisy(pair, z, noises[level], level)) for level in plan.levels)]
    found: tables.Figures = {}
    for name in MODELS:
        model: Denoiser = pair.view if name == "zero123" else pair.text
        after = [returned(model, copies, noises[level], level, plan.steps) for level in plan.levels]
        walk = list(rounds(model, copies, plan))
        for key, latents in (("levels", after), ("rounds", walk)):
            seen = [pair.view.decode(x) for x in latents]
            found[f"{name}_{key}"] = [float(psnr(x, start.expand_as(x)).mean()) for x in seen]
            kept += [x[:1] for x in seen]
    return found, torch.cat(kept).cpu()


def _noisy(pair: shared.Pair, z: Latents, noise: Latents, level: int) -> Latents:
    return add_noise(z, noise[:1], pair.view.alphas_cumprod, torch.full((1,), level, device=z.device))


@dataclass(frozen=True)
class Kept:
    """The kept pictures of one subject by what they are."""

    start: Tensor
    noisy: Tensor
    levels: dict[str, Tensor]
    rounds: dict[str, Tensor]

    @classmethod
    def of(cls, pictures: Float[Tensor, "K 3 S S"], plan: Plan) -> "Kept":
        n, r = len(plan.levels), plan.rounds
        start, noisy, base, base_rounds, view, view_rounds = pictures.split([1, n, n, r, n, r])
        levels = {"base": base, "zero123": view}
        return cls(start[0], noisy, levels, {"base": base_rounds, "zero123": view_rounds})


# -------------------------------------------------------------------------------------------------------------- output


def level_sheet(kept: Sequence[Kept], plan: Plan, total: int) -> Image.Image:
    """A row a picture: as it was, then noised, from the base model, from Zero-1-to-3, level by level."""
    last = len(plan.levels) - 1
    shown = sorted({round(i * last / max(SHOWN_LEVELS - 1, 1)) for i in range(SHOWN_LEVELS)})
    heads, rows = ["picture"], [[one.start] for one in kept]
    for i in shown:
        share = f"{plan.levels[i] / total:.0%} noise"
        heads += [share, f"base model\nfrom {share}", f"Zero-1-to-3\nfrom {share}"]
        for row, one in zip(rows, kept, strict=True):
            row += [one.noisy[i], one.levels["base"][i], one.levels["zero123"][i]]
    return chart.titled_sheet(rows, heads)


def animation(kept: Sequence[Kept], plan: Plan) -> list[Image.Image]:
    """A frame a round: every picture as it was, and what the two models have made of it so far."""
    frames = []
    for r in range(plan.rounds + 1):
        now = [[one.start, *(one.rounds[m][r - 1] if r else one.start for m in MODELS)] for one in kept]
        heads = ["picture", f"base model\nround {r}", f"Zero-1-to-3\nround {r}"]
        frames.append(chart.titled_sheet(now, heads, 112))
    return frames


def draw(out: Path, found: tables.Found, kept: Sequence[Kept], plan: Plan, total: int) -> list[Path]:
    """The four pictures of the head."""
    band = "PSNR to the picture, dB; band: spread over pictures"
    axes = chart.Axes("After one return from a noise level", "noise level, timestep", band)
    again = chart.Axes(f"After round upon round from t = {plan.round_level}", "rounds", band)
    level_lines = [chart.curve(name, tables.series(found, f"{m}_levels")) for m, name in MODELS.items()]
    round_lines = [chart.curve(name, tables.series(found, f"{m}_rounds")) for m, name in MODELS.items()]
    numbers = list(range(1, plan.rounds + 1))
    return [
        chart.write_image(out / "levels.png", level_sheet(kept, plan, total)),
        chart.write_animation(out / "rounds.gif", animation(kept, plan)),
        chart.write_image(out / "psnr_levels.png", chart.line_chart(axes, plan.levels, level_lines)),
        chart.write_image(out / "psnr_rounds.png", chart.line_chart(again, numbers, round_lines)),
    ]


def table(found: tables.Found, plan: Plan) -> str:
    """PSNR of both models and their paired difference at every level and after some rounds."""
    lines = ["| PSNR to the picture, dB | base model | Zero-1-to-3 | difference |", "|---|---|---|---|"]
    rows = [(f"once, from t = {t}", "levels", i) for i, t in enumerate(plan.levels)]
    some = sorted({1, plan.rounds // 4, plan.rounds // 2, plan.rounds} - {0})
    rows += [(f"{n} times, from t = {plan.round_level}", "rounds", n - 1) for n in some]
    for label, key, i in rows:
        base, view = ([row[i] for row in tables.series(found, f"{m}_{key}")] for m in MODELS)
        cells = [label, tables.spread(base), tables.spread(view), tables.paired(view, base).words()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(args: argparse.Namespace, found: tables.Found, plan: Plan) -> str:
    told = f"{len(found)} pictures, {plan.draws} noises each, {plan.steps} DDIM steps at most; `{args.zero123}` and "
    told += f"`{args.stable_diffusion}`; mean ± standard deviation over pictures; the difference is paired, ± its "
    return told + "standard error; below zero, Zero-1-to-3 drifts further.\n\n" + table(found, plan)


# ------------------------------------------------------------------------------------------------------------- command


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    flags = shared.parser(__doc__, "drift")
    flags.add_argument("--image", nargs="+", help="pictures of your own instead of toys")
    flags.add_argument(
        "--levels", nargs="+", type=float, default=LEVELS, help="noise, shares of the schedule"
    )
    flags.add_argument("--round-level", type=float, default=0.1, help="noise of every round, the same way")
    flags.add_argument("--rounds", type=int, default=12, help="how often a picture is noised and denoised")
    flags.add_argument("--steps", type=int, default=4, help="DDIM steps of every return")
    flags.add_argument("--draws", type=int, default=2, help="noises per picture")
    args = shared.checked(flags.parse_args(argv))
    if min(args.rounds, args.steps, args.draws) < 1:
        raise UserError(
            f"--rounds, --steps, --draws: are {args.rounds}, {args.steps}, {args.draws}; expected 1 up"
        )
    return args


def plan_of(args: argparse.Namespace, total: int) -> Plan:
    """The plan in timesteps. Raises UserError for a level outside [0, 1]."""
    levels = tuple(sorted({_level(share, "--levels", total) for share in args.levels}))
    return Plan(levels, _level(args.round_level, "--round-level", total), args.rounds, args.steps, args.draws)


def _level(share: float, flag: str, total: int) -> int:
    if not 0 < share <= 1:
        raise UserError(f"{flag}: is {share:g}; expected a share of the schedule, above 0 and at most 1")
    return timestep_range(share, share, total)[0]


def run(args: argparse.Namespace) -> str:
    pair = shared.open_pair(args)
    total = len(pair.view.alphas_cumprod)
    plan = plan_of(args, total)
    ledger, found, kept = runs.Ledger(args.out / "figures"), {}, []
    for subject in shared.subjects(args, pair.view.latent.image_size):
        settings = {**pair.marks, "plan": str(plan), **subject.mark}

        def measure(subject: shared.Subject = subject, settings: runs.Settings = settings) -> tables.Figures:
            figures, pictures = measured(pair, subject, plan)
            ledger.keep(subject.name, settings, pictures)
            return figures

        found[subject.name] = ledger.figures(subject.name, settings, measure)
        kept.append(Kept.of(ledger.pictures(subject.name, settings), plan))
        print(f"{subject.name}: measured", flush=True)
    text = report(args, found, plan)
    shared.finish(args, "drift", text, draw(args.out, found, kept[:SHOWN_SUBJECTS], plan, total))
    return text


if __name__ == "__main__":
    sys.exit(runs.command(lambda: print(run(arguments()))))
