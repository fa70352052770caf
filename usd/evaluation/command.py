"""``usd evaluate PRED --reference REF``: how far a result is from the truth.

PRED and REF are each a mesh file, a folder of views with cameras, a trial folder, or a toybox seed. Whatever both have
is compared: surfaces, pictures by the same cameras, or both. docs/evaluation.md states the protocol.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from usd.core import process
from usd.core.console import say
from usd.core.errors import UserError
from usd.data.pictures import write_whole
from usd.evaluation.align import ALIGNMENTS
from usd.evaluation.protocol import EvaluationReport, evaluate, figures_table
from usd.evaluation.sources import open_source
from usd.kernels.runtime import prefer

KERNELS = ("auto", "warp", "embreex")
"""Those of the option ``kernels`` that cast rays."""


def evaluation_parser() -> argparse.ArgumentParser:
    """Return the command line of ``usd evaluate``."""
    parser = argparse.ArgumentParser(
        prog="usd evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prediction", metavar="PRED")
    parser.add_argument("--reference", metavar="REF", required=True)
    parser.add_argument(
        "--align",
        choices=ALIGNMENTS,
        default="none",
        help="how PRED's surface may be moved first (default: not at all)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure, also per view")
    parser.add_argument(
        "--skip-views",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="reference views left out, as the input's",
    )
    for name in ("prediction", "reference"):
        parser.add_argument(
            f"--{name}-up",
            choices=("auto", "y", "z"),
            default="auto",
            help="the upward axis of its mesh file",
        )
    parser.add_argument(
        "--input-azimuth",
        type=float,
        default=0.0,
        metavar="DEG",
        help="of SyncDreamer's and Wonder3D's views",
    )
    parser.add_argument(
        "--kernels",
        choices=KERNELS,
        default="auto",
        help="what casts rays: Warp, or Embree where embreex is installed",
    )
    return parser


def compare_sources(argv: list[str] | None = None) -> EvaluationReport:
    """Compare what the arguments name and print every figure. Raises ``UserError``."""
    args = evaluation_parser().parse_args(argv)
    _cast_rays_by(args.kernels)
    prediction = open_source(args.prediction, "PRED", args.prediction_up, args.input_azimuth)
    reference = open_source(args.reference, "--reference", args.reference_up, args.input_azimuth)
    report = evaluate(prediction, reference, args.align, tuple(args.skip_views))
    report = replace(report, notes=(*report.notes, *_said_of_rays(args.kernels)))
    say(f"{prediction.name} against {reference.name}, alignment: {args.align}")
    say(figures_table(report))
    for note in report.notes:
        say(f"- {note}")
    if args.json is not None:
        with write_whole(args.json) as file:
            file.write_text(json.dumps(report.plain(), indent=1) + "\n")
    return report


def _cast_rays_by(kernels: str) -> None:
    """Choose what casts rays from now on. Raises ``UserError`` for a package that cannot be used here."""
    # What a configuration chose in this process stays.
    if kernels == "auto":
        return
    try:
        prefer([kernels])
    except ValueError as problem:
        raise UserError(f"--kernels: {problem}; expected auto") from problem


def _said_of_rays(kernels: str) -> list[str]:
    # A few rays end elsewhere where they are cast by other means, so figures may differ in their last digits.
    return [] if kernels == "auto" else [f"rays were cast by {kernels}"]


def main(argv: list[str] | None = None) -> int:
    """Compare, and print every figure. Returns the exit code: 2 for what the user can mend."""

    def compare() -> None:
        compare_sources(argv)

    return process.run_command(compare)
