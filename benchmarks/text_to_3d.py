#!/usr/bin/env python3
"""Text to 3D with the embedded models: are the final meshes recognised as what was asked for?

    python benchmarks/text_to_3d.py                      8 sentences, SDS (as it ships) and lambda = 0
    python benchmarks/text_to_3d.py --prompts 3 --methods sds stages.patch.trainer.max_steps=600

The sentences are captions of toys of the test split, of different categories, that no training toy has: shapes and
colours unseen together. Each (sentence, method) is one run of ``configs/usd-text-to-3D-mini.yaml`` and one file
``runs/<seed>-<method>.json``; a second call continues where the first was stopped, also inside a stage. The file that
the last stage wrote is read back, rendered from 8 sides, and recognised by the embedded CLIP
(``usd.evaluation.text_score``); the same figures for renders of the toy itself stand beside it. ``table.md`` and
``sheet.png`` are written to ``--out`` after every run. ``key=value`` arguments apply to every run and belong to its
identity.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from usd.data.pictures import over, read_rgba, resize_rgba, to_bytes  # noqa: E402
from usd.evaluation.embedded import Clip  # noqa: E402
from usd.evaluation.text_score import CLIP, TextScore, around, text_score, views_of_file  # noqa: E402
from usd.toybox import TEST_SEED  # noqa: E402
from usd.toybox.objects import NAMELESS, make_toy  # noqa: E402
from usd.toybox.render import render  # noqa: E402

STRONG = [f"stages.{stage}.system.guidance.lambda=0" for stage in ("patch", "texture")]
METHODS: dict[str, list[str]] = {"sds": [], "lambda0": STRONG}
MEANING = {
    "sds": "the configuration as it ships: every stage with lambda 1",
    "lambda0": "the same with lambda 0 in the first and third stage, as published (the shape is SDS in both)",
    "ground truth": "renders of the toy whose caption the sentence is",
}
STAGES = ("patch", "geometry", "texture")
TRAINED = 16000  # seeds below this may have been trained on (configs/toybox)
SHOWN = {"truth": (0, 3), "stages": (6, 15), "mesh": (0, 2, 3, 5)}  # views on the sheet; a turntable has 24


@dataclass(frozen=True)
class Bench:
    """What is compared, and where it is kept."""

    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    config: Path
    out: Path
    gpu: str | None
    overrides: tuple[str, ...]

    def result(self, seed: int, method: str) -> Path:
        return self.out / "runs" / f"{seed}-{method}.json"

    def run_folder(self, seed: int, method: str) -> Path:
        return self.out / "trials" / "bench" / f"{seed}-{method}"

    def settings(self, method: str) -> list[str]:
        return [self.config.name, *METHODS[method], *self.overrides]


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
    trained, found = training_captions(out), {}
    seed = TEST_SEED + 2000
    while len(found) < count:
        toy = make_toy(seed)
        if toy.category != NAMELESS and toy.category not in found and toy.caption not in trained:
            found[toy.category] = seed
        seed += 1
    return tuple(found.values())


def truth(seed: int) -> torch.Tensor:
    """Renders (8, 3, H, W) of the toy itself."""
    return render([make_toy(seed)], around()).over_white()


# ------------------------------------------------------------------------------------------------------------ runs


def known(bench: Bench, seed: int, method: str) -> dict | None:
    """The stored result, if it was made with the same settings."""
    file = bench.result(seed, method)
    stored = json.loads(file.read_text()) if file.is_file() else None
    return stored if stored and stored["settings"] == bench.settings(method) else None


def perform(bench: Bench, clip: Clip, seed: int, method: str) -> None:
    """Make one object, score its file and store the result."""
    prompt, folder, began = make_toy(seed).caption, bench.run_folder(seed, method), time.monotonic()
    command = [sys.executable, str(ROOT / "launch.py"), "--config", str(bench.config), "--train"]
    command += ["--gpu", bench.gpu] if bench.gpu else []
    command += [f"exp_root_dir={bench.out / 'trials'}", "name=bench", f"tag={folder.name}"]
    command += [f"system.prompt_processor.prompt={json.dumps(prompt)}", "trainer.enable_progress_bar=false"]
    command += [*METHODS[method], *bench.overrides]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "a") as log:
        subprocess.run(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=True, env=dict(os.environ)
        )
    minutes = (time.monotonic() - began) / 60
    score = text_score(clip, views_of_file(mesh_of(bench, seed, method), around()), prompt)
    result = {"seed": seed, "method": method, "prompt": prompt, **score.plain(), "minutes": minutes}
    file = bench.result(seed, method)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**result, "settings": bench.settings(method)}, indent=1))
    print(f"{seed} {method}: '{prompt}': {score.line()}, {minutes:.1f} min", flush=True)


def mesh_of(bench: Bench, seed: int, method: str) -> Path:
    """The file that the last stage wrote."""
    return next(iter(sorted(bench.run_folder(seed, method).glob("mesh/save/it*-export/*.glb"))))


# ---------------------------------------------------------------------------------------------------------- summary


def table(bench: Bench, results: list[dict], true: dict[int, TextScore]) -> str:
    """Means by method, each beside the recogniser's figures on the toys themselves; then every sentence."""
    lines = [
        f"Text to 3D, {len(bench.seeds)} sentences unseen in training, `{bench.config.name}`. Share of 8 views of the",
        "final file that the embedded CLIP finds: among one caption of every category, and also in every other colour.",
        "",
        "| method | objects | category | of truth's | colour too | of truth's | cosine | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    best = {key: mean([getattr(true[seed], key) for seed in bench.seeds]) for key in ("category", "caption")}
    for method in bench.methods:
        mine = [result for result in results if result["method"] == method]
        if mine:
            cells = []
            for key in ("category", "caption"):
                paired = mean([getattr(true[result["seed"]], key) for result in mine])
                share = mean([result[key] for result in mine])
                cells += [f"{share:.2f}", f"{share / paired:.2f}" if paired else "-"]
            cells += [
                f"{mean([r['similarity'] for r in mine]):.3f}",
                f"{mean([r['minutes'] for r in mine]):.1f}",
            ]
            lines.append(f"| {method} | {len(mine)} | " + " | ".join(cells) + " |")
    cosine = mean([true[seed].similarity for seed in bench.seeds])
    figures = f"{best['category']:.2f} | 1 | {best['caption']:.2f} | 1 | {cosine:.3f}"
    lines.append(f"| ground truth | {len(bench.seeds)} | {figures} | - |")
    lines += ["", *(f"- {name}: {MEANING[name]}" for name in (*bench.methods, "ground truth")), ""]
    lines += [
        "| sentence | truth | " + " | ".join(bench.methods) + " |",
        "|---" * (len(bench.methods) + 2) + "|",
    ]
    for seed in bench.seeds:
        mine_by = {result["method"]: result for result in results if result["seed"] == seed}
        cells = [f"{true[seed].category:.2f} / {true[seed].caption:.2f}"]
        cells += [
            f"{r['category']:.2f} / {r['caption']:.2f}" if (r := mine_by.get(m)) else "-"
            for m in bench.methods
        ]
        lines.append(f"| {make_toy(seed).caption} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "Cells of the second table: category / colour too.", ""])


def mean(values: list[float]) -> float:
    return statistics.fmean(values)


def sheet(bench: Bench, cell: int = 80) -> Image.Image:
    """A row for each run: the sentence, the toy itself, the three stages, and the final file."""
    runs = [(seed, method) for seed in bench.seeds for method in bench.methods if known(bench, seed, method)]
    groups = [("truth", 2), *[(stage, 2) for stage in STAGES], ("final file", 4)]
    width = 8 + sum(count * cell + 8 for _, count in groups)
    canvas = Image.new("RGB", (width, 16 + (cell + 16) * max(1, len(runs))), "white")
    draw = ImageDraw.Draw(canvas)
    for row, (seed, method) in enumerate(runs):
        top = 16 + row * (cell + 16)
        draw.text((8, top), f"{make_toy(seed).caption} ({method})", fill="black")
        shown = {"truth": list(truth(seed)[list(SHOWN["truth"])])}
        shown |= {stage: stage_pictures(bench, seed, method, stage) for stage in STAGES}
        final = views_of_file(mesh_of(bench, seed, method), around())
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


def stage_pictures(bench: Bench, seed: int, method: str, stage: str) -> list[torch.Tensor]:
    """Two of a stage's turntable pictures, over white: from the front, and from behind to one side."""
    folders = sorted((bench.run_folder(seed, method) / stage).glob("save/it*-test"))
    files = [folders[-1] / f"{i}.png" for i in SHOWN["stages"]] if folders else []
    return [over(read_rgba(file)) for file in files if file.is_file()]


def write_summary(bench: Bench, true: dict[int, TextScore]) -> str:
    results = [r for seed in bench.seeds for method in bench.methods if (r := known(bench, seed, method))]
    text = table(bench, results, true)
    (bench.out / "table.md").write_text(text)
    sheet(bench).save(bench.out / "sheet.png")
    return text


def arguments(argv: list[str] | None = None) -> Bench:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=8, help="how many sentences (at most one a category)")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "usd-text-to-3D-mini.yaml")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "text_to_3d")
    parser.add_argument("--gpu", help="passed on to the launcher")
    args, rest = parser.parse_known_args(argv)
    wrong = [item for item in rest if "=" not in item or item.startswith("-")]
    if wrong:
        parser.error(f"{wrong[0]}: expected key=value")
    if not 1 <= args.prompts <= 20:
        parser.error(f"--prompts {args.prompts}: expected 1 to 20, each is of another category")
    out = args.out.resolve()
    seeds = chosen_seeds(args.prompts, out)
    return Bench(seeds, tuple(args.methods), args.config.resolve(), out, args.gpu, tuple(rest))


def main() -> int:
    bench, clip = arguments(), Clip.load(CLIP)
    true = {seed: text_score(clip, truth(seed), make_toy(seed).caption) for seed in bench.seeds}
    todo = [(s, m) for s in bench.seeds for m in bench.methods if known(bench, s, m) is None]
    print(
        f"{len(todo)} of {len(bench.seeds) * len(bench.methods)} runs to do; results in {bench.out}",
        flush=True,
    )
    failures = 0
    for seed, method in todo:
        try:
            perform(bench, clip, seed, method)
        except subprocess.CalledProcessError:
            failures += 1
            print(f"{seed} {method}: failed; see {bench.run_folder(seed, method) / 'log.txt'}", flush=True)
        write_summary(bench, true)
    print(write_summary(bench, true))
    return 1 if failures else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
