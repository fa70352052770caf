"""Record3D's exports: a video of a phone, with all cameras in one file.

    <export>/metadata.json    <export>/rgb/0.jpg ...        <export>/depth/0.exr ...       (its export of EXR and JPG)
    <export>/metadata         <export>/rgbd/0.jpg ...       <export>/rgbd/0.depth ...      (an unpacked .r3d)

``poses`` are rotations as quaternions (x, y, z, w) and positions, camera-to-world with OpenGL's axes in a world in
meters with +y up; ``K`` is the intrinsic matrix column by column, ``perFrameIntrinsicCoeffs`` (fx, fy, cx, cy) of each
frame. Depths are floats in meters along the view axis: one channel of OpenEXR, or ``dh`` rows of ``dw`` that LZFSE
packed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from usd.core.errors import UserError
from usd.data.capture import Capture, CapturedView, nowhere
from usd.data.depth_maps import DepthFile, can_read_exr, can_unpack
from usd.data.file_names import pictures_in
from usd.data.lens import Intrinsics
from usd.data.polycam import Y_UP_TO_Z_UP
from usd.data.text_files import read_text

FILES = (("metadata.json", "rgb"), ("metadata", "rgbd"), ("metadata.json", "rgbd"), ("metadata", "rgb"))
"""The file of cameras, and the folder of pictures."""


def find_export(path: Path) -> tuple[Path, Path] | None:
    """Return the file of cameras and the folder of pictures of an export; None where there is none."""
    for place in (path, path / "EXR_RGBD"):
        for file, folder in FILES:
            if (place / file).is_file() and (place / folder).is_dir():
                return place / file, place / folder
    return None


def read_record3d(file: Path, folder: Path, where: str) -> Capture:
    """Read the frames that have a picture. Raises ``UserError`` with file and reason."""
    name = f"{where}: {file}"
    content = _metadata(file, name)
    poses, lenses = _number_rows(content, "poses", 7, name), _lenses(content, name)
    numbered = {
        int(picture.stem): picture for picture in pictures_in(folder) if re.fullmatch(r"\d+", picture.stem)
    }
    present = [(number, picture) for number, picture in sorted(numbered.items()) if number < len(poses)]
    if not present:
        raise UserError(
            f"{name}: none of its {len(poses)} frames has a picture; expected {folder.name}/0.jpg ..."
        )
    depths, remarks = _depths(content, [picture for _, picture in present], name)
    views = [
        CapturedView(
            picture.name,
            picture,
            lenses[min(number, len(lenses) - 1)],
            _pose(poses[number], name),
            depth=depth,
        )
        for (number, picture), depth in zip(present, depths)
    ]
    notes = [f"Record3D's export: {len(views)} pictures", *remarks]
    notes += [f"{len(poses) - len(views)} of {len(poses)} frames have no picture"] * (len(views) < len(poses))
    notes += [f"{len(numbered) - len(views)} of {len(numbered)} pictures have no camera"] * (
        len(views) < len(numbered)
    )
    return Capture(tuple(views), tuple(notes))


def _depths(
    content: Mapping[str, object], pictures: Sequence[Path], name: str
) -> tuple[list[DepthFile | None], list[str]]:
    """Return the depth map of each picture, None where it has none or none can be read; and what was left out."""
    none: list[DepthFile | None] = [None] * len(pictures)
    packed = [picture.with_suffix(".depth") for picture in pictures]
    if not any(file.is_file() for file in packed):
        return _exr_depths([picture.parent.parent / f"depth/{picture.stem}.exr" for picture in pictures])
    if content.get("dw") is None or content.get("dh") is None:
        return none, ["depths left out: dw and dh, their size, are not said"]
    if not can_unpack():
        return none, ["depths left out: reading them takes pip install 'usd[record3d]'"]
    width, height = _number_rows({"dw, dh": [content["dw"], content["dh"]]}, "dw, dh", 2, name)[0].tolist()
    shape = round(height), round(width)
    return [DepthFile(file, 1.0, shape=shape) if file.is_file() else None for file in packed], []


def _exr_depths(files: Sequence[Path]) -> tuple[list[DepthFile | None], list[str]]:
    """Return the same of the export whose depths are OpenEXR."""
    found = [DepthFile(file, 1.0) if file.is_file() else None for file in files]
    if any(found) and not can_read_exr():
        return [None] * len(files), ["depths left out: reading them takes pip install 'usd[exr]'"]
    return found, []


def _metadata(file: Path, name: str) -> Mapping[str, object]:
    try:
        content = json.loads(read_text(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: is not readable JSON ({error})") from error
    if not isinstance(content, dict) or "poses" not in content:
        raise UserError(f"{name}: has no poses; expected Record3D's metadata")
    return content


def _number_rows(content: Mapping[str, object], key: str, width: int, name: str) -> NDArray[np.float64]:
    """Return rows of numbers, finite but for ``poses``. Raises ``UserError`` where they are none."""
    try:
        rows = np.asarray(content.get(key), dtype=np.float64).reshape(-1, width)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{name}: {key} is no list of {width} numbers each; expected Record3D's metadata"
        ) from error
    if not len(rows) or (key != "poses" and not np.isfinite(rows).all()):
        raise UserError(f"{name}: {key} has {len(rows)} rows; expected finite numbers, {width} of each frame")
    return rows


def _lenses(content: Mapping[str, object], name: str) -> list[Intrinsics]:
    """Return the lens of each frame, or the one of all."""
    width, height = _number_rows({"w, h": [content.get("w"), content.get("h")]}, "w, h", 2, name)[0].tolist()
    if content.get("perFrameIntrinsicCoeffs"):
        rows = _number_rows(content, "perFrameIntrinsicCoeffs", 4, name)
    else:
        k = _number_rows(content, "K", 9, name)[0]
        rows = k[[0, 4, 6, 7]][None]
    if min(width, height) <= 0 or rows[:, :2].min() <= 0:
        raise UserError(
            f"{name}: has {width:g} x {height:g} pixels; expected positive sizes and focal lengths"
        )
    return [Intrinsics(round(width), round(height), *row) for row in rows.tolist()]


def _pose(row: NDArray[np.float64], name: str) -> Float[Tensor, "4 4"]:
    """Return camera-to-world, in a world with +z up, from a quaternion (x, y, z, w) and a position."""
    length = float(np.linalg.norm(row[:4]))
    if not np.isfinite(row).all() or length == 0:
        return nowhere()
    if abs(length - 1) > 0.05:
        raise UserError(f"{name}: a rotation is {row[:4].tolist()}; expected a unit quaternion")
    x, y, z, w = (row[:4] / length).tolist()
    # The rotation of a quaternion is 1 + 2 w [v] + 2 [v]^2, [v] being the matrix of the cross product with (x, y, z).
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)
    rotation = torch.eye(3, dtype=torch.float64) + 2 * w * cross + 2 * cross @ cross
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = Y_UP_TO_Z_UP @ rotation
    c2w[:3, 3] = Y_UP_TO_Z_UP @ torch.from_numpy(row[4:].copy())
    return c2w
