"""LLFF's layout (arXiv 1905.00889): a capture that faces forward, its cameras in one array.

    <scene>/poses_bounds.npy     (N, 17): a (3, 5) matrix [R | t | height, width, focal] by rows, depths
    <scene>/images/*             N pictures in the order of their names; images_4/ ... are smaller copies

The columns of R point down, to the right and backwards. The pictures may be smaller than the height and width said.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from usd.core.errors import UserError
from usd.data.capture import Capture, CapturedView
from usd.data.file_names import pictures_in
from usd.data.lens import Intrinsics


def find_poses(path: Path) -> Path | None:
    """Return the array of cameras in a scene's folder; None where there is none."""
    file = path / "poses_bounds.npy"
    return file if file.is_file() else None


def is_whole(file: Path) -> bool:
    """Return whether there are as many pictures as cameras, by whose order alone they belong together."""
    try:
        return len(np.load(file, mmap_mode="r", allow_pickle=False)) == len(_picture_files(file.parent)[1])
    except (OSError, ValueError, EOFError, TypeError):
        return False


def read_llff(file: Path, where: str) -> Capture:
    """Read the scene's pictures. Raises ``UserError`` with file and reason."""
    name = f"{where}: {file}"
    rows = _table_rows(file, name)
    folder, pictures = _picture_files(file.parent)
    if len(pictures) != len(rows):
        raise UserError(
            f"{name}: has {len(rows)} cameras, {folder} {len(pictures)} pictures; expected as many"
        )
    views = [_llff_view(picture, row, name) for picture, row in zip(pictures, rows)]
    return Capture(
        tuple(views), (f"scene {file.parent.name} in LLFF's layout: {len(views)} pictures",), arbitrary=True
    )


def _table_rows(file: Path, name: str) -> NDArray[np.float64]:
    try:
        rows = np.asarray(np.load(file, allow_pickle=False), dtype=np.float64)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{name}: cannot be read as an array ({error})") from error
    if (
        rows.ndim != 2
        or rows.shape[1] not in (15, 17)
        or not len(rows)
        or not np.isfinite(rows[:, 4:15:5]).all()
    ):
        raise UserError(
            f"{name}: has shape {rows.shape}; expected (pictures, 17), sizes and focal lengths finite"
        )
    return rows


def _picture_files(folder: Path) -> tuple[str, list[Path]]:
    """Return the pictures as they were taken, or else the largest copies."""
    copies = sorted(
        folder.glob("images_*"), key=lambda path: int("0" + path.name.removeprefix("images_").split("_")[0])
    )
    for place in (folder / "images", *copies):
        if place.is_dir():
            return f"{place.name}/", pictures_in(place)
    return "images/", []


def _llff_view(picture: Path, row: NDArray[np.float64], name: str) -> CapturedView:
    matrix = torch.from_numpy(row[:15].reshape(3, 5))
    height, width, focal = matrix[:, 4].tolist()
    if min(height, width, focal) <= 0:
        raise UserError(
            f"{name}: {picture.name}: height, width, focal length {height:g}, {width:g}, {focal:g}; "
            "expected positive numbers"
        )
    lens = Intrinsics(round(width), round(height), focal, focal, width / 2, height / 2)
    return CapturedView(picture.name, picture, lens, _pose_of(matrix[:, :4]))


def _pose_of(matrix: Float[Tensor, "3 4"]) -> Float[Tensor, "4 4"]:
    """Return camera-to-world with OpenGL axes from one whose columns point down, right and backwards."""
    down, right, back, position = matrix.unbind(1)
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3] = torch.stack([right, -down, back, position], 1)
    return c2w
