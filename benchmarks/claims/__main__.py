#!/usr/bin/env python3
"""Every claim of the paper, one command after another: what `make claims` runs.

    python -m benchmarks.claims                     all of them, two at a time, in at most 8 hours on 2 cores
    python -m benchmarks.claims --list              what there is, and what each costs
    python -m benchmarks.claims --only bias elevation --objects 2
    python -m benchmarks.claims --docs              put tables and pictures into docs/claims.md

Each claim is a command of its own (benchmarks/claims/NAME.py) that keeps its figures object by object: the same call
again continues where it was stopped. What a claim says goes to outputs/claims/NAME/log.txt.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import ROOT, runs
from benchmarks.claims import shared
from usd.app.experiment import short_path
from usd.core.errors import UserError
from usd.core.progress import Work
from usd.report.gallery import GalleryCard, write_gallery
from usd.report.inline import picture_uri

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Claim:
    """A command, what it asks, its core minutes over all objects as expected, and flags of its own.

    ``name`` is its folder in outputs/claims and its place in docs/claims.md; ``script`` its file, where that differs.
    """

    name: str
    asks: str
    minutes: int
    flags: tuple[str, ...] = ()
    script: str = ""

    @property
    def file(self) -> Path:
        return HERE / f"{self.script or self.name}.py"


CLAIMS = (
    Claim(
        "formulas_3d",
        "the paper's formulas side by side, image to 3D, with and without the reference term",
        50,
        ("--in-3d", "--reference-term", "--formulas", "usd", "csd", "sds"),
        "formulas",
    ),
    Claim("formulas", "distillation formulas side by side on pictures alone", 45),
    Claim("lambda_analysis", "how much of the term that removes noise is wanted", 105),
    Claim("irregular_views", "pictures from any height, known, wrong or estimated", 61),
    Claim("rectified", "novel views with the base model's unconditional prediction", 4),
    Claim("criterion", "when rectification helps: predicted and measured gain of many networks", 8),
    Claim("drift", "pictures denoised by each unconditional prediction", 15),
    Claim("bias", "the bias of unconditional predictions", 10),
    Claim("elevation", "how well the elevation of a picture is estimated", 10),
)


def listing(claims: Sequence[Claim], jobs: int) -> str:
    lines = [f"{claim.name:<16} {claim.minutes:>4} core minutes   {claim.asks}" for claim in claims]
    total = sum(claim.minutes for claim in claims)
    longest = max(claim.minutes for claim in claims)
    hours = max(total / jobs, longest) / 60
    return "\n".join([*lines, f"about {hours:.1f} hours with {jobs} at a time"])


def perform(claim: Claim, extra: Sequence[str], out: Path) -> bool:
    """Runs one claim to its end; whether it went well."""
    folder, began = out / claim.name, time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    command = [sys.executable, str(claim.file), "--out", str(folder), *claim.flags, *extra]
    with log.open("a", encoding="utf-8") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        done = subprocess.run(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False, env=environment
        )
    minutes = (time.monotonic() - began) / 60
    said = (
        f"done, {short_path(folder / 'table.md')}"
        if done.returncode == 0
        else f"failed, see {short_path(log)}"
    )
    print(f"{claim.name}: {said} ({minutes:.1f} minutes)", flush=True)
    return done.returncode == 0


def write_page(claims: Sequence[Claim], out: Path) -> Path:
    """One page of what the claims that were run say: a card each with its pictures and its table."""
    cards = [card(claim, out / claim.name) for claim in claims if (out / claim.name).is_dir()]
    return write_gallery(
        out / "report.html", "The paper's claims", cards, "each one a command (docs/claims.md)"
    )


def card(claim: Claim, folder: Path) -> GalleryCard:
    table = folder / "table.md"
    text = table.read_text("utf-8") if table.is_file() else "no table: it did not end"
    pictures = [picture_uri(file, 640) for file in sorted(folder.glob("*.png"))[:2]]
    link = f"{claim.name}/log.txt" if (folder / "log.txt").is_file() else ""
    return GalleryCard(f"{claim.name}: {claim.asks}", pictures, note=text, link=link)


def performed(claim: Claim, extra: Sequence[str], out: Path, work: Work) -> bool:
    """Runs one claim, and shows that it is done."""
    went = perform(claim, extra, out)
    work.step(f"{claim.name} done", claim.minutes)
    return went


def chosen(names: Sequence[str] | None) -> list[Claim]:
    """The claims of these names, or all; longest first. Raises UserError for one that is not there."""
    known = {claim.name: claim for claim in CLAIMS}
    for name in names or ():
        if name not in known:
            raise UserError(f"--only: there is no claim '{name}'; expected some of {', '.join(known)}")
    claims = [claim for claim in CLAIMS if names is None or claim.name in names]
    return sorted(claims, key=lambda claim: -claim.minutes)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.claims",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument(
        "--list", action="store_true", help="what there is, and what each costs; nothing is run"
    )
    flags.add_argument("--only", nargs="+", metavar="NAME", help="these claims alone")
    flags.add_argument("--jobs", type=int, default=2, help="claims at a time, a core each")
    flags.add_argument("--objects", type=int, help="toys of every claim, instead of each one's own number")
    flags.add_argument("--docs", action="store_true", help="put tables and pictures into docs/claims.md")
    flags.add_argument("--out", type=Path, default=shared.OUT, help="figures, tables and pictures go here")
    args = flags.parse_args(argv)
    if args.jobs < 1 or (args.objects is not None and args.objects < 1):
        raise UserError("--jobs, --objects: expected 1 or more")
    return args


def main(argv: Sequence[str] | None = None) -> bool:
    args = arguments(argv)
    claims = chosen(args.only)
    print(listing(claims, args.jobs), flush=True)
    if args.list:
        return True
    extra, out = ["--objects", str(args.objects)] if args.objects else [], args.out.resolve()
    with (
        ThreadPoolExecutor(args.jobs) as pool,
        Work("claims, core minutes", sum(claim.minutes for claim in claims)) as work,
    ):
        went = list(pool.map(lambda claim: performed(claim, extra, out, work), claims))
    if (
        args.docs
    ):  # one after another: they write into one page; their figures are kept, so that this is quick
        went += [perform(claim, [*extra, "--docs"], out) for claim in claims]
    print(f"page: {short_path(write_page(claims, out))}", flush=True)
    return all(went)


if __name__ == "__main__":
    sys.exit(runs.command(main))
