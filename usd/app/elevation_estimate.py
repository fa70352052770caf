"""``python -m usd.elevation PICTURE``: how high above the object a picture was taken.

``data.reference_elevation_deg: auto`` asks the same when a training starts. What was found is printed, is written to
``save/elevation.json`` and stands as a number in the trial's ``configs/parsed.yaml`` and its checkpoints.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from usd.app.experiment import Experiment, trial_of
from usd.core import checkpoint, process, ranks
from usd.core.config import ConfigError
from usd.core.errors import UserError
from usd.core.random import generator
from usd.data.pictures import write_whole
from usd.data.reference import ReferenceConfig, load_reference
from usd.data.usd_random_camera import UsdRandomCameraConfig, reference_lens, stored_elevation
from usd.denoiser import open_view_denoiser
from usd.denoiser.elevation_measure import Elevation, Lens, Method, estimate_elevation
from usd.system import SystemConfig

KEY = "data.reference_elevation_deg"
FILE = "elevation.json"


def settled(experiment: Experiment, mode: str, device: tuple[str, Any] = ("cpu", 1)) -> Experiment:
    """The experiment with its reference elevation as a number: as given, as its checkpoint says, or estimated.

    Raises UserError where it is ``auto`` and cannot be estimated. Only a new training estimates.
    """
    config = experiment.data.config
    if not isinstance(config, UsdRandomCameraConfig) or config.reference_elevation_deg != "auto":
        return experiment
    if mode != "train" and experiment.resume is None:
        return experiment  # which is refused for that reason
    degrees = _resumed(experiment, mode)
    if degrees is None:
        found = _told(experiment) or estimated(experiment, config, _name(device))
        _tell(experiment, found)
        degrees = round(found.degrees, 1)
    data = replace(experiment.data, config=replace(config, reference_elevation_deg=degrees))
    return replace(experiment, data=data)


def _resumed(experiment: Experiment, mode: str) -> float | None:
    """What the checkpoint to go on from was trained with; None where there is no checkpoint."""
    if experiment.resume is None:
        return None
    degrees = stored_elevation(checkpoint.load(experiment.resume))
    if degrees is None and mode != "train":
        raise UserError(f"{KEY}: is auto, and {experiment.resume} says no elevation; expected degrees")
    return degrees


def estimated(experiment: Experiment, config: UsdRandomCameraConfig, device: str = "cpu") -> Elevation:
    """The elevation of the experiment's reference picture, by the picture model that its system names.

    The same for every experiment with this picture, model, camera and seed: stages that are all told ``auto`` agree.
    """
    options = experiment.system.config
    source = options.picture_source() if isinstance(options, SystemConfig) else None
    if source is None:
        raise ConfigError(f"{KEY}: auto needs a reference picture; this system has none. Give degrees")
    picture, name = source.keys
    if not source.image_path:
        raise ConfigError(f"{KEY}: auto needs a picture; expected one in {picture}, or degrees")
    rgba = load_reference(source.image_path, source.reference, picture).rgba
    model = open_view_denoiser(source.model, name, source.running)
    draws = generator("cpu", experiment.seed, "elevation")
    lens = Lens(*reference_lens(config))
    return estimate_elevation(model.to(device), rgba[None].to(device), lens, draws, where=KEY)


def _name(device: tuple[str, Any]) -> str:
    accelerator, devices = device
    return f"cuda:{devices[0]}" if accelerator == "gpu" else "cpu"


def _told(experiment: Experiment) -> Elevation | None:
    """What the first of several processes found: they must not differ by rounding."""
    file = trial_of(experiment).save / FILE
    return Elevation(**json.loads(file.read_text())) if ranks.rank() != 0 and file.is_file() else None


def _tell(experiment: Experiment, found: Elevation) -> None:
    """Prints the estimate and writes it into the trial."""
    if ranks.rank() != 0:
        return
    sys.stdout.write(f"reference: {found.line()}\n")
    with write_whole(trial_of(experiment).save / FILE) as file:
        file.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------------------------- command line


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="usd elevation", description=__doc__.splitlines()[0])
    parser.add_argument("picture", help="any file that image-to-3D takes")
    parser.add_argument("--zero123", default="toybox-zero123", help="picture model: alias, folder or hub id")
    parser.add_argument(
        "--method", choices=get_args(Method), default="auto", help="read, turn, or what suits the model"
    )
    parser.add_argument("--distance", type=float, default=1.5, help="of the camera, world units")
    parser.add_argument("--fov", type=float, default=39.597755, help="its vertical field of view, degrees")
    parser.add_argument(
        "--framing", choices=("auto", "keep", "recenter"), default="auto", help="as system.reference.framing"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    parser.add_argument("--seed", type=int, default=0, help="of the sampled views")
    parser.add_argument("--json", action="store_true", help="print figures instead of a sentence")
    return parser.parse_args(argv)


def estimate(args: argparse.Namespace) -> Elevation:
    """The estimate that the command line asks for. Raises UserError."""
    if args.distance <= 0 or not 0 < args.fov < 180:
        raise UserError(
            "--distance, --fov: expected a distance above 0 and an angle between 0 and 180 degrees"
        )
    reference = load_reference(Path(args.picture), ReferenceConfig(framing=args.framing), "PICTURE")
    model = open_view_denoiser(args.zero123, "--zero123")
    source = generator("cpu", args.seed, "elevation")
    rgba = reference.rgba[None].to(args.device)
    lens = Lens(args.distance, args.fov)
    return estimate_elevation(model.to(args.device), rgba, lens, source, args.method, "--method")


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    return process.run_command(lambda: _print_estimate(arguments(argv)))


def _print_estimate(args: argparse.Namespace) -> None:
    found = estimate(args)
    plain: Mapping[str, object] = asdict(found)
    sys.stdout.write(f"{json.dumps(plain) if args.json else found.line()}\n")


if __name__ == "__main__":
    process.start(main)
