"""COLMAP's sparse models, text or binary: cameras and poses of pictures taken by a real camera.

    <folder>/sparse/0/{cameras,images,points3D}.{bin,txt}    <folder>/images/**    <folder>/masks/** (optional)

Where COLMAP could not connect all pictures it writes several models, sparse/0, sparse/1, ...: the one with the most
pictures is taken.

COLMAP's cameras look along +z with +y down (OpenCV), and its poses are world-to-camera; ours are OpenGL,
camera-to-world. Places in its pictures are counted as ours, from the top left corner. All of its camera models are
read, but for panoramas (``usd.data.lens``). Its points, with the pictures that each was found in, are depths.
"""

import re
import sqlite3
import struct
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.core.config import UserError
from usd.data.capture import TrackedPoints
from usd.data.file_names import PICTURES, Folder
from usd.data.lens import Intrinsics, LensModel
from usd.data.text_files import read_text

MODELS: dict[int, tuple[str, int]] = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
    12: ("SIMPLE_DIVISION", 4),
    13: ("DIVISION", 5),
    14: ("SIMPLE_FISHEYE", 3),
    15: ("FISHEYE", 4),
    16: ("EUCM", 6),
    17: ("EQUIRECTANGULAR", 2),
}
"""Numbers of COLMAP's camera models: name, and how many parameters."""
LEAST = 4 + 7 * 8 + 4 + 2 + 8
"""A picture takes so many bytes of images.bin at least: numbers, a name of one letter, no observations."""
PLACES = re.compile(r"(images?|input|frames|photos?|pictures|rgb)(_\d+)?", re.IGNORECASE)
"""Names of folders with pictures; those with a number hold smaller copies."""
FILES = ("images.bin", "images.txt", "cameras.bin", "cameras.txt")
ONE_FOCAL = ("SIMPLE_", "RADIAL")
"""Beginnings of the names of models with one focal length."""
LENSES: dict[str, LensModel] = {
    "OPENCV_FISHEYE": "fisheye",
    "SIMPLE_RADIAL_FISHEYE": "fisheye",
    "RADIAL_FISHEYE": "fisheye",
    "SIMPLE_FISHEYE": "fisheye",
    "FISHEYE": "fisheye",
    "FOV": "fov",
    "THIN_PRISM_FISHEYE": "thin-prism",
    "RAD_TAN_THIN_PRISM_FISHEYE": "rad-tan",
    "SIMPLE_DIVISION": "division",
    "DIVISION": "division",
    "EUCM": "eucm",
}
"""What bends the pictures of each model; OpenCV's polynomial those of the others."""
OBSERVATION = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<i8")])
"""A point of a picture in images.bin; -1 is none of the model's points."""


@dataclass(frozen=True)
class PosedPicture:
    """One picture of the model: its file name, camera number, and camera-to-world matrix (OpenGL axes).

    ``points`` are the numbers of the points that were found in it.
    """

    name: str
    camera: int
    c2w: Float[Tensor, "4 4"]
    points: Int[Tensor, "M"]


@dataclass(frozen=True)
class Model:
    """A sparse model, pictures in the order of their names. ``points`` are world positions by number."""

    cameras: dict[int, Intrinsics]
    pictures: tuple[PosedPicture, ...]
    points: dict[int, tuple[float, float, float]]
    without_camera: int = 0

    def tracked_points(self, pictures: Sequence[PosedPicture]) -> TrackedPoints | None:
        """Return the points that pictures show; None where there are none."""
        known = [
            (view, self.points[number])
            for view, picture in enumerate(pictures)
            for number in picture.points.tolist()
            if number in self.points
        ]
        if not known:
            return None
        views, places = zip(*known)
        return TrackedPoints(torch.tensor(views), torch.tensor(places, dtype=torch.float64))


def find_models(folder: Path) -> list[Path]:
    """Return the folders of all sparse models in or below ``folder``, the one with the most pictures first.

    Models that are not whole come last; of equally large ones the lower number comes first.
    """
    above = [
        folder / name for name in ("", "sparse", "colmap/sparse", "colmap", "dense/sparse", "dense/0/sparse")
    ]
    inside = [
        path for place in above if place.is_dir() for path in sorted(place.iterdir()) if path.name.isdigit()
    ]
    inside.sort(key=lambda path: int(path.name))
    places = [place for place in (*above, *inside) if any((place / name).is_file() for name in FILES)]
    if not places:
        below = {file.parent for depth in ("*", "*/*", "*/*/*") for file in folder.glob(f"{depth}/cameras.*")}
        places = [place for place in sorted(below) if any((place / name).is_file() for name in FILES)]
    return sorted(places, key=count_pictures, reverse=True)


def count_pictures(model: Path) -> int:
    """Return how many pictures a model says it has; -1 for one that is not whole."""
    for end in ("bin", "txt"):
        if not all((model / f"{part}.{end}").is_file() for part in ("cameras", "images")):
            continue
        try:
            if end == "bin":
                size = (model / "images.bin").stat().st_size
                with (model / "images.bin").open("rb") as file:
                    count = int.from_bytes(file.read(8), "little")
                return count if size >= 8 + LEAST * count else -1
            rows = [
                line for line in read_text(model / "images.txt", "replace").splitlines() if line[:1] != "#"
            ]
            return len([line for line in rows[::2] if line.strip()])
        except OSError:
            return -1
    return -1


def images_folder(path: Path, model_folder: Path, model: Model, where: str) -> Folder:
    """Return the folder with the pictures of a model: of the usual ones, that with the most of them.

    Those beside the model come first: undistorted pictures have the names of those they were made from.
    """
    above = [
        folder for folder in model_folder.absolute().parents if path.absolute() in (folder, *folder.parents)
    ]
    above += [path, *path.absolute().parents[:3]]  # a model may be named, three folders below
    places = [place / name for place in above for name in ("images", "input", "")]
    places += [
        place for place in sorted(path.iterdir()) if PLACES.fullmatch(place.name)
    ]  # tried last: of equals the first is taken
    folders = [Folder(place, where) for place in places if place.is_dir()]
    sample = model.pictures[:: max(1, len(model.pictures) // 20)]
    return max(folders, key=lambda folder: sum(folder.find(posed.name) is not None for posed in sample))


def coverage(path: Path, chosen: Path, model: Model, images: Path, present: int) -> list[str]:
    """Return what a model covers, in sentences: of the pictures in the folder and in COLMAP's database, not its own."""
    names = {posed.name for posed in model.pictures}
    on_disk = (
        {
            file
            for file in images.rglob("*")
            if file.suffix.lower() in PICTURES and not file.name.startswith(".")
        }
        if images != path
        else set()
    )
    total = max(len(names), len(on_disk) + len(names) - present, pictures_in_database(path))
    others = [f"{other.name} with {count_pictures(other)}" for other in find_models(path) if other != chosen]
    head = f"COLMAP model {chosen.name}: {present} of {total} pictures have a camera"
    lines = [f"{head}; the largest of {len(others) + 1} models, not {', '.join(others)}" if others else head]
    lost = len(names) - present
    return lines + [f"{lost} of the {len(names)} pictures of the model are not in {images.name}/"] * (
        lost > 0
    )


def pictures_in_database(path: Path) -> int:
    """Return how many pictures COLMAP was given, by ``database.db``; 0 where there is none that can be read."""
    files = [
        place / name for place in (path, path.parent) for name in ("database.db", "distorted/database.db")
    ]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return 0
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            return int(database.execute("select count(*) from images").fetchone()[0])
    except sqlite3.Error:
        return 0


def read_model(folder: Path, where: str) -> Model:
    """Return the model in ``folder``, binary if it is there. Raises ``UserError`` where it is not whole."""
    whole = [
        end
        for end in ("bin", "txt")
        if all((folder / f"{part}.{end}").is_file() for part in ("cameras", "images"))
    ]
    begun = "bin" if (folder / "images.bin").is_file() or (folder / "cameras.bin").is_file() else "txt"
    end = whole[0] if whole else begun
    for part in ("cameras", "images"):
        if not (folder / f"{part}.{end}").is_file():
            raise UserError(f"{where}: {folder}: has no {part}.{end}; expected a whole COLMAP model")
    binary = end == "bin"
    cameras = (cameras_binary if binary else cameras_text)(folder / f"cameras.{end}", where)
    pictures = (images_binary if binary else images_text)(folder / f"images.{end}", where)
    if not pictures:
        raise UserError(
            f"{where}: {folder / f'images.{end}'}: has no pictures; expected a reconstructed model"
        )
    kept = [picture for picture in pictures if picture.camera in cameras]
    if not kept:
        raise UserError(
            f"{where}: {folder}: {pictures[0].name} was taken by camera {pictures[0].camera}, which cameras.{end} does "
            "not have; expected the camera of at least one picture"
        )
    file = folder / f"points3D.{end}"
    points = (points_binary if binary else points_text)(file, where) if file.is_file() else {}
    ordered = tuple(sorted(kept, key=lambda picture: picture.name))
    return Model(cameras, ordered, points, len(pictures) - len(kept))


def intrinsics_of(model: str, width: int, height: int, values: list[float], name: str) -> Intrinsics:
    """Return a camera's numbers by the name of its model. Raises ``UserError`` for panoramas and unknown models."""
    if model not in dict(MODELS.values()) or model == "EQUIRECTANGULAR":
        raise UserError(f"{name}: is a {model} camera; expected a pinhole or a fisheye, not a panorama")
    if model.startswith(ONE_FOCAL):
        values = [values[0], *values]
    fx, fy, cx, cy, *distortion = values
    if min(fx, fy, width, height) <= 0:
        raise UserError(
            f"{name}: focal lengths {fx:g}, {fy:g} at {width} x {height} pixels; expected positive ones"
        )
    return Intrinsics(width, height, fx, fy, cx, cy, tuple(distortion), LENSES.get(model, "brown"))


def pose_of(quaternion: list[float], translation: list[float], name: str) -> Float[Tensor, "4 4"]:
    """Return OpenGL camera-to-world from COLMAP's world-to-camera quaternion (w, x, y, z) and translation.

    It is not finite where these are not, or where the quaternion is 0.
    """
    q = torch.tensor(quaternion, dtype=torch.float64)
    if bool(q.isfinite().all() and q.any()) and abs(float(q.norm()) - 1) > 0.05:
        raise UserError(f"{name}: its rotation is {quaternion}; expected a unit quaternion")
    w, x, y, z = (q / q.norm()).tolist()
    rotation = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = rotation.T @ torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    c2w[:3, 3] = -rotation.T @ torch.tensor(translation, dtype=torch.float64)
    return c2w


# -------------------------------------------------------------------------------------------------------- binary


class BinaryReader:
    """The rest of a binary file. Raises UserError that names the place where the file ends too early."""

    def __init__(self, path: Path, where: str) -> None:
        self.name, self.at = f"{where}: {path}", 0
        try:
            self.data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{self.name}: cannot be read ({error.strerror})") from error

    def take(self, form: str, what: str) -> tuple:
        """Return little-endian values as ``struct`` describes them."""
        size = struct.calcsize("<" + form)
        self.skip(size, what)
        return struct.unpack_from("<" + form, self.data, self.at - size)

    def skip(self, size: int, what: str) -> None:
        """Pass over ``size`` bytes. Raises ``UserError`` that names ``what`` where the file ends before."""
        if self.at + size > len(self.data):
            raise UserError(
                f"{self.name}: is cut short: ends at byte {len(self.data)}, within {what}; expected a whole file"
            )
        self.at += size

    def text(self, what: str) -> str:
        """Return the text up to the next zero byte."""
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise UserError(
                f"{self.name}: is cut short: ends at byte {len(self.data)}, within {what}; expected a whole file"
            )
        found, self.at = self.data[self.at : end], end + 1
        return found.decode("utf-8", "replace")


def cameras_binary(path: Path, where: str) -> dict[int, Intrinsics]:
    """Read ``cameras.bin``: a count, then (id, model, width, height, parameters)."""
    file = BinaryReader(path, where)
    (count,) = file.take("Q", "the number of cameras")
    cameras = {}
    for index in range(count):
        what = f"camera {index + 1} of {count}"
        number, model, width, height = file.take("iiQQ", what)
        if model not in MODELS:
            raise UserError(f"{file.name}: {what} is of model {model}, which is unknown; expected 0 to 17")
        name, length = MODELS[model]
        values = list(file.take(f"{length}d", what))
        cameras[number] = intrinsics_of(name, width, height, values, f"{file.name}: camera {number}")
    return cameras


def images_binary(path: Path, where: str) -> list[PosedPicture]:
    """Read ``images.bin``: a count, then (id, quaternion, translation, camera, name, observations)."""
    file = BinaryReader(path, where)
    (count,) = file.take("Q", "the number of pictures")
    pictures = []
    for index in range(count):
        what = f"picture {index + 1} of {count}"
        _, *pose, camera = file.take("i7di", what)
        name = file.text(what)
        (count_found,) = file.take("Q", what)
        file.skip(24 * count_found, what)
        found = np.frombuffer(file.data, OBSERVATION, count_found, file.at - 24 * count_found)["point"]
        points = torch.from_numpy(found[found >= 0].astype(np.int64))
        pose_there = pose_of(pose[:4], pose[4:], f"{file.name}: {name}")
        pictures.append(PosedPicture(name, camera, pose_there, points))
    return pictures


def points_binary(path: Path, where: str) -> dict[int, tuple[float, float, float]]:
    """Read ``points3D.bin``: a count, then (id, position, color, error, track)."""
    file = BinaryReader(path, where)
    (count,) = file.take("Q", "the number of points")
    points = {}
    for index in range(count):
        what = f"point {index + 1} of {count}"
        number, x, y, z = file.take("Qddd", what)
        file.skip(3 + 8, what)
        (length,) = file.take("Q", what)
        file.skip(8 * length, what)
        points[number] = (x, y, z)
    return points


# ---------------------------------------------------------------------------------------------------------- text


def _data_lines(path: Path, where: str) -> tuple[list[tuple[int, str]], int | None]:
    """Return numbered lines without comments, and the count that the head comment promises, if it does."""
    try:
        text = read_text(path, "replace")
    except OSError as error:
        raise UserError(f"{where}: {path}: cannot be read ({error.strerror})") from error
    numbered = list(enumerate(text.splitlines(), 1))
    promised = [
        line.split(":")[1].split(",")[0].strip() for _, line in numbered if line.startswith("# Number of")
    ]
    count = int(promised[0]) if promised and promised[0].isdigit() else None
    return [(number, line) for number, line in numbered if not line.startswith("#")], count


def _fields(path: Path, where: str, number: int, line: str, least: int) -> list[str]:
    parts = line.split(maxsplit=9) if least == 10 else line.split()
    if len(parts) < least:
        raise UserError(
            f"{where}: {path}: line {number} has {len(parts)} fields; expected at least {least}: is the file cut short?"
        )
    return parts


def _parse_fields(name: str, number: int, parts: list[str], kind: Callable[[str], float]) -> list:
    try:
        return [kind(part) for part in parts]
    except ValueError as error:
        raise UserError(f"{name}: line {number}: {error}; expected numbers") from error


def _refuse_cut_short(path: Path, where: str, what: str, found: int, promised: int | None) -> None:
    if promised is not None and found < promised:
        raise UserError(
            f"{where}: {path}: is cut short: has {found} of {promised} {what}; expected a whole file"
        )


def cameras_text(path: Path, where: str) -> dict[int, Intrinsics]:
    """Read ``cameras.txt``: CAMERA_ID MODEL WIDTH HEIGHT PARAMS..."""
    lines, promised = _data_lines(path, where)
    lengths = dict(MODELS.values())
    cameras = {}
    for number, line in lines:
        if not line.strip():
            continue
        parts = _fields(path, where, number, line, 5)
        name = f"{where}: {path}"
        model = parts[1]
        camera, width, height = _parse_fields(name, number, [parts[0], parts[2], parts[3]], int)
        values = _parse_fields(name, number, parts[4:], float)
        if len(values) < lengths.get(model, 0):
            raise UserError(
                f"{name}: line {number}: {model} with {len(values)} parameters; expected {lengths[model]}: "
                "is the file cut short?"
            )
        cameras[camera] = intrinsics_of(model, width, height, values, f"{name}: camera {camera}")
    _refuse_cut_short(path, where, "cameras", len(cameras), promised)
    return cameras


def images_text(path: Path, where: str) -> list[PosedPicture]:
    """Read ``images.txt``: two lines a picture, IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME and observations.

    The second line may be empty; scripts that know nothing of observations leave it away.
    """
    lines, promised = _data_lines(path, where)
    pictures, name, at = [], f"{where}: {path}", 0
    while at < len(lines):
        number, line = lines[at]
        at += 1
        if not line.strip():
            continue
        parts = _fields(path, where, number, line, 10)
        pose = _parse_fields(name, number, parts[1:8], float)
        (camera,) = _parse_fields(name, number, parts[8:9], int)
        points = torch.empty(0, dtype=torch.int64)
        if at < len(lines) and not _is_picture_line(lines[at][1]):
            found = _parse_fields(name, lines[at][0], lines[at][1].split()[2::3], int)
            points = torch.tensor([each for each in found if each >= 0], dtype=torch.int64)
            at += 1
        pose_there = pose_of(pose[:4], pose[4:], f"{name}: {parts[9]}")
        pictures.append(PosedPicture(parts[9].strip(), camera, pose_there, points))
    _refuse_cut_short(path, where, "pictures", len(pictures), promised)
    return pictures


def _is_picture_line(line: str) -> bool:
    """Return whether a line is a picture's, not one of observations: its tenth field is a name with an ending."""
    parts = line.split(maxsplit=9)
    return len(parts) == 10 and Path(parts[9].strip()).suffix.lower() in PICTURES


def points_text(path: Path, where: str) -> dict[int, tuple[float, float, float]]:
    """Read ``points3D.txt``: POINT3D_ID X Y Z R G B ERROR and the track."""
    lines, promised = _data_lines(path, where)
    points = {}
    for number, line in lines:
        if not line.strip():
            continue
        parts = _fields(path, where, number, line, 8)
        x, y, z = _parse_fields(f"{where}: {path}", number, parts[1:4], float)
        (point,) = _parse_fields(f"{where}: {path}", number, parts[:1], int)
        points[point] = (x, y, z)
    _refuse_cut_short(path, where, "points", len(points), promised)
    return points
