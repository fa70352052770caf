"""Random cameras around the object for training, orbits and given cameras for evaluation.

A training batch is a pure function of (seed, step). Evaluation cameras are deterministic: orbits at one elevation,
or exactly the cameras of ``eval_transforms``.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar

from usd.core.config import ConfigError, option
from usd.core.registry import register
from usd.data import Data, Split
from usd.data.lamps import LampStrategy, draw_lamps
from usd.data.reference import Reference
from usd.data.transforms import Frame, read_transforms
from usd.math.camera import Cameras, Spherical, Window, look_at, orbit_cameras, sphere_angles

Range = tuple[float, float]


@dataclass(frozen=True)
class CameraBatch:
    """Views to render. ``reference`` is the reference picture's camera where there is one.

    ``window`` are the pixels to render where it is not all of them, and
    ``reference_index`` is the number of that picture among those that the data gives (``given_references``).

    ``name`` says which set of views they belong to and ``first`` is the index of the first of them in it; ``frames``
    are the entries of ``eval_transforms`` these cameras come from, if they do.
    """

    cameras: Cameras
    reference: Cameras | None = None
    name: str = "train"
    first: int = 0
    frames: tuple[Frame, ...] = ()
    reference_index: int = 0
    window: Window | None = None

    def to(self, device: "torch.device | str") -> "CameraBatch":
        """Return the batch on another device."""
        reference = None if self.reference is None else self.reference.to(device)
        return replace(self, cameras=self.cameras.to(device), reference=reference)

    def __len__(self) -> int:
        return len(self.cameras)

    def view(self, index: int) -> "CameraBatch":
        """Return one of its views."""
        return self.views(index, index + 1)

    def views(self, first: int, end: int) -> "CameraBatch":
        """Return its views from ``first`` to before ``end``."""
        cameras, frames = self.cameras[first:end], self.frames[first:end]
        return replace(self, cameras=cameras, first=self.first + first, frames=frames)


@dataclass(frozen=True)
class RandomCameraConfig:
    """threestudio's keys; angles in degrees, distances in world units, lists [from, to]."""

    batch_size: int | tuple[int, ...] = option(
        1, "views a step; a list follows resolution_milestones", ge=1, le=65536
    )
    height: int | tuple[int, ...] = option(
        64, "rows of a training picture; a list follows resolution_milestones", ge=1, le=16384
    )
    width: int | tuple[int, ...] = option(
        64, "columns of a training picture; a list follows resolution_milestones", ge=1, le=16384
    )
    resolution_milestones: tuple[int, ...] = option(
        (), "steps at which height, width and batch_size take their next value", ge=1
    )
    camera_distance_range: Range = option(
        (1.0, 1.5), "distance of training cameras from the origin, from and to", gt=0, le=10000
    )
    fovy_range: Range = option(
        (40.0, 70.0), "vertical field of view of training cameras in degrees, from and to", gt=0, lt=180
    )
    elevation_range: Range = option(
        (-10.0, 90.0), "elevation of training cameras in degrees, from and to", ge=-90, le=90
    )
    azimuth_range: Range = option(
        (-180.0, 180.0), "azimuth of training cameras in degrees from +x towards +y", ge=-360, le=360
    )
    elevation_sampling: Literal["sphere", "angle", "mixture"] = option(
        "sphere",
        "distribution of elevations: uniform by area on the sphere, or in the angle, or each for half of the steps",
    )
    batch_uniform_azimuth: bool = option(True, "spread the azimuths of one batch evenly")
    progressive_until: int = option(
        0, "step by which the ranges of angles have grown from the evaluation view to full", ge=0
    )
    camera_perturb: float = option(
        0.1, "noise of a training camera's position, uniform in [-p, p] per axis", ge=0, le=100
    )
    center_perturb: float = option(
        0.2, "noise of the point a training camera looks at, standard deviation", ge=0, le=100
    )
    up_perturb: float = option(
        0.02, "noise of a training camera's upward direction, standard deviation", ge=0, le=100
    )
    rays_d_normalize: Literal[True] = option(
        True, "whether ray directions have unit length: true is the only value"
    )
    light_sample_strategy: LampStrategy | None = option(
        None, "distribution of the lamp of each training view; null: by the material, one lamp a step"
    )
    light_distance_range: Range | None = option(
        None, "distance of lamps from the origin, from and to; null: [0.8, 1.5]", gt=0, le=10000
    )
    light_position_perturb: float | None = option(
        None, "noise of dreamfusion's lamps about the camera, standard deviation; null: 1", ge=0, le=10000
    )
    eval_height: int = option(512, "rows of an evaluation picture", ge=1, le=16384)
    eval_width: int = option(512, "columns of an evaluation picture", ge=1, le=16384)
    eval_batch_size: int = option(1, "test views rendered at once", ge=1, le=4096)
    eval_elevation_deg: float = option(15.0, "elevation of the evaluation orbit in degrees", ge=-90, le=90)
    eval_elevation_range: Range | None = option(
        None, "test views spread over the sphere between these elevations; null: one orbit", ge=-90, le=90
    )
    eval_camera_distance: float = option(
        1.5, "distance of the evaluation cameras from the origin", gt=0, le=10000
    )
    eval_fovy_deg: float = option(
        70.0, "vertical field of view of the evaluation cameras in degrees", gt=0, lt=180
    )
    n_val_views: int = option(4, "views of a validation grid, evenly around", ge=1, le=1000)
    n_test_views: int = option(120, "views of the test turntable, evenly around", ge=1, le=100000)
    eval_transforms: Path | None = option(None, "a transforms.json whose cameras the test renders")
    eval_turntable: bool = option(
        True,
        "whether the test renders the turntable beside the cameras of eval_transforms, into a folder of its own",
    )


R = TypeVar("R", bound=RandomCameraConfig, default=RandomCameraConfig, covariant=True)


@register("random-camera-datamodule")
class RandomCameras(Data[R]):
    """Views sampled around the origin; batches are ``CameraBatch``."""

    Config = RandomCameraConfig

    def __init__(self, config: R) -> None:
        super().__init__(config)
        for key in ("camera_distance_range", "fovy_range", "elevation_range", "azimuth_range"):
            _check_forward(key, getattr(config, key))
        for key in ("eval_elevation_range", "light_distance_range"):
            _check_forward(key, getattr(config, key))
        _check_lamps(config)
        for key in ("height", "width", "batch_size"):
            check_milestones(key, getattr(config, key), config.resolution_milestones)
        self.given = None if config.eval_transforms is None else read_transforms(config.eval_transforms)

    def reference(self, step: int = 0) -> Cameras | None:  # noqa: ARG002 - for overrides
        """Return the camera of the reference picture; None here."""
        return None

    def given_references(self) -> tuple[Reference, ...]:
        """Return the reference pictures that come with the data; none here, where the guidance names a file."""
        return ()

    def refuse_uneven(self, processes: int) -> None:
        """Raise ``ConfigError`` unless every process renders equally many views."""
        check_shares(self.config.batch_size, processes)

    def batch(self, step: int, generator: torch.Generator) -> CameraBatch:
        """Return the random views of a step."""
        return CameraBatch(random_cameras(self.config, step, generator), self.reference(step))

    def eval_batches(self, split: Split) -> list[CameraBatch]:
        """Return validation views in one batch; test views one by one in the file's order, then the turntable's."""
        if split == "val":
            return [CameraBatch(orbit_views(self.config, self.config.n_val_views), self.reference(), "val")]
        if self.given is None:
            return self._turntable("test")
        frames = [CameraBatch(f.camera, self.reference(), "test", i, (f,)) for i, f in enumerate(self.given)]
        return frames + (self._turntable("turntable") if self.config.eval_turntable else [])

    def _turntable(self, name: str) -> list[CameraBatch]:
        cameras, size = turntable_cameras(self.config, self.config.n_test_views), self.config.eval_batch_size
        starts = range(0, len(cameras), size)
        return [CameraBatch(cameras[i : i + size], self.reference(), name, i) for i in starts]


def check_shares(sizes: int | tuple[int, ...], processes: int) -> None:
    """Raise ``ConfigError`` for a ``data.batch_size`` that so many processes cannot share evenly."""
    for size in (sizes,) if isinstance(sizes, int) else sizes:
        if size % processes:
            raise ConfigError(
                f"data.batch_size: {size} view{'s' if size > 1 else ''} a step cannot be shared by {processes} "
                f"processes; expected a multiple of {processes}"
            )


def _check_forward(key: str, limits: Range | None) -> None:
    if limits is not None and limits[0] > limits[1]:
        raise ConfigError(f"data.{key}: [{limits[0]:g}, {limits[1]:g}] runs backwards; expected [from, to]")


def _check_lamps(config: RandomCameraConfig) -> None:
    """Raise ``ConfigError`` for an option of lamps that nothing would read."""
    if config.light_sample_strategy is not None:
        return
    for key in ("light_distance_range", "light_position_perturb"):
        if getattr(config, key) is not None:
            raise ConfigError(
                f"data.{key}: without a strategy the material draws the lamp; expected data.light_sample_strategy, "
                f"or system.material.{key}"
            )


def check_milestones(key: str, value: int | tuple[int, ...], milestones: tuple[int, ...]) -> None:
    """Raise ``ConfigError`` for a list that has not one value more than there are milestones."""
    if isinstance(value, tuple) and len(value) != len(milestones) + 1:
        expected = len(milestones) + 1
        raise ConfigError(
            f"data.{key}: has {len(value)} values; expected {expected}, one more than resolution_milestones"
        )


def at_step(value: int | tuple[int, ...], milestones: tuple[int, ...], step: int) -> int:
    """Return the value in force at ``step``: the first before the first milestone, then the next."""
    return value if isinstance(value, int) else value[sum(step >= milestone for milestone in milestones)]


def random_cameras(config: RandomCameraConfig, step: int, generator: torch.Generator) -> Cameras:
    """Return the training views of one step."""
    height, width, count = (
        at_step(value, config.resolution_milestones, step)
        for value in (config.height, config.width, config.batch_size)
    )
    place = random_positions(config, step, count, generator)
    position = place.xyz() + config.camera_perturb * (2 * torch.rand(count, 3, generator=generator) - 1)
    target = config.center_perturb * torch.randn(count, 3, generator=generator)
    up = torch.tensor([0.0, 0.0, 1.0]) + config.up_perturb * torch.randn(count, 3, generator=generator)
    fov_y = _uniform(config.fovy_range, count, generator).deg2rad()
    return Cameras(
        look_at(position, target, up),
        fov_y,
        height,
        width,
        light_positions=_lamps(config, position, generator),
    )


def _lamps(
    config: RandomCameraConfig, position: Float[Tensor, "B 3"], generator: torch.Generator
) -> Float[Tensor, "B 3"] | None:
    """Draw a lamp for each camera; None where the material does."""
    if config.light_sample_strategy is None:
        return None
    perturb = 1.0 if config.light_position_perturb is None else config.light_position_perturb
    distance = config.light_distance_range or (0.8, 1.5)
    return draw_lamps(config.light_sample_strategy, position, perturb, distance, generator)


def random_positions(
    config: RandomCameraConfig, step: int, count: int, generator: torch.Generator
) -> Spherical:
    """Return positions within the ranges of this step."""
    grown = min(1.0, (step + 1) / (config.progressive_until + 1))
    middle = 0.5 * (config.azimuth_range[0] + config.azimuth_range[1])
    elevation = _elevation(
        _growing_range(config.elevation_range, config.eval_elevation_deg, grown), config, count, generator
    )
    low, high = _growing_range(config.azimuth_range, middle, grown)
    shares = torch.rand(count, generator=generator)
    if config.batch_uniform_azimuth:
        shares = (shares + torch.arange(count)) / count
    azimuth = (low + (high - low) * shares).deg2rad()
    return Spherical(elevation, azimuth, _uniform(config.camera_distance_range, count, generator))


def _growing_range(full: Range, start: float, share: float) -> Range:
    """Return a range that has grown from the point ``start`` (pulled inside) to ``full`` by ``share``."""
    start = min(max(start, full[0]), full[1])
    return start + (full[0] - start) * share, start + (full[1] - start) * share


def _elevation(
    limits: Range, config: RandomCameraConfig, count: int, generator: torch.Generator
) -> Float[Tensor, "B"]:
    """Return elevations in radians. Area on the sphere is uniform in the sine of the elevation."""
    sampling = config.elevation_sampling
    if sampling == "mixture":
        sampling = "angle" if torch.rand((), generator=generator) < 0.5 else "sphere"
    if sampling == "angle":
        return _uniform(limits, count, generator).deg2rad()
    low, high = (math.sin(math.radians(limit)) for limit in limits)
    return torch.asin(_uniform((low, high), count, generator).clamp(-1, 1))


def _uniform(limits: Range, count: int, generator: torch.Generator) -> Float[Tensor, "B"]:
    return limits[0] + (limits[1] - limits[0]) * torch.rand(count, generator=generator)


def orbit_views(config: RandomCameraConfig, count: int) -> Cameras:
    """Return ``count`` evaluation views evenly around, the first at azimuth 0."""
    azimuth = torch.arange(count) * (2 * math.pi / count)
    return _evaluation_cameras(config, torch.full((count,), math.radians(config.eval_elevation_deg)), azimuth)


def turntable_cameras(config: RandomCameraConfig, count: int) -> Cameras:
    """Return ``count`` test views: the orbit, or evenly over the sphere between ``eval_elevation_range``."""
    if config.eval_elevation_range is None:
        return orbit_views(config, count)
    low, high = (math.radians(limit) for limit in config.eval_elevation_range)
    return _evaluation_cameras(config, *sphere_angles(count, low, high))


def _evaluation_cameras(
    config: RandomCameraConfig, elevation: Float[Tensor, "B"], azimuth: Float[Tensor, "B"]
) -> Cameras:
    place = Spherical(elevation, azimuth, torch.full_like(elevation, config.eval_camera_distance))
    return orbit_cameras(place, math.radians(config.eval_fovy_deg), config.eval_height, config.eval_width)
