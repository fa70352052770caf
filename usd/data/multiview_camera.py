"""``multiview-camera-datamodule``: given views, handed out whole with their pictures, for systems that edit them.

What Instruct-NeRF2NeRF (arXiv 2303.12789) and Control4D (arXiv 2305.20082) train on: a capture with cameras, of which
each step gets random views, their true pictures, and their numbers, by which a system keeps edited pictures.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from usd.core.config import ConfigError, option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.data import Data, Split
from usd.data.masks import MaskPolicy
from usd.data.pictures import over
from usd.data.random_camera import CameraBatch, check_shares
from usd.data.transforms import read_transforms
from usd.data.view_readers import ViewOptions, find_transforms, read_transforms_views, read_views
from usd.data.view_set import ViewSet, fit_world, transform_world
from usd.data.views import spread_indices
from usd.math.camera import Cameras

CameraLayout = Literal["around", "front", "fit", "keep"]


@dataclass(frozen=True)
class PictureBatch(CameraBatch):
    """Given views with their true pictures over white, in [0, 1], and their numbers among all views of their split."""

    pictures: Float[Tensor, "B 3 H W"] = field(kw_only=True)
    indices: Int[Tensor, "B"] = field(kw_only=True)

    def to(self, device: "torch.device | str") -> "PictureBatch":
        """Return the batch on another device."""
        moved = self.pictures.to(device), self.indices.to(device)
        return replace(self, cameras=self.cameras.to(device), pictures=moved[0], indices=moved[1])

    def views(self, first: int, end: int) -> "PictureBatch":
        """Return its views from ``first`` to before ``end``."""
        return replace(
            self,
            cameras=self.cameras[first:end],
            first=self.first + first,
            pictures=self.pictures[first:end],
            indices=self.indices[first:end],
        )


@dataclass(frozen=True)
class MultiviewConfig:
    """threestudio's keys; ``dataroot`` may have any layout that ``views-datamodule`` reads."""

    dataroot: str = option(
        "", "folder of the capture: a transforms.json, or another layout of views", path=True
    )
    train_downsample_resolution: int = option(
        4, "divisor of the training pictures' width and height", ge=1, le=1024
    )
    eval_downsample_resolution: int = option(
        4, "divisor of the evaluation pictures' width and height", ge=1, le=1024
    )
    train_data_interval: int = option(1, "step between the views that are trained on", ge=1)
    eval_data_interval: int = option(1, "step between the views that the test renders", ge=1)
    batch_size: int = option(1, "views a training step", ge=1, le=65536)
    eval_batch_size: int = option(1, "test views rendered at once", ge=1, le=4096)
    n_val_views: int = option(4, "views of a validation grid, evenly chosen from those of the test", ge=1)
    camera_layout: CameraLayout = option(
        "around",
        "place of the world's origin. around: to the mean camera position; front: camera_distance ahead of it; "
        "fit: to the object, +z up, bounding radius 0.5; keep: nowhere, the file's world",
    )
    camera_distance: float | None = option(
        None, "distance of the origin ahead of the cameras where camera_layout is front", gt=0, le=10000
    )
    eval_interpolation: tuple[int, int, int] | None = option(
        None,
        "[from, to, count]: the test renders a path of count cameras between two views instead of them",
        ge=0,
    )
    masks: MaskPolicy = option(
        "none", "source of masks; outside of the object pictures are white. none: pictures as they are"
    )


@register("multiview-camera-datamodule")
class MultiviewCameras(Data[MultiviewConfig]):
    """Random views of a capture with their pictures; batches are ``PictureBatch``."""

    def __init__(self, config: MultiviewConfig) -> None:
        super().__init__(config)
        if not config.dataroot:
            raise ConfigError(
                "data.dataroot: required but not given; expected a folder with a transforms.json"
            )
        if (config.camera_layout == "front") != (config.camera_distance is not None):
            raise ConfigError(
                "data.camera_distance: goes with data.camera_layout: front, and only with it; "
                f"got {config.camera_distance} and {config.camera_layout}"
            )
        self._sets: dict[str, ViewSet] = {}

    @property
    def train_views(self) -> ViewSet:
        """All views to train on, by the numbers that batches name them by."""
        return self._read("train", self.config.train_data_interval, self.config.train_downsample_resolution)

    @property
    def eval_views(self) -> ViewSet:
        """The views that the test renders."""
        return self._read("eval", self.config.eval_data_interval, self.config.eval_downsample_resolution)

    def _read(self, name: str, interval: int, divisor: int) -> ViewSet:
        if name not in self._sets:
            views = read_downsampled(Path(self.config.dataroot), interval, divisor, self.config.masks)
            self._sets[name] = lay_out(views, self.config.camera_layout, self.config.camera_distance)
        return self._sets[name]

    def refuse_uneven(self, processes: int) -> None:
        """Raise ``ConfigError`` unless every process renders equally many views."""
        check_shares(self.config.batch_size, processes)

    @override
    def batch(self, step: int, generator: torch.Generator) -> PictureBatch:
        """Draw random views of a step, each lit from its camera."""
        views = self.train_views
        chosen = torch.randint(len(views), (self.config.batch_size,), generator=generator)
        batch = picture_batch(views, chosen, "train")
        return replace(batch, cameras=replace(batch.cameras, light_positions=batch.cameras.position))

    def eval_batches(self, split: Split) -> list[CameraBatch]:
        """Return evenly chosen views in one batch for validation; all views, or a path between two, for the test."""
        views = self.eval_views
        if split == "val":
            chosen = torch.tensor(spread_indices(len(views), self.config.n_val_views))
            return [picture_batch(views, chosen, "val")]
        if self.config.eval_interpolation is not None:
            return self._path(views, *self.config.eval_interpolation)
        rows = torch.arange(len(views)).split(self.config.eval_batch_size)
        return [picture_batch(views, each, "test", int(each[0])) for each in rows]

    def _path(self, views: ViewSet, start: int, end: int, count: int) -> list[CameraBatch]:
        """Return the cameras of ``eval_interpolation``."""
        if max(start, end) >= len(views) or count < 1:
            raise ConfigError(
                f"data.eval_interpolation: [{start}, {end}, {count}] does not fit; expected two of the views 0 to "
                f"{len(views) - 1} and at least 1 camera"
            )
        cameras = interpolate_cameras(views.cameras[[start]], views.cameras[[end]], count)
        size = self.config.eval_batch_size
        return [CameraBatch(cameras[i : i + size], None, "test", i) for i in range(0, count, size)]


def picture_batch(views: ViewSet, rows: Int[Tensor, "B"], name: str, first: int = 0) -> PictureBatch:
    """Return some of the views as a batch."""
    cameras, pictures = views.cameras[rows], over(views.rgba[rows])
    return PictureBatch(cameras, None, name, first, pictures=pictures, indices=rows)


def read_downsampled(path: Path, interval: int, divisor: int, masks: MaskPolicy) -> ViewSet:
    """Read every ``interval``-th view at a fraction of its size. Raises ``UserError`` blaming ``data.dataroot``."""
    where = "data.dataroot"
    if not path.exists():
        raise UserError(f"{where}: {path}: no such folder; expected one with a transforms.json")
    file = find_transforms(path)
    if file is None:
        views = read_views(path, ViewOptions(masks=masks, frame="keep"), where)
        views = views.select(range(0, len(views), interval))
        height, width = views.rgba.shape[-2:]
        return views.resized(max(1, height // divisor), max(1, width // divisor))
    camera = read_transforms(file, where)[0].camera
    size = max(1, max(camera.height, camera.width) // divisor)
    return read_transforms_views(file, ViewOptions(masks=masks, size=size), where, interval)


def lay_out(views: ViewSet, layout: CameraLayout, distance: float | None) -> ViewSet:
    """Return the views in a world whose origin stands where the layout says. Directions stay, except for ``fit``."""
    if layout == "keep":
        return views
    if layout == "fit":
        return fit_world(views, where="data.dataroot")
    center = views.cameras.position.mean(0)
    if layout == "front" and distance is not None:
        center = center - distance * views.cameras.c2w[:, :3, 2].mean(0)
    return transform_world(views, torch.eye(3), center, 1.0)


def interpolate_cameras(first: Cameras, last: Cameras, count: int) -> Cameras:
    """Return ``count`` cameras from one to another: positions on a line, rotations at an even pace about one axis."""
    share = torch.linspace(0, 1, count) if count > 1 else torch.zeros(1)
    start, end = first.c2w[0], last.c2w[0]
    c2w = torch.eye(4).repeat(count, 1, 1)
    c2w[:, :3, 3] = torch.lerp(start[:3, 3], end[:3, 3], share[:, None])
    c2w[:, :3, :3] = turns_between(start[:3, :3], end[:3, :3], share)
    span = (
        None if first.span_y is None or last.span_y is None else torch.lerp(first.span_y, last.span_y, share)
    )
    lens = None
    if first.intrinsics is not None or last.intrinsics is not None:
        numbers = [torch.cat([each.focals, each.principal_point], 1) for each in (first, last)]
        lens = torch.lerp(numbers[0], numbers[1], share[:, None])
    return replace(
        first, c2w=c2w, fov_y=torch.lerp(first.fov_y, last.fov_y, share), span_y=span, intrinsics=lens
    )


def turns_between(
    start: Float[Tensor, "3 3"], end: Float[Tensor, "3 3"], share: Float[Tensor, "N"]
) -> Float[Tensor, "N 3 3"]:
    """Return rotations a share of the way from one to another, about the axis of the rotation between them."""
    between = (end @ start.T).double()
    angle = math.acos(max(-1.0, min(1.0, (float(between.trace()) - 1) / 2)))
    # For half a turn the skew part vanishes; the axis then is the eigenvector of eigenvalue 1.
    values, vectors = torch.linalg.eig(between)
    axis = torch.nn.functional.normalize(vectors[:, (values - 1).abs().argmin()].real, dim=0)
    cross = torch.zeros(3, 3, dtype=torch.float64)
    cross[0, 1], cross[0, 2], cross[1, 2] = -axis[2], axis[1], -axis[0]
    cross = cross - cross.T
    if float((cross * (between - between.T)).sum()) < 0:
        cross = -cross
    turn = (angle * share.double())[:, None, None]
    steps = (
        torch.eye(3, dtype=torch.float64) + torch.sin(turn) * cross + (1 - torch.cos(turn)) * cross @ cross
    )
    return steps.to(start) @ start
