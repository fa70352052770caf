"""``usd improve``: a mesh file of any origin with a better texture; shape, coordinates and materials stay as they are.

usd improve chair.glb --picture chair.png                         # writes chair-improved.glb
usd improve chair.glb --picture chair.png --config usd-improve    # with the real models, on a GPU

The picture is of the same object, from the front or near it. The file's axes and size are fitted to it; they can be
given, too: system.geometry.shape_init_mesh_up=+z, ..._mesh_front=-y, system.geometry.shape_init_params=0.5. Further
key=value are options of the recipe.
"""

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from usd.app.experiment import Experiment, load_experiment, short_path
from usd.app.modes import run
from usd.core import files, loading, process
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.places import output
from usd.core.progress import each
from usd.data.reference import load_reference
from usd.data.usd_random_camera import UsdRandomCameraConfig, reference_camera
from usd.geometry.custom_mesh import CustomMesh
from usd.geometry.mesh_input import MeshPlacement, placed_mesh
from usd.math.camera import Cameras
from usd.mesh_io.axes import Axis, default_up
from usd.mesh_io.gltf_rewrite import require_textured
from usd.mesh_io.pictures import pictures
from usd.system.usd import UsdConfig

SIZE = 48
BENEFIT = 0.02
"""A file is turned or scaled only where it then agrees by so much more with the picture."""
STEPS = (0.94, 0.97, 1.0, 1.03, 1.06)
GEOMETRY = "system.geometry"


@dataclass(frozen=True)
class Fit:
    """Axes and size of a file's mesh, and how well its picture agrees with the reference: 1 at best."""

    placement: MeshPlacement
    score: float


@dataclass(frozen=True)
class Target:
    """The reference picture, premultiplied, the camera that took it, and half the side of the object's cube."""

    rgba: Float[Tensor, "4 S S"]
    camera: Cameras
    radius: float


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``usd improve``."""
    made = argparse.ArgumentParser(
        prog="usd improve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("mesh", type=Path, help="a .glb with texture coordinates and a base color texture")
    made.add_argument("--picture", type=Path, required=True, help="a picture of the object")
    made.add_argument("--config", default="usd-improve-mini", help="the recipe; usd-improve on a GPU")
    made.add_argument("--out", type=Path, help="the improved file; <mesh>-improved.glb by default")
    made.add_argument("--gpu", help="0, or cpu; by default the first GPU, else the CPU")
    return made


def improve(args: argparse.Namespace, overrides: list[str]) -> Path:
    """Fit the file to the picture, distill its texture, write the improved file, and return its path.

    Raises ``UserError``.
    """
    out = output(args.out or args.mesh.with_name(f"{args.mesh.stem}-improved.glb"))
    if out.resolve() == args.mesh.resolve():
        raise UserError(f"--out {args.out}: is the mesh itself; expected another file")
    files.refuse_unwritable(out.parent)
    config = loading.find_config(args.config)
    settings = settings_for(args.mesh, args.picture, config, overrides)
    trained = run("train", [config], [*settings, *overrides], args.gpu)
    snapshot = trained.trial.configs / "parsed.yaml"
    made = run("export", [snapshot], [loading.override("resume", str(trained.trial.last))], args.gpu)
    files.write_atomically(out, made.files[0].read_bytes())
    say(f"improved: {short_path(out)}")
    return out


def settings_for(mesh: Path, picture: Path, config: Path, overrides: list[str]) -> list[str]:
    """Return the options of a recipe that make a file's texture anew from a picture. Raises ``UserError``."""
    require_textured(mesh)
    settings = [
        loading.override(f"{GEOMETRY}.shape_init", f"mesh:{mesh.resolve()}"),
        loading.override("system.guidance.image_path", str(picture.resolve())),
    ]
    experiment, _ = load_experiment([config], [*settings, *overrides])
    if not any(item.startswith(f"{GEOMETRY}.shape_init_") for item in overrides):
        settings += fitted_settings(mesh, experiment)
    return settings


def fitted_settings(path: Path, experiment: Experiment) -> list[str]:
    """Return the options of the geometry that put a file where the picture shows it. Raises ``UserError``."""
    fit = fit_placement(path, target_of(experiment))
    placement = fit.placement
    say(
        f"{path.name}: up {placement.up or default_up(path)}, front {placement.front or '+x'}, "
        f"{'size as in the file' if placement.size is None else f'size {placement.size:.3g}'}; "
        f"its silhouette agrees with the picture's to {fit.score:.0%}"
    )
    if fit.score < 0.6:
        say(
            "note: that is little: is the picture of this object, from the front? The axes can be given (--help)"
        )
    given = {"shape_init_mesh_up": placement.up, "shape_init_mesh_front": placement.front}
    words = [f"{GEOMETRY}.{key}={value}" for key, value in given.items() if value is not None]
    return words if placement.size is None else [*words, f"{GEOMETRY}.shape_init_params={placement.size:.5g}"]


def target_of(experiment: Experiment) -> Target:
    """Return what an experiment's mesh is fitted to. Raises ``UserError`` for a recipe that knows no picture."""
    data, system, geometry = experiment.data.config, experiment.system.config, None
    if isinstance(system, UsdConfig):
        geometry = system.geometry.config
    if not isinstance(data, UsdRandomCameraConfig) or not isinstance(system, UsdConfig):
        raise UserError("--config: expected a recipe of usd-system, such as usd-improve")
    if not isinstance(geometry, CustomMesh.Config):
        raise UserError("--config: expected a recipe whose geometry is custom-mesh, such as usd-improve")
    picture, key = system.reference_path()
    rgba = load_reference(picture, system.reference, key).at(SIZE, SIZE)
    camera = reference_camera(data, SIZE)
    return Target(torch.cat([rgba[:3] * rgba[3:], rgba[3:]]), camera, float(geometry.radius))


def fit_placement(path: Path, target: Target) -> Fit:
    """Return the axes and the size in which a file's mesh agrees best with a picture. Raises ``UserError``.

    The 24 ways in which axes can lie are tried, centered, each in the size in which its outline is as large as the
    picture's; the best one's size is then refined. A file that agrees as well as it is stays as it is.
    """
    tried = each(list(orientations(path)), "trying axes")
    fits = [_fit_in_size(path, placement, target) for placement in tried]
    best = max(fits, key=lambda fit: fit.score)
    size = best.placement.size
    assert size is not None
    refined = [
        fit_of(path, replace(best.placement, size=_within(size * step, target)), target) for step in STEPS
    ]
    best = max([best, *refined], key=lambda fit: fit.score)
    as_it_is = _fit_or_none(path, MeshPlacement(), target)
    return as_it_is if as_it_is is not None and as_it_is.score >= best.score - BENEFIT else best


def orientations(path: Path) -> Iterator[MeshPlacement]:
    """Yield every way in which a file's axes can lie, the usual one of its format first."""
    axes: tuple[Axis, ...] = get_args(Axis)
    usual = default_up(path)
    ups = [usual, *(axis for axis in axes if axis != usual)]
    for up, front in itertools.product(ups, axes):
        if up[1] != front[1]:
            yield MeshPlacement(up, front)


def _fit_in_size(path: Path, placement: MeshPlacement, target: Target) -> Fit:
    """Return the fit in the size in which the outline is as large as the picture's."""
    size = 0.6 * target.radius
    shown = view_of(path, replace(placement, size=size), target)
    ratio = _longest_side(target.rgba[3]) / max(1, _longest_side(shown[3]))
    return fit_of(path, replace(placement, size=_within(size * ratio, target)), target)


def _within(size: float, target: Target) -> float:
    return min(size, target.radius)


def _fit_or_none(path: Path, placement: MeshPlacement, target: Target) -> Fit | None:
    """Return the fit of a placement; None where it does not fit into the cube."""
    try:
        return fit_of(path, placement, target)
    except UserError:
        return None


def fit_of(path: Path, placement: MeshPlacement, target: Target) -> Fit:
    """Return how well a file's mesh agrees with the picture: overlap of outlines, lessened where colors differ."""
    shown = view_of(path, placement, target)
    both, any_ = (
        torch.minimum(shown[3], target.rgba[3]).sum(),
        torch.maximum(shown[3], target.rgba[3]).sum(),
    )
    off = (shown[:3] - target.rgba[:3]).abs().mean(0)[torch.minimum(shown[3], target.rgba[3]) > 0.5]
    overlap = float(both / any_.clamp_min(1))
    return Fit(placement, overlap * (1 - 0.5 * float(off.mean() if len(off) else 1.0)))


def view_of(path: Path, placement: MeshPlacement, target: Target) -> Float[Tensor, "4 S S"]:
    """Return what the reference camera sees of a file's mesh, premultiplied."""
    return pictures(placed_mesh(path, placement, target.radius), target.camera)[0]


def _longest_side(mask: Float[Tensor, "S S"]) -> int:
    """Return the longer side of a mask's bounding box in pixels; 0 where it is empty."""
    sides = [
        int(line.nonzero().max() - line.nonzero().min()) + 1 for line in _shadows(mask) if bool(line.any())
    ]
    return max(sides, default=0)


def _shadows(mask: Float[Tensor, "S S"]) -> list[Tensor]:
    return [(mask > 0.5).any(0), (mask > 0.5).any(1)]


def main(argv: list[str] | None = None) -> int:
    """Run ``usd improve``; return the exit code."""
    args, overrides = parser().parse_known_args(argv)

    def work() -> None:
        for item in overrides:
            if item.startswith("-") or "=" not in item:
                raise UserError(f"{item}: unknown option; expected key=value. See usd improve --help")
        improve(args, overrides)

    return process.run_command(work)
