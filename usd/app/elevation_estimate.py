"""``usd elevation PICTURE``: how high above the object a picture was taken.

``data.reference_elevation_deg: auto`` asks the same when a training starts. What is found is printed, is written to
``save/elevation.json`` and stands as a number in the trial's ``configs/parsed.yaml`` and its checkpoints.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

from usd.app.devices import Devices, usable_device
from usd.app.experiment import Experiment, Mode, trial_of
from usd.core import files, process, ranks
from usd.core.config import ConfigError
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.random import generator
from usd.core.registry import find
from usd.data import Data, RunContext
from usd.data.reference import ReferenceConfig, load_reference
from usd.denoiser import open_view_denoiser
from usd.denoiser.elevation_measure import Elevation, Lens, Method, estimate_elevation
from usd.system import SystemConfig

KEY = "data.reference_elevation_deg"
FILE = "elevation.json"


def resolve_data(experiment: Experiment, mode: Mode, devices: Devices = ("cpu", 1)) -> Experiment:
    """Return the experiment with the options of its data as ``Data.resolve`` has them. Raises ``UserError``."""

    def estimate_elevation(distance: float, fov_y_deg: float) -> float:
        lens = Lens(distance, fov_y_deg)
        found = _first_estimate(experiment) or estimated(experiment, lens, _device_name(devices))
        _record(experiment, found)
        return round(found.degrees, 1)

    context = RunContext(mode == "train", experiment.resume, estimate_elevation)
    config = find(Data, experiment.data.name).resolve(experiment.data.config, context)
    return replace(experiment, data=replace(experiment.data, config=config))


def estimated(experiment: Experiment, lens: Lens, device: str = "cpu") -> Elevation:
    """Return the elevation of the experiment's reference picture, by the picture model that its system names.

    It is the same for every experiment with this picture, model, camera and seed: stages that all say ``auto`` agree.
    Raises ``UserError``.
    """
    options = experiment.system.config
    source = options.picture_source() if isinstance(options, SystemConfig) else None
    if source is None:
        raise ConfigError(f"{KEY}: auto needs a reference picture; this system has none. Give degrees")
    picture, name = source.keys
    if not source.image_path:
        raise ConfigError(f"{KEY}: auto needs a picture; expected one in {picture}, or degrees")
    rgba = load_reference(source.image_path, source.reference, picture).rgba
    model = open_view_denoiser(source.model, name, source.execution)
    source_of_noise = generator("cpu", experiment.seed, "elevation")
    return estimate_elevation(model.to(device), rgba[None].to(device), lens, source_of_noise, where=KEY)


def _device_name(devices: Devices) -> str:
    accelerator, indices = devices
    return f"cuda:{indices[0]}" if accelerator == "gpu" and isinstance(indices, list) else "cpu"


def _first_estimate(experiment: Experiment) -> Elevation | None:
    """Return what the first of several processes found: they must not differ by rounding."""
    file = trial_of(experiment).save / FILE
    return Elevation(**json.loads(file.read_text())) if ranks.rank() != 0 and file.is_file() else None


def _record(experiment: Experiment, found: Elevation) -> None:
    """Print the estimate and write it into the trial."""
    if ranks.rank() != 0:
        return
    say(f"reference: {found.line()}")
    files.write_record(trial_of(experiment).save / FILE, asdict(found))


# ---------------------------------------------------------------------------------------------------- command line


def elevation_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line of ``usd elevation``."""
    parser = argparse.ArgumentParser(prog="usd elevation", description=__doc__.splitlines()[0])
    parser.add_argument("picture", help="any file that image-to-3D takes")
    parser.add_argument("--zero123", default="toybox-zero123", help="picture model: alias, folder or hub id")
    parser.add_argument(
        "--method",
        choices=get_args(Method),
        default="auto",
        help="how it is measured: read, turn, or what suits the model",
    )
    parser.add_argument("--distance", type=float, default=1.5, help="distance of the camera, world units")
    parser.add_argument(
        "--fov", type=float, default=39.597755, help="vertical field of view of the camera, degrees"
    )
    parser.add_argument(
        "--framing",
        choices=("auto", "keep", "recenter"),
        default="auto",
        help="how the object is framed, as system.reference.framing",
    )
    parser.add_argument(
        "--device", type=usable_device, default="cpu", help="where the model runs: cpu, cuda, cuda:1 ..."
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampled views")
    parser.add_argument("--json", action="store_true", help="print figures instead of a sentence")
    return parser.parse_args(argv)


def estimate(args: argparse.Namespace) -> Elevation:
    """Return the estimate that the command line asks for. Raises UserError."""
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
    """Run ``usd elevation``; return the exit code."""
    return process.run_command(lambda: _print_estimate(elevation_arguments(argv)))


def _print_estimate(args: argparse.Namespace) -> None:
    found = estimate(args)
    plain: Mapping[str, object] = asdict(found)
    say(f"{json.dumps(plain) if args.json else found.line()}")


if __name__ == "__main__":
    process.start(main)
