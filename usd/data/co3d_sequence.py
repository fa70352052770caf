"""A sequence of CO3D (arXiv 2109.00512): a video around an object with cameras, masks and depths.

    <root>/<category>/frame_annotations.jgz            gzipped JSON: a list of frames of all sequences
    <root>/<category>/<sequence>/images/frame000001.jpg    .../masks/frame000001.png    .../depths/...geometric.png

Cameras are PyTorch3D's: x points left, z ahead, x_camera = x_world R + T for row vectors. Focal lengths and
principal points are in its normalized coordinates, whose unit is half the shorter side (version 2 of the data set) or
half of each side (version 1). Depths are half-precision floats whose bits a 16-bit PNG holds, along the view axis.
"""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from usd.core.errors import UserError, listing
from usd.data.capture import Capture, CapturedView
from usd.data.depth_maps import DepthFile, read_depth_file
from usd.data.lens import Intrinsics
from usd.data.pictures import over, write_picture, write_whole
from usd.data.view_set import ViewSet
from usd.math.camera import Cameras

ANNOTATIONS = "frame_annotations.jgz"


@dataclass(frozen=True)
class Co3dFrame:
    """A frame's files (None where there are none), and its camera; ``depth_scale`` multiplies stored depths."""

    name: str
    picture: Path
    mask: Path | None
    depth: Path | None
    depth_scale: float
    depth_mask: Path | None
    camera: Intrinsics
    c2w: Float[Tensor, "4 4"]


def is_sequence(path: Path) -> bool:
    """Return whether a folder looks like a sequence: pictures, and annotations in the folder above."""
    return (path / "images").is_dir() and (path.absolute().parent / ANNOTATIONS).is_file()


def read_sequence(folder: Path, where: str) -> tuple[Co3dFrame, ...]:
    """Read the frames of a sequence's folder. Raises ``UserError`` with file and reason."""
    folder = folder.absolute()
    file = folder.parent / ANNOTATIONS
    if (folder / ANNOTATIONS).is_file():
        inside = sorted(each.name for each in folder.iterdir() if (each / "images").is_dir())
        raise UserError(
            f"{where}: {folder}: is a category; expected a sequence in it: {listing(inside[:8]) or 'none'}"
        )
    if not file.is_file():
        raise UserError(f"{where}: {folder}: is no sequence of CO3D; expected {file}")
    entries = [entry for entry in _read_annotations(file, where) if entry.get("sequence_name") == folder.name]
    if not entries:
        raise UserError(f"{where}: {file}: has no frames of {folder.name}; expected the sequence's name")
    frames = [_frame(entry, folder.parent.parent, f"{where}: {file}") for entry in entries]
    return tuple(sorted(frames, key=lambda frame: frame.name))


def _read_annotations(file: Path, where: str) -> list[Mapping[str, object]]:
    try:
        with gzip.open(file, "rt", encoding="utf-8") as text:
            entries = json.load(text)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{where}: {file}: cannot be read as gzipped JSON ({error})") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{where}: {file}: holds no list of frames; expected CO3D's annotations")
    return entries


def _frame(entry: Mapping[str, object], root: Path, where: str) -> Co3dFrame:
    image, viewpoint = _annotation(entry, "image", where), _annotation(entry, "viewpoint", where)
    name = f"{where}: {image.get('path')}"
    height, width = (round(value) for value in _vector(image, "size", 2, name))
    depth, mask = entry.get("depth"), entry.get("mask")
    depth, mask = (each if isinstance(each, dict) else {} for each in (depth, mask))
    return Co3dFrame(
        str(image.get("path")),
        root / str(image.get("path")),
        _file(mask, "path", root),
        _file(depth, "path", root),
        float(depth.get("scale_adjustment") or 1.0),
        _file(depth, "mask_path", root),
        _intrinsics(viewpoint, height, width, name),
        _pose(viewpoint, name),
    )


def _annotation(entry: Mapping[str, object], key: str, where: str) -> Mapping[str, object]:
    section = entry.get(key)
    if not isinstance(section, dict):
        raise UserError(
            f"{where}: frame {entry.get('frame_number')} has no {key}; expected CO3D's annotations"
        )
    return section


def _file(section: Mapping[str, object], key: str, root: Path) -> Path | None:
    named = section.get(key)
    return root / named if isinstance(named, str) and named and (root / named).is_file() else None


def _vector(section: Mapping[str, object], key: str, length: int, name: str) -> list[float]:
    values = np.asarray(section.get(key), dtype=object).ravel()
    if len(values) != length or not all(isinstance(value, int | float) for value in values):
        raise UserError(f"{name}: {key} is {section.get(key)}; expected {length} numbers")
    return [float(value) for value in values]


def _intrinsics(viewpoint: Mapping[str, object], height: int, width: int, name: str) -> Intrinsics:
    """Return a pinhole in pixels from normalized numbers."""
    kind = viewpoint.get("intrinsics_format", "ndc_norm_image_bounds")
    units = {"ndc_isotropic": (min(height, width),) * 2, "ndc_norm_image_bounds": (width, height)}
    if kind not in units:
        raise UserError(f"{name}: intrinsics_format is {kind}; expected {listing(sorted(units))}")
    half_x, half_y = (unit / 2 for unit in units[str(kind)])
    (fx, fy), (px, py) = (_vector(viewpoint, key, 2, name) for key in ("focal_length", "principal_point"))
    if min(fx, fy) <= 0:
        raise UserError(f"{name}: focal_length is {fx:g}, {fy:g}; expected positive numbers")
    return Intrinsics(
        width, height, fx * half_x, fy * half_y, width / 2 - px * half_x, height / 2 - py * half_y
    )


def _pose(viewpoint: Mapping[str, object], name: str) -> Float[Tensor, "4 4"]:
    """Return OpenGL camera-to-world: its camera's x and z are the negatives of PyTorch3D's."""
    rotation = torch.tensor(_vector(viewpoint, "R", 9, name), dtype=torch.float64).view(3, 3)
    translation = torch.tensor(_vector(viewpoint, "T", 3, name), dtype=torch.float64)
    off = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max()
    if float(off) > 1e-2:  # not so where it is no number
        raise UserError(f"{name}: R is no rotation; expected CO3D's viewpoint")
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = rotation * torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)
    c2w[:3, 3] = -rotation @ translation
    return c2w.float()


def read_depth(frame: Co3dFrame, where: str) -> Float[Tensor, "h w"]:
    """Return depths along the view axis in the sequence's units, 0 where unknown. Raises ``UserError``."""
    if frame.depth is None:
        raise UserError(f"{where}: {frame.name}: has no depth map; expected one")
    return read_depth_file(depth_file(frame, frame.depth), where)


def depth_file(frame: Co3dFrame, path: Path) -> DepthFile:
    """Return how a frame's depth map is kept."""
    return DepthFile(path, frame.depth_scale, half=True, mask=frame.depth_mask)


def read_capture(folder: Path, where: str) -> Capture:
    """Read the frames of a sequence's folder. Those whose picture is missing are left out and counted."""
    frames = read_sequence(folder, where)
    present = [frame for frame in frames if frame.picture.is_file()]
    if not present:
        raise UserError(f"{where}: {frames[0].picture}: no such file; expected the pictures of the sequence")
    notes = [f"sequence {folder.name} of CO3D: {len(present)} frames"]
    if lost := len(frames) - len(present):
        notes.append(f"{lost} of {len(frames)} frames have no picture")
    views = [
        CapturedView(
            frame.name,
            frame.picture,
            frame.camera,
            frame.c2w.double(),
            frame.mask,
            None if frame.depth is None else depth_file(frame, frame.depth),
        )
        for frame in present
    ]
    return Capture(tuple(views), tuple(notes), arbitrary=True)


def write_depth(path: Path, depth: Float[Tensor, "h w"]) -> None:
    """Write depths as CO3D keeps them."""
    Image.fromarray(depth.numpy().astype(np.float16).view(np.uint16)).save(path)


def write_sequence(views: ViewSet, folder: Path) -> list[Path]:
    """Write views as the only sequence of a category, the folder above: pictures over white, masks and annotations."""
    folder = folder.absolute()
    above, frames, written = f"{folder.parent.name}/{folder.name}", [], []
    for index, (picture, name) in enumerate(zip(views.rgba, frame_names(len(views)), strict=True)):
        written += [
            write_picture(folder / f"images/{name}", over(picture)),
            write_picture(folder / f"masks/{name}", picture[3:]),
        ]
        frames.append(
            {
                "sequence_name": folder.name,
                "frame_number": index,
                "image": {"path": f"{above}/images/{name}", "size": list(picture.shape[-2:])},
                "mask": {"path": f"{above}/masks/{name}", "mass": float(picture[3].sum())},
                "viewpoint": viewpoint_of(views.cameras[[index]]),
            }
        )
    file = folder.parent / ANNOTATIONS
    with write_whole(file) as partial:
        partial.write_bytes(gzip.compress(json.dumps(frames).encode(), mtime=0))
    return [file, *written]


def frame_names(count: int) -> list[str]:
    """Return the names of a sequence's pictures."""
    return [f"frame{number:06d}.png" for number in range(1, count + 1)]


def viewpoint_of(camera: Cameras) -> dict[str, object]:
    """Return one pinhole as PyTorch3D's numbers, in the units of version 2."""
    c2w, half = camera.c2w[0].double().cpu(), min(camera.height, camera.width) / 2
    middle = torch.tensor([camera.width / 2, camera.height / 2])
    beside = (middle - camera.principal_point[0].cpu()) / half
    rotation = c2w[:3, :3] * torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)
    return {
        "R": rotation.tolist(),
        "T": (-rotation.T @ c2w[:3, 3]).tolist(),
        "focal_length": (camera.focals[0] / half).tolist(),
        "principal_point": beside.tolist(),
        "intrinsics_format": "ndc_isotropic",
    }
