"""``usd render TRIAL|FILE --path orbit|PATH.json``: pictures of a finished object along a way of the camera.

The way is an orbit, or a file: key views as the viewer writes them, nerfstudio's camera paths, or a transforms.json.
The name of ``--out`` says what is written: .mp4 a video over white, .webm one with a transparent background, anything
else a folder of PNG pictures with alpha. No diffusion model is loaded.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.app.experiment import Trial, short_path
from usd.core import process
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.progress import each
from usd.data.camera_path import read_camera_path
from usd.data.pictures import write_picture
from usd.data.random_camera import RandomCameraConfig
from usd.evaluation.gallery import rendered_rgba, write_transparent_video, write_video
from usd.math.camera import Cameras, orbit_cameras_deg
from usd.mesh_io.splats import holds_splats

Rgba = Float[Tensor, "4 H W"]
Look = Callable[[Cameras], Rgba]
ORBIT = "orbit"


def render_parser() -> argparse.ArgumentParser:
    """Return the command line of ``usd render``."""
    parser = argparse.ArgumentParser(
        prog="usd render", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source", metavar="TRIAL|FILE", type=Path, help="a trial's folder, or a file of a mesh or of splats"
    )
    parser.add_argument("--path", default=ORBIT, help="orbit, or a JSON file of a camera path")
    parser.add_argument(
        "--out", type=Path, help="FILE.mp4, FILE.webm or a folder; by default an mp4 beside it"
    )
    parser.add_argument(
        "--size", type=int, default=512, help="rows of a picture, where the path does not say"
    )
    parser.add_argument("--width", type=int, help="columns of a picture; by default as many as rows")
    parser.add_argument("--frames", type=int, default=120, help="pictures of an orbit")
    parser.add_argument("--fps", type=int, help="pictures a second of a video; by default the path's, or 24")
    parser.add_argument("--elevation", type=float, help="elevation of an orbit in degrees")
    parser.add_argument("--step", type=int, help="saved step of a trial; by default the last")
    parser.add_argument("--gpu", metavar="0|cpu", help="where pictures are made; by default the first GPU")
    return parser


def check_numbers(args: argparse.Namespace) -> None:
    """Raise ``UserError`` for numbers of the command line that no picture can have."""
    width = args.size if args.width is None else args.width
    for name, value, low, high in (
        ("--size", args.size, 8, 8192),
        ("--width", width, 8, 8192),
        ("--frames", args.frames, 1, 20000),
        ("--fps", args.fps or 24, 1, 240),
        ("--elevation", args.elevation or 0, -90, 90),
    ):
        if not low <= value <= high:
            raise UserError(f"{name}: is {value:g}; expected {low} to {high}")


def render_source(args: argparse.Namespace) -> Path:
    """Render what the command line asks for; return the file or folder. Raises ``UserError``."""
    check_numbers(args)
    look, usual, name = open_source(args)
    width = args.width or args.size
    if args.path == ORBIT:
        elevation = usual[2] if args.elevation is None else args.elevation
        azimuth = [360.0 * i / args.frames for i in range(args.frames)]
        orbit = orbit_cameras_deg(elevation, azimuth, usual[0], usual[1], args.size).resize(args.size, width)
        cameras, fps = [orbit[i : i + 1] for i in range(len(orbit))], 24
    else:
        cameras, fps = read_camera_path(Path(args.path), args.size, width)
    out = args.out or default_output(args.source, name, Path(args.path).stem)
    return write_frames(out, (look(camera) for camera in each(cameras, "rendering views")), args.fps or fps)


def default_output(source: Path, name: str, path: str) -> Path:
    """Return where a video goes when nobody says: the trial's pictures, or beside the mesh."""
    return (
        source / "save" / f"{name}-{path}.mp4" if source.is_dir() else source.with_name(f"{name}-{path}.mp4")
    )


def open_source(args: argparse.Namespace) -> tuple[Look, tuple[float, float, float], str]:
    """Return what renders a camera, an orbit's usual distance, field of view and elevation, and a name for files."""
    if args.source.is_file():
        return splat_source(args.source, args.gpu) if holds_splats(args.source) else mesh_source(args.source)
    from usd.app.view_command import FinishedTrial, saved_steps

    trial = Trial(args.source)
    steps = saved_steps(trial)
    finished = FinishedTrial(trial, steps, max(steps) if args.step is None else args.step, args.gpu)
    system, options = finished.scene(), finished.data.config
    usual = (2.5, 45.0, 15.0)
    if isinstance(options, RandomCameraConfig):
        usual = (options.eval_camera_distance, options.eval_fovy_deg, options.eval_elevation_deg)
    return (
        lambda camera: rendered_rgba(system.evaluation_views(camera.to(system.device)))[0],
        usual,
        f"it{system.step}",
    )


def mesh_source(file: Path) -> tuple[Look, tuple[float, float, float], str]:
    """Return the same for a mesh file, seen unlit and from far enough to see all of it."""
    from usd.data.pictures import unpremultiply
    from usd.mesh_io.pictures import pictures
    from usd.mesh_io.read import read_mesh

    mesh = read_mesh(file)
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    mesh = mesh.move(mesh.vertices - (low + high) / 2)
    radius = 0.5 * float((high - low).norm())

    def look(camera: Cameras) -> Rgba:
        rgba = pictures(mesh, camera)
        return unpremultiply(rgba[:, :3], rgba[:, 3:])[0]

    return look, (max(radius, 1e-6) / 0.34, 40.0, 15.0), file.stem


def splat_source(file: Path, gpu: str | None) -> tuple[Look, tuple[float, float, float], str]:
    """Return the same for a file of Gaussian splats, from far enough to see almost all of them."""
    from usd.app.devices import single_device
    from usd.app.splat_file import open_centered_splats

    system, radius = open_centered_splats(file)
    system.to(single_device(gpu))

    def look(camera: Cameras) -> Rgba:
        return rendered_rgba(system.evaluation_views(camera.to(system.device)))[0]

    return look, (max(radius, 1e-6) / 0.34, 40.0, 15.0), file.stem


def write_frames(out: Path, frames: Iterator[Rgba], fps: int) -> Path:
    """Write pictures as what the name of ``out`` says; return it."""
    with torch.no_grad():
        if out.suffix.lower() == ".webm":
            return write_transparent_video(out, list(frames), fps)
        if out.suffix.lower() == ".mp4":
            return write_video(out, list(frames), fps)
        if out.suffix:
            raise UserError(
                f"--out: {out}: expected a name with .mp4 or .webm, or a folder without an ending"
            )
        for index, frame in enumerate(frames):
            write_picture(out / f"{index:04d}.png", frame)
    return out


def main(argv: list[str] | None = None) -> int:
    """Run ``usd render``; return the exit code."""
    return process.run_command(
        lambda: say(f"wrote {short_path(render_source(render_parser().parse_args(argv)))}")
    )


if __name__ == "__main__":
    process.start(main)
