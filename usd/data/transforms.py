"""transforms.json, the nerfstudio layout: cameras and the pictures they took, in one readable file.

    {"w": 256, "h": 256, "fl_x": 355.5, "fl_y": 355.5, "cx": 128, "cy": 128,
     "frames": [{"file_path": "views/0000.png", "transform_matrix": [[...], [...], [...], [...]]}, ...]}

nerfstudio, instant-ngp, Polycam, Record3D and Blender's NeRF scripts write it. ``transform_matrix`` is camera-to-world,
OpenGL axes. Everything else stands at the top or in each frame (the frame wins): focal lengths or the field of view
(``camera_angle_x``, ``camera_angle_y``), the principal point from the picture's top left corner (its middle without),
distortion (``k1`` ... ``p2`` of ``camera_model`` OPENCV, FULL_OPENCV or OPENCV_FISHEYE; ``is_fisheye``), masks
(``mask_path``) and depths along the view axis (``depth_file_path`` in ``depth_unit_scale_factor``, ``depth_path`` in
``integer_depth_scale``). ``applied_transform`` says how nerfstudio moved COLMAP's world; the poses are moved already.
A frame without a matrix has no camera and is left out. Orthographic cameras are an extension of ours:
``"camera_model": "ORTHOGRAPHIC"`` with ``span_y``, the picture's height in world units.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import UserError
from usd.core.errors import listing
from usd.data.depth_maps import DepthFile
from usd.data.file_names import Folder, nearby
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
COEFFICIENTS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
MILLIMETER = 1e-3
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
    """The frames of a file that have cameras, in its order, and how many have none.

    ``applied`` (3, 4) is how the file says that COLMAP's world was moved to its own.
    """

    frames: tuple[Frame, ...]
    without_camera: int
    applied: Float[Tensor, "3 4"] | None


def read_transforms(path: str | Path, where: str = "data.eval_transforms") -> tuple[Frame, ...]:
    """Return the frames of a transforms.json, in its order. Raises ``UserError`` with file, frame and key."""
    return read_transforms_file(path, where).frames


def read_transforms_file(path: str | Path, where: str) -> Transforms:
    """Read a transforms.json. Raises ``UserError`` with file, frame and key."""
    path = Path(path)
    content = _read_json(path, where)
    entries = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(entries, list):
        raise UserError(f"{where}: {path}: has no list of `frames`; expected nerfstudio's transforms.json")
    if not entries:
        raise UserError(f"{where}: {path}: has no frames; expected at least one")
    files = Folder(path.parent, f"{where}: {path}")
    if not {"w", "h"} & set(content):
        entries = _with_sizes(files, entries, f"{where}: {path}")
    frames = [
        _frame(f"{where}: {path}: frames[{i}]", files, content, entry)
        for i, entry in enumerate(entries)
        if not isinstance(entry, dict) or entry.get("transform_matrix") is not None
    ]
    if not frames:
        raise UserError(
            f"{where}: {path}: none of its {len(entries)} frames has a transform_matrix; expected one each"
        )
    applied = None
    if content.get("applied_transform") is not None:
        applied = _matrix(f"{where}: {path}.applied_transform", content["applied_transform"])[:3]
    return Transforms(tuple(frames), len(entries) - len(frames), applied)


def _with_sizes(files: Folder, entries: list[object], name: str) -> list[object]:
    """Return frames without a common size, those whose picture is not there with the size of the first picture."""
    found = [files.find(entry["file_path"]) if _names_picture(entry) else None for entry in entries]
    first = next((file for file in found if file is not None), None)
    if first is None or None not in found:
        return entries
    width, height = picture_size(first, name)
    return [
        {"w": width, "h": height, **entry} if file is None and _names_picture(entry) else entry
        for entry, file in zip(entries, found)
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


def _frame(name: str, files: Folder, shared: Mapping[str, object], entry: object) -> Frame:
    if not isinstance(entry, dict):
        raise UserError(f"{name}: is not a mapping; expected file_path and transform_matrix")
    keys = {**{key: value for key, value in shared.items() if key != "frames"}, **entry}
    file_path = keys.get("file_path", "")
    if not isinstance(file_path, str):
        raise UserError(f"{name}.file_path: is {file_path!r}; expected a path relative to the file")
    picture = files.find(file_path)
    width, height = _size(name, keys, picture, files.nearest(file_path) if picture is None else "")
    pose = _pose(name, keys.get("transform_matrix"))
    files_beside = _mask(name, files, keys), _depth(name, files, keys)
    if str(keys.get("camera_model")).upper() == "ORTHOGRAPHIC":
        lens = Intrinsics(width, height, 1.0, 1.0, width / 2, height / 2)
        read = FrameFiles(lens, pose, *files_beside, _positive(name, keys, "span_y"))
    else:
        read = FrameFiles(_lens(name, keys, width, height), pose, *files_beside)
    return Frame(read.camera, file_path, picture, read)


def _lens(name: str, keys: Mapping[str, object], width: int, height: int) -> Intrinsics:
    """Return the lens of a frame. Raises ``UserError`` for a model that has no pinhole, and for wrong numbers."""
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


def _mask(name: str, files: Folder, keys: Mapping[str, object]) -> Path | None:
    """Return the file that ``mask_path`` names. Raises UserError where it is named but not there."""
    return _named_file(name, files, keys, "mask_path", "a mask")


def _depth(name: str, files: Folder, keys: Mapping[str, object]) -> DepthFile | None:
    """Return the depth map of a frame and the unit of its numbers. Raises UserError where it is named but not there."""
    for key, unit, usual in (
        ("depth_file_path", "depth_unit_scale_factor", MILLIMETER),
        ("depth_path", "integer_depth_scale", None),
    ):
        file = _named_file(name, files, keys, key, "a depth map")
        if file is not None:
            missing = keys.get(unit) is None and usual is not None
            return DepthFile(file, usual if missing and usual else _positive(name, keys, unit))
    return None


def _named_file(name: str, files: Folder, keys: Mapping[str, object], key: str, what: str) -> Path | None:
    named = keys.get(key)
    if not isinstance(named, str):
        return None
    file = files.find(named)
    if file is None:
        raise UserError(
            f"{name}.{key}: {files.path / named}: no such file; expected {what}{files.nearest(named)}"
        )
    return file


def _size(name: str, keys: Mapping[str, object], picture: Path | None, hint: str) -> tuple[int, int]:
    if "w" in keys or "h" in keys:
        return _pixels(name, keys, "w"), _pixels(name, keys, "h")
    if picture is None:
        raise UserError(
            f"{name}: has no w and h, and its picture does not exist; expected the size in pixels{hint}"
        )
    return picture_size(picture, name)


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


def _pose(name: str, matrix: object) -> Float[Tensor, "4 4"]:
    """Return camera-to-world; a 3 x 4 matrix gets its last row."""
    pose = _matrix(f"{name}.transform_matrix", matrix)
    rotation = pose[:3, :3]
    if not torch.allclose(rotation @ rotation.T, torch.eye(3).double(), atol=1e-2) or torch.det(rotation) < 0:
        raise UserError(
            f"{name}.transform_matrix: its 3 x 3 part is not a rotation; expected camera-to-world, OpenGL axes"
        )
    return pose


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
