"""Zero-1-to-3's layout of views (arXiv 2303.11328): the one its training pictures are stored in.

    <object>/000.png  <object>/000.npy      RGBA, and the 3 x 4 world-to-camera matrix, Blender's (OpenGL) axes
    <object>/001.png  <object>/001.npy  ...

The lens is 35 mm on a sensor of 32 mm: 49.13 degrees. The world is +z up, the object's longest side 1, as ours.
"""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import UserError
from usd.data.pictures import read_pictures, write_picture, write_whole
from usd.data.view_set import ViewSet, same_size, view_set
from usd.math.camera import Cameras

FOV = 2 * math.atan(16 / 35)


def find_views(path: Path) -> Path | None:
    """Return the folder, if it holds numbered matrices; None otherwise."""
    return path if path.is_dir() and _matrices(path) else None


def _matrices(folder: Path) -> list[Path]:
    return _numbered(folder, ".npy")


def _numbered(folder: Path, ending: str) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() == ending and file.stem.isdigit())


def read_views(folder: Path, where: str, size: int | None = None) -> ViewSet:
    """Return all numbered views of an object. Raises UserError where a picture or a matrix is missing or not one."""
    matrices = _matrices(folder)
    found = {file.stem: file for file in _numbered(folder, ".png")}
    known = {matrix.stem for matrix in matrices}
    missing = [f"{matrix.stem}.png" for matrix in matrices if matrix.stem not in found]
    for name in missing + [f"{stem}.npy" for stem in found if stem not in known]:
        raise UserError(f"{where}: {folder}: has no {name}; expected a picture and a matrix for each number")
    files = [found[matrix.stem] for matrix in matrices]
    names = [file.name for file in files]
    pictures, remarks = read_pictures(files, where, size)
    pictures = same_size(pictures, names, size, f"{where}: {folder}")
    height, width = pictures[0].shape[-2:]
    fov_y = 2 * math.atan(math.tan(FOV / 2) * height / max(height, width))
    c2w = torch.stack([camera_to_world(matrix, where) for matrix in matrices])
    cameras = Cameras(c2w, torch.full((len(c2w),), fov_y), height, width)
    head = f"Zero-1-to-3's views: {len(names)}, field of view 49.13 degrees"
    return view_set(pictures, cameras, names, [head, *remarks])


def camera_to_world(file: Path, where: str) -> Float[Tensor, "4 4"]:
    """Return the camera-to-world matrix of a stored world-to-camera one."""
    try:
        matrix = torch.from_numpy(np.asarray(np.load(file, allow_pickle=False), dtype=np.float32))
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{where}: {file}: cannot be read as a matrix ({error}); expected 3 x 4 numbers"
        ) from error
    if matrix.shape not in ((3, 4), (4, 4)) or not torch.isfinite(matrix).all():
        raise UserError(f"{where}: {file}: is of shape {tuple(matrix.shape)}; expected 3 x 4 finite numbers")
    rotation = matrix[:3, :3]
    if not torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-2) or torch.det(rotation) < 0:
        raise UserError(f"{where}: {file}: its 3 x 3 part is not a rotation; expected world-to-camera")
    c2w = torch.eye(4)
    c2w[:3, :3], c2w[:3, 3] = rotation.T, -rotation.T @ matrix[:3, 3]
    return c2w


def write_views(views: ViewSet, folder: Path) -> list[Path]:
    """Write numbered pictures and matrices. The views must have this layout's field of view."""
    matrices = views.cameras.world_to_camera()[:, :3].cpu().numpy()
    written = []
    for index, (picture, matrix) in enumerate(zip(views.rgba, matrices, strict=True)):
        written.append(write_picture(folder / f"{index:03d}.png", picture))
        with write_whole(folder / f"{index:03d}.npy") as file:
            np.save(file, matrix)
        written.append(folder / f"{index:03d}.npy")
    return written
