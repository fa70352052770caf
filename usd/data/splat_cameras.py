"""The cameras that 3D Gaussian splatting (arXiv 2308.04079) and its kin leave beside their splats, in one file.

    <folder>/cameras.json        a list: id, img_name, width, height, fx, fy, position, rotation (3 rows) of each
    <folder>/images/             (or input/, or the folder itself) the pictures

``position`` and ``rotation`` are camera-to-world with OpenCV's axes, numbers are pixels, and the principal point is the
picture's middle. ``img_name`` has an ending or none. The pictures are undistorted ones: a lens has no more numbers.
"""

import json
import math
import re
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.data.capture import Capture, CapturedView
from usd.data.file_names import pictures_by_names
from usd.data.lens import Intrinsics
from usd.data.text_files import read_text

NAME = "cameras.json"
SHAPES = {"width": (), "height": (), "fx": (), "fy": (), "position": (3,), "rotation": (3, 3)}
"""What a camera has beside its picture's name, and the shapes of it."""
FLIP = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)


def find_splat_cameras(path: Path) -> Path | None:
    """Return the file of cameras, itself or in a folder; None where it is another program's, or there is none."""
    file = path if path.is_file() else path / NAME
    if file.name.lower() != NAME or not file.is_file():
        return None
    try:
        text = read_text(file, "replace")
    except OSError:
        return None
    return file if text.lstrip().startswith("[") and '"img_name"' in text else None


def read_splat_cameras(file: Path, where: str) -> Capture:
    """Read the cameras that have a picture. Raises ``UserError`` with file and reason."""
    name = f"{where}: {file}"
    entries = _camera_list(file, name)
    names = [str(entry.get("img_name")) for entry in entries]
    pictures = pictures_by_names(file.parent, names, name)
    if not any(pictures):
        raise UserError(f"{name}: none of its {len(names)} pictures exist ({names[0]}){_trained_on(file)}")
    views = [
        CapturedView(picture.name, picture, *_view_camera(entry, f"{name}: camera {row}"))
        for row, (entry, picture) in enumerate(zip(entries, pictures))
        if picture is not None
    ]
    notes = [f"cameras of 3D Gaussian splatting: {len(views)} pictures"]
    notes += [f"{pictures.count(None)} of {len(names)} cameras have no picture"] * (None in pictures)
    return Capture(tuple(sorted(views, key=lambda view: view.name)), tuple(notes), arbitrary=True)


def _camera_list(file: Path, name: str) -> list[dict]:
    try:
        content = json.loads(read_text(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: is not readable JSON ({error})") from error
    if not all(isinstance(entry, dict) for entry in content):
        raise UserError(f"{name}: is no list of cameras; expected {', '.join(('img_name', *SHAPES))} of each")
    return content


def _trained_on(file: Path) -> str:
    """Return what was expected, with the folder that the splats were trained on, where the program's options say it."""
    options = file.parent / "cfg_args"
    text = read_text(options, "replace") if options.is_file() else ""
    source = re.search(r"source_path=(['\"])(.+?)\1", text)
    trained = f", or the folder that the splats were trained on ({source[2]})" if source else ""
    return f"; expected them in images/ beside it{trained}"


def _view_camera(entry: dict, name: str) -> tuple[Intrinsics, Float[Tensor, "4 4"]]:
    values = {key: _tensor_at(entry, key, name) for key in SHAPES}
    width, height, fx, fy = (float(values[key]) for key in ("width", "height", "fx", "fy"))
    if min(width, height, fx, fy) <= 0 or not math.isfinite(width * height):
        raise UserError(
            f"{name} has {width:g} x {height:g} pixels, focal lengths {fx:g}, {fy:g}; expected positive"
        )
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3], c2w[:3, 3] = values["rotation"] * FLIP, values["position"]
    return Intrinsics(round(width), round(height), fx, fy, width / 2, height / 2), c2w


def _tensor_at(entry: dict, key: str, name: str) -> Float[Tensor, "*shape"]:
    try:
        values = torch.tensor(entry[key], dtype=torch.float64)
    except (KeyError, TypeError, ValueError, RuntimeError):
        values = None
    if values is None or values.shape != SHAPES[key]:
        expected = " x ".join(map(str, SHAPES[key])) + " numbers" if SHAPES[key] else "a number"
        raise UserError(f"{name}: {key} is {entry.get(key)!r}; expected {expected}")
    return values
