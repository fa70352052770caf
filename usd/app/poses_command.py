"""``usd poses``: cameras for a video or a folder of pictures, by COLMAP, in the layout that data.path reads.

usd poses walk.mp4 scene            frames in scene/images, cameras in scene/sparse/0
usd poses photos scene              copies of the pictures, and their cameras
usd train neus data.path=scene
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from usd.core import process
from usd.core.console import say
from usd.core.errors import UserError
from usd.data.file_names import PICTURES, nearby
from usd.data.structure_from_motion import find_poses, write_frames


def poses_parser() -> argparse.ArgumentParser:
    """Return the parser of ``usd poses``."""
    parser = argparse.ArgumentParser(
        prog="usd poses", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a video, or a folder of pictures")
    parser.add_argument("out", type=Path, help="a folder for pictures and cameras")
    parser.add_argument(
        "--frames", type=int, default=120, help="frames of a video to take, the sharpest ones"
    )
    return parser


def write_scene(args: argparse.Namespace) -> None:
    """Write what the command line asks for. Raises ``UserError``."""
    images, video = args.out / "images", args.source.is_file()
    if args.frames < 3:
        raise UserError(f"--frames: is {args.frames}; expected at least 3")
    if images.is_dir() and any(images.iterdir()) and images.resolve() != args.source.resolve():
        raise UserError(f"out: {images}: has pictures already; expected a new folder")
    if video:
        write_frames(args.source, images, args.frames)
    elif args.source.is_dir():
        _copy_pictures(args.source, images)
    else:
        raise UserError(
            f"source: {args.source}: no such file or folder; expected a video or pictures{nearby(args.source)}"
        )
    found, total = find_poses(images, args.out, ordered=video)
    say(f"{args.out}: {found} of {total} pictures have a camera")


def _copy_pictures(source: Path, images: Path) -> None:
    """Copy the pictures below a folder, which may be the target itself."""
    if source.resolve() == images.resolve():
        return
    for file in sorted(source.rglob("*")):
        if file.suffix.lower() in PICTURES:
            target = images / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return process.run_command(lambda: write_scene(poses_parser().parse_args(argv)))


if __name__ == "__main__":
    process.start(main)
