#!/usr/bin/env python3
"""Text to 3D with the embedded models: are the final meshes recognized as what was asked for?

    python benchmarks/text_to_3d.py                      8 sentences, SDS (as it ships) and lambda = 0
    python benchmarks/text_to_3d.py --prompts 3 --methods sds stages.patch.trainer.max_steps=600
    python benchmarks/text_to_3d.py --methods picture    a picture first (usd picture), then image to 3D

The sentences are captions of toys of the test split, of different categories, that no training toy has: shapes and
colors unseen together. Each (sentence, method) is one run of ``configs/usd-text-to-3D-mini.yaml`` and one file
``runs/<seed>/<digest>.json``; a second call continues where the first was stopped, also inside a stage. The file that
the last stage wrote is read back, rendered from 8 sides, and recognized by the embedded CLIP
(``usd.evaluation.text_score``); the same figures for renders of the toy itself stand beside it. ``table.md`` and
``sheet.png`` are written to ``--out`` after every run. ``key=value`` arguments apply to every run and belong to its
identity.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean as mean

import torch
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import runs
from benchmarks.tables import Figures, number
from usd.app.picture_command import make_picture, picture_arguments
from usd.core.errors import UserError
from usd.core.loading import override
from usd.data.pictures import over, read_rgba, resize_rgba, to_bytes
from usd.evaluation.embedded import Clip
from usd.evaluation.text_score import CLIP, TextScore, scoring_cameras, text_score, views_of_file
from usd.toybox import TEST_SEED
from usd.toybox.objects import UNCAPTIONED, make_toy
from usd.toybox.render import render

STRONG = [f"stages.{stage}.system.guidance.lambda=0" for stage in ("patch", "texture")]
METHODS: dict[str, list[str]] = {"sds": [], "lambda0": STRONG, "picture": []}
MEANING = {
    "sds": "the configuration as it ships: every stage with lambda 1",
    "lambda0": "the same with lambda 0 in the first and third stage, as published (the shape is SDS in both)",
    "picture": "the best of twelve pictures of the sentence (`usd picture`), then image to 3D and a mesh",
    "ground truth": "renders of the toy whose caption the sentence is",
}
PICTURE_FIRST = Path(__file__).parent / "picture_to_mesh.yaml"
STAGES = ("patch", "geometry", "texture")
TRAINED = 16000  # seeds below this may have been trained on (configs/toybox)
SHOWN = {"truth": (0, 3), "stages": (6, 15), "mesh": (0, 2, 3, 5)}  # views on the sheet; a turntable has 24


class SentenceBench(runs.Bench[int]):
    """Seeds of toys, whose captions are the sentences, under the methods that make an object of one."""

    def settings(self, method: str) -> dict[str, object]:
        return super().settings(method) | {"overrides": [*METHODS[method], *self.overrides]}


# ------------------------------------------------------------------------------------------------------- sentences


def training_captions(out: Path) -> frozenset[str]:
    """Every caption of a training toy, kept in a file: making them takes a while."""
    file = out / f"captions-{TRAINED}.json"
    if not file.is_file():
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(sorted({make_toy(seed).caption for seed in range(TRAINED)})))
    return frozenset(json.loads(file.read_text()))


def chosen_seeds(count: int, out: Path) -> tuple[int, ...]:
    """The first toys of the test split, each of another category, whose captions no training toy has."""
    trained = training_captions(out)
    found: dict[str, int] = {}
    seed = TEST_SEED + 2000
    while len(found) < count:
        toy = make_toy(seed)
        if toy.category != UNCAPTIONED and toy.category not in found and toy.caption not in trained:
            found[toy.category] = seed
        seed += 1
    return tuple(found.values())


def truth(seed: int) -> torch.Tensor:
    """Renders (8, 3, H, W) of the toy itself."""
    return render([make_toy(seed)], scoring_cameras()).over_white()


# ------------------------------------------------------------------------------------------------------------ runs


def measured(bench: SentenceBench, clip: Clip, seed: int, method: str) -> Figures:
    """Figures of one object's file; its stages are run, or gone on with, first."""
    prompt, began = make_toy(seed).caption, time.monotonic()
    launch = picture_first if method == "picture" else all_stages
    launch(bench, seed, method, prompt)()
    minutes = (time.monotonic() - began) / 60
    score = text_score(clip, views_of_file(mesh_of(bench, seed, method), scoring_cameras()), prompt)
    figures = {"category": score.category, "caption": score.caption, "similarity": score.similarity}
    return {**figures, "minutes": minutes}


def all_stages(bench: SentenceBench, seed: int, method: str, prompt: str) -> runs.Launch:
    """The run that makes an object of a sentence."""
    overrides = (override("system.prompt_processor.prompt", prompt), *METHODS[method], *bench.overrides)
    return runs.Launch(bench.trial(seed, method), (bench.config,), overrides, bench.gpu)


def picture_first(bench: SentenceBench, seed: int, method: str, prompt: str) -> runs.Launch:
    """The run that makes an object of the picture that is drawn of a sentence, which is drawn first."""
    trial = bench.trial(seed, method)
    drawn = trial / "drawn" / "picture.png"
    if not drawn.is_file():
        make_picture(picture_arguments([prompt, str(drawn.parent)]))
    overrides = (override("system.guidance.image_path", str(drawn.resolve())), *bench.overrides)
    return runs.Launch(trial, (PICTURE_FIRST,), overrides, bench.gpu)


def mesh_of(bench: SentenceBench, seed: int, method: str) -> Path:
    """The file that the last stage wrote."""
    return next(iter(sorted(bench.trial(seed, method).glob("mesh/save/it*-export/*.glb"))))


# ---------------------------------------------------------------------------------------------------------- summary


def table(
    bench: SentenceBench, rows: Mapping[str, Mapping[int, Figures]], true: Mapping[int, TextScore]
) -> str:
    """Means by method, each beside the recognizer's figures on the toys themselves; then every sentence."""
    lines = [
        f"Text to 3D, {len(bench.subjects)} sentences unseen in training, `{bench.config.name}`. Share of 8 views of",
        "the final file that the embedded CLIP finds: among one caption of every category, and in all colors.",
        "",
        "| method | objects | category | of truth's | colour too | of truth's | cosine | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    best = {
        key: mean([getattr(true[seed], key) for seed in bench.subjects]) for key in ("category", "caption")
    }
    for method in bench.methods:
        mine = rows[method]
        if mine:
            cells = []
            for key in ("category", "caption"):
                paired = mean(getattr(true[seed], key) for seed in mine)
                share = mean(number(found[key]) for found in mine.values())
                cells += [f"{share:.2f}", f"{share / paired:.2f}" if paired else "-"]
            cells += [
                f"{mean(number(found[key]) for found in mine.values()):.{digits}f}"
                for key, digits in (("similarity", 3), ("minutes", 1))
            ]
            lines.append(f"| {method} | {len(mine)} | " + " | ".join(cells) + " |")
    cosine = mean([true[seed].similarity for seed in bench.subjects])
    figures = f"{best['category']:.2f} | 1 | {best['caption']:.2f} | 1 | {cosine:.3f}"
    lines.append(f"| ground truth | {len(bench.subjects)} | {figures} | - |")
    lines += ["", *(f"- {name}: {MEANING[name]}" for name in (*bench.methods, "ground truth")), ""]
    lines += [
        "| sentence | truth | " + " | ".join(bench.methods) + " |",
        "|---" * (len(bench.methods) + 2) + "|",
    ]
    for seed in bench.subjects:
        cells = [f"{true[seed].category:.2f} / {true[seed].caption:.2f}"]
        cells += [shares(rows[method].get(seed)) for method in bench.methods]
        lines.append(f"| {make_toy(seed).caption} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "Cells of the second table: category / colour too.", ""])


def shares(found: Figures | None) -> str:
    return "-" if found is None else f"{number(found['category']):.2f} / {number(found['caption']):.2f}"


def sheet(bench: SentenceBench, cell: int = 80) -> Image.Image:
    """A row for each run: the sentence, the toy itself, the three stages, and the final file."""
    runs = [
        (seed, method) for seed in bench.subjects for method in bench.methods if bench.known(seed, method)
    ]
    groups = [("truth", 2), *[(stage, 2) for stage in STAGES], ("final file", 4)]
    width = 8 + sum(count * cell + 8 for _, count in groups)
    canvas = Image.new("RGB", (width, 16 + (cell + 16) * max(1, len(runs))), "white")
    draw = ImageDraw.Draw(canvas)
    for row, (seed, method) in enumerate(runs):
        top = 16 + row * (cell + 16)
        draw.text((8, top), f"{make_toy(seed).caption} ({method})", fill="black")
        shown = {"truth": list(truth(seed)[list(SHOWN["truth"])])}
        shown |= {stage: stage_pictures(bench, seed, method, stage) for stage in STAGES}
        final = views_of_file(mesh_of(bench, seed, method), scoring_cameras())
        shown["final file"] = list(final[list(SHOWN["mesh"])])
        left = 8
        for name, count in groups:
            draw.text((left, 2), name, fill="black")
            for picture in shown[name]:
                small = resize_rgba(torch.cat([picture, torch.ones_like(picture[:1])]), cell, cell)
                canvas.paste(Image.fromarray(to_bytes(over(small))), (left, top + 14))
                left += cell
            left += 8 + cell * (count - len(shown[name]))
    return canvas


def stage_pictures(bench: SentenceBench, seed: int, method: str, stage: str) -> list[torch.Tensor]:
    """Two of a stage's turntable pictures, over white: from the front, and from behind to one side."""
    folders = sorted((bench.trial(seed, method) / stage).glob("save/it*-test"))
    files = [folders[-1] / f"{i}.png" for i in SHOWN["stages"]] if folders else []
    return [over(read_rgba(file)) for file in files if file.is_file()]


def write_summary(bench: SentenceBench, true: Mapping[int, TextScore]) -> str:
    rows = {m: {s: found for s in bench.subjects if (found := bench.known(s, m))} for m in bench.methods}
    text = table(bench, rows, true)
    (bench.out / "table.md").write_text(text, encoding="utf-8")
    sheet(bench).save(bench.out / "sheet.png")
    return text


def arguments(argv: Sequence[str] | None = None) -> tuple[SentenceBench, int]:
    """What is asked for, and how many runs at a time. Raises UserError."""
    parser = runs.bench_parser(__doc__, METHODS, "text_to_3d")
    runs.config_flag(parser, "usd-text-to-3D-mini.yaml")
    parser.add_argument("--prompts", type=int, default=8, help="how many sentences (at most one a category)")
    args, rest = parser.parse_known_args(argv)
    if not 1 <= args.prompts <= 20:
        raise UserError(f"--prompts: is {args.prompts}; expected 1 to 20, each is of another category")
    fields = runs.bench_fields(args, rest)
    return SentenceBench(chosen_seeds(args.prompts, args.out.resolve()), *fields), args.jobs


def main(argv: Sequence[str] | None = None) -> bool:
    (bench, jobs), clip = arguments(argv), Clip.load(CLIP)
    true = {seed: text_score(clip, truth(seed), make_toy(seed).caption) for seed in bench.subjects}
    return bench.run(partial(measured, bench, clip), partial(write_summary, bench, true), jobs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(runs.command(main))
