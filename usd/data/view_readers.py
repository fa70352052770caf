"""From a folder to views: whichever of the known layouts it has.

    transforms.json                nerfstudio, Blender (also transforms_train.json, transforms_test.json)
    sparse/0/images.bin|txt        a COLMAP model, with images/ and perhaps masks/
    images/ below a category       a sequence of CO3D
    save/it<step>-<name>/          the trial folder of an image-to-3D run: its newest rendered views
    <strip>.png                    SyncDreamer's 16 views
    normals_000_front.png ...      Wonder3D's 6 orthographic views with normals
    000.npy, 000.png ...           Zero-1-to-3's views
    1000022                        the toy of that seed, rendered here

The order is the order in which they are looked for.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import UserError, option
from usd.core.places import command
from usd.core.registry import import_custom
from usd.data import co3d_sequence, colmap, syncdreamer, wonder3d, zero123_views
from usd.data.file_names import PICTURES, Folder
from usd.data.lens import Intrinsics, rectify
from usd.data.masks import MaskPolicy, Pictures, apply_masks
from usd.data.pictures import read_pictures
from usd.data.toy_views import render_toy_views, sphere_cameras, toy_seed
from usd.data.transforms import Frame, read_transforms
from usd.data.view_set import ViewSet, fit_world, rotate_world, same_size, view_set
from usd.math.camera import Cameras, join_cameras

LAYOUTS = (
    "transforms.json, a COLMAP model (sparse/0), a trial folder, "
    "a CO3D sequence, or the output of SyncDreamer, Wonder3D or Zero-1-to-3"
)


@dataclass(frozen=True)
class ViewOptions:
    """Options of reading a folder of views."""

    masks: MaskPolicy = option(
        "auto",
        "source of masks: auto, alpha, files (beside the pictures), background (a plain color), none",
    )
    size: int | None = option(
        None, "longest side of the pictures after resampling; null: as they are", ge=1, le=16384
    )
    frame: Literal["auto", "keep", "fit"] = option(
        "auto",
        "world of the views. fit: center the object, turn mean up to +z, scale its bounding radius to 0.5; "
        "keep: the file's world; "
        "auto: fit for COLMAP and CO3D, whose worlds are arbitrary, keep for all others",
    )
    input_azimuth_deg: float = option(
        0.0,
        "azimuth in degrees from which the input of SyncDreamer's and Wonder3D's views is taken to come",
        ge=-360,
        le=360,
    )
    trial_views: str | None = option(
        None, "rendered views to take of a trial (`test`, `turntable`, ...); null: turntable, else test"
    )
    toy_views: int = option(64, "number of views of a toy, spread over the sphere", ge=1, le=100000)
    toy_size: int = option(128, "pixels a side of a toy's views", ge=1, le=4096)


def read_views(source: "str | Path", options: ViewOptions, where: str = "data.path") -> ViewSet:
    """Return the views in ``source``. Raises UserError with file and reason; what was assumed stands in the notes."""
    seed = toy_seed(str(source))
    if seed is not None and not Path(source).exists():
        return render_toy_views(seed, sphere_cameras(options.toy_views, options.size or options.toy_size))
    path = Path(source)
    if not path.exists():
        raise UserError(f"{where}: {path}: no such file or folder; expected {LAYOUTS}, or a toybox seed")
    views, fits = _read_layout(path, options, where)
    wanted = fits if options.frame == "auto" else options.frame == "fit"
    return fit_world(views, where=f"{where}: {path}") if wanted else views


ViewReader = Callable[[Path, ViewOptions, str], "ViewSet | None"]
CUSTOM_LAYOUTS: dict[str, ViewReader] = {}


def register_layout(name: str) -> Callable[[ViewReader], ViewReader]:
    """Decorate the reader of a layout: (path, options, where) -> its views, or None where the path has another layout.

    Files of ``custom/layouts/`` use it; their layouts are looked for before the known ones.
    """

    def decorate(reader: ViewReader) -> ViewReader:
        CUSTOM_LAYOUTS[name] = reader
        return reader

    return decorate


def _read_layout(path: Path, options: ViewOptions, where: str) -> tuple[ViewSet, bool]:
    """Return the views, and whether their world is arbitrary."""
    import_custom("layouts")
    for reader in CUSTOM_LAYOUTS.values():
        if (views := reader(path, options, where)) is not None:
            return views, False
    if transforms := find_transforms(path):
        return read_transforms_views(transforms, options, where), False
    if path.is_dir() and (models := colmap.find_models(path)):
        return read_colmap_views(path, models[0], options, where), True
    if co3d_sequence.is_sequence(path):
        return read_co3d_views(path, options, where), True
    if is_trial(path):
        return read_trial_views(path, options, where), False
    if scene := wonder3d.find_scene(path):
        views = _at_size(wonder3d.read_scene(scene, where), options)
        return rotate_world(views, math.radians(options.input_azimuth_deg + 90)), False
    if folder := zero123_views.find_views(path):
        return zero123_views.read_views(folder, where, options.size), False
    if strip := syncdreamer.find_strip(path):
        return _syncdreamer(strip, options, where), False
    raise UserError(_no_layout(path, where))


def _no_layout(path: Path, where: str) -> str:
    if path.is_file():
        return f"{where}: {path}: is not a file of cameras or views; expected {LAYOUTS}"
    count = sum(1 for file in path.rglob("*") if file.suffix.lower() in PICTURES)
    found = (
        f"has {count} picture{'s' * (count != 1)} but no cameras"
        if count
        else "holds neither pictures nor cameras"
    )
    return f"{where}: {path}: {found}; expected {LAYOUTS}"


def _at_size(views: ViewSet, options: ViewOptions) -> ViewSet:
    return views if options.size is None else views.resized(options.size, options.size)


def _syncdreamer(strip: Path, options: ViewOptions, where: str) -> ViewSet:
    views = syncdreamer.read_strip(strip, where)
    return rotate_world(
        _at_size(_with_masks(views, [None] * len(views), options.masks, where), options),
        math.radians(options.input_azimuth_deg),
    )


def _with_masks(views: ViewSet, files: list[Path | None], policy: MaskPolicy, where: str) -> ViewSet:
    pictures, known, notes = apply_masks(list(views.rgba), views.names, files, policy, where)
    made = view_set(pictures, views.cameras, views.names, [*views.notes, *notes])
    return replace(made, masked=known)


# ----------------------------------------------------------------------------------------------------- transforms


def find_transforms(path: Path) -> Path | None:
    """Return the cameras' file meant by a path: itself, or the usual names in a folder."""
    if path.is_file():
        return path if path.suffix.lower() == ".json" else None
    names = ("transforms.json", "transforms_train.json", "transforms_test.json")
    files = Folder(path, str(path))
    return next((file for name in names if (file := files.find(name))), None)


def read_transforms_views(file: Path, options: ViewOptions, where: str, interval: int = 1) -> ViewSet:
    """Read the frames of a transforms.json that have a picture; masks from ``mask_path``, ``masks/`` or alpha.

    With an ``interval``, only every so many frames are read.
    """
    frames = read_transforms(file, where, lenses=True)[::interval]
    shown = [frame for frame in frames if frame.picture is not None]
    lost = next((frame.file_path for frame in frames if frame.picture is None), "")
    beside = Folder(file.parent, f"{where}: {file}")
    if not shown:
        raise UserError(
            f"{where}: {file}: none of its {len(frames)} pictures exist ({lost or 'no file_path'}); expected them "
            f"beside it{beside.nearest(lost)}"
        )
    notes = _missing(len(frames) - len(shown), len(frames), lost, beside.other_ending(lost))
    names = [frame.file_path for frame in shown]
    shapes = [(frame.camera.width, frame.camera.height) for frame in shown]
    files = [frame.picture for frame in shown if frame.picture is not None]
    pictures, remarks = read_pictures(files, f"{where}: {file}", options.size, shapes)
    notes += remarks
    folder = Folder(file.parent / "masks", f"{where}: {file}")
    masks = [frame.mask or _mask_of(folder, Path(frame.file_path.replace("\\", "/")).name) for frame in shown]
    if bent := sum(frame.lens is not None for frame in shown):
        head = f"{bent} of {len(shown)} pictures made those of plain pinholes (undistorted, cropped about the middle)"
        captured = _captured(shown, pictures, masks, f"{where}: {file}")
        return captured.rectified(options, f"{where}: {file}", [*notes, head])
    pictures = same_size(pictures, names, options.size, f"{where}: {file}")
    cameras = _one_batch([frame.camera for frame in shown], pictures[0].shape, names, f"{where}: {file}")
    return _with_masks(view_set(pictures, cameras, names, notes), masks, options.masks, f"{where}: {file}")


@dataclass(frozen=True)
class CapturedViews:
    """Pictures as real cameras took them: their names, the files of their masks, lenses, and poses (V, 4, 4)."""

    pictures: Pictures
    names: list[str]
    masks: list[Path | None]
    lenses: list[Intrinsics]
    poses: Float[Tensor, "V 4 4"]

    def rectified(self, options: ViewOptions, where: str, notes: Sequence[str]) -> ViewSet:
        """Return the views as plain pinholes take them, with masks as the options say."""
        pictures, known, more = apply_masks(self.pictures, self.names, self.masks, options.masks, where)
        cut = [
            rectify(picture, lens, f"{where}: {name}")
            for picture, lens, name in zip(pictures, self.lenses, self.names)
        ]
        pictures = same_size([picture for picture, _ in cut], self.names, options.size, where)
        cameras = Cameras(self.poses, torch.tensor([fov for _, fov in cut]), *pictures[0].shape[-2:])
        return replace(view_set(pictures, cameras, self.names, [*notes, *more]), masked=known)


def _captured(frames: list[Frame], pictures: Pictures, masks: list[Path | None], where: str) -> CapturedViews:
    """Return views of which some were taken by other cameras than plain pinholes."""
    if any(frame.camera.span_y is not None for frame in frames):
        raise UserError(f"{where}: has pinhole and orthographic cameras; expected one kind")
    lenses = [frame.lens or _plain_lens(frame.camera) for frame in frames]
    poses = torch.cat([frame.camera.c2w for frame in frames])
    return CapturedViews(pictures, [frame.file_path for frame in frames], masks, lenses, poses)


def _plain_lens(camera: Cameras) -> Intrinsics:
    """Return the numbers of a plain pinhole."""
    focal, height, width = float(camera.focal_px), camera.height, camera.width
    return Intrinsics(width, height, focal, focal, width / 2, height / 2)


def _one_batch(cameras: list[Cameras], shape: torch.Size, names: list[str], where: str) -> Cameras:
    """Return all cameras at the pictures' size. Raises UserError where a camera's shape is not its picture's."""
    height, width = shape[-2:]
    for name, camera in zip(names, cameras):
        if abs(camera.height * width - camera.width * height) > max(
            height, width, camera.height, camera.width
        ):
            raise UserError(
                f"{where}: {name}: its camera is {camera.width} x {camera.height} but its picture {width} x {height} "
                "pixels; expected the same shape"
            )
    if len({camera.span_y is None for camera in cameras}) > 1:
        raise UserError(f"{where}: has pinhole and orthographic cameras; expected one kind")
    return join_cameras([camera.resize(height, width) for camera in cameras])


def _missing(count: int, total: int, name: str, other: str | None) -> list[str]:
    """Return a note where some frames have no picture; ``other`` is the file that may have been meant."""
    hint = f" ({name}; did you mean '{other}'?)" if other else ""
    return [f"{count} of {total} frames have no picture{hint}"] if count else []


def _mask_of(masks: Folder, name: str) -> Path | None:
    """Return the mask of the picture ``name``: the same name, with ``.png`` behind it or in place of its ending."""
    candidates = (name, f"{name}.png", str(Path(name).with_suffix(".png")))
    return next((file for candidate in candidates if (file := masks.find(candidate))), None)


# --------------------------------------------------------------------------------------------------------- COLMAP


def read_colmap_views(path: Path, model_folder: Path, options: ViewOptions, where: str) -> ViewSet:
    """Return the pictures of a COLMAP model, undistorted and cropped about their principal points."""
    model = colmap.read_model(model_folder, where)
    images = colmap.images_folder(path, model, f"{where}: {path}")
    found = {posed.name: images.find(posed.name) for posed in model.pictures}
    present = [posed for posed in model.pictures if found[posed.name] is not None]
    if not present:
        first = model.pictures[0].name
        raise UserError(
            f"{where}: {path}: none of the {len(model.pictures)} pictures of its COLMAP model exist "
            f"({images.path / first}); expected them in images/{images.nearest(first)}"
        )
    names = [posed.name for posed in present]
    root = images.path.parent if colmap.PLACES.fullmatch(images.path.name) else images.path
    folder = Folder(root / "masks", f"{where}: {path}")
    files = [_mask_of(folder, name) for name in names]
    shapes = [(model.cameras[posed.camera].width, model.cameras[posed.camera].height) for posed in present]
    stored = [file for name in names if (file := found[name]) is not None]
    pictures, remarks = read_pictures(stored, where, options.size, shapes)
    lenses, poses = [model.cameras[posed.camera] for posed in present], torch.stack([p.c2w for p in present])
    heads = colmap.coverage(path, model_folder, model, images.path, len(present))
    captured = CapturedViews(pictures, names, files, lenses, poses)
    return captured.rectified(options, f"{where}: {path}", [*heads, *remarks])


# ----------------------------------------------------------------------------------------------------------- CO3D


def read_co3d_views(folder: Path, options: ViewOptions, where: str) -> ViewSet:
    """Return the frames of a CO3D sequence, with its masks."""
    frames = co3d_sequence.read_sequence(folder, where)
    shapes = [(frame.camera.width, frame.camera.height) for frame in frames]
    pictures, remarks = read_pictures([frame.picture for frame in frames], where, options.size, shapes)
    captured = CapturedViews(
        pictures,
        [frame.name for frame in frames],
        [frame.mask for frame in frames],
        [frame.camera for frame in frames],
        torch.stack([frame.c2w for frame in frames]),
    )
    head = f"sequence {folder.name} of CO3D: {len(frames)} frames"
    return captured.rectified(options, f"{where}: {folder}", [head, *remarks])


# ---------------------------------------------------------------------------------------------------------- trial


def is_trial(path: Path) -> bool:
    """Return whether a folder is that of a training."""
    return (
        path.is_dir()
        and (path / "save").is_dir()
        and ((path / "ckpts").is_dir() or (path / "configs").is_dir())
    )


def trial_folders(path: Path) -> dict[str, Path]:
    """Return the newest rendered views of a trial by name: ``{"test": save/it800-test, ...}``."""
    found: dict[str, tuple[int, Path]] = {}
    for folder in (path / "save").glob("it*-*"):
        match = re.fullmatch(r"it(\d+)-(.+)", folder.name)
        if match and (folder / "transforms.json").is_file():
            step, name = int(match[1]), match[2]
            if name not in found or step > found[name][0]:
                found[name] = step, folder
    return {name: folder for name, (_, folder) in found.items()}


def read_trial_views(path: Path, options: ViewOptions, where: str) -> ViewSet:
    """Return the views that a trial rendered."""
    folders = trial_folders(path)
    wanted = [options.trial_views] if options.trial_views else ["turntable", "test", *sorted(folders)]
    folder = next((folders[name] for name in wanted if name in folders), None)
    if folder is None:
        known = ", ".join(sorted(folders)) or "none"
        raise UserError(
            f"{where}: {path}: has no rendered {options.trial_views or 'views'} (found: {known}); "
            f"expected save/it<step>-<name>/transforms.json, which {command('test')} writes"
        )
    return read_transforms_views(folder / "transforms.json", options, where).noting(f"views of {folder.name}")
