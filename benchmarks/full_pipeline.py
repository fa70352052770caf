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

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.claims.ledger import Column, Figures, Ledger, table, toy_folder, toy_seeds  # noqa: E402
from benchmarks.image_to_3d import SHOWN, SIZE, VIEWS, paste  # noqa: E402
from usd.core import loading  # noqa: E402
from usd.data.pictures import read_rgba, write_picture  # noqa: E402
from usd.evaluation.mesh_source import read_mesh, see_mesh  # noqa: E402
from usd.evaluation.metrics import sharpness  # noqa: E402
from usd.evaluation.protocol import compare_surfaces  # noqa: E402
from usd.evaluation.views import mean_score, score  # noqa: E402
from usd.stages import read_record, written  # noqa: E402
from usd.toybox import TEST_SEED  # noqa: E402
from usd.toybox.cameras import held_out_cameras  # noqa: E402
from usd.toybox.mesh import toy_mesh  # noqa: E402
from usd.toybox.objects import make_toy  # noqa: E402

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


@dataclass(frozen=True)
class Bench:
    """What is compared, and where it is kept."""

    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    config: Path
    out: Path
    gpu: str | None
    overrides: tuple[str, ...]

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.out / "runs")

    def toy(self, seed: int) -> Path:
        return toy_folder(seed, self.out, VIEWS, SIZE)

    def run(self, seed: int, method: str) -> Path:
        """The folder of the stages that a method looks at."""
        return self.out / "trials" / "bench" / f"{seed}-{METHODS[method].run}"

    def pictures(self, seed: int, method: str) -> Path:
        """The folder of the method's pictures from the held-out cameras, ``0000.png`` and so on."""
        return self.out / "pictures" / f"{seed}-{method}"

    def settings(self, method: str) -> dict[str, object]:
        return {"method": method, "config": self.config.name, "overrides": list(self.overrides)}

    def known(self, seed: int, method: str) -> Figures | None:
        return self.ledger.known(f"{seed}", self.settings(method))


# ----------------------------------------------------------------------------------------------------------- running


def wanted_stages(bench: Bench, run: str) -> tuple[str, ...]:
    """All stages of a run that the methods to be compared need."""
    needed = {stage for name in bench.methods if METHODS[name].run == run for stage in METHODS[name].stages}
    return tuple(stage for stage in stage_names(bench) if stage in needed)


def stage_names(bench: Bench) -> list[str]:
    """Every stage of the configuration, in order."""
    contents = [content for file in (bench.config, ADDED) for content in loading.chain(file)]
    return [stage.name for stage in written(contents, ())]


def told(bench: Bench, toy: Path, tag: str) -> list[str]:
    """What a run is told on the command line, the choice of stages left out."""
    return [
        f"exp_root_dir={bench.out / 'trials'}",
        "name=bench",
        f"tag={tag}",
        f"stages.object.system.guidance.image_path={toy / 'input.png'}",
        f"stages.object.data.eval_transforms={toy / 'transforms.json'}",
        "stages.object.data.eval_turntable=false",
        "stages.views.data.eval_transforms=null",
        "trainer.enable_progress_bar=false",
        *([SDS] if tag.endswith("-sds") else []),
        *bench.overrides,
    ]


def launch(bench: Bench, seed: int, method: str) -> None:
    """Run the stages that are not done yet. Raises CalledProcessError when one fails."""
    folder, run = bench.run(seed, method), METHODS[method].run
    stages = wanted_stages(bench, run)
    left_out = [f"stages.{name}=null" for name in stage_names(bench) if name not in stages]
    command = [sys.executable, str(ROOT / "launch.py"), "--config", str(bench.config), str(ADDED), "--train"]
    command += [*(["--gpu", bench.gpu] if bench.gpu else [])]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        subprocess.run(
            [*command, *told(bench, bench.toy(seed), folder.name), *left_out],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )


# --------------------------------------------------------------------------------------------------------- measuring


def measured(bench: Bench, seed: int, method: str) -> Figures:
    """Figures of a method whose run is done."""
    asked, run = METHODS[method], bench.run(seed, method)
    pictures = torch.stack(shown(bench, seed, method))
    truth = torch.stack([read_rgba(bench.toy(seed) / f"views/{i:04d}.png") for i in range(VIEWS)])
    mean = mean_score([score(mine, theirs) for mine, theirs in zip(pictures, truth, strict=True)])
    figures: Figures = {"psnr": mean.psnr, "ssim": mean.ssim, "mask_iou": mean.mask_iou}
    figures |= {
        "sharpness": float(sharpness(pictures).mean()),
        "sharpness_truth": float(sharpness(truth).mean()),
    }
    records = [read_record(run / stage) for stage in asked.stages if stage != "object_mesh"]
    figures["minutes"] = sum(record.minutes for record in records if record)
    if asked.mesh is not None:
        found = read_mesh(exported(run / asked.mesh)).mesh
        surface = compare_surfaces(found, toy_mesh(make_toy(seed)), "none")[0].figures
        figures |= {key: float(surface[key]) for key in ("chamfer_area", "chamfer_floor", "volume_iou")}
    return figures


def shown(bench: Bench, seed: int, method: str) -> list[Float[Tensor, "4 H W"]]:
    """The method's pictures from the held-out cameras; copied to ``pictures/`` for the sheet."""
    asked, run = METHODS[method], bench.run(seed, method)
    if asked.pictures == asked.mesh and asked.mesh != "object_mesh":
        made = list(see_mesh(read_mesh(exported(run / asked.mesh)), held_out_cameras(VIEWS, SIZE)).rgba)
    elif asked.pictures == "judged":
        made = [read_rgba(run / f"judged/save/refined/{i:04d}.png") for i in range(VIEWS)]
    else:
        (folder,) = (run / asked.pictures / "save").glob("it*-test")
        made = [read_rgba(folder / f"{i}.png") for i in range(VIEWS)]
    for index, picture in enumerate(made):
        write_picture(bench.pictures(seed, method) / f"{index:04d}.png", picture)
    return made


def exported(trial: Path) -> Path:
    """The mesh file that an export stage wrote."""
    record = read_record(trial)
    files = [Path(file) for file in record.files] if record else []
    return next(file for file in files if file.suffix in (".glb", ".ply"))


# --------------------------------------------------------------------------------------------------------- reporting


def summary(bench: Bench) -> str:
    """Means, spreads and paired differences, then every object."""
    found: dict[str, Mapping[str, Figures]] = {}
    for method in bench.methods:
        mine = {f"{seed}": figures for seed in bench.seeds if (figures := bench.known(seed, method))}
        found |= {method: mine} if mine else {}
    if not found:
        return "nothing measured yet\n"
    base = "usd" if "usd" in found else next(iter(found))
    solid = {name: mine for name, mine in found.items() if METHODS[name].mesh is not None}
    floor = _mean(solid, "chamfer_floor")
    sharp = _mean(found, "sharpness_truth")
    lines = [
        f"{VIEWS} held-out views of {SIZE} px of {len(bench.seeds)} test objects, `{bench.config.name}`. Mean ±",
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


def number(figures: Figures, key: str) -> float:
    """A figure that is one number."""
    value = figures[key]
    assert not isinstance(value, list)
    return float(value)


def _mean(found: Mapping[str, Mapping[str, Figures]], key: str) -> float:
    values = [number(figures, key) for mine in found.values() for figures in mine.values()]
    return sum(values) / max(len(values), 1)


def objects_table(bench: Bench, found: Mapping[str, Mapping[str, Figures]]) -> list[str]:
    """Every object: PSNR / sharpness / Chamfer / minutes of every method."""
    lines = ["| object | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    for seed in bench.seeds:
        cells = [_cell(mine.get(f"{seed}")) for mine in found.values()]
        lines.append(f"| {seed} {make_toy(seed).caption} | " + " | ".join(cells) + " |")
    return [*lines, "", "Cells: PSNR / sharpness / Chamfer / minutes of all the stages that it needs."]


def _cell(figures: Figures | None) -> str:
    if figures is None:
        return "-"
    chamfer = f"{number(figures, 'chamfer_area'):.4f}" if "chamfer_area" in figures else "-"
    psnr, sharp, minutes = (number(figures, key) for key in ("psnr", "sharpness", "minutes"))
    return f"{psnr:.2f} / {sharp:.3f} / {chamfer} / {minutes:.1f}"


def sheet(bench: Bench, cell: int = 96) -> Image.Image:
    """One row an object: the input, true views, then the same views by every method."""
    groups = ["truth", *bench.methods]
    canvas = Image.new(
        "RGB",
        ((1 + len(SHOWN) * len(groups)) * cell + 8 * len(groups), 16 + len(bench.seeds) * cell),
        "white",
    )
    draw = ImageDraw.Draw(canvas)
    for row, seed in enumerate(bench.seeds):
        top = 16 + row * cell
        paste(canvas, bench.toy(seed) / "input.png", 0, top, cell)
        for i, name in enumerate(groups):
            folder = bench.toy(seed) / "views" if name == "truth" else bench.pictures(seed, name)
            for j, view in enumerate(SHOWN):
                left = (1 + i * len(SHOWN) + j) * cell + 8 * (i + 1)
                paste(canvas, folder / f"{view:04d}.png", left, top, cell)
            draw.text(((1 + i * len(SHOWN)) * cell + 8 * (i + 1), 2), name, fill="black")
    return canvas


def write_summary(bench: Bench) -> str:
    text = summary(bench)
    (bench.out / "table.md").write_text(text)
    sheet(bench).save(bench.out / "sheet.png")
    return text


# ---------------------------------------------------------------------------------------------------------- commands


def arguments(argv: Sequence[str] | None = None) -> Bench:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=4, help="how many objects")
    parser.add_argument("--kind", choices=("named", "nameless", "all"), default="named", help="of objects")
    parser.add_argument("--first-seed", type=int, default=TEST_SEED + 100, help="seed of the first object")
    parser.add_argument("--methods", nargs="+", default=["sds", "usd", "refined", "mesh"], choices=METHODS)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "usd-full-mini.yaml")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "full_pipeline")
    parser.add_argument("--gpu", help="passed on to the launcher")
    args, rest = parser.parse_known_args(argv)
    wrong = [item for item in rest if "=" not in item or item.startswith("-")]
    if wrong:
        parser.error(f"{wrong[0]}: expected key=value")
    if args.first_seed < TEST_SEED:
        parser.error(f"--first-seed {args.first_seed}: expected the test split, {TEST_SEED} and up")
    seeds = toy_seeds(args.objects, args.kind, args.first_seed)
    return Bench(seeds, tuple(args.methods), args.config.resolve(), args.out.resolve(), args.gpu, tuple(rest))


def perform(bench: Bench, seed: int, method: str) -> None:
    """Run, measure, store, tell."""
    launch(bench, seed, method)
    found = bench.ledger.figures(f"{seed}", bench.settings(method), lambda: measured(bench, seed, method))
    told = ", ".join(f"{key} {number(found, key):.4g}" for key in found)
    print(f"{seed} {method}: {told}", flush=True)


def main() -> int:
    bench = arguments()
    todo = [(s, m) for s in bench.seeds for m in bench.methods if bench.known(s, m) is None]
    count = len(bench.seeds) * len(bench.methods)
    print(f"{len(todo)} of {count} to measure; results in {bench.out}", flush=True)
    failures = 0
    for seed, method in todo:
        try:
            perform(bench, seed, method)
        except subprocess.CalledProcessError:
            failures += 1
            print(f"{seed} {method}: failed; see {bench.run(seed, method) / 'log.txt'}", flush=True)
        write_summary(bench)
    print(write_summary(bench))
    return 1 if failures else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
