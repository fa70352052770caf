"""``usd views PICTURE OUT --model wonder3d``: all views of a model that denoises them together, with cameras.

A model of sentences, such as MVDream, takes one in the place of PICTURE.

OUT is ``transforms.json`` and ``views/*.png``, or the layout of Wonder3D where the model makes normals, too;
``data.path`` of a reconstruction takes either as it is.
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.app.devices import usable_device
from usd.core import files, process
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.random import generator
from usd.data.convert import write_views
from usd.data.reference import ReferenceConfig, load_reference
from usd.data.view_set import view_set
from usd.data.wonder3d import world_normals, write_scene
from usd.denoiser import (
    GroupConventions,
    GroupDenoiser,
    TextDenoiser,
    TextGroupDenoiser,
    ViewDenoiser,
    check_shared_latents,
    open_group_denoiser,
    open_text_denoiser,
    open_view_denoiser,
)
from usd.denoiser.sample import Sampler, sample_group, sample_views
from usd.math.camera import Cameras, orbit_cameras_deg
from usd.math.view_groups import VIEW_GROUPS


def views_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line of ``usd views``."""
    parser = argparse.ArgumentParser(prog="usd views", description=__doc__.splitlines()[0])
    parser.add_argument(
        "picture", help="any file that image-to-3D takes; for a model of sentences, the sentence"
    )
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--model", required=True, help="model of view groups: an alias, a folder or a file")
    parser.add_argument(
        "--rectify", help="text model whose unconditional prediction replaces the model's own"
    )
    parser.add_argument(
        "--cameras",
        choices=sorted(VIEW_GROUPS),
        help="cameras of another model, for one that makes views from anywhere (default: the model's own)",
    )
    parser.add_argument("--elevation", type=float, default=0.0, help="elevation of the picture, degrees")
    parser.add_argument("--azimuth", type=float, default=0.0, help="azimuth of the picture, degrees")
    parser.add_argument("--fovy", type=float, help="vertical field of view of the picture, degrees")
    parser.add_argument("--fraction", type=float, help="object's longest side, of the picture's")
    parser.add_argument("--steps", type=int, help="steps of DDIM")
    parser.add_argument("--scale", type=float, help="guidance scale")
    parser.add_argument("--eta", type=float, help="share of fresh noise in each step of DDIM")
    parser.add_argument(
        "--start", type=float, help="noise level to start at, from the expected views: 1 is from noise alone"
    )
    parser.add_argument(
        "--expected", type=float, help="share of the expected views (a view volume's) in those that are made"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument(
        "--device", type=usable_device, default="cpu", help="where the model runs: cpu, cuda, cuda:1 ..."
    )
    return parser.parse_args(argv)


def make_views(args: argparse.Namespace) -> list[Path]:
    """Sample the views that the command line asks for, and write them. Raises ``UserError``."""
    model = _opened(args).to(args.device)
    given = settings(args, model.conventions if isinstance(model, GroupDenoiser) else SINGLE_VIEWS)
    size = model.latent.image_size
    source = orbit_cameras_deg(args.elevation, args.azimuth, 1.5, given.fovy_deg, size).to(args.device)
    group = model.group_cameras if isinstance(model, GroupDenoiser) else VIEW_GROUPS[args.cameras]
    cameras = (VIEW_GROUPS[args.cameras] if args.cameras else group)(source, size)
    if isinstance(model, TextGroupDenoiser):
        pictures = _from_sentence(model, cameras, given, args).cpu()
    else:
        assert isinstance(model, ViewDenoiser)
        pictures = _from_picture(model, source, cameras, given, args).cpu()
    by_domain = dict(zip(model.domains, pictures.chunk(len(model.domains)), strict=True))
    return write_group(by_domain, cameras.to("cpu"), args.out)


SINGLE_VIEWS = GroupConventions(fraction=None, scale=3.0, noise_share=0.0)
"""Settings for a model whose views are made one by one."""


def _opened(args: argparse.Namespace) -> GroupDenoiser | ViewDenoiser:
    """Return the model; with cameras said, one that makes its views one by one will do. Raises ``UserError``."""
    if args.out.is_file():
        raise UserError(f"OUT: {args.out} is a file; expected a folder to write to")
    files.refuse_unwritable(args.out)
    if args.cameras is None:
        return open_group_denoiser(args.model, "--model")
    return open_view_denoiser(args.model, "--model")


def settings(args: argparse.Namespace, published: GroupConventions) -> GroupConventions:
    """Return the published settings with those of the command line in their place. Raises ``UserError``."""
    names = {
        "fraction": "fraction",
        "fovy_deg": "fovy",
        "steps": "steps",
        "scale": "scale",
        "noise_share": "eta",
        "start": "start",
        "expected_share": "expected",
    }
    given = {field: getattr(args, name) for field, name in names.items() if getattr(args, name) is not None}
    all_ = replace(published, **given)
    shares = all_.noise_share, all_.start, all_.expected_share
    fits = all_.steps >= 1 and all(0 <= share <= 1 for share in shares) and 0 < all_.fovy_deg < 180
    if not fits or abs(args.elevation) > 90 or not (all_.fraction is None or 0 < all_.fraction <= 1):
        raise UserError(
            "usd views: expected --steps of at least 1, --eta, --start and --expected from 0 to 1, --fraction above "
            "0 and up to 1, --fovy above 0 and below 180, and --elevation from -90 to 90"
        )
    return all_


def _from_picture(
    model: ViewDenoiser,
    source: Cameras,
    cameras: Cameras,
    given: GroupConventions,
    args: argparse.Namespace,
) -> Float[Tensor, "R 3 S S"]:
    framing = ReferenceConfig()
    if given.fraction is not None:
        framing = ReferenceConfig(framing="recenter", fraction=given.fraction)
    reference = load_reference(Path(args.picture), framing, "PICTURE")
    prior = _prior(model, args)
    rgb = reference.over(source.height, model.backdrop).to(args.device)
    encoded = model.encode_reference(rgb, source)
    model.release_encoders()
    noise = generator("cpu", args.seed, "views")
    return sample_views(model, encoded, cameras, Sampler.of(given), noise, prior)


def _from_sentence(
    model: TextGroupDenoiser, cameras: Cameras, given: GroupConventions, args: argparse.Namespace
) -> Float[Tensor, "R 3 S S"]:
    if Path(args.picture).is_file():
        raise UserError(
            f"PICTURE: {args.picture} is a file, and '{args.model}' takes a sentence; expected one"
        )
    noise = generator("cpu", args.seed, "views")
    return sample_group(model, args.picture, cameras, Sampler.of(given), noise, _prior(model, args))


def _prior(model: GroupDenoiser | ViewDenoiser, args: argparse.Namespace) -> TextDenoiser | None:
    """Return the model that rectifies the sampling, if one is named. Raises ``UserError``."""
    if args.rectify is None:
        return None
    prior = open_text_denoiser(args.rectify, "--rectify").to(args.device)
    check_shared_latents(model, prior, "--rectify")
    return prior


def write_group(
    pictures: Mapping[str, Float[Tensor, "V 3 S S"]], cameras: Cameras, folder: Path
) -> list[Path]:
    """Write the views of a group, by domain, with their cameras; return the files. Raises ``UserError``."""
    names = [f"{i:04d}.png" for i in range(len(cameras))]
    opaque = [torch.cat([picture, torch.ones_like(picture[:1])]) for picture in pictures["color"]]
    if "normal" not in pictures:
        return write_views(view_set(opaque, cameras, names, []), folder)
    # unit normals are as long as 1 and white, behind them, is as long as the root of 3
    away = (2 * pictures["normal"] - 1).norm(dim=1, keepdim=True)
    alpha = (away < (1 + math.sqrt(3)) / 2).float()
    cut = torch.cat([pictures["color"], alpha], 1)
    normals = world_normals(torch.cat([pictures["normal"], alpha], 1), cameras.c2w[0, :3, :3])
    views = replace(view_set(list(cut), cameras, names, []), normals=normals)
    if abs(float(cameras.spherical.elevation[0])) > ROUNDING:
        say("note: written in Wonder3D's layout, whose cameras are in the picture's own axes: no --elevation")
    return write_scene(views, folder)


ROUNDING = 1e-4
"""Elevation in radians that is none."""


def main(argv: list[str] | None = None) -> int:
    """Run ``usd views``; return the exit code."""
    return process.run_command(lambda: _say_written(make_views(views_arguments(argv))))


def _say_written(written: list[Path]) -> None:
    say(f"{len(written)} files, {written[0]} first")


if __name__ == "__main__":
    process.start(main)
