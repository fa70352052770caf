"""``usd views PICTURE OUT --model syncdreamer.ckpt``: all views of a model that denoises them together, with cameras.

OUT is ``transforms.json`` and ``views/*.png``, which ``data.path`` of a reconstruction takes as they are.
"""

import argparse
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core import process
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.random import generator
from usd.data.convert import write_views
from usd.data.reference import ReferenceConfig, load_reference
from usd.data.view_set import view_set
from usd.denoiser import ViewGroupDenoiser, check_shared_latents, open_text_denoiser, open_view_denoiser
from usd.denoiser.sample import Sampler, sample_views
from usd.math.camera import Cameras, orbit_cameras_deg


def views_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line of ``usd views``."""
    parser = argparse.ArgumentParser(prog="usd views", description=__doc__.splitlines()[0])
    parser.add_argument("picture", help="any file that image-to-3D takes")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--model", required=True, help="model of view groups: SyncDreamer's single file")
    parser.add_argument(
        "--rectify", help="text model whose unconditional prediction replaces the model's own"
    )
    parser.add_argument("--elevation", type=float, default=0.0, help="elevation of the picture, degrees")
    parser.add_argument(
        "--fraction", type=float, default=200 / 256, help="object's longest side, of the picture's"
    )
    parser.add_argument("--steps", type=int, default=50, help="steps of DDIM")
    parser.add_argument("--scale", type=float, default=2.0, help="guidance scale")
    parser.add_argument("--eta", type=float, default=1.0, help="share of fresh noise in each step of DDIM")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda, cuda:1 ...")
    return parser.parse_args(argv)


def make_views(args: argparse.Namespace) -> list[Path]:
    """Sample the views that the command line asks for, and write them. Raises ``UserError``."""
    if args.steps < 1 or not 0 <= args.eta <= 1 or not 0 < args.fraction <= 1 or abs(args.elevation) > 90:
        raise UserError(
            "usd views: expected --steps of at least 1, --eta from 0 to 1, --fraction above 0 and up to 1, and "
            "--elevation from -90 to 90"
        )
    framing = ReferenceConfig(framing="recenter", fraction=args.fraction)
    reference = load_reference(Path(args.picture), framing, "PICTURE")
    model = open_view_denoiser(args.model, "--model")
    if not isinstance(model, ViewGroupDenoiser):
        raise UserError(
            f"--model: '{args.model}' has no cameras of its own; expected SyncDreamer's single file"
        )
    model = model.to(args.device)
    size = model.latent.image_size
    source = orbit_cameras_deg(args.elevation, 0.0, 1.5, 49.1, size).to(args.device)
    cameras = model.group_cameras(source, size)
    pictures = _sampled(model, reference.over(size).to(args.device), source, cameras, args)
    opaque = [torch.cat([picture, torch.ones_like(picture[:1])]) for picture in pictures.cpu()]
    names = [f"{i:04d}.png" for i in range(len(opaque))]
    return write_views(view_set(opaque, cameras.to("cpu"), names, []), args.out)


def _sampled(
    model: ViewGroupDenoiser, rgb: Tensor, source: Cameras, cameras: Cameras, args: argparse.Namespace
) -> Float[Tensor, "V 3 S S"]:
    prior = None
    if args.rectify is not None:
        prior = open_text_denoiser(args.rectify, "--rectify").to(args.device)
        check_shared_latents(model, prior, "--rectify")
    encoded = model.encode_reference(rgb, source)
    model.release_encoders()
    sampler = Sampler(args.steps, args.scale, args.eta)
    return sample_views(model, encoded, cameras, sampler, generator("cpu", args.seed, "views"), prior)


def main(argv: list[str] | None = None) -> int:
    """Run ``usd views``; return the exit code."""
    return process.run_command(lambda: _say_written(make_views(views_arguments(argv))))


def _say_written(written: list[Path]) -> None:
    say(f"{len(written)} files, {written[0]} first")


if __name__ == "__main__":
    process.start(main)
