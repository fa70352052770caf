"""``usd matte``: photographs cut out by a matting network that you have, as pictures with alpha or as masks.

    usd matte photo.jpg photo_rgba.png --model isnet-general-use.onnx
    usd matte capture/images capture/masks --model u2net.onnx --masks

No network comes along: rembg's files (~/.u2net) are found without --model. Read the license of the one that you use.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from usd.core import process
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.progress import each
from usd.data.file_names import PICTURES, nearby
from usd.data.matting import MattingModel, cut_out
from usd.data.pictures import over, read_picture, write_picture

USUAL = Path.home() / ".u2net"
PREFERRED = ("birefnet", "isnet", "u2net")
LONGEST = 4096


def matte_parser() -> argparse.ArgumentParser:
    """Return the parser of ``usd matte``."""
    parser = argparse.ArgumentParser(
        prog="usd matte", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a photograph, or a folder of them")
    parser.add_argument("out", type=Path, help="a PNG file to write, or a folder")
    parser.add_argument("--model", type=Path, help="a matting network, .onnx; by default one of ~/.u2net")
    parser.add_argument(
        "--masks", action="store_true", help="write masks, pictures without alpha: white is object"
    )
    parser.add_argument(
        "--refine", action="store_true", help="let alpha at the edge follow the colors there (slow)"
    )
    return parser


def find_model(folder: Path) -> Path:
    """Return the network of a folder that is preferred. Raises ``UserError`` where there is none."""
    files = sorted(folder.glob("*.onnx")) if folder.is_dir() else []
    for part in PREFERRED:
        for file in files:
            if part in file.stem.lower():
                return file
    if files:
        return files[0]
    raise UserError(
        f"--model: not given, and {folder} has no .onnx file; expected a U2-Net, IS-Net or BiRefNet network"
    )


def matte(args: argparse.Namespace) -> None:
    """Cut out what the command line names. Raises ``UserError``."""
    model = MattingModel.open(args.model or find_model(USUAL))
    say(f"network {model.path}: its license is its publisher's")
    for source, target in each(pairs(args.source, args.out, args.masks), "matting pictures"):
        # A single photograph is turned upright; pictures of a capture belong to cameras, which saw them as stored.
        read = read_picture(source, "source", upright=not args.masks, longest=None if args.masks else LONGEST)
        if args.masks:
            write_picture(target, model.alpha(over(read.rgba))[None])
        else:
            write_picture(target, cut_out(model, over(read.rgba), args.refine))
        say("; ".join([str(target), *read.notes]))


def pairs(source: Path, out: Path, masks: bool) -> list[tuple[Path, Path]]:
    """Return what to read and to write. Raises ``UserError`` where there is nothing."""
    if source.is_file():
        return [(source, out if out.suffix.lower() == ".png" else out / f"{source.stem}.png")]
    if not source.is_dir():
        raise UserError(f"source: {source}: no such file or folder; expected a photograph{nearby(source)}")
    files = sorted(file for file in source.rglob("*") if file.suffix.lower() in PICTURES)
    if not files:
        raise UserError(f"source: {source}: has no pictures; expected {', '.join(PICTURES)}")
    ending = ".png" if masks else "_rgba.png"
    return [(file, out / file.relative_to(source).with_name(file.stem + ending)) for file in files]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return process.run_command(lambda: matte(matte_parser().parse_args(argv)))


if __name__ == "__main__":
    process.start(main)
