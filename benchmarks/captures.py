#!/usr/bin/env python3
"""Captures of real scenes: held-out pictures after so many minutes, thousands of pictures, and objects in a room.

    python benchmarks/captures.py views FOLDER --minutes 5 15 60      PSNR and SSIM of every 8th view, and pictures
    python benchmarks/captures.py scale --pictures 50 2000            memory, the first step, and time of a batch
    python benchmarks/captures.py objects 1000022 a.glb               surfaces in a room, through bent lenses, with and
                                                                      without masks
    python benchmarks/captures.py recipe nerf-blender --steps 1000    a recipe of instant-nsr-pl's kind on a toy

``views`` trains configs/scene.yaml once for each budget, with as many steps as that takes by the pace of a short run
before, and writes ``<minutes>.json`` and truth beside render as ``<minutes>.png``. ``key=value`` arguments apply to
every training. Minutes are wall clock of the training alone; CPU minutes stand beside, for a machine that is not idle.
``recipe`` writes a toy as nerf_synthetic's scenes are, 100 views to train on and others to judge by, and trains with
the recipe's sizes; its schedule shrinks with the number of steps.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import ROOT, runs
from benchmarks.reconstruct import FileObject, Object, ToyObject, newest
from usd.core.config import parse
from usd.core.console import say
from usd.data.convert import write_views
from usd.data.lens import Intrinsics
from usd.data.pictures import write_picture
from usd.data.pixel_array import FilePart
from usd.data.toy_room import in_room
from usd.data.toy_views import render_toy_views, sphere_cameras
from usd.data.view_set import ViewSet
from usd.data.views import ViewsConfig, ViewsData
from usd.evaluation.mesh_views import mesh_views, open_mesh
from usd.evaluation.protocol import compare_surfaces

CONFIGS = ROOT / "configs"
PACE_STEPS = 100
SIZE = 1000, 1000
"""Width and height of generated pictures: a megapixel."""


def schedule(steps: int) -> str:
    """Return the recipe's learning rate for another number of steps."""
    at = [0, max(1, steps // 60), max(2, steps // 3), max(3, steps)]
    return f"system.optimizer.args.lr={{steps: {at}, values: [0.001, 0.01, 0.01, 0.001]}}"


# ------------------------------------------------------------------------------------------------- held-out pictures


def train_views(folder: str, out: Path, steps: int, overrides: Sequence[str]) -> dict[str, float]:
    """Train the recipe for so many steps; return its times, and where it tested its figures."""
    given = (f"data.path={folder}", f"trainer.max_steps={steps}", schedule(steps), *overrides)
    launch = runs.Launch(out, (CONFIGS / "scene.yaml",), given, "cpu")
    if "trainer.test_after_fit=false" in overrides:
        launch()
    else:
        launch.trained({})
    tested = sorted((out / "save").glob("it*-test/metrics.json"))
    scores = json.loads(tested[-1].read_text()) if tested else {}
    return {**launch.times, "steps": steps, **{key: scores[key] for key in ("psnr", "ssim") if key in scores}}


def measure_views(args: argparse.Namespace) -> None:
    """Train for each budget, at the pace of a first short run, and write the table."""
    args.out.mkdir(parents=True, exist_ok=True)
    quiet = ["trainer.val_check_interval=0", *args.overrides]
    pace = train_views(args.folder, args.out / "pace", PACE_STEPS, ["trainer.test_after_fit=false", *quiet])
    lines = ["| minutes | steps | CPU minutes | PSNR | SSIM |", "|---|---|---|---|---|"]
    for minutes in args.minutes:
        steps = max(1, round(PACE_STEPS * minutes / pace["minutes"]))
        found = train_views(args.folder, args.out / f"{minutes:g}", steps, quiet)
        (args.out / f"{minutes:g}.json").write_text(json.dumps(found, indent=1))
        sheet = newest(args.out / f"{minutes:g}", "it*-test.png")
        (args.out / f"{minutes:g}.png").write_bytes(sheet.read_bytes())
        lines.append(
            f"| {found['minutes']:.1f} | {steps} | {found['cpu_minutes']:.1f} | {found['psnr']:.2f} "
            f"| {found['ssim']:.3f} |"
        )
        (args.out / "table.md").write_text("\n".join(lines) + "\n")
        say(lines[-1])


# ----------------------------------------------------------------------------------------------- thousands of pictures


def write_pictures(folder: Path, count: int) -> None:
    """Write a capture of smooth random pictures of a megapixel, and cameras around the origin."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    cameras = sphere_cameras(count, SIZE[1])

    def write(index: int) -> None:
        small = np.random.default_rng(index).integers(0, 256, (25, 25, 3), np.uint8)
        Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC).save(
            folder / f"images/{index:05d}.jpg", quality=90
        )

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))
    frames = [
        {"file_path": f"images/{i:05d}.jpg", "transform_matrix": cameras.c2w[i].tolist()}
        for i in range(count)
    ]
    lens = {"w": SIZE[0], "h": SIZE[1], "camera_angle_x": float(cameras.fov_y[0])}
    (folder / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))


def decode_seconds(folder: Path) -> tuple[float, float]:
    """Return how long decoding all pictures takes on all cores, and nothing else: by the clock, and of CPU."""
    begun, cpu = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_decode, sorted((folder / "images").iterdir())))
    return time.monotonic() - begun, time.process_time() - cpu


def _decode(file: Path) -> int:
    with Image.open(file) as picture:
        return np.asarray(picture).nbytes


@dataclass(frozen=True)
class ScaleFigures:
    """What a number of pictures costs: seconds by the clock and of CPU, GB at peak, and CPU milliseconds of a batch.

    ``decode`` is decoding them and nothing else, ``all_there`` all of them in the cache, batches being drawn beside.
    """

    pictures: int
    decode: tuple[float, float]
    first_batch: tuple[float, float]
    all_there: tuple[float, float]
    again: tuple[float, float]
    peak_gb: float
    batch_ms: float

    @property
    def row(self) -> str:
        """A row of the table."""
        times = " | ".join(
            f"{clock:.1f} ({cpu:.1f})"
            for clock, cpu in (self.decode, self.first_batch, self.all_there, self.again)
        )
        ratio = " | ".join(f"{first / alone:.2f}" for first, alone in zip(self.first_batch, self.decode))
        return f"| {self.pictures} | {times} | {ratio} | {self.peak_gb:.2f} | {self.batch_ms:.1f} |"


def measure_capture(folder: Path, count: int) -> ScaleFigures:
    """Open a capture as a training does, cold and again; measured in a process of its own."""
    options = {"path": str(folder), "masks": "none", "frame": "fit", "n_rays": 8192, "hold_out_every": 8}
    draw, seconds = torch.Generator().manual_seed(0), []
    for repeat in range(2):
        begun, cpu = time.monotonic(), time.process_time()
        data = ViewsData(parse(ViewsConfig, options))
        data.batch(0, draw)
        seconds.append((time.monotonic() - begun, time.process_time() - cpu))
        if repeat == 0:
            for step in range(1, 100):
                data.batch(step, draw)
            wait_for_pictures(data)
            seconds.append((time.monotonic() - begun, time.process_time() - cpu))
    begun = time.process_time()
    for step in range(100):
        data.batch(step, draw)
    batch_ms = 10 * (time.process_time() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return ScaleFigures(count, (0.0, 0.0), *seconds, peak, batch_ms)


def wait_for_pictures(data: ViewsData) -> None:
    """Return when all pictures are in the cache."""
    stored = data.train_views.pictures.stored
    if isinstance(stored, FilePart) and stored.decoding is not None:
        stored.decoding.wait_for_all()


def measure_scale(args: argparse.Namespace) -> None:
    """Print the table of numbers of pictures."""
    lines = [
        "| pictures | decoding alone, s (of CPU) | first batch | all there | again | first batch / decoding | of CPU "
        "| peak, GB | batch, CPU ms |",
        "|---" * 9 + "|",
    ]
    say(lines[0])
    for count in args.pictures:
        folder = args.out / f"{count}-pictures"
        if not (folder / "transforms.json").is_file():
            write_pictures(folder, count)
        alone = decode_seconds(folder)
        with tempfile.TemporaryDirectory(dir=args.out) as cache:
            os.environ["XDG_CACHE_HOME"] = cache
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found = pool.submit(measure_capture, folder, count).result()
        found = replace(found, decode=alone)
        lines.append(found.row)
        say(lines[-1])
    (args.out / "scale.md").write_text("\n".join(lines) + "\n")


# ------------------------------------------------------------------------------------------------- objects in a room

VIEWS, PIXELS = 48, 128
LENS = Intrinsics(PIXELS, PIXELS, 150.0, 148.0, 59.0, 66.0)
"""A lens with another focal length across and a principal point off the middle."""
BENT = replace(LENS, distortion=(0.08, -0.05, 0.001, -0.001))
"""The same, with distortion."""
KINDS = {
    "masks": ("reconstruct.yaml", False, None),
    "room": ("reconstruct-scene.yaml", True, None),
    "room, lens": ("reconstruct-scene.yaml", True, LENS),
    "room, bent": ("reconstruct-scene.yaml", True, BENT),
}
"""Kinds of views: the recipe, whether there is a room around, and the lens before it; None: a plain one."""


def write_through(lens: Intrinsics, views: ViewSet, folder: Path) -> None:
    """Write views, rendered wide and large, as a camera with a lens takes them."""
    grid = torch.stack(
        torch.meshgrid(torch.arange(PIXELS) + 0.5, torch.arange(PIXELS) + 0.5, indexing="xy"), -1
    )
    matrix = np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]])
    bends = np.array(lens.distortion or (0.0,) * 4)
    plane = cv2.undistortPoints(grid.view(-1, 1, 2).double().numpy(), matrix, bends)
    focal = views.cameras.focals[0].double()
    middle = torch.tensor([views.width, views.height]) / 2
    at = torch.from_numpy(plane).view(PIXELS, PIXELS, 2) * focal + middle
    at = (2 * at / torch.tensor([views.width, views.height]) - 1).float()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    frames = []
    for index in range(len(views)):
        rgba = views.picture(index)[None]
        seen = torch.nn.functional.grid_sample(rgba, at[None], align_corners=False)[0]
        write_picture(folder / f"images/{index:04d}.png", seen[:3])
        pose = views.cameras.c2w[index].tolist()
        frames.append({"file_path": f"images/{index:04d}.png", "transform_matrix": pose})
    names = dict(zip(("k1", "k2", "p1", "p2"), lens.distortion))
    said = {"w": PIXELS, "h": PIXELS, "fl_x": lens.fx, "fl_y": lens.fy, "cx": lens.cx, "cy": lens.cy, **names}
    (folder / "transforms.json").write_text(json.dumps({"camera_model": "OPENCV", **said, "frames": frames}))


def object_views(it: Object, room: bool, wide: bool) -> ViewSet:
    """Return views of an object all around, in a room or not; wide and large ones for a lens to look at."""
    cameras = sphere_cameras(VIEWS, 4 * PIXELS if wide else PIXELS)
    if wide:
        cameras = replace(cameras, fov_y=cameras.fov_y * 1.3)
    views = (
        render_toy_views(it.seed, cameras)
        if isinstance(it, ToyObject)
        else mesh_views(open_mesh(it.path), cameras)
    )
    return in_room(views) if room else views


def object_figures(args: argparse.Namespace, it: Object, kind: str) -> dict[str, float]:
    """Train an object under a kind of views; return Chamfer distance, PSNR of views held out, and minutes."""
    recipe, room, lens = KINDS[kind]
    name = f"{it.name}-{kind.replace(', ', '-')}"
    folder = args.out / "views" / name
    if not (folder / "transforms.json").is_file():
        views = object_views(it, room, lens is not None)
        write_views(views, folder) if lens is None else write_through(lens, views, folder)
    given = ["data.frame=keep", "data.hold_out_every=8", "trainer.val_check_interval=0", *args.overrides]
    launch = runs.Launch(
        args.out / "trials" / name, (CONFIGS / recipe,), (f"data.path={folder}", *given), "cpu"
    )
    scores = json.loads((launch.trained({}) / "metrics.json").read_text())
    minutes = launch.times["cpu_minutes"]
    launch("--export", f"resume={launch.last}", "exporter.fmt=ply", "exporter.target_faces=null")
    mesh = open_mesh(newest(launch.trial, "it*-export/model.ply")).mesh
    figures = compare_surfaces(mesh, it.mesh(), "none")[0].figures
    return {"chamfer": figures["chamfer_area"], "psnr": scores["psnr"], "cpu_minutes": minutes}


def measure_objects(args: argparse.Namespace) -> None:
    """Train each object under each kind of views, and print the distances of surfaces."""
    lines = ["| object | views | Chamfer | PSNR, dB | CPU minutes |", "|---" * 5 + "|"]
    for text in args.subjects:
        it = ToyObject(int(text)) if text.isdigit() else FileObject(Path(text))
        for kind in args.kinds or KINDS:
            found = object_figures(args, it, kind)
            lines.append(
                f"| {it.name} | {kind} | {found['chamfer']:.4f} | {found['psnr']:.2f} | {found['cpu_minutes']:.1f} |"
            )
            say(lines[-1])
            (args.out / "objects.md").write_text("\n".join(lines) + "\n")


# ------------------------------------------------------------------------------------------------ recipes on a toy

TRAINED, JUDGED = 100, 25
"""Views of a toy to train on, as many as nerf_synthetic's scenes have, and those to judge by."""
LARGER = 2.69
"""How much larger nerf_synthetic's worlds are than those of toys: cameras stand at 4.03."""


def write_synthetic(seed: int, folder: Path) -> None:
    """Write a toy in nerf_synthetic's layout: pictures with alpha, one file of cameras for each split."""
    cameras = sphere_cameras(TRAINED + JUDGED, PIXELS)
    judged = [5 * i + 2 for i in range(JUDGED)]
    splits = {"test": judged, "train": [i for i in range(TRAINED + JUDGED) if i not in judged]}
    for split, chosen in splits.items():
        views = render_toy_views(seed, cameras[chosen])
        frames = []
        for i in range(len(views)):
            write_picture(folder / split / f"r_{i}.png", views.picture(i))
            pose = views.cameras.c2w[i].clone()
            pose[:3, 3] *= LARGER
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": pose.tolist()})
        said = {"camera_angle_x": float(cameras.fov_y[0]), "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(said))


def shortened(steps: int) -> tuple[str, ...]:
    """Return the schedule of nerf-blender, 20,000 steps as it ships, for another number of steps."""
    milestones = [steps // 2, steps * 3 // 4, steps * 9 // 10]
    return f"trainer.max_steps={steps}", f"system.scheduler.args.milestones={milestones}"


def measure_recipe(args: argparse.Namespace) -> None:
    """Train a recipe on a toy, and print its figures over the views that it did not see."""
    folder = args.out / "synthetic" / str(args.seed)
    if not (folder / "transforms_train.json").is_file():
        write_synthetic(args.seed, folder)
    data = f"data.path={folder}", f"data.eval_path={folder / 'transforms_test.json'}"
    given = (*data, *shortened(args.steps), "trainer.val_check_interval=0", *args.overrides)
    launch = runs.Launch(
        args.out / "trials" / f"{args.name}-{args.seed}", (CONFIGS / f"{args.name}.yaml",), given, "cpu"
    )
    scores = json.loads((launch.trained({}) / "metrics.json").read_text())
    say("| recipe | toy | steps | PSNR, dB | SSIM | mask IoU | CPU minutes |\n" + "|---" * 7 + "|")
    figures = " | ".join(f"{scores[key]:.3f}" for key in ("psnr", "ssim", "mask_iou"))
    say(f"| {args.name} | {args.seed} | {args.steps} | {figures} | {launch.times['cpu_minutes']:.1f} |")


def captures_parser() -> argparse.ArgumentParser:
    """Return the parser of the four measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    views = commands.add_parser("views", help="held-out pictures of a capture after so many minutes")
    views.add_argument("folder", help="a capture in any layout")
    views.add_argument(
        "--minutes", type=float, nargs="+", default=[5.0, 15.0, 60.0], help="budgets of training"
    )
    views.set_defaults(measure=measure_views)
    scale = commands.add_parser("scale", help="memory and time of thousands of pictures")
    scale.add_argument("--pictures", type=int, nargs="+", default=[50, 2000], help="numbers of pictures")
    scale.set_defaults(measure=measure_scale)
    objects = commands.add_parser("objects", help="surfaces in a room, with and without masks")
    objects.add_argument("subjects", nargs="+", help="seeds of toys, or mesh files")
    objects.add_argument("--kinds", choices=KINDS, nargs="+", help="kinds of views; left out: all")
    objects.set_defaults(measure=measure_objects)
    recipe = commands.add_parser("recipe", help="a recipe on a toy in nerf_synthetic's layout")
    recipe.add_argument("name", choices=["nerf-blender"], help="the recipe")
    recipe.add_argument("--seed", type=int, default=1_000_003, help="the toy")
    recipe.add_argument("--steps", type=int, default=1000, help="steps of the training")
    recipe.set_defaults(measure=measure_recipe)
    for command in (views, scale, objects, recipe):
        command.add_argument(
            "--out", type=Path, default=ROOT / "outputs" / "captures", help="folder to write to"
        )
    return parser


def main() -> bool:
    """Measure what the command line asks for."""
    args, rest = captures_parser().parse_known_args()
    args.overrides = runs.key_values(rest)
    args.measure(args)
    return True


if __name__ == "__main__":
    sys.exit(runs.command(main))
