#!/usr/bin/env python3
"""How well a reference picture's elevation is estimated: toys of the test split from -20 to 70 degrees.

    python benchmarks/claims/elevation.py                                48 toys as they come, embedded models
    python benchmarks/claims/elevation.py --ways auto --objects 200      what `auto` does, on more of them
    python benchmarks/claims/elevation.py --ways auto --zero123 zero123-xl --device cuda

    auto        what `data.reference_elevation_deg: auto` does with this picture model
    exact       the search among turned views, given the *true* views: what a faultless Zero-1-to-3 would allow
    told        the same search among the model's own views, where the model was told the truth. A model with a view
                volume needs to be told; this is how the search copes with views as imperfect as its own
    always 15   no estimate: the published code's assumption

Objects of revolution look the same from all sides: their turned views agree at any height, and the search says so.
"""

import argparse
import hashlib
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import chart, runs, tables
from benchmarks.claims import shared
from usd.core.errors import UserError
from usd.data.pictures import to_bytes
from usd.denoiser import ViewDenoiser, open_view_denoiser
from usd.denoiser import elevation_measure as estimator
from usd.denoiser.elevation_reader import WEIGHTS
from usd.toybox import REFERENCE_AZIMUTH_DEG, REFERENCE_DISTANCE, REFERENCE_FOV_DEG
from usd.toybox.cameras import cameras_at
from usd.toybox.objects import UNCAPTIONED, make_toy
from usd.toybox.render import render

LOW, HIGH = -20.0, 70.0
WAYS = ("auto", "exact", "told", "always 15")
LENS = estimator.Lens(REFERENCE_DISTANCE, REFERENCE_FOV_DEG)
SIZE = 128
GROUPS: dict[str, Callable[[tables.Figures], bool]] = {
    "all": lambda _: True,
    "named": lambda f: bool(f["named"]),
    "nameless": lambda f: not f["named"],
    "of revolution": lambda f: bool(f["symmetric"]),
    "below 0": lambda f: _number(f, "true") < 0,
    "0 to 40": lambda f: 0 <= _number(f, "true") < 40,
    "40 and up": lambda f: _number(f, "true") >= 40,
}


def _number(figures: tables.Figures, key: str) -> float:
    value = figures[key]
    assert isinstance(value, float | int)
    return float(value)


def true_elevation(index: int) -> float:
    """Degrees: evenly spread over the range however many objects there are (multiples of the golden ratio)."""
    return LOW + (HIGH - LOW) * ((index + 0.5) * (math.sqrt(5) - 1) / 2 % 1)


@dataclass(frozen=True)
class Case:
    """A toy, and the elevation (degrees) that its picture is taken from."""

    seed: int
    elevation: float

    def rgba(self, turns_deg: Sequence[float] = (0.0,), size: int = SIZE) -> Float[Tensor, "V 4 S S"]:
        azimuths = [REFERENCE_AZIMUTH_DEG + turn for turn in turns_deg]
        cameras = cameras_at([self.elevation] * len(azimuths), azimuths, size)
        return render([make_toy(self.seed)], cameras).rgba()

    def figures(self, found: estimator.Elevation) -> tables.Figures:
        toy = make_toy(self.seed)
        return {
            "true": self.elevation,
            "found": found.degrees,
            "spread": found.spread,
            "error": abs(found.degrees - self.elevation),
            "named": float(toy.category != UNCAPTIONED),
            "symmetric": float(toy.symmetric),
        }


def estimate(way: str, case: Case, model: ViewDenoiser) -> estimator.Elevation:
    """One way's estimate."""
    device, source = model.alphas_cumprod.device, torch.Generator("cpu").manual_seed(case.seed)
    rgba = case.rgba().to(device)
    turns = tuple(turn for turn in estimator.TURNS_DEG if turn != 0)
    if way == "auto":
        return estimator.estimate_elevation(model, rgba, LENS, source)
    if way == "exact":
        views = estimator.over_white(case.rgba(turns).to(device))
        return estimator.elevation_from_turns(views, rgba, LENS)
    if way == "told":
        views = estimator.sample_turns(model, rgba, LENS, source, case.elevation)
        return estimator.elevation_from_turns(views, rgba, LENS)
    return estimator.Elevation(15.0, 0.0, "read")


# ---------------------------------------------------------------------------------------------------------- summary


def row(name: str, found: Sequence[tables.Figures]) -> str:
    errors = sorted(_number(figures, "error") for figures in found)
    within = statistics.fmean(_number(f, "error") <= 2 * _number(f, "spread") for f in found)
    cells = [
        name,
        str(len(errors)),
        f"{statistics.median(errors):.1f}",
        tables.spread(errors, 1),
        f"{errors[math.ceil(0.8 * len(errors)) - 1]:.1f}",
        f"{statistics.median(_number(f, 'spread') for f in found):.0f}",
        f"{within:.0%}",
    ]
    return "| " + " | ".join(cells) + " |"


def table(rows: Mapping[str, Mapping[str, tables.Figures]]) -> str:
    """Every way over all toys; then the first way by kinds of toys and heights."""
    heads = (
        "| | toys | median error, deg | mean ± deviation | 80 % below | said spread | within two spreads |"
    )
    lines = [heads, "|---" * 7 + "|", *(row(way, list(found.values())) for way, found in rows.items())]
    first = next(iter(rows))
    lines += ["", f"`{first}` by kinds of toys and true heights:", "", heads, "|---" * 7 + "|"]
    for name, member in GROUPS.items():
        found = [figures for figures in rows[first].values() if member(figures)]
        lines += [row(name, found)] if found else []
    return "\n".join(lines)


def scatter(rows: Mapping[str, Mapping[str, tables.Figures]], side: int = 360) -> Image.Image:
    """True against estimated heights, a dot a toy."""
    low, high, edge = -35.0, 85.0, 44
    canvas = Image.new("RGB", (side + edge + 130, side + edge), "white")
    draw = ImageDraw.Draw(canvas)

    def at(x: float, y: float) -> tuple[float, float]:
        return edge + (x - low) / (high - low) * side, side - (y - low) / (high - low) * side

    for tick in range(-20, 81, 20):
        draw.line([at(low, tick), at(high, tick)], "#dddddd")
        draw.text(at(low - 3, tick), str(tick), "#444444", chart.font(11), "rm")
        draw.text(at(tick, low - 5), str(tick), "#444444", chart.font(11), "mm")
    draw.line([at(low, low), at(high, high)], "#888888")
    draw.text((edge + side / 2, side + edge - 12), "true elevation, degrees", "black", chart.font(12), "mm")
    draw.text((edge + 6, 10), "estimated", "black", chart.font(12), "lm")
    for i, (way, found) in enumerate(rows.items()):
        color = chart.COLORS[i]
        for figures in found.values():
            x, y = at(_number(figures, "true"), min(high, max(low, _number(figures, "found"))))
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), color)
        draw.text((edge + side + 10, 20 + 16 * i), way, color, chart.font(12), "lm")
    return canvas


def sheet(
    cases: Sequence[Case], found: Mapping[str, tables.Figures], columns: int = 8, cell: int = 96
) -> Image.Image:
    """Pictures with their true and estimated heights below."""
    shown = cases[: 3 * columns]
    lines = -(-len(shown) // columns)
    canvas = Image.new("RGB", (columns * (cell + 4), lines * (cell + 20)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, case in enumerate(shown):
        left, top = i % columns * (cell + 4), i // columns * (cell + 20)
        picture = estimator.over_white(case.rgba(size=cell))[0]
        canvas.paste(Image.fromarray(to_bytes(picture)), (left, top))
        said = f"{case.elevation:.0f}: {_number(found[str(case.seed)], 'found'):.0f}"
        draw.text((left + cell / 2, top + cell + 8), said, "black", chart.font(11), "mm")
    return canvas


def report(args: argparse.Namespace, rows: Mapping[str, Mapping[str, tables.Figures]]) -> str:
    count = len(next(iter(rows.values())))
    text = f"{count} toys of the test split from {LOW:g} to {HIGH:g} degrees, `{args.zero123}`; errors in degrees.\n\n"
    return text + table(rows)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    flags = shared.parser(__doc__, "elevation")
    flags.set_defaults(objects=48, kind="all")
    flags.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="what is compared")
    return shared.checked(flags.parse_args(argv))


def run(args: argparse.Namespace) -> str:
    model = open_view_denoiser(args.zero123, "--zero123").to(args.device)
    if "told" in args.ways and not model.assumes_elevation:
        raise UserError(
            "--ways: 'told' is for a model that is told the elevation; expected auto with this one"
        )
    marks = {
        "view": shared.model_mark(model),
        "reader": hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:16],
    }
    seeds = runs.chosen_seeds(args)
    cases = [Case(seed, round(true_elevation(i), 1)) for i, seed in enumerate(seeds)]
    ledger = runs.Ledger(args.out / "figures")
    rows: dict[str, dict[str, tables.Figures]] = {}
    for way in args.ways:
        rows[way] = {}
        for case in cases:
            own = {} if way in ("exact", "always 15") else marks
            settings = {"way": way, "elevation": case.elevation, **own}
            measure = partial(lambda w, c: c.figures(estimate(w, c, model)), way, case)
            rows[way][str(case.seed)] = ledger.figures(str(case.seed), settings, measure)
        print(f"{way}: {len(cases)} toys measured", flush=True)
    text = report(args, rows)
    pictures = [
        chart.write_image(args.out / "scatter.png", scatter(rows)),
        chart.write_image(args.out / "sheet.png", sheet(cases, rows[args.ways[0]])),
    ]
    shared.finish(args, "elevation", text, pictures)
    return text


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(runs.command(lambda: print(run(arguments()))))
