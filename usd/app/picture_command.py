"""``usd picture "a purple mug with a brown handle" OUT``: pictures of a sentence, and one to make an object of.

Every candidate is cut out as image to 3D would do it. Of those that show one object on a plain background, and that the
embedded CLIP takes for the sentence where the embedded model drew them, the one that shows most of the object is the
picture: a mug from the side of its handle, a dog from its side.
"""

import argparse
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from usd.app.devices import usable_device
from usd.core import files, process
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.random import generator
from usd.data.cutting import remove_plain_background
from usd.data.pictures import contact_sheet, write_picture
from usd.denoiser import TextDenoiser, open_text_denoiser
from usd.denoiser.sample import Sampler, sample_text
from usd.evaluation.embedded import Clip
from usd.evaluation.text_score import CLIP, sentence_margins
from usd.prompt_processor.prompt_checks import check

EMBEDDED = "toybox-sd"
"""The model whose pictures the embedded CLIP can judge."""


@dataclass(frozen=True)
class Candidate:
    """A picture of the sentence: the share of it that the object covers, and by how much it is taken for the sentence.

    ``covered`` is 0 where no object can be cut out. ``margin`` is the cosine above the best other sentence; None where
    nobody was asked.
    """

    covered: float
    margin: float | None


def picture_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line of ``usd picture``."""
    parser = argparse.ArgumentParser(prog="usd picture", description=__doc__.splitlines()[0])
    parser.add_argument("prompt", help="the sentence")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--model", default=EMBEDDED, help="text model: an alias, a folder or a file")
    parser.add_argument("--count", type=int, default=12, help="candidates")
    parser.add_argument("--steps", type=int, default=25, help="steps of DDIM")
    parser.add_argument("--scale", type=float, default=3.0, help="guidance scale")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument(
        "--device", type=usable_device, default="cpu", help="where the model runs: cpu, cuda, cuda:1 ..."
    )
    args = parser.parse_args(argv)
    if (
        args.count < 1
        or not 1 <= args.steps <= 1000
        or not 0 <= args.scale <= 1000
        or not args.prompt.strip()
    ):
        parser.error(
            "expected a sentence, --count of at least 1, --steps from 1 to 1000, --scale from 0 to 1000"
        )
    return args


def make_picture(args: argparse.Namespace) -> Path:
    """Sample candidates and write them with the chosen one; return its file. Raises ``UserError``."""
    if args.out.is_file():
        raise UserError(f"OUT: {args.out} is a file; expected a folder to write to")
    files.refuse_unwritable(args.out)
    model = open_text_denoiser(args.model, "--model").to(args.device)
    check(model, [args.prompt], "PROMPT")
    pictures = candidate_pictures(model, args).cpu()
    cut = [candidate_cutout(picture, holes=args.model == EMBEDDED) for picture in pictures]
    margins = recognized(pictures, args.prompt) if args.model == EMBEDDED else None
    found = [
        Candidate(float(rgba[3].mean()), None if margins is None else float(margins[index]))
        for index, rgba in enumerate(cut)
    ]
    for index, picture in enumerate(pictures):
        write_picture(args.out / "candidates" / f"{index:03d}.png", picture)
    write_picture(args.out / "candidates.png", contact_sheet(pictures, columns=6))
    chosen = best_candidate(found)
    if chosen is None:
        raise UserError(
            f"usd picture: none of {args.count} pictures shows one object on a plain background (look at "
            f"{args.out / 'candidates.png'}); expected a prompt that says so, another --seed, or more of them (--count)"
        )
    record = {"prompt": args.prompt, "model": args.model, "seed": args.seed, "chosen": chosen}
    files.write_record(args.out / "picture.json", {**record, "candidates": [asdict(one) for one in found]})
    return write_picture(args.out / "picture.png", cut[chosen])


def candidate_pictures(model: TextDenoiser, args: argparse.Namespace) -> Float[Tensor, "N 3 S S"]:
    """Return the candidates, drawn a few at once: the same ones for the same seed."""
    sampler, batch = Sampler(args.steps, args.scale), 4
    chunks = [
        sample_text(model, [args.prompt] * min(batch, args.count - first), sampler, noise)
        for first in range(0, args.count, batch)
        for noise in [generator("cpu", args.seed, "picture", first)]
    ]
    return torch.cat(chunks)


def recognized(pictures: Float[Tensor, "N 3 S S"], prompt: str) -> Float[Tensor, "N"]:
    """Return by how much the embedded CLIP takes each picture for the sentence."""
    return sentence_margins(Clip.load(CLIP), pictures, prompt)


TOLERANCE, HOLE_TOLERANCE, HOLE_SHARE = 0.08, 0.01, 0.002
"""Distance of the background from its color; and share of the picture that a hole shows of it, this exactly."""
RIM = 0.5
"""Distance from the background's color below which a neighbor of a hole goes with it."""


def candidate_cutout(picture: Float[Tensor, "3 S S"], holes: bool) -> Float[Tensor, "4 S S"]:
    """Return the object with alpha; nothing where the background is not plain.

    Enclosed areas of the background's very color, such as within a handle, are holes where that is asked for: on a
    photograph they can be white paint.
    """
    try:
        cut = remove_plain_background(picture, TOLERANCE, "candidate")
    except UserError:
        return torch.zeros(4, *picture.shape[1:])
    rgba = cut.rgba
    if not holes or cut.background is None:
        return rgba
    color = torch.as_tensor(cut.background, dtype=picture.dtype).view(3, 1, 1)
    away = (picture - color).abs().amax(0)
    inside = (away < TOLERANCE) & (rgba[3] > 0.5)
    labels, count = ndimage.label(inside.numpy())
    exact = ndimage.sum_labels((away < HOLE_TOLERANCE).numpy(), labels, range(1, count + 1))
    numbers = 1 + (torch.as_tensor(exact) >= HOLE_SHARE * inside.numel()).nonzero()[:, 0]
    through = torch.isin(torch.from_numpy(labels), numbers)
    # The rim of a hole is a mixture with the background's color.
    rim = torch.from_numpy(ndimage.binary_dilation(through.numpy())) & (away < RIM)
    through |= rim
    return torch.cat([rgba[:3], rgba[3:] * ~through])


NEAR = 0.1
"""How far a margin may lie below the best one."""


def best_candidate(found: list[Candidate]) -> int | None:
    """Return the number of the candidate that shows most of the object, of those that are recognized best."""
    usable = [index for index, one in enumerate(found) if one.covered > 0]
    margins = {index: found[index].margin or 0.0 for index in usable}
    near = [index for index in usable if margins[index] >= max(margins.values()) - NEAR]
    return max(near, key=lambda index: found[index].covered, default=None)


def main(argv: list[str] | None = None) -> int:
    """Run ``usd picture``; return the exit code."""
    return process.run_command(lambda: _say_next(make_picture(picture_arguments(argv))))


def _say_next(picture: Path) -> None:
    say(f"{picture}; the others are beside it, in candidates.png. To make an object of it:")
    given = shlex.quote(f"system.guidance.image_path={picture}")
    say(f"  usd train usd-patch-mini {given} data.reference_elevation_deg=auto")


if __name__ == "__main__":
    process.start(main)
