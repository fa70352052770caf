#!/usr/bin/env python3
"""The whole method on toybox objects of the test split, stage by stage, against ground truth.

    python benchmarks/full_pipeline.py                           4 objects: sds, usd, refined, mesh
    python benchmarks/full_pipeline.py --objects 6 --methods usd refined mesh plain-mesh
    python benchmarks/full_pipeline.py stages.object.trainer.max_steps=400

Each object is one run of ``configs/usd-full-mini.yaml``, which usd, refined and mesh share, and one of its first stage
for sds. Every (object, method) is one file ``runs/<seed>/<digest>.json``. A second call continues where the first was
stopped, also in the middle of a stage. ``table.md`` and ``sheet.png`` are written to ``--out`` after every object.
``key=value`` arguments are passed on to the launcher and belong to the identity of a run; minutes are wall clock.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import chart, runs
from benchmarks.runs import SIZE, VIEWS
from benchmarks.tables import Column, Figures, number, table
from usd.app.stages import read_record, written
from usd.core import loading
from usd.data.pictures import read_rgba, write_picture
from usd.evaluation.mesh_views import mesh_views, open_mesh
from usd.evaluation.metrics import sharpness
from usd.evaluation.protocol import compare_surfaces
from usd.evaluation.views import mean_score, score_picture
from usd.toybox.cameras import held_out_cameras
from usd.toybox.mesh import toy_mesh
from usd.toybox.objects import make_toy

SHOWN = (2, 5, 8, 12)  # of the held-out views, on the sheet
ADDED = Path(__file__).with_suffix(".yaml")
SDS = "stages.object.system.guidance.unconditional=own"


@dataclass(frozen=True)
class Method:
    """What a method needs: its run, the stages of it, and where its pictures and its mesh come from."""

    meaning: str
    run: str
    stages: tuple[str, ...]
    pictures: str
    mesh: str | None


FIRST = ("object", "object_mesh")
DENSE = ("object", "views", "specialise", "refine", "surface", "mesh")
METHODS = {
    "sds": Method(
        "Zero-1-to-3 with score distillation: its own unconditional prediction",
        "sds",
        FIRST,
        "object",
        "object_mesh",
    ),
    "usd": Method(
        "the first stage: Stable Diffusion's unconditional prediction", "usd", FIRST, "object", "object_mesh"
    ),
    "refined": Method(
        "usd's pictures refined by the specialised model; its shape is that of usd",
        "usd",
        ("object", "specialise", "judged"),
        "judged",
        None,
    ),
    "mesh": Method(
        "the exported file: reconstructed from refined views, textured", "usd", DENSE, "mesh", "mesh"
    ),
    "cut": Method(
        "refined's colours under the silhouette of the exported file: what is lost when a soft rim becomes a hard one",
        "usd",
        (*DENSE, "judged"),
        "cut",
        None,
    ),
    "plain-mesh": Method(
        "the same, reconstructed from views as they are",
        "usd",
        ("object", "views", "plain_surface", "plain_mesh"),
        "plain_mesh",
        "plain_mesh",
    ),
}
COLUMNS = (
    Column("psnr", "PSNR, dB"),
    Column("ssim", "SSIM", 3),
    Column("mask_iou", "mask IoU", 3),
    Column("sharpness", "sharpness, 1/px", 3),
)
SURFACE = (Column("chamfer_area", "Chamfer", 4), Column("volume_iou", "volume IoU", 3))


class PipelineBench(runs.Bench[int]):
    """Seeds of toys under the parts of the pipeline that are compared."""

    def toy(self, seed: int) -> Path:
        return runs.toy_folder(seed, self.out, VIEWS, SIZE)

    def trial(self, subject: int, method: str) -> Path:
        """The folder of the stages that a method looks at."""
        return super().trial(subject, METHODS[method].run)

    def pictures(self, seed: int, method: str) -> Path:
        """The folder of the method's pictures from the held-out cameras, ``0000.png`` and so on."""
        return self.out / "pictures" / f"{seed}-{method}"

    def settings(self, method: str) -> dict[str, object]:
        return super().settings(method) | {"added": runs.recipe(ADDED)}


# ----------------------------------------------------------------------------------------------------------- running


def wanted_stages(bench: PipelineBench, run: str) -> tuple[str, ...]:
    """All stages of a run that the methods to be compared need."""
    needed = {stage for name in bench.methods if METHODS[name].run == run for stage in METHODS[name].stages}
    return tuple(stage for stage in stage_names(bench) if stage in needed)


def stage_names(bench: PipelineBench) -> list[str]:
    """Every stage of the configuration, in order."""
    contents = [content for file in (bench.config, ADDED) for content in loading.chain(file)]
    return [stage.name for stage in written(contents, ())]


def told(bench: PipelineBench, toy: Path, tag: str) -> list[str]:
    """What a run is told on the command line, its place and the choice of stages left out."""
    return [
        f"stages.object.system.guidance.image_path={toy / 'input.png'}",
        f"stages.object.data.eval_transforms={toy / 'transforms.json'}",
        "stages.object.data.eval_turntable=false",
        "stages.views.data.eval_transforms=null",
        *([SDS] if tag.endswith("-sds") else []),
        *bench.overrides,
    ]


def launch(bench: PipelineBench, seed: int, method: str) -> runs.Launch:
    """The run that does those of the method's stages that are not done yet."""
    folder, stages = bench.trial(seed, method), wanted_stages(bench, METHODS[method].run)
    left_out = [f"stages.{name}=null" for name in stage_names(bench) if name not in stages]
    overrides = (*told(bench, bench.toy(seed), folder.name), *left_out)
    return runs.Launch(folder, (bench.config, ADDED), overrides, bench.gpu)


# --------------------------------------------------------------------------------------------------------- measuring


def measured(bench: PipelineBench, seed: int, method: str) -> Figures:
    """Figures of a method whose run is done."""
    asked, run = METHODS[method], bench.trial(seed, method)
    pictures = torch.stack(shown(bench, seed, method))
    truth = torch.stack([read_rgba(bench.toy(seed) / f"views/{i:04d}.png") for i in range(VIEWS)])
    mean = mean_score([score_picture(mine, theirs) for mine, theirs in zip(pictures, truth, strict=True)])
    figures: Figures = {"psnr": mean.psnr, "ssim": mean.ssim, "mask_iou": mean.mask_iou}
    figures |= {
        "sharpness": float(sharpness(pictures).mean()),
        "sharpness_truth": float(sharpness(truth).mean()),
    }
    records = [read_record(run / stage) for stage in asked.stages if stage != "object_mesh"]
    figures["minutes"] = sum(record.minutes for record in records if record)
    if asked.mesh is not None:
        found = open_mesh(exported(run / asked.mesh)).mesh
        surface = compare_surfaces(found, toy_mesh(make_toy(seed)), "none")[0].figures
        figures |= {key: float(surface[key]) for key in ("chamfer_area", "chamfer_floor", "volume_iou")}
    return figures


def shown(bench: PipelineBench, seed: int, method: str) -> list[Float[Tensor, "4 H W"]]:
    """The method's pictures from the held-out cameras; copied to ``pictures/`` for the sheet."""
    asked, run = METHODS[method], bench.trial(seed, method)
    if asked.pictures in ("mesh", "plain_mesh"):
        made = mesh_pictures(run / asked.pictures)
    elif asked.pictures == "judged":
        made = refined_pictures(run)
    elif asked.pictures == "cut":
        made = [
            cut_out(*pair) for pair in zip(refined_pictures(run), mesh_pictures(run / "mesh"), strict=True)
        ]
    else:
        (folder,) = (run / asked.pictures / "save").glob("it*-test")
        made = [read_rgba(folder / f"{i}.png") for i in range(VIEWS)]
    for index, picture in enumerate(made):
        write_picture(bench.pictures(seed, method) / f"{index:04d}.png", picture)
    return made


def mesh_pictures(trial: Path) -> list[Float[Tensor, "4 H W"]]:
    """The exported file, unlit, from the held-out cameras."""
    return list(mesh_views(open_mesh(exported(trial)), held_out_cameras(VIEWS, SIZE)).rgba)


def refined_pictures(run: Path) -> list[Float[Tensor, "4 H W"]]:
    return [read_rgba(run / f"judged/save/refined/{i:04d}.png") for i in range(VIEWS)]


def cut_out(picture: Float[Tensor, "4 H W"], mask: Float[Tensor, "4 H W"]) -> Float[Tensor, "4 H W"]:
    """``picture`` in the silhouette of ``mask``, whose colors stand where the picture has none."""
    colors = torch.where(picture[3:] > 0.05, picture[:3], mask[:3])
    return torch.cat([colors, mask[3:]])


def exported(trial: Path) -> Path:
    """The mesh file that an export stage wrote."""
    record = read_record(trial)
    files = [Path(file) for file in record.files] if record else []
    return next(file for file in files if file.suffix in (".glb", ".ply"))


# --------------------------------------------------------------------------------------------------------- reporting


def summary(bench: PipelineBench) -> str:
    """Means, spreads and paired differences, then every object."""
    found: dict[str, Mapping[str, Figures]] = {}
    for method in bench.methods:
        mine = bench.found(method)
        found |= {method: mine} if mine else {}
    if not found:
        return "nothing measured yet\n"
    base = "usd" if "usd" in found else next(iter(found))
    solid = {name: mine for name, mine in found.items() if METHODS[name].mesh is not None}
    floor = _mean(solid, "chamfer_floor")
    sharp = _mean(found, "sharpness_truth")
    lines = [
        f"{VIEWS} held-out views of {SIZE} px of {len(bench.subjects)} test objects, `{bench.config.name}`. Mean ±",
        "standard deviation over objects; differences are paired, ± standard error. No alignment; longest side 1.",
        "",
        table(found, COLUMNS, base, "method"),
        "",
        f"Sharpness of the truth: {sharp:.3f}.",
        "",
    ]
    if solid:
        lines += [
            table(solid, SURFACE, base, "method"),
            "",
            f"Chamfer of the truth with itself: {floor:.4f}.",
            "",
        ]
    lines += [f"- {name}: {METHODS[name].meaning}" for name in found]
    return "\n".join([*lines, "", *objects_table(bench, found), ""])


def _mean(found: Mapping[str, Mapping[str, Figures]], key: str) -> float:
    values = [number(figures[key]) for mine in found.values() for figures in mine.values()]
    return sum(values) / max(len(values), 1)


def objects_table(bench: PipelineBench, found: Mapping[str, Mapping[str, Figures]]) -> list[str]:
    """Every object: PSNR / sharpness / Chamfer / minutes of every method."""
    lines = ["| object | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    for seed in bench.subjects:
        cells = [_cell(mine.get(f"{seed}")) for mine in found.values()]
        lines.append(f"| {seed} {make_toy(seed).caption} | " + " | ".join(cells) + " |")
    return [*lines, "", "Cells: PSNR / sharpness / Chamfer / minutes of all the stages that it needs."]


def _cell(figures: Figures | None) -> str:
    if figures is None:
        return "-"
    chamfer = f"{number(figures['chamfer_area']):.4f}" if "chamfer_area" in figures else "-"
    psnr, sharp, minutes = (number(figures[key]) for key in ("psnr", "sharpness", "minutes"))
    return f"{psnr:.2f} / {sharp:.3f} / {chamfer} / {minutes:.1f}"


def sheet(bench: PipelineBench) -> Image.Image:
    """One row an object: the input, true views, then the same views by every method."""
    rows = []
    for seed in bench.subjects:
        folders = [bench.toy(seed) / "views", *(bench.pictures(seed, method) for method in bench.methods)]
        files = [folder / f"{view:04d}.png" for folder in folders for view in SHOWN]
        rows.append([chart.picture_of(file) for file in (bench.toy(seed) / "input.png", *files)])
    groups = [("input", 1), *((name, len(SHOWN)) for name in ("truth", *bench.methods))]
    return chart.grouped_sheet(rows, groups)


def write_summary(bench: PipelineBench) -> str:
    text = summary(bench)
    (bench.out / "table.md").write_text(text, encoding="utf-8")
    sheet(bench).save(bench.out / "sheet.png")
    return text


# ---------------------------------------------------------------------------------------------------------- commands


def arguments(argv: Sequence[str] | None = None) -> tuple[PipelineBench, int]:
    """What is asked for, and how many runs at a time. Raises UserError."""
    parser = runs.bench_parser(__doc__, METHODS, "full_pipeline")
    runs.config_flag(parser, "usd-full-mini.yaml")
    parser.set_defaults(methods=["sds", "usd", "refined", "mesh"])
    runs.object_flags(parser, 4)
    args, rest = parser.parse_known_args(argv)
    return PipelineBench(runs.chosen_seeds(args), *runs.bench_fields(args, rest)), args.jobs


def launch_and_measure(bench: PipelineBench, seed: int, method: str) -> Figures:
    """Run the stages that a method needs, or what is left of them, and measure what they made."""
    launch(bench, seed, method)()
    return measured(bench, seed, method)


def main(argv: Sequence[str] | None = None) -> bool:
    bench, jobs = arguments(argv)
    return bench.run(partial(launch_and_measure, bench), partial(write_summary, bench), jobs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(runs.command(main))
