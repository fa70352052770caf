"""``usd convert views``: views in the file layouts of other systems, and those systems' cameras.

    usd convert views 1000022 out --layout wonder3d        a toy, seen by that system's cameras
    usd convert views <views> out --layout zero123         views that have the layout's cameras already
    usd convert views <views> toys/car --layout co3d       a sequence of the category toys, of any views
    usd convert views --cameras syncdreamer out            only transforms.json, the layout's cameras

To bring a trial into a layout, render its cameras (``usd test TRIAL data.eval_transforms=out/transforms.json``) and
convert the trial. Pictures keep their pixels. Views whose cameras are not the layout's are refused: nothing is warped.
"""

import argparse
from pathlib import Path

import torch

from usd.core import process
from usd.core.console import say
from usd.core.errors import UserError
from usd.data import co3d_sequence, syncdreamer, wonder3d, zero123_views
from usd.data.pictures import write_picture
from usd.data.toy_views import render_toy_views, sphere_cameras, toy_seed
from usd.data.transforms import write_transforms
from usd.data.view_readers import ViewOptions, read_views
from usd.data.view_set import ViewSet
from usd.math.camera import Cameras, camera_differences
from usd.math.view_groups import wonder3d_cameras

LAYOUTS = ("transforms", "syncdreamer", "wonder3d", "zero123", "co3d")
REFERENCE_AZIMUTH_DEG = 90.0
"""Where our reference camera stands, and so where those systems' input picture is taken to come from."""


def layout_cameras(layout: str, size: int, azimuth_deg: float, count: int = 12) -> Cameras:
    """Return the cameras of a layout whose input picture is taken from ``azimuth_deg``; ``count`` where it is free."""
    if layout == "syncdreamer":
        return syncdreamer.target_cameras(size, azimuth_deg)
    if layout == "wonder3d":
        return wonder3d_cameras(size, azimuth_deg)
    cameras = sphere_cameras(count, size)
    if layout == "zero123":
        return Cameras(cameras.c2w, torch.full_like(cameras.fov_y, zero123_views.FOV), size, size)
    return cameras


def write_views(views: ViewSet, folder: Path) -> list[Path]:
    """Write our own layout: ``transforms.json`` and ``views/*.png`` with straight alpha."""
    names = [f"views/{i:04d}.png" for i in range(len(views))]
    written = [write_picture(folder / name, picture) for name, picture in zip(names, views.rgba, strict=True)]
    return [write_transforms(folder / "transforms.json", [views.cameras], names), *written]


def write_layout(views: ViewSet, folder: Path, layout: str, azimuth_deg: float) -> list[Path]:
    """Write views in a layout. Raises UserError where their cameras or sizes are not the layout's."""
    height, width = views.rgba.shape[-2:]
    if layout == "transforms":
        return write_views(views, folder)
    where = f"--layout {layout}"
    if layout == "co3d":
        if views.cameras.span_y is not None:
            raise UserError(f"{where}: views are orthographic; expected pinhole ones")
        return co3d_sequence.write_sequence(views, folder)
    if height != width:
        raise UserError(f"{where}: views are {width} x {height} pixels; expected square ones")
    if layout == "zero123":
        _refuse_other_lens(views, where)
        return zero123_views.write_views(views, folder)
    expected = layout_cameras(layout, height, azimuth_deg)
    ordered = match_views(views, expected, where)
    return (
        syncdreamer.write_strip(ordered, folder)
        if layout == "syncdreamer"
        else wonder3d.write_scene(ordered, folder)
    )


def _refuse_other_lens(views: ViewSet, where: str) -> None:
    fov = views.cameras.fov_y.rad2deg()
    if views.cameras.span_y is not None or (fov - 49.1343).abs().max() > 0.2:
        seen = "orthographic" if views.cameras.span_y is not None else f"{fov.min():.1f} degrees wide"
        raise UserError(f"{where}: views are {seen}; expected 49.13 degrees")


def match_views(views: ViewSet, expected: Cameras, where: str) -> ViewSet:
    """Return the views in the order of a layout's cameras. Raises ``UserError`` that says which is missing."""
    if (views.cameras.span_y is None) != (expected.span_y is None):
        kinds = "pinhole views", "orthographic ones"
        raise UserError(
            f"{where}: has {kinds[views.cameras.span_y is not None]}; expected {kinds[expected.span_y is not None]}"
        )
    order = []
    for index in range(len(expected)):
        apart = camera_differences(views.cameras, expected[[index]])
        if float(apart.min()) > 0.02:
            place = expected.spherical
            raise UserError(
                f"{where}: no view was taken by its camera {index} (azimuth "
                f"{place.azimuth[index].rad2deg():.1f}, elevation {place.elevation[index].rad2deg():.1f} degrees, "
                f"distance {place.distance[index]:.2f}); expected all {len(expected)}: render them with --cameras"
            )
        order.append(int(apart.argmin()))
    return views.select(order)


def convert_parser() -> argparse.ArgumentParser:
    """Return the parser of ``usd convert views``."""
    parser = argparse.ArgumentParser(
        prog="usd convert views",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", nargs="?", metavar="SOURCE", help="views with cameras, a trial, or a toybox seed"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--layout", choices=LAYOUTS, help="write the views so")
    what.add_argument("--cameras", choices=LAYOUTS[1:], help="write only the cameras of this layout")
    parser.add_argument("--size", type=int, default=256, help="pixels a side (toys, cameras)")
    parser.add_argument("--views", type=int, default=12, help="how many, where the layout leaves it free")
    parser.add_argument(
        "--azimuth",
        type=float,
        default=REFERENCE_AZIMUTH_DEG,
        help="of the input picture, in degrees, in our world",
    )
    return parser


def convert_views(args: argparse.Namespace) -> None:
    """Write what the command line asks for. Raises UserError."""
    if args.size < 8 or args.views < 1:
        raise UserError("usd convert views: --size must be at least 8, --views at least 1")
    if args.cameras:
        cameras = layout_cameras(args.cameras, args.size, args.azimuth, args.views)
        names = [f"views/{i:04d}.png" for i in range(len(cameras))]
        _print_written([write_transforms(args.out / "transforms.json", [cameras], names)])
        return
    if args.source is None:
        raise UserError("usd convert views: no views given; expected SOURCE OUT --layout NAME")
    seed = toy_seed(args.source)
    if seed is not None and not Path(args.source).exists():
        views = render_toy_views(seed, layout_cameras(args.layout, args.size, args.azimuth, args.views))
    else:
        views = read_views(args.source, ViewOptions(), "SOURCE")
    _print_written([*write_layout(views, args.out, args.layout, args.azimuth)], views.notes)


def _print_written(written: list[Path], notes: tuple[str, ...] = ()) -> None:
    for note in notes:
        say(note)
    say(f"{len(written)} files, {written[0]} first")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return process.run_command(lambda: convert_views(convert_parser().parse_args(argv)))


if __name__ == "__main__":
    process.start(main)
