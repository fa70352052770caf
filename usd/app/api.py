"""The public functions: load a recipe, train it, open a trial, render a view, export, evaluate."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from usd.app.experiment import Experiment, Trial, load_experiment, place_overrides
from usd.app.open_viewer import viewer_until_the_end
from usd.app.stages import is_staged, plans, run_stages
from usd.core import loading, places, registry
from usd.core.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from usd.evaluation.align import Alignment
    from usd.system import System

DISTANCE, FOV_Y_DEG = 2.5, 45.0
"""Where a view is taken from, and how wide, for a trial whose data has no evaluation camera."""


@dataclass(frozen=True)
class Recipe:
    """A configuration that was found to be right: its files, what was changed, and the experiments it means.

    There is one experiment, or one for each stage.
    """

    files: tuple[Path, ...]
    overrides: tuple[str, ...]
    experiments: tuple[Experiment, ...]


def load_recipe(
    config: "str | Path", options: Mapping[str, object] | None = None, *more: "str | Path"
) -> Recipe:
    """Read a configuration, with ``options`` set, and check it.

    ``config`` is a YAML file or the bare name of a shipped one (see ``list_recipes``); ``more`` files are laid over it.
    The keys of ``options`` are full key paths, such as ``system.guidance.image_path``. Raises ``UserError`` for what is
    unknown, misspelled, out of range or of the wrong type.
    """
    files = tuple(loading.find_config(name) for name in (config, *more))
    overrides = tuple(_override(key, value) for key, value in (options or {}).items())
    if is_staged(files):
        return Recipe(files, overrides, tuple(plan.experiment for plan in plans(files, overrides)))
    return Recipe(files, overrides, (load_experiment(files, overrides)[0],))


def _override(key: str, value: object) -> str:
    """Return ``key=value`` as the command line takes it. Raises ``UserError`` for what no option can be."""
    if isinstance(value, str | Path):
        return loading.override(key, str(value))
    try:
        return f"{key}={json.dumps(value, default=_jsonable)}"
    except TypeError as error:
        raise UserError(f"{key}: is {value!r}; expected numbers, texts, lists or mappings of them") from error


def _jsonable(value: object) -> object:
    """Return what JSON has for a path, or for an array's numbers. Raises TypeError for anything else."""
    import numpy as np

    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(type(value).__name__)


def train(recipe: Recipe, gpu: str | None = None) -> Trial:
    """Train what a recipe says, test it as it says, and return the trial; of several stages, the last one's.

    ``gpu`` is ``"0"``, ``"0,1"``, ``"cpu"``, or None for the best there is. Progress is printed. Raises ``UserError``.
    """
    from usd.app.modes import run

    if is_staged(recipe.files):
        with viewer_until_the_end(stays=False):
            return list(run_stages("train", recipe.files, recipe.overrides, gpu).values())[-1].trial
    return run("train", recipe.files, recipe.overrides, gpu).trial


def open_trial(folder: "str | Path") -> Trial:
    """Return the trial in a folder that a training wrote. Raises ``UserError`` where there is no whole one."""
    trial = Trial(places.output(folder))
    for file in (trial.configs / "parsed.yaml", trial.last):
        if not file.is_file():
            raise UserError(
                f"{trial.folder}: has no {file.relative_to(trial.folder)}; expected a trial's folder"
            )
    return trial


def render(
    trial: Trial,
    azimuth_deg: float | int = 0.0,
    elevation_deg: float | int = 15.0,
    size: int = 256,
    *,
    distance: float | int | None = None,
    fov_y_deg: float | int | None = None,
    gpu: str | None = None,
) -> "Image":
    """Render a trained object from one side: a square picture of ``size`` pixels with straight alpha.

    Azimuth 0 looks from +x and grows towards +y. Distance (world units) and vertical field of view are those of the
    trial's evaluation camera by default. No diffusion model is loaded. Raises ``UserError``.
    """
    from PIL import Image

    from usd.app.devices import single_device
    from usd.data.pictures import to_bytes
    from usd.data.random_camera import RandomCameraConfig
    from usd.evaluation.gallery import rendered_rgba
    from usd.math.camera import orbit_cameras_deg

    _checked_number("azimuth_deg", azimuth_deg, -1e6, 1e6)
    _checked_number("elevation_deg", elevation_deg, -90, 90)
    _checked_number("size", size, 1, 8192)
    system, experiment = _restored(trial)
    data = experiment.data.config
    usual = (DISTANCE, FOV_Y_DEG)
    if isinstance(data, RandomCameraConfig):
        usual = (data.eval_camera_distance, data.eval_fovy_deg)
    away = _checked_number("distance", usual[0] if distance is None else distance, 1e-3, 1e6)
    wide = _checked_number("fov_y_deg", usual[1] if fov_y_deg is None else fov_y_deg, 0.1, 179)
    cameras = orbit_cameras_deg(float(elevation_deg), float(azimuth_deg), away, wide, int(size))
    device = single_device(gpu)
    picture = rendered_rgba(system.to(device).eval().evaluation_views(cameras.to(device)))[0]
    return Image.fromarray(to_bytes(picture), "RGBA")


def _checked_number(name: str, value: object, low: float, high: float) -> float:
    """Return an argument that is a number. Raises ``UserError`` where it is none, or beyond its bounds."""
    if (
        isinstance(value, Real) and not isinstance(value, bool) and low <= float(value) <= high
    ):  # numpy's, too
        return float(value)
    raise UserError(f"{name}: is {value!r}; expected a number from {low:g} to {high:g}")


def _restored(trial: Trial) -> "tuple[System, Experiment]":
    """Return the system of a trial with its trained weights, and the experiment it belongs to."""
    from usd.app.modes import build_experiment
    from usd.core import checkpoint

    experiment, _ = load_experiment([trial.configs / "parsed.yaml"])
    system, _ = build_experiment(experiment, trial)
    system.restore(checkpoint.load(trial.last))
    return system, experiment


def export(
    trial: Trial, options: Mapping[str, object] | None = None, gpu: str | None = None
) -> tuple[Path, ...]:
    """Write a trained object as files, a textured GLB by default, and return their paths.

    ``options`` as for ``load_recipe``: ``{"exporter.fmt": "obj-mtl"}``.
    Raises ``UserError``.
    """
    from usd.app.modes import run

    overrides = [_override(key, value) for key, value in {"resume": trial.last, **(options or {})}.items()]
    place = place_overrides(trial.folder)
    return run("export", [trial.configs / "parsed.yaml"], [*place, *overrides], gpu).files


def evaluate(
    prediction: "str | Path | Trial", reference: "str | Path | Trial", align: "Alignment" = "none"
) -> dict[str, float]:
    """Return how far a result is from the truth, by figure: Chamfer distances, volume IoU, PSNR, SSIM and others.

    Each side is a mesh file, a folder of views with cameras, a trial or a toybox seed. Raises ``UserError``.
    """
    from usd.evaluation import protocol
    from usd.evaluation.sources import open_source

    sides = [str(side.folder) if isinstance(side, Trial) else str(side) for side in (prediction, reference)]
    sources = [open_source(side, name) for side, name in zip(sides, ("prediction", "reference"))]
    return protocol.evaluate(sources[0], sources[1], align).figures


def list_components() -> dict[str, list[str]]:
    """Return the names of all components by kind, drop-in ones included. None of them is imported."""
    return {kind: sorted(registry.names(kind)) for kind in registry.KINDS}


def list_recipes() -> dict[str, Path]:
    """Return the configurations that come with the package, by bare name."""
    return dict(places.recipes())
