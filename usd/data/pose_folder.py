"""A folder with a text file for each pose: NSVF's scenes (arXiv 2007.11571) and ScanNet's scans (arXiv 1702.04405).

    <scene>/rgb/0_0000.png       <scene>/pose/0_0000.txt    <scene>/intrinsics.txt   <scene>/bbox.txt (NSVF)
    <scan>/color/0.jpg           <scan>/pose/0.txt          <scan>/intrinsic/intrinsic_color.txt  <scan>/depth/0.png

A pose is camera-to-world with OpenCV's axes, 16 numbers, not finite where a scan lost its way. The lens is a matrix, or
NSVF's ``f cx cy`` with lines about the scene below, or a file for each picture in ``intrinsics/``. ScanNet counts
places in a picture from the middle of the first pixel: its calibration puts pixel i at (i - cx) / fx, and its factory
lens of 640 x 480 pixels has cx = 319.5. NSVF's are taken to count from the top left corner, as ours: its own loader
has the same formula for pixel i, but the pictures are Blender's, whose axis goes through the picture's middle, and the
files say cx = 400 of 800. In NSVF's scenes names begin with 0_ for training, 1_ for validation and 2_ for the test: a
folder gives the training views, one of its files in ``pose/`` all of the same kind. Depths are millimeters along the
view axis.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from usd.core.errors import UserError
from usd.data.capture import Capture, CapturedView, lost_note
from usd.data.depth_maps import MILLIMETER, DepthFile
from usd.data.file_names import Folder
from usd.data.lens import Intrinsics
from usd.data.neus import FLIP, times_smaller
from usd.data.pictures import picture_size
from usd.data.text_files import read_text

PICTURES = ("rgb", "color", "images")
"""Folders of pictures, the first that is there."""
LENSES = ("intrinsics.txt", "intrinsic/intrinsic_color.txt", "intrinsic_color.txt")
"""Files of a lens for all pictures."""
KINDS = {"0": "training", "1": "validation", "2": "test"}
"""What the first letter of NSVF's names says."""
SCANNET = ("intrinsic_color.txt",)
"""Names of files of lenses whose principal points count from the middle of the first pixel."""
ROTATION = 1e-2
"""How far from a rotation a pose's matrix may be."""


@dataclass(frozen=True)
class PoseFolder:
    """A scene: its folder, the folder of its pictures, and the poses that are meant, in the order of their numbers."""

    root: Path
    pictures: Path
    poses: tuple[Path, ...]
    kind: str


def find_scene(path: Path) -> PoseFolder | None:
    """Return the scene in a folder, or that of a pose's file with all poses of its kind; None where there is none."""
    pose = path if path.is_file() and path.suffix == ".txt" and path.parent.name == "pose" else None
    root = path if pose is None else path.parent.parent
    files = sorted((root / "pose").glob("*.txt"), key=_in_order)
    pictures = next((root / name for name in PICTURES if (root / name).is_dir()), None)
    if not files or pictures is None or not (_lens_file(root) or (root / "intrinsics").is_dir()):
        return None
    kinds = {split_letter(file) for file in files}
    if "" in kinds:
        return PoseFolder(root, pictures, tuple(files), "")
    wanted = min(kinds) if pose is None else split_letter(pose)
    return PoseFolder(root, pictures, tuple(file for file in files if split_letter(file) == wanted), wanted)


def split_letter(file: Path) -> str:
    """Return the letter before the line in NSVF's names, ``2`` of ``2_test_0000.txt``; nothing of other names."""
    found = re.match(r"([012])_", file.name)
    return found[1] if found else ""


def _in_order(file: Path) -> tuple[list[int], str]:
    """Return a key that puts ``9.txt`` before ``10.txt``."""
    return [int(number) for number in re.findall(r"\d+", file.stem)], file.name


def _lens_file(root: Path) -> Path | None:
    return next((root / name for name in LENSES if (root / name).is_file()), None)


def read_poses(scene: PoseFolder, where: str) -> Capture:
    """Read the poses that are finite and have a picture. Raises ``UserError`` with file and reason."""
    name = f"{where}: {scene.root}"
    pictures, depths = Folder(scene.pictures, name), Folder(scene.root / "depth", name)
    found = [(file, pictures.find(file.stem)) for file in scene.poses]
    present = [(file, picture) for file, picture in found if picture is not None]
    if not present:
        raise UserError(
            f"{name}: none of its {len(found)} poses has a picture; expected "
            f"{scene.pictures.name}/{scene.poses[0].stem}.png ..."
        )
    views, lost = [], []
    for file, picture in present:
        pose, depth = read_pose(file, where), depths.find(file.stem)
        if pose is None:
            lost.append(picture.name)
            continue
        lens = read_lens(scene.root, file.stem, picture, where)
        known = None if depth is None else DepthFile(depth, MILLIMETER)
        views.append(CapturedView(picture.name, picture, lens, pose, depth=known))
    if not views:
        raise UserError(f"{name}: none of its {len(present)} cameras is finite; expected some that are")
    notes = _notes(scene, len(views), len(found), len(found) - len(present))
    notes += lost_note(lost, len(present))
    return Capture(tuple(views), tuple(notes), sphere=_sphere(scene.root, where))


def _notes(scene: PoseFolder, views: int, total: int, missing: int) -> list[str]:
    """Return how many views there are, how many were left out, and where other kinds of views are."""
    said = [f"a folder of poses: {views} {KINDS.get(scene.kind, '')} pictures".replace("  ", " ")]
    said += [f"{missing} of {total} poses have no picture"] * (missing > 0)
    others = {
        split_letter(file): file.name for file in (scene.root / "pose").glob("[012]_*.txt") if scene.kind
    }
    more = [
        f"{KINDS[kind]}: pose/{file}" for kind, file in sorted(others.items()) if kind and kind != scene.kind
    ]
    return said + ([f"other views by one of their files ({', '.join(more)})"] if more else [])


def numbers_of(file: Path, where: str) -> NDArray[np.float64]:
    """Return all numbers of a text file. Raises ``UserError`` where there is anything else."""
    try:
        return np.array(read_text(file).split(), dtype=np.float64)
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {file}: is no list of numbers ({error})") from error


def read_pose(file: Path, where: str) -> Float[Tensor, "4 4"] | None:
    """Return camera-to-world with OpenGL's axes; None where it is not finite. Raises ``UserError``."""
    numbers = numbers_of(file, where)
    if len(numbers) not in (12, 16):
        raise UserError(f"{where}: {file}: has {len(numbers)} numbers; expected 4 x 4, camera-to-world")
    if not np.isfinite(numbers).all():
        return None
    pose = torch.eye(4, dtype=torch.float64)
    pose[: len(numbers) // 4] = torch.from_numpy(numbers).view(-1, 4)
    rotation = pose[:3, :3]
    off = (rotation.T @ rotation - torch.eye(3, dtype=torch.float64)).abs().max()
    if float(off) > ROTATION or float(torch.det(rotation)) < 0:
        raise UserError(
            f"{where}: {file}: its 3 x 3 part is not a rotation; expected camera-to-world, OpenCV's axes"
        )
    pose[:3, :3] = rotation @ FLIP
    return pose


def read_lens(root: Path, stem: str, picture: Path, where: str) -> Intrinsics:
    """Return a picture's lens: its own file's, or that of all. Raises ``UserError``."""
    own = root / "intrinsics" / f"{stem}.txt"
    file = own if own.is_file() else _lens_file(root)
    if file is None:
        raise UserError(f"{where}: {own}: no such file; expected the lens of {picture.name}")
    fx, fy, cx, cy = _focals(numbers_of(file, where), f"{where}: {file}")
    half = 0.5 if file.name in SCANNET else 0.0
    cx, cy = cx + half, cy + half
    width, height = picture_size(picture, where)
    times = times_smaller(width, height, cx, cy)
    return Intrinsics(times * width, times * height, fx, fy, cx, cy)


def _focals(numbers: NDArray[np.float64], name: str) -> Sequence[float]:
    """Return fx, fy, cx, cy of a matrix, or of NSVF's ``f cx cy 0`` before its 3 + 1 + 1 + 2 other numbers."""
    side = {9: 3, 12: 4, 16: 4}.get(len(numbers))
    if side is not None:
        matrix = numbers.reshape(-1, side)
        found = [matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]
    elif len(numbers) in (3, 4, 11):
        found = [numbers[0], numbers[0], numbers[1], numbers[2]]
    else:
        raise UserError(
            f"{name}: has {len(numbers)} numbers; expected a matrix of 3 x 3 or 4 x 4, or f cx cy"
        )
    if not np.isfinite(found).all() or min(found[:2]) <= 0:
        raise UserError(
            f"{name}: has focal lengths {found[0]:g}, {found[1]:g}; expected positive numbers of pixels"
        )
    return [float(each) for each in found]


def _sphere(root: Path, where: str) -> tuple[Float[Tensor, "3"], float] | None:
    """Return the ball about NSVF's box of the object, its two corners and the size of a voxel; None without one."""
    if not (root / "bbox.txt").is_file():
        return None
    numbers = numbers_of(root / "bbox.txt", where)
    if len(numbers) < 6 or not np.isfinite(numbers[:6]).all():
        raise UserError(f"{where}: {root / 'bbox.txt'}: has {len(numbers)} numbers; expected two corners")
    low, high = torch.from_numpy(numbers[:6]).view(2, 3)
    return (low + high) / 2, float((high - low).norm() / 2)
