"""Depth maps in files beside pictures, and what they say along the rays of a pinhole.

A file's numbers are depths along the view axis, 0 where unknown: 16-bit PNG of whole numbers (millimeters of a phone's
lidar), 16-bit PNG that holds the bits of half-precision floats (CO3D), NumPy arrays, OpenEXR, or floats that LZFSE
packed.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from usd.core.errors import UserError
from usd.data.file_names import nearby
from usd.data.lens import Intrinsics, remap, source_map
from usd.data.pictures import open_picture

EXR_CHANNELS = ("Z", "V", "R", "Y")
"""Channels of an OpenEXR file that depths are looked for in: its own name for them, Blender's, red, gray."""
MILLIMETER = 1e-3
"""Meters of a whole number in the depth maps of phones and scanners."""


@dataclass(frozen=True)
class DepthFile:
    """A depth map's file. ``scale`` makes depths in world units of its numbers; ``mask`` is white where it is right.

    ``half`` is whether its numbers are the bits of half-precision floats. ``shape`` is (rows, columns) of a file that
    does not say them.
    """

    path: Path
    scale: float
    half: bool = False
    mask: Path | None = None
    shape: tuple[int, int] | None = None


def read_depth_file(file: DepthFile, where: str) -> Float[Tensor, "h w"]:
    """Return depths along the view axis in world units, 0 where unknown. Raises ``UserError``."""
    stored = _numbers(file, where)
    if stored.ndim != 2:
        raise UserError(f"{where}: {file.path}: has {stored.ndim} dimensions; expected a 16-bit gray picture")
    depth = torch.from_numpy(stored) * file.scale
    known = torch.isfinite(depth) & (depth > 0)
    if file.mask is not None:
        with open_picture(file.mask, where) as mask:
            size = stored.shape[::-1]
            right = np.array(mask.image.convert("L").resize(size, Image.Resampling.NEAREST)) > 0
        known &= torch.from_numpy(right)
    return torch.where(known, depth, torch.zeros(()))


def _numbers(file: DepthFile, where: str) -> NDArray[np.float32]:
    if file.path.suffix.lower() == ".pfm":
        return _read_pfm(file.path, where)
    if file.path.suffix.lower() == ".depth":
        return _read_lzfse(file, where)
    if file.path.suffix.lower() == ".exr":
        return _read_exr(file.path, where)
    if file.path.suffix.lower() != ".npy":
        with open_picture(file.path, where) as picture:
            stored = np.asarray(picture.image)
        return (stored.astype(np.uint16).view(np.float16) if file.half else stored).astype(np.float32)
    if not file.path.is_file():
        raise UserError(f"{where}: {file.path}: no such file; expected a depth map{nearby(file.path)}")
    try:
        return np.asarray(np.load(file.path, allow_pickle=False), dtype=np.float32).squeeze()
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{where}: {file.path}: cannot be read as an array ({error})") from error


def can_unpack() -> bool:
    """Return whether the package for LZFSE, Apple's compression, is there."""
    return find_spec("liblzfse") is not None


def _read_lzfse(file: DepthFile, where: str) -> NDArray[np.float32]:
    """Read floats, row by row, that LZFSE packed. Raises ``UserError`` for others than the shape has."""
    lzfse = import_module("liblzfse")
    try:
        unpacked = lzfse.decompress(file.path.read_bytes())
    except (OSError, lzfse.error) as error:
        raise UserError(f"{where}: {file.path}: cannot be unpacked ({error})") from error
    rows, columns = file.shape or (0, 0)
    if len(unpacked) != 4 * rows * columns:
        raise UserError(
            f"{where}: {file.path}: has {len(unpacked)} bytes; expected {rows} x {columns} floats of 4 bytes"
        )
    return np.frombuffer(unpacked, "<f4").reshape(rows, columns).astype(np.float32)


def can_read_exr() -> bool:
    """Return whether the package for OpenEXR is there; OpenCV's reader of it is built out of most of its wheels."""
    return find_spec("OpenEXR") is not None


def _read_exr(path: Path, where: str) -> NDArray[np.float32]:
    """Read the channel of depths of an OpenEXR file. Raises ``UserError``, also without the package for it."""
    if not can_read_exr():
        raise UserError(f"{where}: {path}: reading OpenEXR takes pip install 'usd[exr]'")
    try:
        with import_module("OpenEXR").File(str(path), separate_channels=True) as content:
            channels = {name.split(".")[-1]: channel.pixels for name, channel in content.channels().items()}
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{where}: {path}: cannot be read as OpenEXR ({error})") from error
    name = next((each for each in (*EXR_CHANNELS, *channels) if each in channels), None)
    if name is None:
        raise UserError(
            f"{where}: {path}: has no channels; expected one of depths, {', '.join(EXR_CHANNELS)}"
        )
    return np.asarray(channels[name], dtype=np.float32)


def _read_pfm(path: Path, where: str) -> NDArray[np.float32]:
    """Read a portable float map: a text head of three lines, then rows from the bottom up."""
    try:
        kind, size, scale, pixels = path.read_bytes().split(b"\n", 3)
        width, height = (int(word) for word in size.split())
        order = "<f4" if float(scale) < 0 else ">f4"
        rows = np.frombuffer(pixels, order, width * height).reshape(height, width)
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {path}: cannot be read as a portable float map ({error})") from error
    if kind.strip() != b"Pf":
        raise UserError(f"{where}: {path}: is a {kind[:4]!r} map; expected a gray one, Pf")
    return np.ascontiguousarray(rows[::-1], dtype=np.float32)


def depth_along_rays(
    depth: Float[Tensor, "h w"], lens: Intrinsics, pinhole: Intrinsics
) -> Float[Tensor, "H W"]:
    """Return distances along the rays of a pinhole, from depths that a picture's lens showed along the view axis.

    Depths are not mixed: each pixel takes the nearest one.
    """
    if lens.distorted:
        at = source_map(lens.resized(*depth.shape))
        depth = remap(depth[None], at, "nearest")[0] * at.valid
    size = (pinhole.height, pinhole.width)
    depth = torch.nn.functional.interpolate(depth[None, None], size, mode="nearest-exact")[0, 0]
    x = (torch.arange(pinhole.width) + 0.5 - pinhole.cx) / pinhole.fx
    y = (torch.arange(pinhole.height) + 0.5 - pinhole.cy) / pinhole.fy
    return depth * (1 + x[None] ** 2 + y[:, None] ** 2).sqrt()
