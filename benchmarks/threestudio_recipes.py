"""Runs every threestudio recipe of a folder dry, unmodified, with the inputs that the file itself asks for.

    python -m benchmarks.threestudio_recipes ../threestudio/configs          # a checkout's recipes
    python -m benchmarks.threestudio_recipes FOLDER --only magic3d --verbose

Two steps at tiny size with random models: what starts, not what quality comes out. A value that a file leaves open
(``???``, or an interpolation of a key that it does not have) is given a stand-in: a sentence, a picture, a mesh, a
capture. A recipe that refines gets what its coarse one left. Exit code 1 where a recipe does not run, 0 where all do or
there is no such folder.
"""

import argparse
import contextlib
import io
import os
import re
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from benchmarks import ROOT
from benchmarks.threestudio_inputs import write_inputs
from usd.app import dry_run
from usd.app.experiment import Experiment, load_experiment
from usd.core import loading
from usd.core.errors import UserError

COARSE = re.compile(r"-(refine|texture|geometry)(?=-|$)|_refine(?=$)")
"""What a later stage's name has beside its first stage's."""

SPARE_COARSE = ROOT / "configs" / "usd-text-to-3D-patch.yaml"
"""A recipe of ours whose object a later stage starts from where the folder has no earlier one."""


@dataclass(frozen=True)
class Result:
    """What became of a recipe."""

    name: str
    error: str = ""
    seconds: float = 0.0

    def line(self, width: int) -> str:
        """Return its row of the table."""
        return f"{self.name:<{width}}  {self.error or 'runs':<8} {self.seconds:6.1f} s"


@dataclass
class Recipes:
    """The recipes below a folder, and what their dry runs leave for later ones below ``work``."""

    folder: Path
    work: Path
    inputs: Mapping[str, str]
    checkpoints: dict[Path, Path] = field(default_factory=dict)

    def files(self, only: str) -> list[Path]:
        """Return the YAML files whose path holds ``only``, first stages before later ones."""
        found = [file for file in self.folder.rglob("*.yaml") if only in str(file.relative_to(self.folder))]
        return sorted(found, key=lambda file: (first_stage(file) is not None, file))

    def run(self, file: Path, verbose: bool = False) -> Result:
        """Run one dry."""
        begun = time.monotonic()
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), warnings.catch_warnings(action="ignore"):
                self._checkpoint(file)
            error = ""
        except UserError as problem:
            error = str(problem)
        except Exception as problem:  # a mistake of ours, to be seen in the table
            error = f"{type(problem).__name__}: {problem}".splitlines()[0]
            if verbose:
                raise
        if verbose:
            print(said.getvalue())
        return Result(str(file.relative_to(self.folder)), error, time.monotonic() - begun)

    def _checkpoint(self, file: Path) -> Path:
        """Return what a recipe's dry run leaves. Raises ``UserError`` where it does not run."""
        if file not in self.checkpoints:
            root = self.work / f"{len(self.checkpoints)}-{file.stem}"
            self.checkpoints[file] = dry_run.run_experiment(self.load(file), root, "cpu").checkpoint
        return self.checkpoints[file]

    def load(self, file: Path) -> Experiment:
        """Return a recipe with stand-ins for what it asks for. Raises ``UserError``."""
        given = {key: self._given(key, file) for key in open_values(file)}
        is_number = {key: re.fullmatch(r"-?[0-9.]+", value) is not None for key, value in given.items()}
        overrides = [f"{k}={v}" if is_number[k] else loading.override(k, v) for k, v in given.items()]
        return load_experiment([file], overrides)[0]

    def _given(self, key: str, file: Path) -> str:
        """Return the stand-in for an open value. Raises ``UserError`` for a key that nothing is known for."""
        if key in ("system.geometry_convert_from", "system.weights"):
            return str(self._checkpoint(first_stage(file) or SPARE_COARSE))
        if key not in self.inputs:
            raise UserError(f"{key}: the file asks for a value; expected one of {', '.join(self.inputs)}")
        return self.inputs[key]


def first_stage(file: Path) -> Path | None:
    """Return the recipe of the stage before, known by its name; None where there is none."""
    plain = COARSE.sub("", file.stem)
    names = [plain, COARSE.sub("-coarse", file.stem)]
    there = [file.with_name(f"{name}.yaml") for name in names if name != file.stem]
    return next((other for other in there if other.is_file()), None)


def open_values(file: Path) -> list[str]:
    """Return the keys that a file leaves open: ``???``, and interpolations of what it does not have."""
    text = file.read_text(encoding="utf-8")
    given = dict(leaves(yaml.safe_load(text)))
    asked = sorted(set(re.findall(r"\$\{([a-z_]\w*(?:\.\w+)+)\}", re.sub("(?m)^ *#.*", "", text))))
    return [
        *[key for key, value in given.items() if value == "???"],
        *[key for key in asked if key not in given],
    ]


def leaves(values: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """Yield every key path with its value."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make a folder the working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_all(folder: Path, only: str, verbose: bool) -> list[Result]:
    """Run every recipe of a folder dry, and print the table row by row."""
    with tempfile.TemporaryDirectory(prefix="usd-recipes-") as work, working_in(Path(work)):
        recipes = Recipes(folder, Path(work), write_inputs(Path(work)))
        files = recipes.files(only)
        width = max((len(str(file.relative_to(folder))) for file in files), default=0)
        results = []
        for file in files:
            results.append(recipes.run(file, verbose))
            print(results[-1].line(width), flush=True)
        return results


def main(argv: list[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="threestudio's YAML files, with their folders")
    parser.add_argument("--only", default="", metavar="TEXT", help="recipes whose path holds this text")
    parser.add_argument("--verbose", action="store_true", help="what each run says, and tracebacks")
    flags = parser.parse_args(argv)
    folder = flags.folder.resolve()
    if not folder.is_dir():
        print(
            f"{flags.folder}: is not there, so nothing is tried; expected a folder of threestudio's YAML files"
        )
        return 0
    results = run_all(folder, flags.only, flags.verbose)
    ran = [result for result in results if not result.error]
    print(f"{len(ran)} of {len(results)} run, {sum(result.seconds for result in results):.0f} s")
    return 0 if len(ran) == len(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
