"""The layout of IDR and NeuS, in which DTU and BlendedMVS scans are shared: matrices in a NumPy archive.

    <scan>/cameras_sphere.npz      world_mat_<i> and scale_mat_<i> (4, 4) of each picture; also cameras.npz
    <scan>/image/000000.png ...    <scan>/mask/000.png ... (optional, white is the object); also images/, rgb/, masks/

``world_mat`` takes world points to pixels, K [R | t]. ``scale_mat`` takes the unit sphere, in which the object is, to
the world. These pixels are counted from the middle of the first one, ours from its corner. Nothing says how large the
pictures were that the matrices belong to: where the principal point is that of pictures 2, 3, 4 or 8 times as large,
they were.
"""

from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from usd.core.errors import UserError
from usd.data.capture import Capture, CapturedView, lost_note
from usd.data.file_names import pictures_in
from usd.data.lens import Intrinsics
from usd.data.pictures import picture_size

ARCHIVES = ("cameras_sphere.npz", "cameras.npz", "cameras_large.npz")
FOLDERS = (("image", "images", "rgb"), ("mask", "masks"))
"""Names of the folders of pictures, and of masks."""
TIMES = (2, 3, 4, 8)
"""Pictures may be so many times smaller than those that their cameras were found for."""
MIDDLE = 0.2
"""A principal point is at most so far from the middle, of half the picture, for the size to be told by it."""
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
"""From OpenCV's camera axes to OpenGL's and back."""
Matrix: TypeAlias = Float[Tensor, "4 4"]


def find_archive(path: Path) -> Path | None:
    """Return the archive of cameras in a scan's folder; None where there is none, or no pictures."""
    if not any((path / name).is_dir() for name in FOLDERS[0]):
        return None
    return next((path / name for name in ARCHIVES if (path / name).is_file()), None)


def read_scan(file: Path, where: str) -> Capture:
    """Read the pictures that have a camera. Raises ``UserError`` with file and reason."""
    name = f"{where}: {file}"
    archive = _archive(file, name)
    pictures, masks = (
        next((found for name in names if (found := pictures_in(file.parent / name))), []) for names in FOLDERS
    )
    rows = [row for row in range(len(pictures)) if np.isfinite(archive.get(f"world_mat_{row}", np.nan)).all()]
    if not rows:
        raise UserError(
            f"{name}: has no finite world_mat of the {len(pictures)} pictures in image/; expected world_mat_0 ..."
        )
    if masks and len(masks) != len(pictures):
        raise UserError(f"{name}: {len(masks)} masks of {len(pictures)} pictures; expected one each, or none")
    views = []
    for row in rows:
        lens, c2w = camera_of(_matrix(archive, f"world_mat_{row}", name), pictures[row], name)
        views.append(
            CapturedView(pictures[row].name, pictures[row], lens, c2w, masks[row] if masks else None)
        )
    notes = [f"scan {file.parent.name} in NeuS's layout: {len(views)} pictures"]
    notes += lost_note([each.name for row, each in enumerate(pictures) if row not in rows], len(pictures))
    if smaller := sum(view.lens.width != picture_size(view.picture, name)[0] for view in views):
        notes.append(
            f"{smaller} of {len(views)} pictures are smaller than those that their cameras were found for"
        )
    return Capture(tuple(views), tuple(notes), arbitrary=True, sphere=_sphere(archive, rows[0], name))


def _archive(file: Path, name: str) -> dict[str, NDArray[np.float64]]:
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {key: np.asarray(stored[key], dtype=np.float64) for key in stored.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{name}: cannot be read as an archive of arrays ({error})") from error


def _matrix(archive: dict[str, NDArray[np.float64]], key: str, name: str) -> Matrix:
    matrix = archive[key]
    if matrix.shape not in ((4, 4), (3, 4)) or not np.isfinite(matrix).all():
        raise UserError(f"{name}: {key} has shape {matrix.shape}; expected a finite (4, 4)")
    whole = torch.eye(4, dtype=torch.float64)
    whole[: matrix.shape[0]] = torch.from_numpy(matrix)
    return whole


def _sphere(
    archive: dict[str, NDArray[np.float64]], row: int, name: str
) -> tuple[Float[Tensor, "3"], float] | None:
    """Return center and radius of the object's sphere; None where the archive does not say them."""
    key = f"scale_mat_{row}"
    if key not in archive:
        return None
    matrix = _matrix(archive, key, name)
    return matrix[:3, 3], float(matrix[:3, :3].det().abs() ** (1 / 3))


def camera_of(projection: Matrix, picture: Path, name: str) -> tuple[Intrinsics, Matrix]:
    """Return lens and pose of a matrix K [R | t] that takes world points to pixels."""
    k, rotation = upper_times_rotation(projection[:3, :3])
    k = k / k[2, 2]
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = rotation.T @ FLIP
    c2w[:3, 3] = -torch.linalg.solve(projection[:3, :3], projection[:3, 3])
    if abs(float(k[0, 1])) > 1e-3 * float(k[0, 0]):
        raise UserError(
            f"{name}: {picture.name} has pixels that are no rectangles; expected a camera without skew"
        )
    width, height = picture_size(picture, name)
    numbers = (float(k[0, 0]), float(k[1, 1]), float(k[0, 2]) + 0.5, float(k[1, 2]) + 0.5)
    times = times_smaller(width, height, *numbers[2:])
    return Intrinsics(times * width, times * height, *numbers), c2w


def times_smaller(width: int, height: int, cx: float, cy: float) -> int:
    """Return how many times smaller a picture is than the one whose principal point (cx, cy) is: 1, 2, 3, 4 or 8."""
    across, down = 2 * cx / width, 2 * cy / height
    near = min((1, *TIMES), key=lambda times: abs(across / times - 1) + abs(down / times - 1))
    return near if max(abs(across / near - 1), abs(down / near - 1)) < MIDDLE else 1


def upper_times_rotation(matrix: Float[Tensor, "3 3"]) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3 3"]]:
    """Return the factors of a matrix or its negative: upper triangular with a positive diagonal, and a rotation."""
    # QR of the rows in reverse order gives the triangle on the other side.
    q, r = torch.linalg.qr(matrix.flip(0).T)
    upper, rotation = r.T.flip(0, 1), q.T.flip(0)
    signs = torch.diag(torch.sign(torch.diagonal(upper)))
    upper, rotation = upper @ signs, signs @ rotation
    return (upper, rotation) if torch.det(rotation) > 0 else (upper, -rotation)
