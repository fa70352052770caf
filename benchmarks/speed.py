"""How fast what users wait for is, beside what it was and what was aimed at: ``python -m benchmarks.speed PART ...``

    python -m benchmarks.speed                       every part that is not measured yet, one after the other
    python -m benchmarks.speed start ssim rays       these
    python -m benchmarks.speed --run 2               once more, beside the first run
    python -m benchmarks.speed --docs                put the tables of what is measured into docs/speed.md

What was measured is kept by part and run in outputs/speed, so the command goes on where it was stopped. CPU seconds are
those of all threads; medians. What it was is kept in speed_record.json, from another machine: the ratio of the two says
less than the target does.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import ROOT, scaling
from benchmarks.kernels import commit
from benchmarks.runs import Ledger, command
from benchmarks.speed_parts import PARTS
from benchmarks.tables import Figures, number
from usd.app.doctor import describe_machine
from usd.core.errors import UserError, did_you_mean

RECORD = Path(__file__).with_name("speed_record.json")
PAGE = ROOT / "docs" / "speed.md"
ALL = {**PARTS, **scaling.PARTS}


def measure(part: str, run: int, ledger: Ledger) -> Figures:
    """Return a part's figures of a run, measured where they are not known; beside them load and time."""

    def now() -> Figures:
        load, began = os.getloadavg()[0], time.monotonic()
        found: Figures = {**ALL[part]()}
        return found | {"load": load, "minutes": (time.monotonic() - began) / 60}

    return ledger.figures(part, {"run": run}, now)


def known_runs(part: str, ledger: Ledger) -> list[Figures]:
    """Return what is known of a part, run by run."""
    found = [ledger.known(part, {"run": run}) for run in (1, 2, 3)]
    return [figures for figures in found if figures is not None]


def target_table(record: Mapping[str, Mapping[str, object]], ledger: Ledger) -> str:
    """Return the figures of all runs beside the record and the target, as Markdown."""
    lines = ["| | unit | before | now, each run | target | |", "|---|---|---|---|---|---|"]
    for name, known in record.items():
        runs = [number(f[name]) for f in known_runs(str(known["part"]), ledger) if name in f]
        if runs:
            lines.append(f"| {name} | {known['unit']} | {target_cells(known, runs)} |")
    return "\n".join(lines)


def target_cells(known: Mapping[str, object], runs: Sequence[float]) -> str:
    """Return the cells of a figure: before, now, the target, and whether every run reaches it."""
    before, target = (known.get(key) for key in ("before", "target"))
    verdict = ""
    if isinstance(target, int | float):
        verdict = "reached" if max(runs) <= target else "**missed**"
    now = ", ".join(f"{value:.3g}" for value in runs)
    return f"{'' if before is None else before} | {now} | {'' if target is None else target} | {verdict}"


def machine_note(ledger: Ledger) -> str:
    """Return a sentence on the machine and how busy it was."""
    loads = [number(f["load"]) for part in ALL for f in known_runs(part, ledger)]
    said = [describe_machine()[1], f"torch {torch.__version__}, one thread unless said"]
    if loads:
        said.append(f"load when a part began: {min(loads):.1f} to {max(loads):.1f}")
    return "\n".join(f"{each}." for each in said)


def fill(page: Path, name: str, text: str) -> None:
    """Put a text between ``<!-- NAME -->`` and ``<!-- end NAME -->`` of a page."""
    content = page.read_text(encoding="utf-8")
    head, found, rest = content.partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition(f"<!-- end {name} -->")
    assert found and end, f"{page} has no place for {name}"
    page.write_text(f"{head}{found}{text}\n{end}{tail}", encoding="utf-8")


def chosen_parts(asked: Sequence[str]) -> list[str]:
    """Return the parts asked for, all of them where none is. Raises ``UserError`` for one that does not exist."""
    for part in asked:
        if part not in ALL:
            raise UserError(f"{part}: no such part.{did_you_mean(part, ALL)} Expected {', '.join(ALL)}")
    return list(asked) or list(ALL)


def run(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, and print or write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(ALL)} (default: all)")
    parser.add_argument("--run", type=int, default=1, choices=(1, 2, 3), help="which run this is")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "speed", help="what was measured")
    parser.add_argument("--docs", action="store_true", help="write docs/speed.md instead of measuring")
    args = parser.parse_args(argv)
    ledger = Ledger(args.out)
    parts = [] if args.docs else chosen_parts(args.parts)
    torch.set_num_threads(1)
    for part in parts:
        figures = measure(part, args.run, ledger)
        said = (f"{key} {number(figures[key]):.4g}" for key in figures)
        print(f"{part} ({commit()[:9]}): {', '.join(said)}", flush=True)
    record = json.loads(RECORD.read_text())
    table = target_table(record["figures"], ledger)
    print(table)
    if args.docs:
        fill(PAGE, "targets", f"{machine_note(ledger)}\n*Before*: {record['machine']}.\n\n{table}")
        fill(PAGE, "scaling", scaling.tables({part: known_runs(part, ledger) for part in scaling.PARTS}))


if __name__ == "__main__":
    sys.exit(command(run))
