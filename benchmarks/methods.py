"""Every method that has a recipe for the embedded models, on the same three sentences and the same three pictures.

    python -m benchmarks.methods                          all of them; --jobs 2 makes two runs at a time
    python -m benchmarks.methods --methods dreamfusion sjc
    python -m benchmarks.methods --docs                   also put the table and the sheet into docs/methods.md

The sentences are the captions of three toys of the test split, the pictures those toys from the reference camera. A
second call continues where the first was stopped. *Category* is the share of a result's views that the embedded CLIP
finds among one caption of every category, *caption* the share that it also finds among all colors (see
``usd/evaluation/text_score.py``); PSNR, of results from a picture, is against the toy itself from 16 held-out cameras.
Seconds are CPU seconds of all cores, memory is the most that the run's process held.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from benchmarks import ROOT, chart, runs, tables
from benchmarks.claims.shared import publish
from usd.core.loading import override
from usd.data.pictures import over
from usd.evaluation.embedded import Clip
from usd.evaluation.text_score import CLIP, text_score
from usd.toybox import TEST_SEED
from usd.toybox.objects import make_toy

PAGE = ROOT / "docs" / "methods.md"
SHEET = ROOT / "docs" / "pictures" / "methods.png"
SEEDS = (TEST_SEED + 22, TEST_SEED + 101, TEST_SEED + 105)
SHOWN = (0.0, 0.4)  # shares of the way around of the views in the sheet


@dataclass(frozen=True)
class Method:
    """A recipe of configs/, what it is given (a prompt, a picture, both), and the option that takes the picture."""

    config: str
    given: tuple[str, ...] = ("a sentence",)
    picture_key: str = "system.guidance.image_path"

    @property
    def from_picture(self) -> bool:
        """Whether the object is made after a picture."""
        return "a picture" in self.given


METHODS = {
    "dreamfusion": Method("dreamfusion-mini.yaml"),
    "prolificdreamer": Method("prolificdreamer-mini.yaml"),
    "magic3d": Method("magic3d-mini.yaml"),
    "fantasia3d": Method("fantasia3d-mini.yaml"),
    "textmesh": Method("textmesh-mini.yaml"),
    "sjc": Method("sjc-mini.yaml"),
    "latent-nerf": Method("latent-nerf-mini.yaml"),
    "hifa": Method("hifa-mini.yaml"),
    "sdi": Method("sdi-mini.yaml"),
    "usd-text": Method("usd-text-to-3D-patch-mini.yaml"),
    "zero123": Method("zero123-mini.yaml", ("a picture",)),
    "magic123": Method("magic123-mini.yaml", ("a picture", "a sentence"), "system.image_path"),
    "usd": Method("usd-patch-mini.yaml", ("a picture",)),
}


class MethodBench(runs.Bench[int]):
    """Seeds of toys under the methods; a toy serves as a sentence or as a picture."""

    def method_config(self, method: str) -> Path:
        """Return the recipe of a method; ``config`` is the folder of all."""
        return self.config / METHODS[method].config

    def settings(self, method: str) -> dict[str, object]:
        """Return what a method's figures depend on beside the toy."""
        recipe = runs.recipe(self.method_config(method))
        return {"method": method, "recipe": recipe, "overrides": list(self.overrides)}

    def launch(self, seed: int, method: str) -> runs.Launch:
        """Return the run of a method."""
        toy = runs.toy_folder(seed, self.out)
        inputs = {
            "a sentence": override("system.prompt_processor.prompt", make_toy(seed).caption),
            "a picture": f"{METHODS[method].picture_key}={toy / 'input.png'}",
        }
        words = [f"data.eval_transforms={toy / 'transforms.json'}"]
        words += [inputs[what] for what in METHODS[method].given]
        configs = (self.method_config(method),)
        return runs.Launch(self.trial(seed, method), configs, (*words, *self.overrides), self.gpu)


def measured(bench: MethodBench, clip: Clip, seed: int, method: str) -> tables.Figures:
    """Run a method, or go on with its run, and measure what it made."""
    launch = bench.launch(seed, method)
    views = launch.trained({})
    score = text_score(clip, over_white(views), make_toy(seed).caption)
    times = launch.times
    truth = {"psnr": runs.view_scores(views)["psnr"]} if METHODS[method].from_picture else {}
    return {
        **truth,
        "category": score.category,
        "caption": score.caption,
        "seconds": 60 * times["cpu_minutes"],
        "gib": times["gib"],
    }


def over_white(views: Path) -> torch.Tensor:
    """Return a folder of views (B, 3, H, W) over white."""
    return torch.stack([over(picture) for picture in runs.test_views(views)])


COLUMNS = (
    tables.Column("category", "category"),
    tables.Column("caption", "caption"),
    tables.Column("psnr", "PSNR, dB"),
    tables.Column("seconds", "CPU seconds", 0),
    tables.Column("gib", "GiB", 1),
)


def table(bench: MethodBench) -> str:
    """Return the means of every method, those from sentences first."""
    rows = {method: found for method in bench.methods if (found := bench.found(method))}
    heads = ["method", "from", "objects", *(column.heading for column in COLUMNS)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for method, found in rows.items():
        recipe = METHODS[method]
        cells = [f"[{method}](../configs/{recipe.config})", " and ".join(recipe.given), str(len(found))]
        cells += [mean_of(found, column) for column in COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    captions = "; ".join(f"*{make_toy(seed).caption}*" for seed in bench.subjects)
    about = f"Objects: {captions}. Mean ± standard deviation over them."
    if missing := [method for method in bench.methods if method not in rows]:
        about += f" Not measured yet: {', '.join(missing)}."
    return "\n".join([*lines, "", about])


def mean_of(found: Mapping[str, tables.Figures], column: tables.Column) -> str:
    """Return mean and spread of a figure over objects; a dash where it means nothing for the method."""
    if not all(column.key in figures for figures in found.values()):
        return "-"
    return tables.spread([tables.number(figures[column.key]) for figures in found.values()], column.digits)


def sheet(bench: MethodBench) -> Image.Image:
    """Return a picture with a row a method: two views of every object."""
    rows, names = [truth_row(bench)], ["the toy"]
    for method in bench.methods:
        if bench.found(method):
            rows.append([cell for seed in bench.subjects for cell in views_of(bench, seed, method)])
            names.append(method)
    groups = [(f"{make_toy(seed).caption}"[:34], len(SHOWN)) for seed in bench.subjects]
    return labeled(chart.grouped_sheet(rows, groups, 96), names)


def labeled(picture: Image.Image, names: Sequence[str], left: int = 110, cell: int = 96) -> Image.Image:
    """Return a grouped sheet with a name in front of each of its rows, of cells with so many pixels a side."""
    from PIL import ImageDraw

    canvas = Image.new("RGB", (picture.width + left, picture.height), "white")
    canvas.paste(picture, (left, 0))
    draw = ImageDraw.Draw(canvas)
    for row, name in enumerate(names):
        draw.text((left - 8, 34 + row * (cell + 4) + cell // 2), name, "black", chart.font(11), "rm")
    return canvas


def truth_row(bench: MethodBench) -> list[torch.Tensor]:
    """Return the toys themselves from the cameras of the sheet."""
    folders = [runs.toy_folder(seed, bench.out) / "views" for seed in bench.subjects]
    return [over_white(folder)[index_of(share, folder)] for folder in folders for share in SHOWN]


def views_of(bench: MethodBench, seed: int, method: str) -> list[torch.Tensor]:
    """Return the views of one result that the sheet shows; empty cells where it is not there yet."""
    views = runs.newest_views(bench.trial(seed, method))
    if views is None:
        return [chart.picture_of(None) for _ in SHOWN]
    return [over_white(views)[index_of(share, views)] for share in SHOWN]


def index_of(share: float, views: Path) -> int:
    """Return the number of the view at a share of the way around."""
    return int(share * len(list(views.glob("*.png"))))


def write_summary(bench: MethodBench, docs: bool) -> str:
    """Write the table and the sheet; with ``docs`` also into the page."""
    text = table(bench)
    (bench.out / "table.md").write_text(text + "\n", encoding="utf-8")
    sheet(bench).save(bench.out / "sheet.png", optimize=True)
    if docs:
        publish("methods", text, PAGE)
        shutil.copyfile(bench.out / "sheet.png", SHEET)
    return text


def arguments(argv: Sequence[str] | None = None) -> tuple[MethodBench, argparse.Namespace]:
    """Return what is asked for. Raises ``UserError``."""
    parser = runs.bench_parser(__doc__, METHODS, "methods")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=list(SEEDS), help="toys: sentence and picture"
    )
    parser.add_argument("--docs", action="store_true", help="put table and sheet into docs/methods.md")
    parser.set_defaults(config=ROOT / "configs")  # the method says which recipe
    args, rest = parser.parse_known_args(argv)
    return MethodBench(tuple(args.seeds), *runs.bench_fields(args, rest)), args


def main(argv: Sequence[str] | None = None) -> bool:
    """Measure what is not known yet. Returns whether all went well."""
    bench, args = arguments(argv)
    measure = partial(measured, bench, Clip.load(CLIP))
    return bench.run(measure, partial(write_summary, bench, args.docs), args.jobs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(runs.command(main))
