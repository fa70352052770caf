#!/usr/bin/env python3
"""One picture to an object, whole pipelines side by side: distillation (SDS, USD), and views first, a surface then.

    python -m benchmarks.pipelines                                  every pipeline of pipelines.yaml, two toys
    python -m benchmarks.pipelines --objects 4 --irregular 2 --only usd zero123plus-style
    python -m benchmarks.pipelines --docs                           also put table and sheet into docs/pipelines.md
    python -m benchmarks.pipelines --pipelines benchmarks/pipelines-published.yaml --protocol gso-30 --folder gso

``--pipelines`` names a file of pipelines: what is run, and with which models, is configuration. Objects are toys of the
test split, or with ``--folder`` folders of files: ``input.png``, ``mesh.glb`` (or another mesh), and if need be
``picture.json`` (``elevation_deg`` of the picture; ``irregular: true`` puts the object into the second table). With
``--irregular`` the first toys are also seen from other heights than the models' usual one.

Every (object, pipeline) is one file of figures; a second call continues where the first was stopped. Figures are those
of ``usd evaluate``: PSNR, SSIM, LPIPS (where its weights are) and mask IoU of held-out views, Chamfer and volume IoU of
the mesh. *Views* is the PSNR of the views that a pipeline made first, against the truth; *agree* is the PSNR of the
finished object from the same cameras against these views: how far one object explains them all. Seconds are those of
the processor: views, training and export, on all cores.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from benchmarks import ROOT, chart, runs, tables
from benchmarks.claims.elevation import Case, true_elevation
from benchmarks.claims.shared import publish
from benchmarks.methods import labeled, over_white
from usd.app.views_command import make_views, views_arguments
from usd.core.config import option, parse
from usd.core.errors import UserError
from usd.data.pictures import over, read_rgba, write_picture
from usd.evaluation.align import Alignment
from usd.evaluation.protocol import evaluate
from usd.evaluation.sources import open_source
from usd.mesh_io.files import READABLE
from usd.toybox import REFERENCE_AZIMUTH_DEG, REFERENCE_ELEVATION_DEG

PIPELINES = ROOT / "benchmarks" / "pipelines.yaml"
PAGE = ROOT / "docs" / "pipelines.md"
SHEET = ROOT / "docs" / "pictures" / "pipelines.png"
SHOWN = (0.1, 0.4, 0.65, 0.9)  # shares of the way around of the views in the sheet
SECONDS = "views-seconds.json"
COLUMNS = (
    tables.Column("psnr", "PSNR, dB"),
    tables.Column("ssim", "SSIM", 3),
    tables.Column("lpips", "LPIPS", 3),
    tables.Column("mask_iou", "mask IoU", 3),
    tables.Column("chamfer_visible", "Chamfer", 4),
    tables.Column("volume_iou", "volume IoU", 3),
    tables.Column("views_psnr", "views, dB"),
    tables.Column("agree", "agree, dB"),
    tables.Column("seconds", "seconds", 0),
)


@dataclass(frozen=True)
class Pipeline:
    """A way from a picture to an object; see pipelines.yaml."""

    recipe: str = option(help="configuration that makes the object")
    meaning: str = option("", "a line under the table")
    views: tuple[str, ...] = option((), "options of `usd views`, where views are made first")
    set: tuple[str, ...] = option((), "key=value for the launcher")


@dataclass(frozen=True)
class Protocol:
    """How many objects a published comparison has, how results are aligned, and where it is from."""

    objects: int | None
    align: Alignment
    source: str


PROTOCOLS = {
    "toys": Protocol(None, "none", "toys of the test split; nothing is aligned"),
    "gso-30": Protocol(
        30, "none", "30 objects of Google Scanned Objects, as SyncDreamer and Wonder3D; nothing is aligned"
    ),
    "gso-16": Protocol(16, "none", "16 objects of Google Scanned Objects; nothing is aligned"),
}


@dataclass(frozen=True)
class Subject:
    """An object: its picture, the elevation that was taken from, and the folder of its truth."""

    name: str
    picture: Path
    truth: Path
    elevation_deg: float = REFERENCE_ELEVATION_DEG
    irregular: bool = False

    @property
    def transforms(self) -> Path:
        """Return the file of the cameras that judge results."""
        return self.truth / "transforms.json"

    @property
    def source(self) -> str:
        """Return what ``usd evaluate`` takes as the reference: views with a mesh beside them, or the mesh alone."""
        return str(self.truth if self.transforms.is_file() else mesh_of(self.truth))


class PipelineBench(runs.Bench[Subject]):
    """Objects under pipelines; ``config`` is the file that describes the pipelines."""

    def name(self, subject: Subject) -> str:
        """Return the object's name."""
        return subject.name

    @property
    def pipelines(self) -> dict[str, Pipeline]:
        """Return what the file describes."""
        return read_pipelines(self.config)

    def recipe(self, method: str) -> Path:
        """Return the configuration of a pipeline, beside its file or among configs/. Raises ``UserError``."""
        given = self.pipelines[method].recipe
        places = [self.config.parent / given, ROOT / "configs" / given]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise UserError(
                f"{self.config}: {method}.recipe: there is no '{given}'; expected a file of configs/"
            )
        return found

    def settings(self, method: str) -> dict[str, object]:
        """Return what a pipeline's figures depend on beside the object."""
        pipeline = self.pipelines[method]
        said = {"views": list(pipeline.views), "set": [*pipeline.set, *self.overrides]}
        return {"method": method, "recipe": runs.recipe(self.recipe(method)), **said}

    def views(self, subject: Subject, method: str) -> Path:
        """Return the folder of the views that a pipeline makes first."""
        return self.out / "views" / f"{subject.name}-{method}"

    def launch(self, subject: Subject, method: str) -> runs.Launch:
        """Return the run that makes the object."""
        if self.pipelines[method].views:
            given = [f"data.path={self.views(subject, method)}"]
            given += [f"data.eval_path={subject.truth}"] if subject.transforms.is_file() else []
        else:
            given = [f"system.guidance.image_path={subject.picture}"]
            given += [f"data.reference_elevation_deg={subject.elevation_deg:g}"]
            given += [f"data.eval_transforms={subject.transforms}"] if subject.transforms.is_file() else []
        words = (*given, *self.pipelines[method].set, *self.overrides)
        return runs.Launch(self.trial(subject, method), (self.recipe(method),), words, self.gpu)


def read_pipelines(file: Path) -> dict[str, Pipeline]:
    """Return the pipelines that a file describes. Raises ``UserError``."""
    from omegaconf import OmegaConf

    if not file.is_file():
        raise UserError(f"--pipelines: there is no file {file}")
    content = OmegaConf.to_container(OmegaConf.load(file))
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected pipelines by name")
    return {str(name): parse(Pipeline, entry, f"{file.name}: {name}") for name, entry in content.items()}


def mesh_of(folder: Path) -> Path:
    """Return the mesh file of a folder. Raises ``UserError``."""
    found = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in READABLE]
    if not found:
        raise UserError(f"{folder}: holds no mesh; expected one beside input.png ({', '.join(READABLE)})")
    return found[0]


# -------------------------------------------------------------------------------------------------------- objects


def toys(seeds: Sequence[int], irregular: int, out: Path) -> list[Subject]:
    """Return toys as files, and the first ``irregular`` of them once more, from other heights."""
    found = []
    for index, seed in enumerate(seeds):
        truth = runs.toy_folder(seed, out)
        found.append(Subject(str(seed), truth / "input.png", truth))
        if index < irregular:
            elevation = round(true_elevation(index), 1)
            picture = out / "pictures" / f"{seed}-{elevation:g}.png"
            if not picture.is_file():
                write_picture(picture, Case(seed, elevation).rgba(size=runs.SIZE)[0])
            found.append(Subject(f"{seed}-from-{elevation:g}", picture, truth, elevation, True))
    return found


def folder_objects(folder: Path) -> list[Subject]:
    """Return the objects of a folder of folders. Raises ``UserError``."""
    pictures = sorted(folder.glob("*/input.png"))
    if not pictures:
        raise UserError(f"--folder: {folder}: holds no */input.png; expected a folder of objects")
    found = []
    for picture in pictures:
        mesh_of(picture.parent)
        note = picture.with_name("picture.json")
        said = json.loads(note.read_text()) if note.is_file() else {}
        elevation = float(said.get("elevation_deg", REFERENCE_ELEVATION_DEG))
        irregular = bool(said.get("irregular", False))
        found.append(Subject(picture.parent.name, picture, picture.parent, elevation, irregular))
    return found


# ------------------------------------------------------------------------------------------------------- measuring


def generated(bench: PipelineBench, subject: Subject, method: str) -> float:
    """Make a pipeline's views unless they are there; return the processor's seconds that they took."""
    folder = bench.views(subject, method)
    done = folder / SECONDS
    words = [str(subject.picture), str(folder), *bench.pipelines[method].views]
    words += ["--elevation", f"{subject.elevation_deg:g}", "--azimuth", f"{REFERENCE_AZIMUTH_DEG:g}"]
    if bench.gpu not in (None, "cpu"):
        words += ["--device", f"cuda:{bench.gpu}"]
    if done.is_file() and json.loads(done.read_text())["words"] == words:
        return float(json.loads(done.read_text())["seconds"])
    shutil.rmtree(folder, ignore_errors=True)
    began = time.process_time()
    make_views(views_arguments(words))
    seconds = time.process_time() - began
    done.write_text(json.dumps({"words": words, "seconds": seconds}))
    return seconds


def measured(bench: PipelineBench, align: Alignment, subject: Subject, method: str) -> tables.Figures:
    """Run a pipeline on an object, or go on with its run, and measure what it made."""
    seconds, views = 0.0, bench.views(subject, method)
    if bench.pipelines[method].views:
        seconds = generated(bench, subject, method)
    launch = bench.launch(subject, method)
    launch.trained({})
    launch("--export", f"resume={launch.last}")
    truth = open_source(subject.source, method)
    figures: tables.Figures = dict(evaluate(open_source(str(launch.trial), method), truth, align).figures)
    figures["seconds"] = seconds + 60 * launch.times["cpu_minutes"]
    if bench.pipelines[method].views:
        figures |= view_figures(launch, views, subject)
    return figures


def view_figures(launch: runs.Launch, views: Path, subject: Subject) -> tables.Figures:
    """Return how right the views are that were made first, and how well the finished object explains them."""
    made = open_source(str(views), "views")
    right = evaluate(made, open_source(str(mesh_of(subject.truth)), "truth")).figures
    words = (*launch.overrides, f"data.eval_path={views}")
    again = runs.Launch(
        launch.trial.with_name(f"{launch.trial.name}-agree"), launch.configs, words, launch.gpu
    )
    again("--test", f"resume={launch.last}")
    folder = runs.newest_views(again.trial)
    if folder is None:
        raise UserError(f"{again.trial}: the test wrote no views; see {again.log}")
    return {"views_psnr": right["psnr"], "agree": runs.view_scores(folder)["psnr"]}


# ---------------------------------------------------------------------------------------------------------- report


def table(bench: PipelineBench, protocol: Protocol) -> str:
    """Return the tables: regular pictures, and irregular ones where there are any."""
    parts = [f"Protocol: {protocol.source}. Mean over objects."]
    for irregular, title in ((False, "Pictures from the usual height"), (True, "Irregular pictures")):
        names = {subject.name for subject in bench.subjects if subject.irregular is irregular}
        if names:
            parts.append(f"**{title}** ({len(names)})\n\n{rows_of(bench, names)}")
    meanings = [f"- {name}: {pipeline.meaning}" for name, pipeline in bench.pipelines.items()]
    return "\n\n".join([*parts, "\n".join(meanings)])


def rows_of(bench: PipelineBench, names: set[str]) -> str:
    """Return a table of these objects, a row a pipeline that has run; a dash for what a pipeline does not have."""
    found = {m: {n: f for n, f in bench.found(m).items() if n in names} for m in bench.methods}
    found = {method: rows for method, rows in found.items() if rows}
    keys = {key for rows in found.values() for figures in rows.values() for key in figures}
    columns = [column for column in COLUMNS if column.key in keys]
    lines = ["| pipeline | objects | " + " | ".join(column.heading for column in columns) + " |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for method, rows in found.items():
        cells = [mean_of(rows, column) for column in columns]
        lines.append(f"| {method} | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean_of(found: Mapping[str, tables.Figures], column: tables.Column) -> str:
    """Return the mean of a figure over objects; a dash where it means nothing for the pipeline."""
    values = [tables.number(figures[column.key]) for figures in found.values() if column.key in figures]
    return f"{sum(values) / len(values):.{column.digits}f}" if values else "-"


def sheet(bench: PipelineBench) -> Image.Image:
    """Return a picture with a row a pipeline: the picture that was given, and four views of every object."""
    judged = [subject for subject in bench.subjects if subject.transforms.is_file()]
    rows = [[cell for subject in judged for cell in shown_of(subject, subject.truth / "views")]]
    names = ["truth"]
    for method in bench.methods:
        if bench.found(method):
            folders = [runs.newest_views(bench.trial(subject, method)) for subject in judged]
            rows.append([c for s, f in zip(judged, folders, strict=True) for c in shown_of(s, f)])
            names.append(method)
    return labeled(chart.grouped_sheet(rows, [(s.name, len(SHOWN) + 1) for s in judged], 72), names, 130, 72)


def shown_of(subject: Subject, views: Path | None) -> list[torch.Tensor]:
    """Return the picture of an object and some of its views; empty cells where there are none."""
    first = over(read_rgba(subject.picture))
    if views is None:
        return [first, *(chart.picture_of(None) for _ in SHOWN)]
    pictures = over_white(views)
    return [first, *(pictures[int(share * len(pictures))] for share in SHOWN)]


def write_summary(bench: PipelineBench, protocol: Protocol, docs: bool) -> str:
    """Write the table and the sheet; with ``docs`` also into the page."""
    text = table(bench, protocol)
    (bench.out / "table.md").write_text(text + "\n", encoding="utf-8")
    if any(subject.transforms.is_file() for subject in bench.subjects):
        sheet(bench).save(bench.out / "sheet.png", optimize=True)
    if docs:
        publish("pipelines", text, PAGE)
        shutil.copyfile(bench.out / "sheet.png", SHEET)
    return text


def arguments(argv: Sequence[str] | None = None) -> tuple[PipelineBench, argparse.Namespace]:
    """Return what is asked for. Raises ``UserError``."""
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--pipelines", dest="config", type=Path, default=PIPELINES)
    file = first.parse_known_args(argv)[0].config
    parser = runs.bench_parser(__doc__, read_pipelines(file), "pipelines", "--only")
    parser.add_argument("--pipelines", dest="config", type=Path, default=PIPELINES, help="file of pipelines")
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, default="toys", help="how many objects, and alignment"
    )
    parser.add_argument("--folder", type=Path, help="folder of objects, in place of toys")
    parser.add_argument("--irregular", type=int, default=0, help="toys that are also seen from other heights")
    parser.add_argument("--docs", action="store_true", help="put table and sheet into docs/pipelines.md")
    runs.object_flags(parser, 2)
    args, rest = parser.parse_known_args(argv)
    subjects = (
        folder_objects(args.folder.resolve())
        if args.folder
        else toys(runs.chosen_seeds(args), args.irregular, args.out.resolve())
    )
    wanted = PROTOCOLS[args.protocol].objects
    if wanted not in (None, len(subjects)):
        raise UserError(f"--protocol {args.protocol}: has {wanted} objects, and {len(subjects)} are given")
    return PipelineBench(tuple(subjects), *runs.bench_fields(args, rest)), args


def main(argv: Sequence[str] | None = None) -> bool:
    """Measure what is not known yet. Returns whether all went well."""
    bench, args = arguments(argv)
    protocol = PROTOCOLS[args.protocol]
    measure = partial(measured, bench, protocol.align)
    return bench.run(measure, partial(write_summary, bench, protocol, args.docs), args.jobs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(runs.command(main))
