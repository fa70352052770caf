"""Camera paths as files: key views that a video goes through, or the cameras of every frame.

    {"fps": 24, "seconds": 6, "loop": false,
     "keyframes": [{"position": [1.5, 0, 0.4], "look_at": [0, 0, 0], "fov_y_deg": 45}, ...]}

is written by the viewer. nerfstudio's camera paths (``camera_path``, a matrix and ``fov`` in degrees for every frame)
and transforms.json are read, too: their cameras are the frames.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from usd.core import files
from usd.core.errors import UserError
from usd.data.text_files import read_text
from usd.data.transforms import read_transforms
from usd.math.camera import Cameras
from usd.math.camera_path import path_cameras

Point = tuple[float, float, float]
MOST_FRAMES = 20000


@dataclass(frozen=True)
class KeyView:
    """One view that a path goes through: where the camera stands (world units), at what it looks, and how wide."""

    position: Point
    look_at: Point = (0.0, 0.0, 0.0)
    fov_y_deg: float = 45.0


@dataclass(frozen=True)
class CameraPath:
    """Key views and the time from the first to the last."""

    keyframes: tuple[KeyView, ...]
    seconds: float = 6.0
    fps: int = 24
    loop: bool = False

    @property
    def frames(self) -> int:
        """Number of pictures of the video."""
        return min(MOST_FRAMES, max(1, round(self.seconds * self.fps)))

    def cameras(self, height: int, width: int) -> Cameras:
        """Return the camera of every frame."""
        position = torch.tensor([key.position for key in self.keyframes])
        target = torch.tensor([key.look_at for key in self.keyframes])
        fov_y = torch.tensor([key.fov_y_deg for key in self.keyframes]).deg2rad()
        return path_cameras(position, target, fov_y, self.frames, (height, width), loop=self.loop)

    def write(self, path: Path) -> Path:
        """Write the path as JSON."""
        keys = [
            {"position": list(key.position), "look_at": list(key.look_at), "fov_y_deg": key.fov_y_deg}
            for key in self.keyframes
        ]
        content = {"fps": self.fps, "seconds": self.seconds, "loop": self.loop, "keyframes": keys}
        return files.write_atomically(path, json.dumps(content, indent=1) + "\n")


def read_camera_path(path: Path, height: int, width: int) -> tuple[list[Cameras], int]:
    """Return the camera of every frame and the frames a second. Raises ``UserError`` with file and key.

    Height and width are those of the pictures where the file does not say.
    """
    if not path.is_file():
        raise UserError(f"--path: {path}: no such file; expected orbit, or a JSON file of a camera path")
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"--path: {path}: is not readable JSON ({error})") from error
    if isinstance(content, Mapping) and isinstance(content.get("keyframes"), list):
        camera_path = parse_camera_path(content, f"--path: {path}")
        cameras = camera_path.cameras(height, width)
        return [cameras[i : i + 1] for i in range(len(cameras))], camera_path.fps
    if isinstance(content, Mapping) and isinstance(content.get("camera_path"), list):
        return _nerfstudio_cameras(content, f"--path: {path}", height, width)
    if isinstance(content, Mapping) and "frames" in content:
        return [frame.camera for frame in read_transforms(path, "--path")], 24
    raise UserError(f"--path: {path}: has no keyframes, camera_path or frames; expected a camera path")


def parse_camera_path(content: Mapping[str, object], where: str) -> CameraPath:
    """Return the path that a mapping says. Raises ``UserError`` that starts with ``where`` and names the key."""
    entries = content.get("keyframes")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{where}: has no keyframes; expected at least one")
    keys = tuple(_key_view(entry, f"{where}: keyframes[{i}]") for i, entry in enumerate(entries))
    seconds = _bounded(content.get("seconds", 6.0), f"{where}: seconds", 1e-3, 3600)
    fps = _bounded(content.get("fps", 24), f"{where}: fps", 1, 240)
    return CameraPath(keys, seconds, round(fps), content.get("loop") is True)


def _key_view(entry: object, where: str) -> KeyView:
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: is not a mapping; expected position, look_at and fov_y_deg")
    position, look_at = (
        _point(entry.get(name, default), f"{where}.{name}")
        for name, default in (("position", None), ("look_at", [0, 0, 0]))
    )
    return KeyView(position, look_at, _bounded(entry.get("fov_y_deg", 45), f"{where}.fov_y_deg", 1, 170))


def _point(value: object, where: str) -> Point:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3:
        raise UserError(f"{where}: is {value!r}; expected three numbers")
    x, y, z = (_bounded(item, where, -1e6, 1e6) for item in value)
    return x, y, z


def _bounded(value: object, where: str, low: float | int, high: float | int) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{where}: is {value!r}; expected a number from {low:g} to {high:g}")
    return float(value)


def _nerfstudio_cameras(
    content: Mapping[str, object], where: str, height: int, width: int
) -> tuple[list[Cameras], int]:
    """Return the cameras of a path that nerfstudio's viewer wrote."""
    rows = round(_bounded(content.get("render_height", height), f"{where}: render_height", 1, 16384))
    columns = round(_bounded(content.get("render_width", width), f"{where}: render_width", 1, 16384))
    entries = content["camera_path"]
    assert isinstance(entries, list)
    cameras = [
        _nerfstudio_camera(entry, f"{where}: camera_path[{i}]", rows, columns)
        for i, entry in enumerate(entries)
    ]
    return cameras, round(_bounded(content.get("fps", 24), f"{where}: fps", 1, 240))


def _nerfstudio_camera(entry: object, where: str, height: int, width: int) -> Cameras:
    matrix = entry.get("camera_to_world") if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping) or not isinstance(matrix, list) or len(matrix) != 16:
        raise UserError(f"{where}: has no camera_to_world of 16 numbers; expected a matrix row by row")
    c2w = torch.tensor([_bounded(item, f"{where}.camera_to_world", -1e6, 1e6) for item in matrix])
    fov = _bounded(entry.get("fov", 50), f"{where}.fov", 1, 170)
    return Cameras(c2w.float().view(1, 4, 4), torch.tensor([math.radians(fov)]), height, width)
