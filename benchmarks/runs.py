"""What benchmarks of whole runs stand on: objects, figures kept object by object, and runs of the launcher.

``Ledger.figures`` keeps what was measured of an object under some settings as one JSON file, so a second call of a
benchmark continues where the first was stopped, and what was measured under other settings is measured anew.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks import ROOT
from benchmarks.tables import Figures, number
from usd.app.toys import write_toy
from usd.core import files
from usd.core.errors import UserError
from usd.core.loading import chain
from usd.data.pictures import contact_sheet, over, read_rgba, write_picture
from usd.toybox import TEST_SEED
from usd.toybox.objects import UNCAPTIONED, make_toy
from usd.toybox.shapes import SHAPES

Settings = Mapping[str, object]
Job = TypeVar("Job")
Subject = TypeVar("Subject")
Fields = tuple[tuple[str, ...], Path, Path, str | None, tuple[str, ...]]
FIRST_SEED = TEST_SEED + 100
KINDS = {"named": (True,), "nameless": (False,), "all": (True, False)}
TIMES = "times.json"
VIEWS, SIZE = 16, 128  # a toy's held-out views, and their size in pixels

# ---------------------------------------------------------------------------------------------------------- objects


def seeds_of(kind: str, first: int) -> Iterator[int]:
    """Seeds from ``first`` on whose toys are named, nameless, or either."""
    return (
        seed for seed in itertools.count(first) if (make_toy(seed).category != UNCAPTIONED) in KINDS[kind]
    )


def toy_seeds(count: int, kind: str = "named", first: int = FIRST_SEED) -> tuple[int, ...]:
    """Seeds of the first test-split toys of this kind ("named", "nameless", "all")."""
    return tuple(itertools.islice(seeds_of(kind, first), count))


def seeds_by_category(count: int, first: int) -> tuple[int, ...]:
    """Seeds of the first ``count`` toys of every named category from ``first`` on, in the order of their seeds."""
    left = {shape: count for shape in SHAPES if shape != UNCAPTIONED}
    found = []
    for seed in seeds_of("named", first):
        category = make_toy(seed).category
        if left[category]:
            left[category] -= 1
            found.append(seed)
        if not any(left.values()):
            return tuple(found)
    raise AssertionError("seeds never end")


def toy_folder(seed: int, out: Path, views: int = VIEWS, size: int = SIZE) -> Path:
    """A toy as files, made when missing: ``input.png``, ``views/*.png``, ``transforms.json``, ``caption.txt`` ..."""
    folder = out / "toys" / str(seed)
    if not (folder / "toy.json").is_file():  # written last
        folder.mkdir(parents=True, exist_ok=True)
        write_toy(make_toy(seed), folder, views, size)
    return folder


def object_flags(
    parser: argparse.ArgumentParser, objects: int, kind: str = "named", first: int = FIRST_SEED
) -> None:
    """``--objects``, ``--kind``, ``--each-category`` and ``--first-seed``; ``chosen_seeds`` reads them."""
    parser.add_argument("--objects", type=int, default=objects, help="toys of the test split")
    parser.add_argument("--kind", choices=KINDS, default=kind, help="of toys")
    parser.add_argument(
        "--each-category", type=int, default=0, help="so many toys of each of the 23 named categories instead"
    )
    parser.add_argument("--first-seed", type=int, default=first, help="seed of the first toy")


def check_object_flags(args: argparse.Namespace) -> None:
    """Raises UserError that says which flag is wrong."""
    if args.objects < 1:
        raise UserError(f"--objects: is {args.objects}; expected 1 or more")
    if args.each_category < 0:
        raise UserError(f"--each-category: is {args.each_category}; expected 0 or more")
    if args.first_seed < TEST_SEED:
        raise UserError(f"--first-seed: is {args.first_seed}; expected the test split, {TEST_SEED} and up")


def chosen_seeds(args: argparse.Namespace) -> tuple[int, ...]:
    """The toys that these flags name."""
    check_object_flags(args)
    if args.each_category:
        return seeds_by_category(args.each_category, args.first_seed)
    return toy_seeds(args.objects, args.kind, args.first_seed)


# ---------------------------------------------------------------------------------------------------------- figures


@dataclass(frozen=True)
class Ledger:
    """Figures of one benchmark: ``folder/<subject>/<digest of the settings>.json``."""

    folder: Path

    def file(self, subject: str, settings: Settings) -> Path:
        digest = files.digest(_text(settings), size=6)
        return self.folder / subject / f"{digest}.json"

    def known(self, subject: str, settings: Settings) -> Figures | None:
        """What was stored for exactly these settings, or None."""
        file = self.file(subject, settings)
        if not file.is_file():
            return None
        stored = json.loads(file.read_text())
        return stored["figures"] if _text(stored["settings"]) == _text(settings) else None

    def figures(self, subject: str, settings: Settings, measure: Callable[[], Figures]) -> Figures:
        """The stored figures, or those of ``measure()``, stored whole or not at all."""
        known = self.known(subject, settings)
        if known is not None:
            return known
        found, file = measure(), self.file(subject, settings)
        files.write_atomically(file, _text({"settings": settings, "figures": found}))
        return found

    def keep(self, subject: str, settings: Settings, pictures: Float[Tensor, "B 3 S S"]) -> None:
        """Pictures beside the figures; ``measure`` calls it before it returns."""
        write_picture(self._strip(subject, settings), contact_sheet(pictures, len(pictures), gap=0))

    def pictures(self, subject: str, settings: Settings) -> Float[Tensor, "B 3 S S"]:
        """What was kept, 8 bits deep."""
        strip = over(read_rgba(self._strip(subject, settings)))
        return torch.stack(strip.split(strip.shape[1], dim=2))

    def _strip(self, subject: str, settings: Settings) -> Path:
        return self.file(subject, settings).with_suffix(".png")


def _text(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True, default=str)


# ------------------------------------------------------------------------------------------------------------- runs


def recipe(config: Path) -> str:
    """A digest of a configuration file, of all it inherits from, and of all its stages do: changes when they do."""
    contents = chain(config)
    for content, folder in contents[:]:
        for stage in (content.get("stages") or {}).values():
            bases = (stage or {}).get("base") or []
            for base in [bases] if isinstance(bases, str) else bases:
                contents += chain(folder / base)
    said = json.dumps([content for content, _ in contents], sort_keys=True, default=str)
    return files.digest(said, size=8)


def gpu_flag(device: str) -> str:
    """What the launcher's ``--gpu`` calls this device: ``cpu``, ``0``, ``1`` ..."""
    return (device.partition(":")[2] or "0") if device.startswith("cuda") else device


def key_values(rest: Sequence[str]) -> tuple[str, ...]:
    """Words for the launcher, as they are. Raises UserError for one that is not ``key=value``."""
    for word in rest:
        if "=" not in word or word.startswith("-"):
            raise UserError(f"{word}: expected a flag of this command, or key=value for the launcher")
    return tuple(rest)


def start(argv: Sequence[str], log: Path) -> int:
    """``launch.py`` with these words in a process of its own, what it says at the end of ``log``; its exit code.

    Its minutes are added to those in ``times.json`` beside the log, unless it is killed outright. The process is forked
    from one that has read torch and diffusers, which takes 5 of the 30 seconds of a short run.
    """
    process = PROCESSES.Process(target=_launch, args=(list(argv), log.resolve()))
    process.start()
    process.join()
    return int(process.exitcode or 0)


def _launch(argv: list[str], log: Path) -> None:
    with log.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(ROOT)
    began = time.monotonic()
    try:
        import launch

        sys.exit(launch.main(argv))
    finally:
        _add_times(log.with_name(TIMES), (time.monotonic() - began) / 60)


def _add_times(file: Path, minutes: float) -> None:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in used) / 60
    before = json.loads(file.read_text()) if file.is_file() else {}
    total = {
        "minutes": minutes + before.get("minutes", 0.0),
        "cpu_minutes": cpu + before.get("cpu_minutes", 0.0),
        "gib": max(before.get("gib", 0.0), *(each.ru_maxrss / 2**20 for each in used)),
    }
    file.write_text(json.dumps(total))


def _processes() -> Any:
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(
            ["usd.app.modes", "usd.denoiser.latent", "diffusers.models", "transformers"]
        )
    return context


PROCESSES = _processes()


@dataclass(frozen=True)
class Launch:
    """A call of ``launch.py`` whose trial, or whose stages, are in ``trial``; ``log.txt`` there keeps what it says."""

    trial: Path
    configs: tuple[Path, ...]
    overrides: tuple[str, ...]
    gpu: str | None = None

    def __call__(self, mode: str = "--train", *more: str) -> None:
        """Raises UserError naming the log when it fails."""
        trial = self.trial.resolve()
        place = [f"exp_root_dir={trial.parent.parent}", f"name={trial.parent.name}", f"tag={trial.name}"]
        place += ["use_timestamp=false", "trainer.enable_progress_bar=false"]
        argv = ["--config", *map(str, self.configs), mode, *(["--gpu", self.gpu] if self.gpu else [])]
        self.trial.mkdir(parents=True, exist_ok=True)
        if start([*argv, *place, *self.overrides, *more], self.log):
            raise UserError(f"{self.trial}: the run failed; see {self.log}")

    @property
    def log(self) -> Path:
        return self.trial / "log.txt"

    @property
    def times(self) -> dict[str, float]:
        """``minutes`` on the clock and ``cpu_minutes`` of all cores, over all calls; ``gib`` of memory at most."""
        return dict(json.loads((self.trial / TIMES).read_text()))

    @property
    def last(self) -> Path:
        """The checkpoint of a run without stages."""
        return self.trial / "ckpts" / "last.ckpt"

    def trained(self, marks: Settings) -> Path:
        """Trains to the end, and returns the folder of test views.

        Continues a run that was cut off with the same configurations, overrides and ``marks`` (of models); what
        anything else left in the folder is deleted.
        """
        if not self.begun(marks):
            shutil.rmtree(self.trial, ignore_errors=True)
        self.trial.mkdir(parents=True, exist_ok=True)
        self.mark.write_text(self._said(marks))
        self("--train", *([f"resume={self.last}"] if self.last.is_file() else []))
        views = newest_views(self.trial)
        if views is None:
            raise UserError(f"{self.trial}: the run wrote no views; see {self.log}")
        return views

    def begun(self, marks: Settings) -> bool:
        """Whether the folder holds this very run, done or cut off."""
        return self.mark.is_file() and self.mark.read_text() == self._said(marks)

    @property
    def mark(self) -> Path:
        return self.trial / "settings.json"

    def _said(self, marks: Settings) -> str:
        recipes = [recipe(config) for config in self.configs]
        return _text({"recipes": recipes, "overrides": list(self.overrides), "marks": marks})


@dataclass(frozen=True)
class Bench(Generic[Subject]):
    """Subjects under methods: what is compared, where it is kept, and what every run is given."""

    subjects: tuple[Subject, ...]
    methods: tuple[str, ...]
    config: Path
    out: Path
    gpu: str | None
    overrides: tuple[str, ...]

    @property
    def ledger(self) -> Ledger:
        """The figures measured so far."""
        return Ledger(self.out / "runs")

    def name(self, subject: Subject) -> str:
        """Return the subject's name in tables and folders."""
        return f"{subject}"

    def settings(self, method: str) -> dict[str, object]:
        """Return what a method's figures depend on beside the subject; figures under other settings are not reused."""
        return {"method": method, "recipe": recipe(self.config), "overrides": list(self.overrides)}

    def trial(self, subject: Subject, method: str) -> Path:
        """Return the folder of a method's run."""
        return self.out / "trials" / "bench" / f"{self.name(subject)}-{method}"

    def known(self, subject: Subject, method: str) -> Figures | None:
        """Return the figures measured before, if there are any."""
        return self.ledger.known(self.name(subject), self.settings(method))

    def found(self, method: str) -> dict[str, Figures]:
        """Return what is known of a method, by the subjects' names."""
        known = {self.name(subject): self.known(subject, method) for subject in self.subjects}
        return {name: figures for name, figures in known.items() if figures}

    def run(
        self, measure: Callable[[Subject, str], Figures], summary: Callable[[], str], jobs: int = 1
    ) -> bool:
        """Measure what is not known yet, and write the summary after each; return whether all went well."""
        pairs = [(subject, method) for method in self.methods for subject in self.subjects]

        def perform(job: tuple[Subject, str]) -> None:
            subject, method = job
            figures = self.ledger.figures(
                self.name(subject), self.settings(method), lambda: measure(subject, method)
            )
            numbers = ", ".join(f"{key} {number(figures[key]):.4g}" for key in figures)
            print(f"{self.name(subject)} {method}: {numbers}", flush=True)

        return benchmark(
            [pair for pair in pairs if not self.known(*pair)], len(pairs), self.out, perform, summary, jobs
        )


def bench_parser(
    description: str | None, methods: Iterable[str], out: str, flag: str = "--methods"
) -> argparse.ArgumentParser:
    """Return the flags that benchmarks of whole runs share: methods, folder, device, runs at a time."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(flag, dest="methods", nargs="+", default=list(methods), choices=list(methods))
    parser.add_argument(
        "--out", type=Path, default=ROOT / "outputs" / out, help="figures, table and pictures go here"
    )
    parser.add_argument("--gpu", help="passed on to the launcher")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    return parser


def config_flag(parser: argparse.ArgumentParser, config: str) -> None:
    """Add ``--config``, the recipe of every run."""
    parser.add_argument(
        "--config", type=Path, default=ROOT / "configs" / config, help="the recipe of every run"
    )


def bench_fields(args: argparse.Namespace, rest: Sequence[str]) -> Fields:
    """Return a bench's fields after its subjects, from parsed flags and what follows them. Raises ``UserError``."""
    return tuple(args.methods), args.config.resolve(), args.out.resolve(), args.gpu, key_values(rest)


def newest_views(trial: Path) -> Path | None:
    """The newest folder of test views, of a stage where there are some; ``metrics.json`` with ``eval_transforms``."""
    folders = [*trial.glob("save/it*-test/"), *trial.glob("*/save/it*-test/")]
    return max(folders, key=lambda path: path.stat().st_mtime, default=None)


def test_views(folder: Path) -> Float[Tensor, "B 4 H W"]:
    """Return the written views of a run, in order."""
    return torch.stack([read_rgba(file) for file in sorted(folder.glob("*.png"), key=lambda f: int(f.stem))])


def benchmark(
    todo: Sequence[Job],
    count: int,
    out: Path,
    perform: Callable[[Job], None],
    summary: Callable[[], str],
    jobs: int = 1,
) -> bool:
    """Performs what is left of ``count`` jobs, and writes the summary after each; whether all of them went well."""
    print(f"{len(todo)} of {count} to do; results in {out}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    failures = 0
    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(perform, job) for job in todo]:
            try:
                future.result()
            except UserError as error:
                failures += 1
                print(f"failed: {error}", flush=True)
            summary()
    print(summary())
    return failures == 0


def command(main: Callable[[], bool | None]) -> int:
    """The exit code of ``main``: 1 where it says that something failed, 2 for bad input, which is told in one line."""
    try:
        return int(main() is False)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def view_scores(views: Path) -> Figures:
    """PSNR, SSIM and mask IoU of a folder of test views, as the run wrote them."""
    found = json.loads((views / "metrics.json").read_text())
    return {key: float(found[key]) for key in ("psnr", "ssim", "mask_iou")}
