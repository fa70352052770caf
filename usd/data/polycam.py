"""Polycam's raw data: pictures of a phone, with a file for each camera.

    <capture>/keyframes/images/<time>.jpg        <capture>/keyframes/corrected_images/<time>.jpg (optional)
    <capture>/keyframes/cameras/<time>.json      <capture>/keyframes/corrected_cameras/<time>.json (optional)
    <capture>/keyframes/depth/<time>.png         <capture>/keyframes/confidence/<time>.png (of phones with lidar)

A camera has ``t_00`` ... ``t_23``, camera-to-world with OpenGL's axes in a world in meters with +y up, and fx, fy, cx,
cy, width, height in pixels. Corrected cameras, where there are some, are those that the app's own adjustment found.
Depths are millimeters along the view axis.
"""

import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.data.capture import Capture, CapturedView
from usd.data.depth_maps import MILLIMETER, DepthFile
from usd.data.file_names import Folder
from usd.data.lens import Intrinsics
from usd.data.text_files import read_text

NUMBERS = ("width", "height", "fx", "fy", "cx", "cy")
Y_UP_TO_Z_UP = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
"""A turn of the world that brings +y to +z."""


def find_keyframes(path: Path) -> Path | None:
    """Return the folder of a capture's pictures and cameras, in a folder or itself; None where there is none."""
    places = (path / "keyframes", path)
    return next((place for place in places if _folder(place, "images") and camera_files(place)), None)


def camera_files(keyframes: Path) -> list[Path]:
    """Return the files of the cameras, corrected ones if there are some, in the order of their names."""
    for name in ("corrected_cameras", "cameras"):
        if files := sorted((keyframes / name).glob("*.json")):
            return files
    return []


def _folder(keyframes: Path, name: str) -> Path | None:
    """Return the folder of a kind of pictures, the corrected ones if there are some; None where there is none."""
    places = (keyframes / f"corrected_{name}", keyframes / name)
    return next((place for place in places if place.is_dir()), None)


def read_polycam(keyframes: Path, where: str) -> Capture:
    """Read the cameras that have a picture. Raises ``UserError`` with file and reason."""
    name = f"{where}: {keyframes}"
    files = camera_files(keyframes)
    images = Folder(_folder(keyframes, "images") or keyframes, name)
    depths, trusted = (Folder(keyframes / kind, name) for kind in ("depth", "confidence"))
    views = []
    for file in files:
        picture, depth = images.find(file.stem), depths.find(file.stem)
        if picture is None:
            continue
        lens, c2w = read_camera(file, where)
        known = None if depth is None else DepthFile(depth, MILLIMETER, mask=trusted.find(file.stem))
        views.append(CapturedView(picture.name, picture, lens, c2w, depth=known))
    if not views:
        raise UserError(
            f"{name}: none of the {len(files)} cameras has a picture; expected "
            f"{images.path.name}/{files[0].stem}.jpg ..."
        )
    kind = "corrected" if files[0].parent.name.startswith("corrected") else "the phone's own"
    notes = [f"Polycam's raw data: {len(views)} pictures, {kind} cameras"]
    notes += [f"{len(files) - len(views)} of {len(files)} cameras have no picture"] * (
        len(views) < len(files)
    )
    return Capture(tuple(views), tuple(notes))


def read_camera(file: Path, where: str) -> tuple[Intrinsics, Float[Tensor, "4 4"]]:
    """Return lens and pose of a camera, in a world with +z up. Raises ``UserError`` with file and key."""
    name = f"{where}: {file}"
    try:
        content = json.loads(read_text(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: is not readable JSON ({error})") from error
    keys = [*NUMBERS, *(f"t_{row}{column}" for row in range(3) for column in range(4))]
    values = [content.get(key) if isinstance(content, dict) else None for key in keys]
    for key, value in zip(keys, values):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{name}: {key} is {value!r}; expected a number, as Polycam's cameras have")
    width, height, fx, fy, cx, cy, *pose = (
        float(value) for value in values if isinstance(value, int | float)
    )
    if min(width, height, fx, fy) <= 0:
        raise UserError(
            f"{name}: has {width:g} x {height:g} pixels, focal lengths {fx:g}, {fy:g}; expected positive"
        )
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3] = Y_UP_TO_Z_UP @ torch.tensor(pose, dtype=torch.float64).view(3, 4)
    return Intrinsics(round(width), round(height), fx, fy, cx, cy), c2w
