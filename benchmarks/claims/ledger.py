"""What every claim's command stands on: objects, figures kept object by object, and tables that know their noise.

A claim measures *figures* (name -> number, or a list of numbers over some axis) of every object under every *setting*.
``Ledger.figures`` keeps each as one JSON file, so a second call continues where the first was stopped, and a changed
setting or model is measured anew. ``table`` gives mean and spread over objects, and the paired difference to one of the
settings with its standard error: one that its 95 % interval does not tell from zero is "smaller than the noise".
"""

import argparse
import hashlib
import itertools
import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from scipy.stats import t as student
from torch import Tensor

from benchmarks.image_to_3d import seeds_of
from usd.core.config import ROOT
from usd.core.errors import UserError
from usd.core.loading import chain
from usd.data.pictures import contact_sheet, over, read_rgba, write_picture, writing
from usd.data.reference import ReferenceConfig, load_reference
from usd.denoiser import Denoiser, TextDenoiser, ViewDenoiser, check_shared_latents, open_denoiser
from usd.denoiser.latent import LatentDenoiser
from usd.denoiser.weights import weights_folder
from usd.toybox import TEST_SEED
from usd.toybox.__main__ import write_toy
from usd.toybox.cameras import reference_camera
from usd.toybox.objects import make_toy
from usd.toybox.render import render
from usd.toybox.scene import Toy

Figures = dict[str, float | list[float]]
Found = Mapping[str, Figures]  # by object
Settings = Mapping[str, object]
PAGE = ROOT / "docs" / "claims.md"
OUT = ROOT / "outputs" / "claims"
FIRST_SEED = TEST_SEED + 100  # as benchmarks/image_to_3d.py
OBJECTS = 12

# ---------------------------------------------------------------------------------------------------------- objects


def toy_seeds(count: int = OBJECTS, kind: str = "named", first: int = FIRST_SEED) -> tuple[int, ...]:
    """Seeds of the first test-split toys of this kind ("named", "nameless", "all"), as benchmarks/image_to_3d.py."""
    return tuple(itertools.islice(seeds_of(kind, first), count))


def toy_folder(seed: int, out: Path = OUT, views: int = 16, size: int = 128) -> Path:
    """A toy as files, made when missing: ``input.png``, ``views/*.png``, ``transforms.json``, ``caption.txt`` ..."""
    folder = out / "toys" / str(seed)
    if not (folder / "toy.json").is_file():  # written last
        folder.mkdir(parents=True, exist_ok=True)
        write_toy(make_toy(seed), folder, views, size)
    return folder


@dataclass(frozen=True)
class Subject:
    """Something to look at: a picture in [0, 1] over white, and the toy it shows (None for a user's own picture)."""

    name: str
    picture: Float[Tensor, "1 3 S S"]
    toy: Toy | None = None

    @property
    def mark(self) -> dict[str, str]:
        """What tells this picture from all others: part of the settings."""
        pixels = self.picture.mul(255).round().byte().contiguous().numpy().tobytes()
        return {"picture": hashlib.blake2b(pixels, digest_size=8).hexdigest()}


def subjects(args: argparse.Namespace, size: int) -> list[Subject]:
    """``--image`` pictures if there are any, else toys of the test split, ``size`` pixels wide."""
    config = ReferenceConfig()
    if args.image:
        files = [Path(file) for file in args.image]
        return [Subject(f.stem, load_reference(f, config, "--image").over(size)) for f in files]
    seeds = toy_seeds(args.objects, args.kind, args.first_seed)
    return [toy_subject(seed, size) for seed in seeds]


def toy_subject(seed: int, size: int) -> Subject:
    """A toy from its reference camera."""
    toy = make_toy(seed)
    return Subject(f"{seed}", render([toy], reference_camera(size)).over_white(), toy)


# ----------------------------------------------------------------------------------------------------------- models


@dataclass(frozen=True)
class Pair:
    """A picture model and its base model, in one latent space."""

    view: ViewDenoiser
    text: TextDenoiser

    @property
    def marks(self) -> dict[str, str]:
        """What tells these models from all others: part of every setting."""
        return {"view": model_mark(self.view), "text": model_mark(self.text)}


def open_pair(args: argparse.Namespace) -> Pair:
    """``--zero123`` and ``--stable-diffusion`` on ``--device``. Raises UserError unless they share a latent space."""
    view = open_denoiser(args.zero123, "view", "--zero123")
    text = open_denoiser(args.stable_diffusion, "text", "--stable-diffusion")
    check_shared_latents(view, text, "--stable-diffusion")
    assert isinstance(view, ViewDenoiser) and isinstance(text, TextDenoiser)
    return Pair(view.to(args.device), text.to(args.device))


def model_mark(model: Denoiser) -> str:
    """A digest of a model's weights (a sample of each file's bytes) or of its options: changes when the model does."""
    if not isinstance(model, LatentDenoiser):
        return f"{model.name} {model.config}"
    parts = sorted(part for part in model.folder.iterdir() if part.is_dir())
    files = [file for part in parts for file in sorted(weights_folder(part).iterdir()) if file.is_file()]
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        digest.update(_sampled(file))
    return digest.hexdigest()


def _sampled(file: Path, chunk: int = 1 << 20, stride: int = 1 << 24) -> bytes:
    """Name, size, and a chunk of the file every stride bytes."""
    size = file.stat().st_size
    digest = hashlib.blake2b(f"{file.name} {size}".encode())
    with file.open("rb") as stream:
        for place in range(0, size, stride):
            stream.seek(place)
            digest.update(stream.read(chunk))
    return digest.digest()


# ----------------------------------------------------------------------------------------------------------- figures


@dataclass(frozen=True)
class Ledger:
    """The figures of one claim: ``folder/<subject>/<digest of the settings>.json``."""

    folder: Path

    def file(self, subject: str, settings: Settings) -> Path:
        digest = hashlib.blake2b(_text(settings).encode(), digest_size=6).hexdigest()
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
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".part")
        partial.write_text(_text({"settings": settings, "figures": found}))
        partial.replace(file)
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


def recipe(config: Path) -> str:
    """A digest of a configuration file and of all it inherits from: changes when they do."""
    said = json.dumps([content for content, _ in chain(config)], sort_keys=True, default=str)
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def launched(
    trial: Path, config: Path, overrides: Sequence[str], marks: Settings, device: str = "cpu"
) -> Path:
    """A run of ``launch.py --train`` in ``trial``, to the end.

    It continues one that was cut off with the same configuration, overrides and ``marks`` of models; what anything else
    left in the folder is deleted. Returns the folder of its test views (``metrics.json`` where the data has
    ``eval_transforms``). Raises UserError naming the log when it fails.
    """
    place = [
        f"exp_root_dir={trial.parent.parent}",
        f"name={trial.parent.name}",
        f"tag={trial.name}",
        "use_timestamp=false",
    ]
    command = [sys.executable, str(ROOT / "launch.py"), "--config", str(config), "--train"]
    command += ["--gpu", gpu_flag(device), *place, "trainer.enable_progress_bar=false", *overrides]
    last, mark = trial / "ckpts" / "last.ckpt", trial / "settings.json"
    said = _text({"recipe": recipe(config), "overrides": list(overrides), "models": marks})
    if not mark.is_file() or mark.read_text() != said:
        shutil.rmtree(trial, ignore_errors=True)
    if last.is_file():
        command.append(f"resume={last}")
    trial.mkdir(parents=True, exist_ok=True)
    mark.write_text(said)
    with (trial / "log.txt").open("a") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False)
    views = sorted(trial.glob("save/it*-test"))
    if done.returncode or not views:
        raise UserError(f"{trial}: the run failed; see {trial / 'log.txt'}")
    return views[-1]


def gpu_flag(device: str) -> str:
    """What the launcher's ``--gpu`` calls this device: ``cpu``, ``0``, ``1`` ..."""
    return (device.partition(":")[2] or "0") if device.startswith("cuda") else device


def view_scores(views: Path) -> Figures:
    """PSNR, SSIM and mask IoU of a folder of test views, as the run wrote them."""
    found = json.loads((views / "metrics.json").read_text())
    return {key: float(found[key]) for key in ("psnr", "ssim", "mask_iou")}


# ------------------------------------------------------------------------------------------------------------ tables


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences over ``count`` objects, its standard error, and whether it is told from zero."""

    mean: float
    error: float
    count: int

    @property
    def sure(self) -> bool:
        """Zero lies outside Student's 95 % interval."""
        return self.count > 1 and abs(self.mean) > float(student.ppf(0.975, self.count - 1)) * self.error

    def words(self, digits: int = 2) -> str:
        """``+0.31 ± 0.08``, or the same and ``smaller than the noise``."""
        said = f"{self.mean:+.{digits}f} ± {self.error:.{digits}f}"
        return said if self.sure else f"{said}, smaller than the noise"


def paired(values: Sequence[float], base: Sequence[float]) -> Difference:
    """``values`` minus ``base``, object by object."""
    gaps = [a - b for a, b in zip(values, base, strict=True)]
    error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    return Difference(statistics.fmean(gaps), error, len(gaps))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation over objects."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {deviation:.{digits}f}"


def series(found: Found, key: str) -> list[list[float]]:
    """Per object, a figure that is a list of numbers."""
    return [list(row) for figures in found.values() if isinstance(row := figures[key], list)]


@dataclass(frozen=True)
class Column:
    """One figure of a table: its key, its heading, and how many digits it deserves."""

    key: str
    heading: str
    digits: int = 2


Rows = Mapping[str, Found]  # by setting


def table(rows: Rows, columns: Sequence[Column], base: str, first: str = "setting") -> str:
    """Markdown. ``rows`` is setting -> object -> figures; every column is followed by its difference to ``base``.

    Differences are paired: only objects that both settings have are in them.
    """
    heads = [first, "objects"]
    for column in columns:
        heads += [column.heading, f"minus {base}"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, found in rows.items():
        cells = [name, str(len(found))]
        for column in columns:
            values = {key: _number(figures[column.key]) for key, figures in found.items()}
            cells += [spread(list(values.values()), column.digits), _gap(values, rows, column, base, name)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compared(ours: Found, theirs: Found, column: Column) -> Difference:
    """A figure of one setting minus that of another, over the objects that both have."""
    shared = [key for key in ours if key in theirs]
    mine, base = ([_number(found[key][column.key]) for key in shared] for found in (ours, theirs))
    return paired(mine, base)


def _gap(values: Mapping[str, float], rows: Rows, column: Column, base: str, name: str) -> str:
    shared = [key for key in values if key in rows.get(base, {})]
    if name == base or not shared:
        return "-"
    theirs = [_number(rows[base][key][column.key]) for key in shared]
    return paired([values[key] for key in shared], theirs).words(column.digits)


def _number(value: float | list[float]) -> float:
    return statistics.fmean(value) if isinstance(value, list) else value


# ----------------------------------------------------------------------------------------------------------- commands


def parser(description: str | None, claim: str) -> argparse.ArgumentParser:
    """The flags that claims share; a command adds its own."""
    flags = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--objects", type=int, default=OBJECTS, help="toys of the test split")
    flags.add_argument("--kind", choices=("named", "nameless", "all"), default="named", help="of toys")
    flags.add_argument("--first-seed", type=int, default=FIRST_SEED, help="seed of the first toy")
    flags.add_argument("--zero123", default="toybox-zero123", help="picture model: alias, folder or hub id")
    flags.add_argument("--stable-diffusion", default="toybox-sd", help="its base model, the same way")
    flags.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    flags.add_argument("--out", type=Path, default=OUT / claim, help="figures, table and pictures go here")
    flags.add_argument("--docs", action="store_true", help="put table and pictures into docs/claims.md")
    return flags


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """The shared flags, or a UserError that says which of them is wrong."""
    if args.objects < 1:
        raise UserError(f"--objects: is {args.objects}; expected 1 or more")
    if args.first_seed < TEST_SEED:
        raise UserError(f"--first-seed: is {args.first_seed}; expected the test split, {TEST_SEED} and up")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device: is {args.device}; expected cpu, since no CUDA device is visible")
    return args


def publish(claim: str, text: str, page: Path = PAGE) -> None:
    """Replaces what stands between ``<!-- claim: NAME -->`` and ``<!-- end: NAME -->`` in the page of claims."""
    start, end = f"<!-- claim: {claim} -->\n", f"<!-- end: {claim} -->"
    whole = page.read_text(encoding="utf-8")
    if whole.count(start) != 1 or whole.count(end) != 1:
        raise UserError(
            f"{page}: has no place for '{claim}'; expected one line {start.strip()} and one {end}"
        )
    before, rest = whole.split(start)
    page.write_text(before + start + text.strip() + "\n" + end + rest.split(end)[1], encoding="utf-8")


def finish(args: argparse.Namespace, claim: str, text: str, pictures: Sequence[Path] = ()) -> None:
    """Writes ``table.md``; with ``--docs`` also puts the text into the page of claims and the pictures beside it."""
    with writing(args.out / "table.md") as file:
        file.write_text(text + "\n", encoding="utf-8")
    if args.docs:
        publish(claim, text)
        for picture in pictures:
            shutil.copyfile(picture, PAGE.parent / "pictures" / f"claims_{claim}_{picture.name}")


def command(main: Callable[[], None]) -> int:
    """``main``, with bad input as one line and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
