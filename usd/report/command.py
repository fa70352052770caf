"""A trial's report, made again, or one page that compares several trials.

usd report outputs/USD-mini/duck@20261128-120000          its report.html
usd report TRIAL TRIAL TRIAL --out compare.html           side by side, seen by the same cameras
"""

import argparse
from pathlib import Path

from usd.core import process
from usd.core.console import say
from usd.core.places import output
from usd.report.compare import write_comparison
from usd.report.page import NAME, write_report


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``usd report``."""
    made = argparse.ArgumentParser(
        prog="usd report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("trials", nargs="+", type=Path, metavar="TRIAL", help="folders of trials")
    made.add_argument(
        "--out", type=Path, help=f"the page; {NAME} in the trial, or in the working directory for several"
    )
    made.add_argument("--size", type=int, default=256, help="pixels a side of the pictures that are compared")
    return made


def make_report(args: argparse.Namespace) -> None:
    """Write the page that the command line asks for, and say where it is. Raises ``UserError``."""
    if len(args.trials) > 1:
        file = write_comparison(args.trials, output(args.out or NAME), args.size)
    else:
        file = write_report(args.trials[0], args.out and output(args.out))
    say(f"wrote {file}")


def main(argv: list[str] | None = None) -> int:
    """Run ``usd report``; return the exit code."""
    return process.run_command(lambda: make_report(parser().parse_args(argv)))
