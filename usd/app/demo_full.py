"""``usd demo-full [PICTURE]``: one picture to a textured mesh through every stage of the method.

Runs ``configs/usd-full-mini.yaml``: image to 3D, views, specialization, refinement, reconstruction, export. Without
a picture it takes a toy nobody trained on, and measures what was made against the truth. The same command again skips
what is done and resumes inside the stage that was stopped. ``key=value`` arguments are passed on to the launcher.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from usd.app.callbacks import peak_memory_gib
from usd.app.demo import DEMO_SEED, SIZE, VIEWS
from usd.app.experiment import Outcome, short_path
from usd.app.stages import read_record, run_stages
from usd.app.toys import write_toy
from usd.core import places, process
from usd.core.config import parse
from usd.core.console import say
from usd.core.loading import is_override
from usd.data.view_readers import ViewOptions, read_views
from usd.evaluation.protocol import evaluate
from usd.evaluation.sources import EvaluationSource, open_source
from usd.toybox import TEST_SEED
from usd.toybox.objects import make_toy

CONFIG = places.resource("configs/usd-full-mini.yaml")
PICTURES = ("psnr", "ssim", "mask_iou")
SURFACE = ("chamfer_area", "chamfer_floor", "volume_iou")


def run_pipeline(
    picture: Path, truth: Path | None, overrides: list[str], gpu: str | None
) -> dict[str, Outcome]:
    """All stages for one picture; ``truth`` is a folder of views for the first stage to be tested on."""
    chosen = [f"stages.object.system.guidance.image_path={picture}"]
    if truth is not None:
        chosen.append(f"stages.object.data.eval_transforms={truth / 'transforms.json'}")
        chosen.append("stages.views.data.eval_transforms=null")
    return run_stages("train", [CONFIG], [*chosen, *overrides], gpu)


def toy_truth(seed: int, folder: Path) -> EvaluationSource:
    """Return the reference to evaluate against: the toy's exact surface, and the held-out views in ``folder``."""
    options: ViewOptions = parse(ViewOptions, {}, "views")
    return replace(open_source(f"toybox:{seed}", "toy"), views=read_views(folder, options, "toy"), see=None)


def pipeline_report(outcomes: Mapping[str, Outcome]) -> str:
    """Return a text on the pipeline's result: the files, and the time and memory it took."""
    minutes = {name: _minutes(outcome) for name, outcome in outcomes.items()}
    lines = [
        f"{name:<11} {minutes[name]:5.1f} min  {short_path(outcome.trial.folder)}"
        for name, outcome in outcomes.items()
    ]
    peak = peak_memory_gib()
    lines.append(f"{'together':<11} {sum(minutes.values()):5.1f} min, {peak:.1f} GiB at most")
    lines += [f"{'file':<11} {short_path(file)}" for file in outcomes["mesh"].files]
    return "\n".join(lines)


def _minutes(outcome: Outcome) -> float:
    record = read_record(outcome.trial.folder)
    return record.minutes if record else 0.0


def measured(outcomes: Mapping[str, Outcome], truth: EvaluationSource) -> str:
    """Return how far the first stage and the final mesh are from the truth."""
    first = outcomes["object"]
    found = json.loads((first.trial.save / f"it{first.step}-test" / "metrics.json").read_text())
    mesh = evaluate(open_source(str(outcomes["mesh"].files[0]), "mesh"), truth).figures
    return "\n".join(
        [
            f"{'object':<11} {_formatted(found, PICTURES)}",
            f"{'mesh':<11} {_formatted(mesh, PICTURES)}, {_formatted(mesh, SURFACE)}",
        ]
    )


def _formatted(figures: Mapping[str, float], names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {figures[name]:.4g}" for name in names if name in figures)


def prepared_toy(seed: int, out: Path) -> Path:
    """Return the folder of the toy's pictures, views and mesh, made when missing."""
    folder = places.output(out) / f"toy-{seed}"
    if not (folder / "toy.json").is_file():  # written last
        folder.mkdir(parents=True, exist_ok=True)
        write_toy(make_toy(seed), folder, VIEWS, SIZE)
    return folder


def arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Return the parsed command line of ``usd demo-full`` and the overrides."""
    parser = argparse.ArgumentParser(prog="usd demo-full", description=__doc__)
    parser.add_argument("picture", nargs="?", help="a picture of one object; by default a toy's")
    parser.add_argument(
        "--seed", type=int, default=DEMO_SEED, help=f"the toy; {TEST_SEED} and up were never trained on"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"), help="where the toy's pictures go")
    parser.add_argument("--gpu", help="0, or cpu; by default the first GPU, else the CPU")
    args, overrides = parser.parse_known_args(argv)
    if args.picture is not None and is_override(args.picture) and not Path(args.picture).is_file():
        args.picture, overrides = None, [args.picture, *overrides]
    return args, overrides


def main(argv: list[str] | None = None) -> int:
    """Run ``usd demo-full``: the whole pipeline from one picture to a mesh; return the exit code."""
    args, overrides = arguments(argv)
    return process.run_command(lambda: make_pipeline_demo(args, overrides))


def make_pipeline_demo(args: argparse.Namespace, overrides: list[str]) -> None:
    """Make an object of the picture, or of a toy, which is then measured. Raises ``UserError``."""
    if args.picture is not None:
        say(pipeline_report(run_pipeline(Path(args.picture).resolve(), None, overrides, args.gpu)))
        return
    folder = prepared_toy(args.seed, args.out)
    say(f"toy {args.seed}: {make_toy(args.seed).caption}; its pictures are in {short_path(folder)}")
    outcomes = run_pipeline(folder / "input.png", folder, [f"tag=toy-{args.seed}", *overrides], args.gpu)
    say(pipeline_report(outcomes))
    say(measured(outcomes, toy_truth(args.seed, folder)))


if __name__ == "__main__":
    process.start(main)
