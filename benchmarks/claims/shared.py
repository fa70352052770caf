"""What every claim's command shares: whom it looks at, the two models, its flags, and its place in docs/claims.md."""

import argparse
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks import ROOT, runs
from usd.core.errors import UserError
from usd.data.pictures import write_whole
from usd.data.reference import ReferenceConfig, load_reference
from usd.denoiser import (
    Denoiser,
    TextDenoiser,
    ViewDenoiser,
    check_shared_latents,
    open_text_denoiser,
    open_view_denoiser,
)
from usd.denoiser.latent import LatentDenoiser
from usd.denoiser.weights import weights_folder
from usd.toybox.cameras import reference_camera
from usd.toybox.objects import make_toy
from usd.toybox.render import render
from usd.toybox.scene import Toy

PAGE = ROOT / "docs" / "claims.md"
OUT = ROOT / "outputs" / "claims"
OBJECTS = 12

# --------------------------------------------------------------------------------------------------------- subjects


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
    return [toy_subject(seed, size) for seed in runs.chosen_seeds(args)]


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
    view = open_view_denoiser(args.zero123, "--zero123")
    text = open_text_denoiser(args.stable_diffusion, "--stable-diffusion")
    check_shared_latents(view, text, "--stable-diffusion")
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


# -------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Trials:
    """Runs of the launcher that a claim compares: where they are, and what each is given beside what it is about."""

    out: Path
    device: str
    models: tuple[str, str]
    overrides: tuple[str, ...]

    def toy(self, seed: int) -> Path:
        """Return the folder of a toy's pictures; all claims share them."""
        return runs.toy_folder(seed, self.out.parent)

    def launch(self, name: str, config: Path, overrides: Sequence[str]) -> runs.Launch:
        """Return the run ``name`` of a recipe, ``family/run``, with the claim's own overrides last."""
        where = self.out / "trials" / name
        return runs.Launch(where, (config,), (*overrides, *self.overrides), runs.gpu_flag(self.device))


# ----------------------------------------------------------------------------------------------------------- commands


def parser(description: str | None, claim: str) -> argparse.ArgumentParser:
    """The flags that claims share; a command adds its own."""
    flags = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    runs.object_flags(flags, OBJECTS)
    flags.add_argument("--zero123", default="toybox-zero123", help="picture model: alias, folder or hub id")
    flags.add_argument("--stable-diffusion", default="toybox-sd", help="its base model, the same way")
    flags.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    flags.add_argument("--out", type=Path, default=OUT / claim, help="figures, table and pictures go here")
    flags.add_argument("--docs", action="store_true", help="put table and pictures into docs/claims.md")
    return flags


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """The shared flags, or a UserError that says which of them is wrong."""
    runs.check_object_flags(args)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device: is {args.device}; expected cpu, since no CUDA device is visible")
    return args


def trials(args: argparse.Namespace, rest: Sequence[str]) -> Trials:
    """Return where a claim's runs are, from its flags and the words for the launcher. Raises ``UserError``."""
    models = args.zero123, args.stable_diffusion
    return Trials(args.out.resolve(), args.device, models, runs.key_values(rest))


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
    with write_whole(args.out / "table.md") as file:
        file.write_text(text + "\n", encoding="utf-8")
    if args.docs:
        publish(claim, text)
        for picture in pictures:
            shutil.copyfile(picture, PAGE.parent / "pictures" / f"claims_{claim}_{picture.name}")
