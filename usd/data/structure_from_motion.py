"""Cameras for pictures that have none, by COLMAP (the package ``pycolmap``), and sharp pictures out of a video.

The result is the layout that ``usd.data.colmap`` reads: ``images/`` and ``sparse/0``.
"""

import shutil
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from usd.core.errors import UserError
from usd.core.progress import Work, counted, each
from usd.data.file_names import PICTURES, nearby
from usd.data.pictures import picture_size

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
EXHAUSTIVE = 80
"""Up to so many pictures, each is matched with every other one; frames of longer videos with their neighbors."""
LEAST = 3


@runtime_checkable
class Reconstruction(Protocol):
    """A model that COLMAP made."""

    def num_reg_images(self) -> int:
        """Return how many pictures have a camera."""
        ...

    def write_binary(self, folder: str, /) -> None:
        """Write the model."""
        ...


@runtime_checkable
class Pycolmap(Protocol):
    """The functions of the package that are used."""

    def extract_features(self, database: Path, images: Path, /, *, camera_mode: str) -> None:
        """Find points in all pictures."""
        ...

    def match_exhaustive(self, database: Path, /) -> None:
        """Compare every picture with every other one."""
        ...

    def match_sequential(self, database: Path, /) -> None:
        """Compare every picture with its neighbors."""
        ...

    def incremental_mapping(
        self, database: Path, images: Path, out: Path, /, *, next_image_callback: Callable[[], None]
    ) -> Mapping[int, Reconstruction]:
        """Find cameras and points; the callback is called for each picture that has found its place."""
        ...

    def set_random_seed(self, seed: int, /) -> None:
        """Make runs alike."""
        ...


def find_poses(images: Path, out: Path, ordered: bool) -> tuple[int, int]:
    """Write ``sparse/0`` for the pictures in a folder; return how many have a camera, of how many.

    ``ordered`` is whether they are frames of a video. Raises ``UserError`` where no camera is found.
    """
    colmap = _pycolmap()
    files = [file for file in images.rglob("*") if file.suffix.lower() in PICTURES]
    total = len(files)
    if total < LEAST:
        raise UserError(
            f"source: {images}: has {total} pictures; expected at least {LEAST}, taken around something"
        )
    database = out / "database.db"
    database.unlink(missing_ok=True)
    colmap.set_random_seed(0)
    # All pictures of one camera share their lens, which is then known much better.
    one = len({picture_size(file, "source") for file in files}) == 1
    with Work("comparing pictures", 2) as work:
        work.show(0, f"points in {total} pictures")
        colmap.extract_features(database, images, camera_mode="SINGLE" if one else "AUTO")
        work.show(1, f"pairs of {total} pictures")
        match = colmap.match_sequential if ordered and total > EXHAUSTIVE else colmap.match_exhaustive
        match(database)
    sparse = out / "sparse"
    shutil.rmtree(sparse, ignore_errors=True)
    sparse.mkdir(parents=True)
    with Work("finding cameras", total) as work:
        found = colmap.incremental_mapping(
            database, images, sparse, next_image_callback=counted(lambda: None, work, lambda: 1)
        )
    models = sorted(found.values(), key=_count_of, reverse=True)
    if not models:
        raise UserError(
            f"source: {images}: COLMAP found no cameras for its {total} pictures; expected sharp ones of something "
            "with texture, each sharing most of what it shows with the next"
        )
    return models[0].num_reg_images(), total


def _count_of(model: Reconstruction) -> int:
    return model.num_reg_images()


def _pycolmap() -> Pycolmap:
    try:
        return cast(Pycolmap, import_module("pycolmap"))
    except ImportError as error:
        raise UserError("usd poses: needs the package pycolmap; expected pip install 'usd[poses]'") from error


def write_frames(video: Path, folder: Path, count: int) -> list[Path]:
    """Write the sharpest frame of each of ``count`` equal stretches of a video as JPEGs. Raises ``UserError``."""
    import cv2

    stream = cv2.VideoCapture(str(video))
    total = int(stream.get(cv2.CAP_PROP_FRAME_COUNT)) if stream.isOpened() else 0
    if total < 1:
        raise UserError(
            f"source: {video}: cannot be read as a video; expected {', '.join(VIDEOS)}{nearby(video)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    best: dict[int, float] = {}
    written = []
    for index in each(range(total), "choosing sharp frames"):
        found, frame = stream.read()
        if not found:
            break
        stretch = index * count // total if count < total else index
        blur = sharpness(np.asarray(frame, dtype=np.uint8))
        if blur > best.get(stretch, -1.0):
            best[stretch] = blur
            file = folder / f"{stretch + 1:05d}.jpg"
            cv2.imwrite(str(file), frame, [cv2.IMWRITE_JPEG_QUALITY, 95])
            written.append(file)
    stream.release()
    return sorted(set(written))


def sharpness(frame: NDArray[np.uint8]) -> float:
    """Return the variance of a picture's Laplacian: motion blur makes it small (Pech-Pacheco et al. 2000)."""
    import cv2

    return float(cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), cv2.CV_64F).var())
