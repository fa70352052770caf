"""SyncDreamer's output (arXiv 2309.03453): one PNG strip of 16 views over white, without a camera file.

    <output>/<sample>.png     16 square views side by side, 256 pixels each

The cameras are the published ones: every 22.5 degrees from the azimuth of the input picture, all 30 degrees up,
distance 1.5, focal length 280 at 256 pixels. View 0 shares the input picture's azimuth, not its elevation.
"""

from pathlib import Path

import torch

from usd.core.config import UserError
from usd.data.pictures import over, picture_size, read_picture, write_picture
from usd.data.view_set import ViewSet, view_set
from usd.math.view_groups import SYNCDREAMER_VIEWS, syncdreamer_cameras

VIEWS, target_cameras = SYNCDREAMER_VIEWS, syncdreamer_cameras


def find_strip(path: Path) -> Path | None:
    """Return the strip meant by a PNG or a folder of samples (the first by name); None if there is none."""
    return next((file for file in ([path] if path.is_file() else _samples(path)) if _is_strip(file)), None)


def _samples(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix.lower() == ".png"]
    return sorted(files, key=lambda file: (len(file.stem), file.stem))


def _is_strip(file: Path) -> bool:
    try:
        width, height = picture_size(file, "")
    except UserError:
        return False
    return width == VIEWS * height


def read_strip(file: Path, where: str) -> ViewSet:
    """Return the 16 views in the system's own frame: the input picture at azimuth 0. Opaque pictures over white."""
    read = read_picture(file, where)
    strip = read.rgba
    height, width = strip.shape[-2:]
    if width != VIEWS * height:
        raise UserError(
            f"{where}: {file}: is {width} x {height} pixels; expected {VIEWS} square views side by side"
        )
    names = [f"{file.name}[{i}]" for i in range(VIEWS)]
    note = f"SyncDreamer's strip {file.name}: 16 views, cameras as published"
    return view_set(list(strip.split(height, dim=-1)), target_cameras(height), names, [note, *read.notes])


def write_strip(views: ViewSet, folder: Path, name: str = "0") -> list[Path]:
    """Write ``<folder>/<name>.png``. The views must be those of ``target_cameras``, in their order."""
    strip = torch.cat([over(picture) for picture in views.rgba], dim=-1)
    return [write_picture(folder / f"{name}.png", strip)]
