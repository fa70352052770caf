"""``co3d-datamodule``: random cameras around the object of a CO3D sequence, with frames of it as reference pictures.

The world is fitted to the sequence: the object about the origin, the cameras' mean up as +z, bounding radius 0.5. A
reference is cut as a square about its frame's principal point, so that a plain camera with the frame's pose took it.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import ConfigError, option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.data.co3d_sequence import Co3dFrame, read_depth, read_sequence
from usd.data.lens import Intrinsics
from usd.data.masks import read_mask
from usd.data.pictures import read_picture, resize_rgba
from usd.data.random_camera import CameraBatch, RandomCameras
from usd.data.reference import LONGEST, Reference
from usd.data.reference_maps import Square, resize_map
from usd.data.usd_random_camera import ReferenceSizeConfig, check_reference_size, reference_size
from usd.data.view_set import ViewSet, fit_world, refuse_useless, view_set
from usd.data.views import spread_indices
from usd.math.camera import Cameras

WHERE = "data.root_dir"
SILHOUETTE = 128
"""Pixels a side of the masks that tell where the object is."""


@dataclass(frozen=True)
class Co3dConfig(ReferenceSizeConfig):
    """Options of random cameras, and which frames are references."""

    root_dir: str = option("", "folder of a sequence, <category>/<sequence> of CO3D", path=True)
    train_views: tuple[int, ...] = option((0,), "numbers of the frames that are references, in turn", ge=0)
    max_num_frames: int = option(64, "frames, evenly chosen, whose masks tell where the object is", ge=2)
    use_mask: bool = option(True, "whether references are cut out by their masks")
    box_crop: bool = option(True, "whether references are cropped to their masks, about the principal point")
    box_crop_mask_thr: float = option(
        0.4, "least value of a mask that counts as object for the crop", ge=0, lt=1
    )
    box_crop_context: float = option(0.3, "margin of the crop as a share of its side", ge=0, le=10)


@dataclass(frozen=True)
class PosedReference:
    """A reference picture and the camera that took it; the camera's picture size is that of the picture."""

    picture: Reference
    camera: Cameras


@register("co3d-datamodule")
class Co3dCameras(RandomCameras[Co3dConfig]):
    """Random cameras whose reference is a frame of a sequence; with several, each step takes the next."""

    def __init__(self, config: Co3dConfig) -> None:
        super().__init__(config)
        if not config.root_dir:
            raise ConfigError(f"{WHERE}: required but not given; expected the folder of a CO3D sequence")
        if not config.train_views:
            raise ConfigError("data.train_views: is empty; expected the number of a frame")
        check_reference_size(config)
        self._posed: tuple[PosedReference, ...] = ()

    @property
    def posed_references(self) -> tuple[PosedReference, ...]:
        """The references, read on first use."""
        if not self._posed:
            self._posed = read_references(self.config)
        return self._posed

    def given_references(self) -> tuple[Reference, ...]:
        """Return the reference pictures."""
        return tuple(posed.picture for posed in self.posed_references)

    def reference(self, step: int = 0) -> Cameras:
        """Return the camera of the step's reference."""
        size = reference_size(self.config, step)
        return self.posed_references[step % len(self.config.train_views)].camera.resize(size, size)

    def batch(self, step: int, generator: torch.Generator) -> CameraBatch:
        """Return the random views of a step, and which of the references is its."""
        return replace(super().batch(step, generator), reference_index=step % len(self.config.train_views))


def read_references(config: Co3dConfig) -> tuple[PosedReference, ...]:
    """Read the frames that are references, in a world fitted to the sequence. Raises ``UserError``."""
    frames = read_sequence(Path(config.root_dir), WHERE)
    for number in config.train_views:
        if number >= len(frames):
            raise ConfigError(f"data.train_views: {number} is out of range; expected below {len(frames)}")
    rows = sorted({*config.train_views, *spread_indices(len(frames), config.max_num_frames)})
    fitted = fit_sequence([frames[row] for row in rows])
    note = f"sequence {Path(config.root_dir).name} of CO3D: {len(frames)} frames; {fitted.notes[-1]}"
    scale = _scale([frames[row] for row in rows], fitted.cameras)
    return tuple(
        posed_reference(frames[row], fitted.cameras[[rows.index(row)]], scale, config, note)
        for row in config.train_views
    )


def fit_sequence(frames: list[Co3dFrame]) -> ViewSet:
    """Return the silhouettes of frames and their cameras in the fitted world. Raises ``UserError`` without masks."""
    bare = next((frame.name for frame in frames if frame.mask is None), None)
    if bare is not None:
        raise UserError(
            f"{WHERE}: {bare}: has no mask; expected one for every frame: they tell where the object is"
        )
    pictures, fovs = [], []
    for frame in frames:
        half = _half_side(frame.camera)
        mask = cut_square(_mask(frame)[None].expand(4, -1, -1), frame.camera, half)
        pictures.append(resize_rgba(mask, SILHOUETTE, SILHOUETTE))
        fovs.append(2 * math.atan(half / frame.camera.fy))
    poses = torch.stack([frame.c2w for frame in frames])
    cameras = Cameras(poses, torch.tensor(fovs), SILHOUETTE, SILHOUETTE)
    views = view_set(pictures, cameras, [frame.name for frame in frames])
    return fit_world(refuse_useless(views, WHERE), where=WHERE)


def _scale(frames: list[Co3dFrame], cameras: Cameras) -> float:
    """Return by how much the world grew: the ratio of the largest distances between the first camera and others."""
    before = torch.stack([frame.c2w[:3, 3] for frame in frames])
    apart, now = ((each - each[0]).norm(dim=-1) for each in (before, cameras.position))
    return float(now.max() / apart.max())


def posed_reference(
    frame: Co3dFrame, camera: Cameras, scale: float, config: Co3dConfig, note: str
) -> PosedReference:
    """Read a frame as a reference: its picture, mask and depth, and its camera with the crop's field of view."""
    mask = _mask(frame)
    half = _around_object(mask, frame, config) if config.box_crop else _half_side(frame.camera)
    rgba = read_picture(frame.picture, WHERE, longest=LONGEST).rgba
    if config.use_mask:
        alpha = resize_map(mask[None], rgba.shape[-2], rgba.shape[-1]).clamp(0, 1)
        rgba = torch.cat([rgba[:3], alpha])
    square = cut_square(rgba, frame.camera, half)
    depth = None if frame.depth is None else _ray_depth(frame, half) * scale
    reference = Reference(square, rgba, (f"{frame.name}: {note}",), depth)
    fov = torch.tensor([2 * math.atan(half / frame.camera.fy)])
    return PosedReference(reference, replace(camera, fov_y=fov).resize(square.shape[-2], square.shape[-1]))


def _mask(frame: Co3dFrame) -> Float[Tensor, "h w"]:
    if frame.mask is None:
        raise UserError(f"{WHERE}: {frame.name}: has no mask; expected one, which CO3D has for every frame")
    return read_mask(frame.mask, WHERE)


def _ray_depth(frame: Co3dFrame, half: float) -> Float[Tensor, "1 S S"]:
    """Return distances along the rays of a crop, from depths along the view axis."""
    depth = cut_square(read_depth(frame, WHERE)[None], frame.camera, half)
    side = depth.shape[-1]
    slope = ((torch.arange(side) + 0.5) * 2 / side - 1) * (half / frame.camera.fy)
    return depth * (1 + slope[:, None] ** 2 + slope[None] ** 2).sqrt()


def _half_side(camera: Intrinsics) -> float:
    """Return half the side, in rows of pixels, of the least square about the principal point with all of a picture."""
    across = max(camera.cx, camera.width - camera.cx) * camera.fy / camera.fx
    return max(across, camera.cy, camera.height - camera.cy)


def _around_object(mask: Float[Tensor, "h w"], frame: Co3dFrame, config: Co3dConfig) -> float:
    """Return half the side of the least square about the principal point that holds the object and its margin."""
    rows, columns = torch.nonzero(mask > config.box_crop_mask_thr, as_tuple=True)
    if not len(rows):
        raise UserError(f"{WHERE}: {frame.name}: its mask is empty; expected the object in data.train_views")
    camera, (height, width) = frame.camera, mask.shape
    y = (torch.stack([rows.min(), rows.max() + 1]) * camera.height / height - camera.cy).abs().max()
    x = (torch.stack([columns.min(), columns.max() + 1]) * camera.width / width - camera.cx).abs().max()
    return float(max(y, x * camera.fy / camera.fx)) * (1 + config.box_crop_context)


def cut_square(values: Float[Tensor, "c h w"], camera: Intrinsics, half: float) -> Float[Tensor, "c S S"]:
    """Cut a square about the principal point, ``half`` rows of the full picture to each side, with square pixels."""
    height, width = values.shape[-2:]
    zoom, wide = height / camera.height, width
    if abs(camera.fx * width / camera.width - camera.fy * zoom) > 0.002 * camera.fy * zoom:
        wide = round(camera.width * zoom * camera.fy / camera.fx)
        values = resize_rgba(values, height, wide) if len(values) == 4 else resize_map(values, height, wide)
    x, y = camera.cx * wide / camera.width, camera.cy * zoom
    return Square(x - half * zoom, y - half * zoom, 2 * half * zoom).cut(values)
