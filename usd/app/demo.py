"""``usd demo``: a toy nobody trained on, from one picture to a 3D object, measured against the truth.

Renders a toybox object of the test split, trains ``configs/usd-patch-mini.yaml`` on its one picture, exports a mesh,
and compares 16 views that were held out. ``key=value`` arguments are passed on to the launcher.
"""

import argparse
import json
import time
from pathlib import Path

from usd.app.callbacks import peak_memory_gib
from usd.app.experiment import short_path
from usd.app.modes import Outcome, run
from usd.app.toys import write_toy
from usd.core import places, process
from usd.core.console import say
from usd.toybox import TEST_SEED
from usd.toybox.objects import make_toy

CONFIG = places.resource("configs/usd-patch-mini.yaml")
DEMO_SEED = TEST_SEED + 22  # a kettle: handle, spout and stripes tell the views apart
VIEWS, SIZE = 16, 128


def make_object(seed: int, image: Path, overrides: list[str], gpu: str | None) -> tuple[Outcome, Path]:
    """Train on ``image``, test on the views beside it, export. Returns the outcome and the mesh's path."""
    toy = image.parent
    settings = [
        f"system.guidance.image_path={image}",
        f"data.eval_transforms={toy / 'transforms.json'}",
        f"tag=toy-{seed}",
        *overrides,
    ]
    trained = run("train", [CONFIG], settings, gpu)
    snapshot = trained.trial.configs / "parsed.yaml"
    exported = run("export", [snapshot], [f"resume={trained.trial.last}"], gpu)
    return trained, exported.files[0]


def report(outcome: Outcome, mesh: Path, began: float) -> str:
    """Return a text on a demo's result: the files, the time and memory it took, and the metrics on held-out views."""
    save, step = outcome.trial.save, outcome.step
    found = json.loads((save / f"it{step}-test" / "metrics.json").read_text())
    peak = peak_memory_gib()
    lines = [
        f"turntable   {short_path(save / f'it{step}-turntable.mp4')}",
        f"sheet       {short_path(save / f'it{step}-test.png')}",
        f"trial       {short_path(outcome.trial.folder)}",
        f"mesh        {short_path(mesh)}",
        f"took        {(time.monotonic() - began) / 60:.1f} minutes, {peak:.1f} GiB at most",
        f"{found['views']} held-out views: PSNR {found['psnr']:.2f} dB, SSIM {found['ssim']:.3f}, "
        f"mask IoU {found['mask_iou']:.3f}",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run ``usd demo``: reconstruct one of the toys; return the exit code."""
    parser = argparse.ArgumentParser(prog="usd demo", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=DEMO_SEED, help=f"the toy; {TEST_SEED} and up were never trained on"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"), help="where the toy's pictures go")
    parser.add_argument("--gpu", help="0, or cpu; by default the first GPU, else the CPU")
    args, overrides = parser.parse_known_args(argv)
    return process.run_command(lambda: make(args, overrides))


def make(args: argparse.Namespace, overrides: list[str]) -> None:
    """Make the toy's pictures, then the object, and print the report. Raises ``UserError``."""
    began = time.monotonic()
    toy, folder = make_toy(args.seed), places.output(args.out) / f"toy-{args.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    write_toy(toy, folder, VIEWS, SIZE)
    say(f"toy {args.seed}: {toy.caption}; its pictures are in {short_path(folder)}")
    outcome, mesh = make_object(args.seed, folder / "input.png", overrides, args.gpu)
    say(report(outcome, mesh, began))


if __name__ == "__main__":
    process.start(main)
