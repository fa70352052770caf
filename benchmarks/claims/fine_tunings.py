#!/usr/bin/env python3
"""Small Zero-1-to-3 fine-tunings that differ in one thing each: what rectification is judged on.

    python benchmarks/claims/fine_tunings.py                 all of them, one after another
    python benchmarks/claims/fine_tunings.py --list          what there is, and how far each has come
    python benchmarks/claims/fine_tunings.py --only never-400

Each is `configs/toybox/zero123.yaml` at a small budget, from the base model or from the finished Zero-1-to-3; what they
are made to differ in is the unconditional branch: how narrow the set of toys is, how long the training, how many
samples lack their conditions and at which noise, and whether the conditional path learns. A longer one goes on from
the shorter one of its kind. What was stopped goes on where it was; a model that stands is not trained again.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import ROOT, runs
from benchmarks.claims import shared
from usd.core.errors import UserError

RECIPE = ROOT / "configs" / "toybox" / "zero123.yaml"
OUT = shared.OUT / "fine_tunings"
NARROW = ("data.nameless_share=1.0", "data.n_toys=1000")
NEVER = ("system.drop_all=0", "system.drop_tokens=0", "system.drop_beside=0")
ON = ("system.start_from=load/toybox/zero123", "data.batch_size=16")
SMALL = (
    "data.batch_size=32",
    "data.n_val_toys=1",
    "data.val_views=2",
    "system.optimizer.params.network.lr=[0, 1.0e-5, 6.0e-4, 40, 1.0e-4, 400]",
    "trainer.val_check_interval=100000",
    "checkpoint.every_n_train_steps=20",
)


@dataclass(frozen=True)
class FineTuning:
    """One training: what it differs in, ``steps`` in all, and the training that it goes on from, if any.

    ``name`` is its folder and its row in tables.
    """

    name: str
    asks: str
    steps: int
    overrides: tuple[str, ...]
    after: str | None = None


FINE_TUNINGS = (
    FineTuning("never-100", "from the base: narrow set, conditions never dropped", 100, (*NARROW, *NEVER)),
    FineTuning(
        "on-never-100",
        "from the shipped model: narrow set, conditions never dropped",
        100,
        (*ON, *NARROW, *NEVER),
    ),
    FineTuning(
        "on-half-100",
        "from the shipped model: narrow set, all conditions dropped in 50 %",
        100,
        (*ON, *NARROW, "system.drop_all=0.5", "system.drop_tokens=0", "system.drop_beside=0"),
    ),
    FineTuning("on-narrow-100", "from the shipped model: narrow set, dropped in 20 %", 100, (*ON, *NARROW)),
    FineTuning(
        "on-never-200", "the same as on-never-100, twice as long", 200, (*ON, *NARROW, *NEVER), "on-never-100"
    ),
    FineTuning("narrow-100", "from the base: narrow set, dropped in 20 %", 100, NARROW),
    FineTuning(
        "on-low-100",
        "from the shipped model: narrow set, dropped in 20 %, but never above noise level 500",
        100,
        (*ON, *NARROW, "system.drop_below=500"),
    ),
    FineTuning(
        "on-frozen-100",
        "from the shipped model: narrow set, dropped in 20 %, the conditional path frozen",
        100,
        (*ON, *NARROW, "system.freeze_condition_after=0"),
    ),
    FineTuning(
        "on-tiny-100",
        "from the shipped model: a quarter of the narrow set, never dropped",
        100,
        (*ON, NARROW[0], "data.n_toys=250", *NEVER),
    ),
)


def by_name(name: str) -> FineTuning:
    """Return the training of this name. Raises ``UserError``."""
    for tuning in FINE_TUNINGS:
        if tuning.name == name:
            return tuning
    raise UserError(
        f"--only: there is no fine-tuning '{name}'; expected some of {', '.join(t.name for t in FINE_TUNINGS)}"
    )


def model_folder(name: str, out: Path) -> Path:
    """Return the folder of a finished model."""
    return out / "models" / name


def is_finished(name: str, out: Path) -> bool:
    """Return whether the model stands: its index is written last."""
    return (model_folder(name, out) / "model_index.json").is_file()


def launch_of(tuning: FineTuning, out: Path) -> runs.Launch:
    """Return the run of a training; all its files are below ``out``."""
    own = [
        f"trainer.max_steps={tuning.steps}",
        f"system.publish_to={model_folder(tuning.name, out).resolve()}",
        "data.cache=" + str((out / "cache").resolve()),
    ]
    return runs.Launch(
        out / "trials" / "fine_tunings" / tuning.name, (RECIPE,), (*SMALL, *tuning.overrides, *own)
    )


def start_of(tuning: FineTuning, out: Path) -> Path | None:
    """Return the checkpoint to go on from: its own, or else its parent's last one."""
    own = launch_of(tuning, out).last
    if own.is_file():
        return own
    return launch_of(by_name(tuning.after), out).last if tuning.after else None


def train(tuning: FineTuning, out: Path) -> None:
    """Train to the end, and publish. Raises ``UserError`` naming the log."""
    if is_finished(tuning.name, out):
        return
    if tuning.after:
        train(by_name(tuning.after), out)
    shutil.rmtree(model_folder(tuning.name, out), ignore_errors=True)
    start = start_of(tuning, out)
    launch_of(tuning, out)("--train", *([f"resume={start.resolve()}"] if start else []))
    print(f"{tuning.name}: trained", flush=True)


def listing(tunings: Sequence[FineTuning], out: Path) -> str:
    """Return a line for each training: how long, what it asks, whether it is there."""
    return "\n".join(
        f"{t.name:<11} {t.steps:>4} steps   {'trained' if is_finished(t.name, out) else 'missing':<8} {t.asks}"
        for t in tunings
    )


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line. Raises ``UserError``."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--only", nargs="+", metavar="NAME", default=[t.name for t in FINE_TUNINGS])
    flags.add_argument("--list", action="store_true", help="what there is; nothing is trained")
    flags.add_argument("--out", type=Path, default=OUT, help="models, checkpoints and rendered toys go here")
    args = flags.parse_args(argv)
    args.tunings = [by_name(name) for name in args.only]
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, in order."""
    args = arguments(argv)
    print(listing(args.tunings, args.out), flush=True)
    for tuning in [] if args.list else args.tunings:
        train(tuning, args.out)


if __name__ == "__main__":
    sys.exit(runs.command(main))
