"""transforms.json, the nerfstudio layout: cameras and the pictures they took, in one readable file.

    {"w": 256, "h": 256, "fl_x": 355.5, "fl_y": 355.5, "cx": 128, "cy": 128,
     "frames": [{"file_path": "views/0000.png", "transform_matrix": [[...], [...], [...], [...]]}, ...]}

nerfstudio, instant-ngp, Polycam, Record3D and Blender's NeRF scripts write it. ``transform_matrix`` is camera-to-world,
OpenGL axes. Everything else stands at the top or in each frame (the frame wins): focal lengths or the field of view
(``camera_angle_x``, ``camera_angle_y``), the principal point from the picture's top left corner (its middle without),
distortion (``k1`` ... ``p2`` of ``camera_model`` OPENCV, FULL_OPENCV or OPENCV_FISHEYE; ``is_fisheye``), masks
(``mask_path``) and depths along the view axis (``depth_file_path`` in ``depth_unit_scale_factor``, ``depth_path`` in
``integer_depth_scale``). ``applied_transform`` says how nerfstudio moved COLMAP's world; the poses are moved already.
A frame without a matrix, or with one of zeros or of what is no number, has no camera and is left out. What a file names
and the disk does not have is said: depths are left out, masks matter where masks are used, and pictures are looked for
nearby. Orthographic cameras are our extension: ``"camera_model": "ORTHOGRAPHIC"`` with ``span_y``, the picture's height
in world units.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import UserError
from usd.core.errors import listing
from usd.data.depth_maps import MILLIMETER, DepthFile
from usd.data.file_names import Folder, moved_pictures, nearby
from usd.data.lens import Intrinsics, LensModel
from usd.data.pictures import picture_size, write_whole
from usd.data.text_files import read_text
from usd.math.camera import Cameras, orthographic_cameras, pinhole_cameras

MODELS: dict[str, tuple[LensModel, tuple[str, ...]]] = {
    "PINHOLE": ("brown", ("k1", "k2", "p1", "p2", "k3")),
    "SIMPLE_PINHOLE": ("brown", ("k1", "k2", "p1", "p2", "k3")),
    "PERSPECTIVE": ("brown", ("k1", "k2", "p1", "p2", "k3")),
    "SIMPLE_RADIAL": ("brown", ("k1", "k2", "p1", "p2", "k3")),
    "RADIAL": ("brown", ("k1", "k2", "p1", "p2", "k3")),
    "OPENCV": ("brown", ("k1", "k2", "p1", "p2", "k3")),
    "FULL_OPENCV": ("brown", ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
    "OPENCV_FISHEYE": ("fisheye", ("k1", "k2", "k3", "k4")),
    "FISHEYE": ("fisheye", ("k1", "k2", "k3", "k4")),
}
"""Names of camera models, and the keys of their numbers in their order."""
NO_PINHOLE = re.compile(r"ftheta_p\d|(is_)?latlong|(is_)?equirectangular")
"""Keys of instant-ngp for pictures that no pinhole takes."""
COEFFICIENTS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
"""The unit of nerfstudio's depths where the file says none, in meters."""


@dataclass(frozen=True)
class FrameFiles:
    """A frame of a file beyond its pinhole: the lens as it is, the 64-bit pose, mask and depth map.

    ``span_y`` is the picture's height in world units of an orthographic camera, of whose lens only the size counts.
    """

    lens: Intrinsics
    pose: Float[Tensor, "4 4"]
    mask: Path | None = None
    depth: DepthFile | None = None
    span_y: float | None = None

    @property
    def camera(self) -> Cameras:
        """The camera, as a pinhole without the lens's distortion."""
        c2w, height, width = self.pose[None].float(), self.lens.height, self.lens.width
        if self.span_y is not None:
            return orthographic_cameras(c2w, self.span_y, height, width)
        if self.lens.square:
            fov_y = 2 * math.atan(0.5 * height / self.lens.fy)
            return Cameras(c2w, torch.tensor([fov_y]), height, width)
        return pinhole_cameras(c2w, torch.tensor([self.lens.numbers]), height, width)


@dataclass(frozen=True)
class Frame:
    """One camera, and the picture it took if there is one on disk. ``files`` is what a transforms.json said of it."""

    camera: Cameras
    file_path: str
    picture: Path | None
    files: FrameFiles | None = None


@dataclass(frozen=True)
class Transforms:
    """The frames of a file that have cameras, in its order, and the names of those that have none.

    ``applied`` (3, 4) is how the file says that COLMAP's world was moved to its own. ``notes`` say what was assumed.
    """

    frames: tuple[Frame, ...]
    without_camera: tuple[str, ...]
    applied: Float[Tensor, "3 4"] | None
    notes: tuple[str, ...] = ()


def read_transforms(path: str | Path, where: str = "data.eval_transforms") -> tuple[Frame, ...]:
    """Return the frames of a transforms.json, in its order. Raises ``UserError`` with file, frame and key."""
    return read_transforms_file(path, where).frames


def read_transforms_file(path: str | Path, where: str, seek: bool = False) -> Transforms:
    """Read a transforms.json. Raises ``UserError`` with file, frame and key.

    With ``seek``, pictures none of which is where the file says are looked for nearby.
    """
    path = Path(path)
    content = _read_json(path, where)
    entries = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(entries, list):
        raise UserError(f"{where}: {path}: has no list of `frames`; expected nerfstudio's transforms.json")
    if not entries:
        raise UserError(f"{where}: {path}: has no frames; expected at least one")
    reader = FrameReader(f"{where}: {path}", Folder(path.parent, f"{where}: {path}"), content)
    frames = reader.frames(entries, seek)
    if not frames:
        raise UserError(
            f"{where}: {path}: none of its {len(entries)} frames has a camera; expected a transform_matrix of finite "
            "numbers in each"
        )
    applied = None
    if content.get("applied_transform") is not None:
        applied = _matrix(f"{where}: {path}.applied_transform", content["applied_transform"])[:3]
        applied = applied * (
            _positive(f"{where}: {path}", content, "applied_scale") if content.get("applied_scale") else 1
        )
    return Transforms(tuple(frames), lost_names(entries), applied, reader.notes(len(frames)))


class FrameReader:
    """A reader of the frames of one file, that counts what it assumes."""

    def __init__(self, name: str, files: Folder, shared: Mapping[str, object]) -> None:
        self.name, self.files = name, files
        self.shared = {key: value for key, value in shared.items() if key != "frames"}
        self.remarks: Counter[str] = Counter()
        self.moved = ""

    def notes(self, total: int) -> tuple[str, ...]:
        """Return what was assumed, each with a count of the frames."""
        counted = [f"{count} of {total} frames: {remark}" for remark, count in self.remarks.items()]
        return (*([self.moved] if self.moved else []), *counted)

    def frames(self, entries: Sequence[object], seek: bool) -> list[Frame]:
        """Return the frames that have a camera. Raises ``UserError``."""
        pictures = self._pictures(entries, seek)
        if not {"w", "h"} & set(self.shared):
            entries = _with_sizes(pictures, entries, self.name)
        return [
            self._frame(f"{self.name}: frames[{i}]", entry, pictures[i])
            for i, entry in enumerate(entries)
            if _has_camera(entry)
        ]

    def _pictures(self, entries: Sequence[object], seek: bool) -> list[Path | None]:
        """Return the file of each frame's picture, None where there is none."""
        named = [entry.get("file_path") if isinstance(entry, dict) else None for entry in entries]
        names = [name if isinstance(name, str) else "" for name in named]
        found = [self.files.find(name) for name in names]
        if not seek or any(found) or not any(names):
            return found
        moved = moved_pictures(self.files.path, names)
        if moved is None:
            return found
        there = next(file.parent.name for file in moved[1] if file is not None)
        self.moved = f"pictures are not where the file says ({names[0]}): taken by their names from {there}/"
        return moved[1]

    def _frame(self, name: str, entry: object, picture: Path | None) -> Frame:
        if not isinstance(entry, dict):
            raise UserError(f"{name}: is not a mapping; expected file_path and transform_matrix")
        keys = {**self.shared, **entry}
        file_path = keys.get("file_path", "")
        if not isinstance(file_path, str):
            raise UserError(f"{name}.file_path: is {file_path!r}; expected a path relative to the file")
        width, height = _size(name, keys, picture, self.files.nearest(file_path) if picture is None else "")
        pose = self._pose(name, keys.get("transform_matrix"))
        # Nobody asks for maps of a picture that is not there.
        mask, depth = (self._mask(keys), self._depth(name, keys)) if picture else (None, None)
        if str(keys.get("camera_model")).upper() == "ORTHOGRAPHIC":
            lens = Intrinsics(width, height, 1.0, 1.0, width / 2, height / 2)
            read = FrameFiles(lens, pose, mask, depth, _positive(name, keys, "span_y"))
        else:
            read = FrameFiles(_lens(name, keys, width, height), pose, mask, depth)
        return Frame(read.camera, file_path, picture, read)

    def _pose(self, name: str, matrix: object) -> Float[Tensor, "4 4"]:
        """Return camera-to-world; a 3 x 4 matrix gets its last row, and axes of another length than 1 that length."""
        pose = _matrix(f"{name}.transform_matrix", matrix)
        length = pose[:3, :3].norm(dim=0)
        rotation = pose[:3, :3] / length.clamp_min(1e-12)
        if (
            not torch.allclose(rotation.T @ rotation, torch.eye(3).double(), atol=1e-2)
            or torch.det(rotation) < 0
        ):
            raise UserError(
                f"{name}.transform_matrix: its 3 x 3 part is not a rotation; expected camera-to-world, OpenGL axes"
            )
        if not torch.allclose(length, torch.ones(()).double(), atol=1e-2):
            self.remarks[
                "the matrix scales, which says nothing of a camera: its axes are taken with length 1"
            ] += 1
            pose[:3, :3] = rotation
        return pose

    def _mask(self, keys: Mapping[str, object]) -> Path | None:
        """Return the file that ``mask_path`` names, also one that is not there: masks may not be wanted."""
        named = keys.get("mask_path")
        if not isinstance(named, str) or not named:
            return None
        return self.files.find(named) or self.files.path / named

    def _depth(self, name: str, keys: Mapping[str, object]) -> DepthFile | None:
        """Return the depth map of a frame and the unit of its numbers; None where it is not there or has no unit."""
        for key, unit, usual in (
            ("depth_file_path", "depth_unit_scale_factor", MILLIMETER),
            ("depth_path", "integer_depth_scale", None),
        ):
            named = keys.get(key)
            if not isinstance(named, str) or not named:
                continue
            scale = usual if keys.get(unit) is None else _finite_number(name, keys, unit)
            file = self.files.find(named)
            if scale is None or scale <= 0 or keys.get("enable_depth_loading") is False:
                self.remarks[f"depth map left out: {unit} does not say what its numbers are"] += 1
            elif file is None:
                self.remarks[f"depth map left out: its file is not there ({key})"] += 1
            else:
                return DepthFile(file, scale)
        return None


def lost_names(entries: Sequence[object]) -> tuple[str, ...]:
    """Return the names of the frames without a camera; numbers where there is no name."""
    lost = [(i, entry) for i, entry in enumerate(entries) if not _has_camera(entry)]
    return tuple(
        str(entry.get("file_path") or f"frames[{i}]") for i, entry in lost if isinstance(entry, dict)
    )


def _has_camera(entry: object) -> bool:
    """Return whether a frame has a pose. What has no matrix at all, or another form, is refused where it is read."""
    if not isinstance(entry, dict):
        return True
    if entry.get("transform_matrix") is None:
        return False
    try:
        numbers = np.array(entry["transform_matrix"], np.float64)  # null and "nan" become nan
    except (TypeError, ValueError):
        return True
    return numbers.ndim != 2 or bool(np.isfinite(numbers).all() and numbers[:3, :3].any())


def _with_sizes(pictures: Sequence[Path | None], entries: Sequence[object], name: str) -> Sequence[object]:
    """Return frames without a common size, those whose picture is not there with the size of the first picture."""
    first = next((file for file in pictures if file is not None), None)
    if first is None or None not in pictures:
        return entries
    width, height = picture_size(first, name)
    return [
        {"w": width, "h": height, **entry} if file is None and _names_picture(entry) else entry
        for entry, file in zip(entries, pictures)
    ]


def _names_picture(entry: object) -> TypeGuard[dict[str, str]]:
    """Return whether a frame names a picture and no size."""
    return isinstance(entry, dict) and isinstance(entry.get("file_path"), str) and not {"w", "h"} & set(entry)


def _read_json(path: Path, where: str) -> object:
    if not path.is_file():
        raise UserError(f"{where}: {path}: no such file; expected a transforms.json{nearby(path)}")
    try:
        return json.loads(read_text(path))
    except (ValueError, OSError) as error:
        raise UserError(f"{where}: {path}: is not readable JSON, perhaps truncated ({error})") from error


def _lens(name: str, keys: Mapping[str, object], width: int, height: int) -> Intrinsics:
    """Return the lens of a frame. Raises ``UserError`` for a model that has no pinhole, and for wrong numbers."""
    if odd := next((key for key in keys if NO_PINHOLE.fullmatch(key) and keys[key]), None):
        raise UserError(
            f"{name}.{odd}: is a lens that no pinhole can follow; expected a pinhole or a fisheye (k1 ... k4)"
        )
    fx, fy = _focals(name, keys, width, height)
    cx, cy = (
        _finite_number(name, keys, key) if keys.get(key) is not None else size / 2
        for key, size in (("cx", width), ("cy", height))
    )
    if not (-width < cx < 2 * width and -height < cy < 2 * height):
        raise UserError(
            f"{name}.cx, cy: are {cx:g}, {cy:g}; expected the principal point in pixels, near the picture of {width} x "
            f"{height}"
        )
    said = "FISHEYE" if keys.get("is_fisheye") else str(keys.get("camera_model") or "OPENCV").upper()
    if said not in MODELS:
        raise UserError(f"{name}.camera_model: is {said}; expected {listing(sorted(MODELS))} or ORTHOGRAPHIC")
    model, names = MODELS[said]
    beyond = next((key for key in COEFFICIENTS if keys.get(key) and key not in names), None)
    if beyond is not None:
        raise UserError(
            f"{name}.{beyond}: is {keys[beyond]}, which {said} does not have; expected 0, or another model"
        )
    numbers = tuple(_finite_number(name, keys, key) if keys.get(key) else 0.0 for key in names)
    return Intrinsics(width, height, fx, fy, cx, cy, numbers if any(numbers) else (), model)


def _focals(name: str, keys: Mapping[str, object], width: int, height: int) -> tuple[float, float]:
    """Return fx and fy, from lengths or angles; where only one is there, pixels are square."""
    axes = (("fl_x", "camera_angle_x", width), ("fl_y", "camera_angle_y", height))
    focal = [_positive(name, keys, key) if keys.get(key) is not None else None for key, _, _ in axes]
    if focal == [None, None]:
        focal = [
            0.5 * size / math.tan(0.5 * _angle(name, keys, key)) if keys.get(key) is not None else None
            for _, key, size in axes
        ]
    fx, fy = focal[0] or focal[1], focal[1] or focal[0]
    if fx is None or fy is None:
        raise UserError(f"{name}: has no fl_x, fl_y, camera_angle_x or camera_angle_y; expected one of them")
    return fx, fy


def _size(name: str, keys: Mapping[str, object], picture: Path | None, hint: str) -> tuple[int, int]:
    """Return width and height as the file says them; a side that it does not say is the picture's, in its shape."""
    width, height = (None if keys.get(key) is None else _pixels(name, keys, key) for key in ("w", "h"))
    if width is not None and height is not None:
        return width, height
    if picture is None:
        raise UserError(
            f"{name}: has no w and h, and its picture does not exist; expected the size in pixels{hint}"
        )
    across, down = picture_size(picture, name)
    if width is not None:
        return width, round(down * width / across)
    return (across, down) if height is None else (round(across * height / down), height)


def _pixels(name: str, keys: Mapping[str, object], key: str) -> int:
    value = _finite_number(name, keys, key)
    if value != int(value) or value < 1:
        raise UserError(f"{name}.{key}: is {value:g}; expected a whole number of pixels, at least 1")
    return int(value)


def _finite_number(name: str, keys: Mapping[str, object], key: str) -> float:
    value = keys.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{name}.{key}: is {value!r}; expected a number")
    return float(value)


def _positive(name: str, keys: Mapping[str, object], key: str) -> float:
    value = _finite_number(name, keys, key)
    if value <= 0:
        raise UserError(f"{name}.{key}: is {value:g}; expected a positive number")
    return value


def _angle(name: str, keys: Mapping[str, object], key: str) -> float:
    value = _positive(name, keys, key)
    if value >= math.pi:
        raise UserError(f"{name}.{key}: is {value:g}; expected radians below pi (is it in degrees?)")
    return value


def _matrix(name: str, matrix: object) -> Float[Tensor, "4 4"]:
    try:
        pose = torch.tensor(matrix, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: is not a matrix of numbers; expected 4 x 4") from error
    if pose.shape == (3, 4):
        pose = torch.cat([pose, torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)])
    if pose.shape != (4, 4) or not torch.isfinite(pose).all():
        raise UserError(f"{name}: is not a finite 4 x 4 matrix; expected camera-to-world")
    return pose


def write_transforms(path: str | Path, cameras: Sequence[Cameras], file_paths: Sequence[str]) -> Path:
    """Write cameras and the names of their pictures (relative to the file); the folder is made.

    ``cameras`` may come in batches of different sizes; there is one path for each camera in them.
    """
    single = [camera[i : i + 1].to("cpu") for camera in cameras for i in range(len(camera))]
    if len(single) != len(file_paths):
        raise ValueError(f"{len(single)} cameras but {len(file_paths)} file paths")
    sizes = [_pinhole_entries(camera) for camera in single]
    shared = sizes[0] if sizes and all(size == sizes[0] for size in sizes) else {}
    frames = [
        {"file_path": name, **({} if shared else size), "transform_matrix": camera.c2w[0].tolist()}
        for name, size, camera in zip(file_paths, sizes, single)
    ]
    with write_whole(path) as file:
        file.write_text(json.dumps({"camera_model": "PINHOLE", **shared, "frames": frames}, indent=1))
    return Path(path)


def _pinhole_entries(camera: Cameras) -> dict[str, int | float | str]:
    height, width = camera.height, camera.width
    if camera.span_y is not None:
        return {"camera_model": "ORTHOGRAPHIC", "w": width, "h": height, "span_y": camera.span_y.item()}
    (fx, fy), (cx, cy) = camera.focals[0].tolist(), camera.principal_point[0].tolist()
    return {"w": width, "h": height, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}
