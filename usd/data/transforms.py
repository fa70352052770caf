"""transforms.json, the nerfstudio layout: cameras and the pictures they took, in one readable file.

    {"w": 256, "h": 256, "fl_x": 355.5, "fl_y": 355.5, "cx": 128, "cy": 128,
     "frames": [{"file_path": "views/0000.png", "transform_matrix": [[...], [...], [...], [...]]}, ...]}

``transform_matrix`` is camera-to-world, OpenGL axes. Intrinsics stand at the top or in each frame (the frame wins); the
field of view may be given as ``camera_angle_x`` / ``camera_angle_y`` instead. Our cameras are plain pinholes: square
pixels, the principal point in the middle, no distortion. Of a file that says otherwise the pictures can be made such
(``usd.data.lens``) where they are what is read; where cameras are to render, it is refused. Orthographic cameras
are an extension of ours: ``"camera_model": "ORTHOGRAPHIC"`` with ``span_y``, the picture's height in world units.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import torch

from usd.core.config import UserError
from usd.data.file_names import Folder, nearby
from usd.data.lens import Intrinsics, is_plain
from usd.data.pictures import picture_size, write_whole
from usd.data.text_files import read_text
from usd.math.camera import Cameras, orthographic_cameras

DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
OPENCV = ("k1", "k2", "p1", "p2", "k3")
"""The order in which OpenCV names the coefficients of a lens."""


@dataclass(frozen=True)
class Frame:
    """One camera, and the picture it took if there is one on disk, and its mask (``mask_path``) likewise.

    ``lens`` is what the picture was taken with, where that is not the plain pinhole ``camera``.
    """

    camera: Cameras
    file_path: str
    picture: Path | None
    mask: Path | None = None
    lens: Intrinsics | None = None


def read_transforms(
    path: str | Path, where: str = "data.eval_transforms", lenses: bool = False
) -> tuple[Frame, ...]:
    """Read the frames of a transforms.json, in its order. Raises ``UserError`` with file, frame and key.

    With ``lenses``, cameras that are no plain pinholes come with their lens instead of being refused.
    """
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
    return tuple(
        _frame(f"{where}: {path}: frames[{i}]", files, content, entry, lenses)
        for i, entry in enumerate(entries)
    )


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


def _frame(name: str, files: Folder, shared: Mapping[str, object], entry: object, lenses: bool) -> Frame:
    if not isinstance(entry, dict):
        raise UserError(f"{name}: is not a mapping; expected file_path and transform_matrix")
    keys = {**{key: value for key, value in shared.items() if key != "frames"}, **entry}
    _refuse_model(name, keys)
    if not lenses:
        _refuse_distortion(name, keys)
    file_path = keys.get("file_path", "")
    if not isinstance(file_path, str):
        raise UserError(f"{name}.file_path: is {file_path!r}; expected a path relative to the file")
    picture = files.find(file_path)
    width, height = _size(name, keys, picture, files.nearest(file_path) if picture is None else "")
    pose = _pose(name, keys.get("transform_matrix"))
    if _is_orthographic(keys):
        camera = orthographic_cameras(pose, _positive(name, keys, "span_y"), height, width)
        return Frame(camera, file_path, picture, _mask(name, files, keys))
    lens = _lens(name, keys, width, height) if lenses else None
    fov_y = _fov_y(name, keys, width, height) if lens is None else 2 * math.atan(0.5 * height / lens.fy)
    camera = Cameras(pose, torch.tensor([fov_y]), height, width)
    return Frame(camera, file_path, picture, _mask(name, files, keys), lens)


def _lens(name: str, keys: Mapping[str, object], width: int, height: int) -> Intrinsics | None:
    """Return what is not a plain pinhole; None for one that is."""
    axes = (("fl_x", "camera_angle_x", width), ("fl_y", "camera_angle_y", height))
    focal = [_positive(name, keys, key) if key in keys else None for key, _, _ in axes]
    if focal == [None, None]:
        focal = [
            0.5 * size / math.tan(0.5 * _angle(name, keys, key)) if key in keys else None
            for _, key, size in axes
        ]
    fx, fy = focal[0] or focal[1], focal[1] or focal[0]
    if fx is None or fy is None:
        return None
    cx, cy = (
        _finite_number(name, keys, key) if key in keys else size / 2
        for key, size in (("cx", width), ("cy", height))
    )
    distortion = tuple(_finite_number(name, keys, key) if keys.get(key) else 0.0 for key in OPENCV)
    lens = Intrinsics(width, height, fx, fy, cx, cy, distortion if any(distortion) else ())
    return None if is_plain(lens) else lens


def _is_orthographic(keys: Mapping[str, object]) -> bool:
    return str(keys.get("camera_model")).upper() == "ORTHOGRAPHIC"


def _mask(name: str, files: Folder, keys: Mapping[str, object]) -> Path | None:
    """Return the file that ``mask_path`` names. Raises UserError where it is named but not there."""
    named = keys.get("mask_path")
    if not isinstance(named, str):
        return None
    file = files.find(named)
    if file is None:
        raise UserError(
            f"{name}.mask_path: {files.path / named}: no such file; expected a mask{files.nearest(named)}"
        )
    return file


def _refuse_distortion(name: str, keys: Mapping[str, object]) -> None:
    bent = [key for key in DISTORTION if keys.get(key)]
    if bent:
        raise UserError(f"{name}.{bent[0]}: is {keys[bent[0]]}; expected 0: undistort the pictures first")


def _refuse_model(name: str, keys: Mapping[str, object]) -> None:
    """Raise ``UserError`` for a fisheye and other cameras that are no pinholes, with a distortion or without."""
    if keys.get("k4"):
        raise UserError(f"{name}.k4: is {keys['k4']}, a fisheye's; expected 0: undistort the pictures first")
    model = keys.get("camera_model", "PINHOLE")
    if str(model).upper() not in ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "PERSPECTIVE", "ORTHOGRAPHIC"):
        raise UserError(f"{name}.camera_model: is {model}; expected a pinhole camera")


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


def _fov_y(name: str, keys: Mapping[str, object], width: int, height: int) -> float:
    """Return the vertical field of view in radians, from whichever of the usual keys is there."""
    focal = _focal_px(name, keys, width, height)
    for key, middle in (("cx", width / 2), ("cy", height / 2)):
        if key in keys and abs(_finite_number(name, keys, key) - middle) > 1:
            raise UserError(f"{name}.{key}: is {keys[key]}; expected the middle of the picture, {middle:g}")
    return 2 * math.atan(0.5 * height / focal)


def _focal_px(name: str, keys: Mapping[str, object], width: int, height: int) -> float:
    focals = [_positive(name, keys, key) for key in ("fl_y", "fl_x") if key in keys]
    angles = (("camera_angle_y", height), ("camera_angle_x", width))
    if not focals:
        focals = [0.5 * size / math.tan(0.5 * _angle(name, keys, key)) for key, size in angles if key in keys]
    if not focals:
        raise UserError(f"{name}: has no fl_x, fl_y, camera_angle_x or camera_angle_y; expected one of them")
    if max(focals) > 1.01 * min(focals):
        raise UserError(
            f"{name}: has pixels that are not square (focal lengths {focals[0]:g}, {focals[1]:g}); expected equal ones"
        )
    return focals[0]


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


def _pose(name: str, matrix: object) -> torch.Tensor:
    """Return (1, 4, 4) camera-to-world; a 3 x 4 matrix gets its last row."""
    try:
        pose = torch.tensor(matrix, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}.transform_matrix: is not a matrix of numbers; expected 4 x 4") from error
    if pose.shape == (3, 4):
        pose = torch.cat([pose, torch.tensor([[0.0, 0.0, 0.0, 1.0]])])
    if pose.shape != (4, 4) or not torch.isfinite(pose).all():
        raise UserError(f"{name}.transform_matrix: is not a finite 4 x 4 matrix; expected camera-to-world")
    rotation = pose[:3, :3]
    if not torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-2) or torch.det(rotation) < 0:
        raise UserError(
            f"{name}.transform_matrix: its 3 x 3 part is not a rotation; expected camera-to-world, OpenGL axes"
        )
    return pose[None]


def write_transforms(path: str | Path, cameras: Sequence[Cameras], file_paths: Sequence[str]) -> Path:
    """Write cameras and the names of their pictures (relative to the file); the folder is made.

    ``cameras`` may come in batches of different sizes; there is one path for each camera in them.
    """
    single = [camera[i : i + 1].to("cpu") for camera in cameras for i in range(len(camera))]
    if len(single) != len(file_paths):
        raise ValueError(f"{len(single)} cameras but {len(file_paths)} file paths")
    sizes = [_intrinsics(camera) for camera in single]
    shared = sizes[0] if sizes and all(size == sizes[0] for size in sizes) else {}
    frames = [
        {"file_path": name, **({} if shared else size), "transform_matrix": camera.c2w[0].tolist()}
        for name, size, camera in zip(file_paths, sizes, single)
    ]
    with write_whole(path) as file:
        file.write_text(json.dumps({"camera_model": "PINHOLE", **shared, "frames": frames}, indent=1))
    return Path(path)


def _intrinsics(camera: Cameras) -> dict[str, int | float | str]:
    height, width = camera.height, camera.width
    if camera.span_y is not None:
        return {"camera_model": "ORTHOGRAPHIC", "w": width, "h": height, "span_y": camera.span_y.item()}
    (fx, fy), (cx, cy) = camera.focals[0].tolist(), camera.principal_point[0].tolist()
    return {"w": width, "h": height, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}
