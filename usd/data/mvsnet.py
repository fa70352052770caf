"""MVSNet's layout, in which BlendedMVS (arXiv 1911.10127) is published: a text file for each camera.

<scene>/cams/00000000_cam.txt      <scene>/blended_images/00000000.jpg (or images/)
<scene>/rendered_depth_maps/00000000.pfm (optional; depths along the view axis)

extrinsic        (4 rows: world to camera, OpenCV's axes)
intrinsic        (3 rows; pixels are counted from the middle of the first one, ours from its corner)
nearest depth, depth interval, ...
"""

import re
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.data.capture import Capture, CapturedView, nowhere
from usd.data.depth_maps import DepthFile
from usd.data.file_names import Folder
from usd.data.lens import Intrinsics
from usd.data.pictures import picture_size
from usd.data.text_files import read_text

FOLDERS = ("blended_images", "images", "image")
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))


def find_cameras(path: Path) -> list[Path]:
    """Return the files of a scene's cameras, in the order of their names; none where it has another layout."""
    return (
        sorted((path / "cams").glob("*_cam.txt")) if any((path / name).is_dir() for name in FOLDERS) else []
    )


def read_mvsnet(files: list[Path], where: str) -> Capture:
    """Read the cameras that have a picture. Raises ``UserError`` with file and reason."""
    root = files[0].parent.parent
    pictures = Folder(next(root / name for name in FOLDERS if (root / name).is_dir()), f"{where}: {root}")
    views = [view for file in files if (view := _mvs_view(file, pictures, where)) is not None]
    if not views:
        raise UserError(
            f"{where}: {root}: none of the {len(files)} pictures of its cameras exist; expected them in "
            f"{pictures.path.name}/"
        )
    notes = [f"scene {root.name} in MVSNet's layout: {len(views)} pictures"]
    notes += [f"{len(files) - len(views)} of {len(files)} cameras have no picture"] * (
        len(views) < len(files)
    )
    return Capture(tuple(views), tuple(notes), arbitrary=True)


def _mvs_view(file: Path, pictures: Folder, where: str) -> CapturedView | None:
    stem = file.name.removesuffix("_cam.txt")
    picture = pictures.find(stem)
    if picture is None:
        return None
    name = f"{where}: {file}"
    extrinsic, intrinsic = read_camera(file, name)
    width, height = picture_size(picture, name)
    k = intrinsic.tolist()
    lens = Intrinsics(width, height, k[0][0], k[1][1], k[0][2] + 0.5, k[1][2] + 0.5)
    depth = file.parent.parent / "rendered_depth_maps" / f"{stem}.pfm"
    depth_file = DepthFile(depth, 1.0) if depth.is_file() else None
    known = bool(extrinsic.isfinite().all()) and float(extrinsic.det()) != 0
    c2w = torch.linalg.inv(extrinsic) @ FLIP if known else nowhere()
    return CapturedView(picture.name, picture, lens, c2w, depth=depth_file)


def read_camera(file: Path, name: str) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    """Return the world-to-camera matrix and the intrinsic one. Raises ``UserError`` where they are not there."""
    try:
        text = read_text(file)
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror})") from error
    found = re.fullmatch(r"\s*extrinsic\s+(.*?)\s+intrinsic\s+(.*)", text, re.DOTALL)
    words = [part.split() for part in found.groups()] if found else [[], []]
    try:
        extrinsic, intrinsic = [float(word) for word in words[0]], [float(word) for word in words[1][:9]]
    except ValueError as error:
        raise UserError(f"{name}: {error}; expected numbers") from error
    if (len(extrinsic), len(intrinsic)) != (16, 9) or min(intrinsic[0], intrinsic[4]) <= 0:
        raise UserError(
            f"{name}: expected `extrinsic` with 16 numbers and `intrinsic` with 9, as MVSNet has them"
        )
    return _square(extrinsic, 4), _square(intrinsic, 3)


def _square(numbers: list[float], side: int) -> Float[Tensor, "n n"]:
    return torch.tensor(numbers, dtype=torch.float64).view(side, side)
