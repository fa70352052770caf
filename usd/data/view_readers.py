"""From a folder to views: whichever of the known layouts it has.

    transforms.json                nerfstudio, Blender (also transforms_train.json, transforms_test.json)
    cameras_sphere.npz             NeuS's DTU and BlendedMVS scans, with image/ and perhaps mask/
    keyframes/cameras/*.json       Polycam's raw data, with keyframes/images/ and perhaps depths
    metadata.json                  Record3D's exports, with rgb/
    poses_bounds.npy               LLFF's captures, with images/
    cams/00000000_cam.txt          MVSNet's and BlendedMVS's scenes, with blended_images/ or images/
    pose/0_0000.txt                NSVF's scenes and ScanNet's scans, with rgb/ or color/
    sparse/0/images.bin|txt        a COLMAP model, with images/ and perhaps masks/
    cameras.json                   3D Gaussian splatting's cameras, with images/ or input/
    <any>.xml                      Metashape's cameras, with images/ or input/
    images/ below a category       a sequence of CO3D
    save/it<step>-<name>/          the trial folder of an image-to-3D run: its newest rendered views
    <strip>.png                    SyncDreamer's 16 views
    normals_000_front.png ...      Wonder3D's 6 orthographic views with normals
    000.npy, 000.png ...           Zero-1-to-3's views
    1000022                        the toy of that seed, rendered here

The order is the order in which they are looked for; a COLMAP model goes before LLFF's cameras that were made of it.
"""

import math
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import torch

from usd.core.config import UserError, option
from usd.core.places import command
from usd.core.registry import import_custom
from usd.data import (
    co3d_sequence,
    colmap,
    llff,
    metashape,
    mvsnet,
    neus,
    polycam,
    pose_folder,
    record3d,
    splat_cameras,
    syncdreamer,
    wonder3d,
    zero123_views,
)
from usd.data.capture import Capture, CapturedView, TrackedPoints, assemble, lost_note
from usd.data.file_names import PICTURES, Folder, moved_pictures, path_steps
from usd.data.masks import MaskPolicy, apply_masks
from usd.data.structure_from_motion import VIDEOS
from usd.data.text_files import read_text
from usd.data.toy_views import render_toy_views, sphere_cameras, toy_seed
from usd.data.transforms import FrameFiles, Transforms, read_transforms_file
from usd.data.view_set import ViewSet, fit_cameras, fit_sphere, fit_world, rotate_world, view_set

LAYOUTS = (
    "transforms.json, a COLMAP model (sparse/0), cameras_sphere.npz, poses_bounds.npy, cams/*_cam.txt, "
    "pose/*.txt, Polycam's keyframes/, Record3D's metadata.json, cameras.json, Metashape's .xml, a trial folder, "
    "a CO3D sequence, or the output of SyncDreamer, Wonder3D or Zero-1-to-3"
)


class OtherProgram(NamedTuple):
    """A program or data set whose cameras are not read: its files by their pattern, and what to take instead.

    ``text`` is a pattern that the beginning of the file matches somewhere, where its name alone says too little.
    """

    pattern: str
    program: str
    instead: str = "its export for COLMAP, or transforms.json (nerfstudio's ns-process-data makes it of most)"
    text: str = ""


OTHER_PROGRAMS = (
    OtherProgram("*.xml", "ContextCapture (BlocksExchange)", text=r"<BlocksExchange\b"),
    OtherProgram("*.csv", "RealityCapture", text=r"(?i)^#?\s*name,.*heading,\s*pitch,\s*roll"),
    OtherProgram("*.sfm", "Meshroom"),
    OtherProgram("sfm_data.json", "OpenMVG"),
    OtherProgram("bundle*.out", "Bundler"),
    OtherProgram("*.nvm", "VisualSFM"),
    OtherProgram("opensfm/reconstruction.json", "OpenDroneMap"),
    OtherProgram("reconstruction.json", "OpenSfM"),
    OtherProgram(
        "*.log",
        "Tanks and Temples",
        "a lens beside the poses, as a COLMAP model of the pictures has it (usd poses finds one)",
        r"^\d+ \d+ -?\d+\s*\n(\s*-?\d\S*){16}",
    ),
    *(
        OtherProgram(pattern, "DTU", "the scan as NeuS shares it, with cameras_sphere.npz")
        for pattern in ("cal18/pos_*.txt", "Cal*/cal18/pos_*.txt")
    ),
)
ARCHIVES = (".zip", ".r3d", ".tar", ".gz", ".tgz", ".7z", ".rar")


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
    frame: Literal["auto", "keep", "fit", "cameras"] = option(
        "auto",
        "world of the views. fit: center the object, turn mean up to +z, scale its bounding radius to 0.5; "
        "keep: the file's world; cameras: center the cameras, the furthest at distance 1, which look wherever they do; "
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
    views, capture = _read_layout(path, options, where)
    if options.frame == "cameras":
        return fit_cameras(views, f"{where}: {path}")
    arbitrary = capture is not None and capture.arbitrary
    wanted = arbitrary if options.frame == "auto" else options.frame == "fit"
    if wanted and capture is not None and capture.sphere is not None:
        return fit_sphere(views, capture.sphere[0].float(), capture.sphere[1])
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


def _read_layout(path: Path, options: ViewOptions, where: str) -> tuple[ViewSet, Capture | None]:
    """Return the views, and the capture that they were read from, if they were."""
    import_custom("layouts")
    for reader in CUSTOM_LAYOUTS.values():
        if (views := reader(path, options, where)) is not None:
            return views, None
    for folder in (path, *_only_folder(path)):
        for capture_of in CAPTURES:
            if (capture := capture_of(folder, where)) is not None:
                capture = _with_masks_beside(capture.located(f"{where}: {folder}"), folder, where)
                capture = capture.centered() if capture.arbitrary else capture
                return assemble(capture, options.masks, options.size, f"{where}: {folder}"), capture
    return _read_rendered(path, options, where), None


def _only_folder(path: Path) -> list[Path]:
    """Return the one folder in a folder, as archives unpack to; none where there are several."""
    if not path.is_dir():
        return []
    folders = [each for each in path.iterdir() if each.is_dir() and not each.name.startswith((".", "__"))]
    return folders if len(folders) == 1 else []


def _read_rendered(path: Path, options: ViewOptions, where: str) -> ViewSet:
    """Return the views that a trial or another system rendered. Raises ``UserError`` where there are none."""
    if is_trial(path):
        return read_trial_views(path, options, where)
    if scene := wonder3d.find_scene(path):
        views = _at_size(wonder3d.read_scene(scene, where), options)
        return rotate_world(views, math.radians(options.input_azimuth_deg + 90))
    if folder := zero123_views.find_views(path):
        return zero123_views.read_views(folder, where, options.size)
    if strip := syncdreamer.find_strip(path):
        return _syncdreamer(strip, options, where)
    raise UserError(_no_layout(path, where))


def _no_layout(path: Path, where: str) -> str:
    if path.suffix.lower() in VIDEOS:
        finding = f"usd poses {shlex.quote(str(path))} FOLDER"
        return f"{where}: {path}: is a video without cameras; find them first: {finding}"
    if path.suffix.lower() in ARCHIVES:
        return f"{where}: {path}: is an archive; expected the folder that it unpacks to"
    other = _other_program(path)
    if path.is_file() and other:
        return f"{where}: {path}: holds {other}"
    if path.is_file():
        return f"{where}: {path}: is not a file of cameras or views; expected {LAYOUTS}"
    count = sum(1 for file in path.rglob("*") if file.suffix.lower() in PICTURES)
    if deeper := _further_in(path):
        return f"{where}: {path}: {deeper}"
    if not count:
        return f"{where}: {path}: holds neither pictures nor cameras; expected {LAYOUTS}"
    if other:
        return f"{where}: {path}: has {count} picture{'s' * (count != 1)}, and {other}"
    return (
        f"{where}: {path}: has {count} picture{'s' * (count != 1)} but no cameras; expected {LAYOUTS}; or find them: "
        f"usd poses {shlex.quote(str(path))} FOLDER"
    )


def _further_in(path: Path) -> str:
    """Return where a folder has what is looked for further in: cameras in a folder of it, an archive; else nothing."""
    deeper = sorted(file for pattern in ("*/", "*/*/") for file in path.glob(f"{pattern}transforms*.json"))
    if deeper:
        return f"has no cameras itself, but {deeper[0].relative_to(path)} has; expected {deeper[0].parent}"
    packed = sorted(file.name for file in path.iterdir() if file.suffix.lower() in ARCHIVES)
    return f"holds an archive, {packed[0]}; expected the folder that it unpacks to" if packed else ""


def _other_program(path: Path) -> str:
    """Return whose cameras a file or folder has, and what to take, where another program wrote them; else nothing."""
    for other in OTHER_PROGRAMS:
        files = [path] if path.match(other.pattern) else sorted(path.glob(other.pattern))
        for file in filter(Path.is_file, files):
            if re.search(other.text, _beginning(file)):
                name = file.relative_to(path) if file != path else file.name
                return f"cameras of {other.program} ({name}), which are not read; expected {other.instead}"
    return ""


def _beginning(file: Path) -> str:
    """Return the first 4000 bytes of a file as text; nothing where they cannot be read."""
    try:
        with file.open("rb") as opened:
            return opened.read(4000).decode("utf-8", "replace")
    except OSError:
        return ""


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
    """Return the cameras' file meant by a path: itself, in a folder that of the usual name, or the only such file."""
    if path.is_file():
        return path if path.suffix.lower() == ".json" and not splat_cameras.find_splat_cameras(path) else None
    names = ("transforms.json", "transforms_train.json", "transforms_test.json")
    files = Folder(path, str(path))
    found = next((file for name in names if (file := files.find(name))), None)
    return found or _only_cameras_file(path)


def _only_cameras_file(path: Path) -> Path | None:
    """Return the file of a folder that speaks of frames and their matrices, where it is the only JSON there."""
    others = [file for file in path.iterdir() if file.suffix.lower() == ".json"] if path.is_dir() else []
    if len(others) != 1:
        return None
    try:
        text = read_text(others[0], "replace")
    except OSError:
        return None
    return others[0] if '"frames"' in text and '"transform_matrix"' in text else None


def read_transforms_views(file: Path, options: ViewOptions, where: str, interval: int = 1) -> ViewSet:
    """Read the frames of a transforms.json that have a picture; masks from ``mask_path``, ``masks/`` or alpha.

    With an ``interval``, only every so many frames are read.
    """
    return assemble(
        transforms_capture(file, where, interval), options.masks, options.size, f"{where}: {file}"
    )


def transforms_capture(file: Path, where: str, interval: int = 1) -> Capture:
    """Read the frames of a transforms.json that have a picture, every so many of them."""
    read = read_transforms_file(file, where, seek=True)
    frames = read.frames[::interval]
    shown = [
        (frame.file_path, frame.picture, frame.files)
        for frame in frames
        if frame.picture is not None and frame.files is not None
    ]
    lost = next((frame.file_path for frame in frames if frame.picture is None), "")
    beside = Folder(file.parent, f"{where}: {file}")
    if not shown:
        raise UserError(
            f"{where}: {file}: none of its {len(frames)} pictures exist ({lost or 'no file_path'}); expected them "
            f"beside it{beside.nearest(lost)}"
        )
    notes = [*read.notes, *_missing(len(frames) - len(shown), len(frames), lost, beside.other_ending(lost))]
    notes += lost_note(read.without_camera, len(read.frames) + len(read.without_camera))
    if bent := sum(files.lens.distorted for _, _, files in shown):
        notes.append(f"{bent} of {len(shown)} pictures undistorted")
    masks = MaskFolders(file.parent, f"{where}: {file}")
    views = [_captured(*frame, masks) for frame in shown]
    points, remarks = _colmap_points(file, read, views, where)
    return Capture(tuple(views), (*notes, *remarks), points=points)


def _captured(name: str, picture: Path, files: FrameFiles, masks: "MaskFolders") -> CapturedView:
    mask = files.mask or masks.find(name)
    return CapturedView(name, picture, files.lens, files.pose, mask, files.depth, files.span_y)


def _colmap_points(
    file: Path, read: Transforms, views: Sequence[CapturedView], where: str
) -> tuple[TrackedPoints | None, list[str]]:
    """Return the points of the COLMAP model that nerfstudio keeps beside its file, in its world; None without one.

    Where the model's cameras, moved likewise, are not the file's, that is said and there are no points.
    """
    models = colmap.find_models(file.parent / "colmap") if read.applied is not None else []
    if not models or read.applied is None:
        return None, []
    model = colmap.read_model(models[0], where)
    by_name = {Path(posed.name).name: posed for posed in model.pictures}
    posed = [by_name.get(Path(view.name.replace("\\", "/")).name) for view in views]
    pairs = [(row, each) for row, each in enumerate(posed) if each is not None]
    found = model.tracked_points([each for _, each in pairs])
    if found is None:
        return None, []
    rotation, shift = read.applied[:, :3], read.applied[:, 3]
    moved = torch.stack([each.c2w[:3, 3] for _, each in pairs]) @ rotation.T + shift
    true = torch.stack([views[row].c2w[:3, 3] for row, _ in pairs])
    off, spread = (moved - true).norm(dim=1).median(), (true - true.mean(0)).norm(dim=1).median()
    if float(off) > 0.02 * float(spread):
        return None, [
            "points of colmap/ left out: its cameras, moved by applied_transform, are not those of the file"
        ]
    rows = torch.tensor([row for row, _ in pairs])
    return TrackedPoints(rows[found.view], found.xyz @ rotation.T + shift), []


def _missing(count: int, total: int, name: str, other: str | None) -> list[str]:
    """Return a note where some frames have no picture; ``other`` is the file that may have been meant."""
    hint = f" ({name}; did you mean '{other}'?)" if other else ""
    return [f"{count} of {total} frames have no picture{hint}"] if count else []


class MaskFolders:
    """Masks of pictures in the folders beside theirs that tools write them to, by the names of the pictures."""

    def __init__(self, root: Path, where: str) -> None:
        self.folders = [Folder(root / name, where) for name in ("masks", "mask")]

    def find(self, name: str) -> Path | None:
        """Return the mask of a picture: its name, or that without its ending or with more at its end, and ``.png``.

        A picture in a subfolder has its mask in the same one, or in none.
        """
        # A way up and back would lead to the picture itself.
        parts = [part for part in path_steps(name) if part != ".."]
        for first in range(len(parts)):
            path = PurePosixPath(*parts[first:])
            candidates = (
                path,
                f"{path}.png",
                path.with_suffix(".png"),
                path.with_name(f"{path.stem}_mask.png"),
            )
            for folder in self.folders:
                if file := next((file for each in candidates if (file := folder.find(str(each)))), None):
                    return file
        return None


def _with_masks_beside(capture: Capture, path: Path, where: str) -> Capture:
    """Return the capture with the masks in folders beside its pictures, or in its own, where none came with any."""
    if any(view.mask is not None for view in capture.views):
        return capture
    roots = dict.fromkeys([path, *(view.picture.parent.parent for view in capture.views)])
    places = [MaskFolders(root, f"{where}: {path}") for root in roots if root.is_dir()]
    found = [
        next((mask for place in places if (mask := place.find(view.picture.name))), None)
        for view in capture.views
    ]
    views = tuple(replace(view, mask=mask) for view, mask in zip(capture.views, found))
    return replace(capture, views=views)


# --------------------------------------------------------------------------------------------------------- COLMAP


def colmap_capture(path: Path, model_folder: Path, where: str) -> Capture:
    """Return the pictures of a COLMAP model, with its points."""
    model = colmap.read_model(model_folder, where)
    images = colmap.images_folder(path, model_folder, model, f"{where}: {path}")
    names = [posed.name for posed in model.pictures]
    found, remarks = {name: images.find(name) for name in names}, []
    if not any(found.values()) and (moved := moved_pictures(path, names)) is not None:
        images, found = Folder(moved[0], f"{where}: {path}"), dict(zip(names, moved[1]))
        there = next(file.parent.name for file in moved[1] if file is not None)
        remarks = [f"pictures have other names than in the model ({names[0]}): taken from {there}/"]
    present = [posed for posed in model.pictures if found[posed.name] is not None]
    if not present:
        first = model.pictures[0].name
        raise UserError(
            f"{where}: {path}: none of the {len(model.pictures)} pictures of its COLMAP model exist "
            f"({images.path / first}); expected them in images/{images.nearest(first)}"
        )
    root = images.path.parent if colmap.PLACES.fullmatch(images.path.name) else images.path
    masks = MaskFolders(root, f"{where}: {path}")
    lenses = [model.cameras[posed.camera] for posed in present]
    views = [
        CapturedView(posed.name, file, lens, posed.c2w, masks.find(posed.name))
        for posed, lens in zip(present, lenses)
        if (file := found[posed.name]) is not None
    ]
    notes = colmap.coverage(path, model_folder, model, images.path, len(present)) + remarks
    if bent := sum(lens.distorted for lens in lenses):
        notes.append(f"{bent} of {len(lenses)} pictures undistorted")
    points = model.tracked_points(present)
    if points is not None:
        notes.append(f"{len(points.view)} sparse depths from {len(model.points)} points")
    return Capture(tuple(views), tuple(notes), arbitrary=True, points=points)


# ------------------------------------------------------------------------------------------------------- all of them


def _transforms(path: Path, where: str) -> Capture | None:
    file = find_transforms(path)
    return transforms_capture(file, where) if file else None


def _colmap(path: Path, where: str) -> Capture | None:
    models = colmap.find_models(path) if path.is_dir() else []
    return colmap_capture(path, models[0], where) if models else None


def _co3d(path: Path, where: str) -> Capture | None:
    return co3d_sequence.read_capture(path, where) if co3d_sequence.is_sequence(path) else None


def _neus(path: Path, where: str) -> Capture | None:
    file = neus.find_archive(path)
    if file is not None and file.name != neus.ARCHIVES[0] and colmap.find_models(path):
        return None  # made from the model for other pictures of the scan, perhaps
    return neus.read_scan(file, where) if file else None


def _llff(path: Path, where: str) -> Capture | None:
    """Return LLFF's cameras, but for a model beside of as many pictures, which knows lenses and points."""
    file = llff.find_poses(path)
    if file is None:
        return None
    if not llff.is_whole(file) and colmap.find_models(path):
        return None  # the model tells which pictures have a camera
    plain = llff.read_llff(file, where)
    model, reason = _readable_model(path, where)
    if model is None:
        return plain.noting(*[f"{file.name} taken, not the COLMAP model beside it: {reason}"] * bool(reason))
    if len(model.views) < len(plain.views):
        few = f"which has {len(model.views)} of the {len(plain.views)} pictures"
        return plain.noting(f"{file.name} taken, not the COLMAP model beside it, {few}")
    return model.noting(f"the COLMAP model taken, not {file.name}, which knows neither distortion nor points")


def _readable_model(path: Path, where: str) -> tuple[Capture | None, str]:
    """Return the COLMAP model of a folder that may have none; or None, and what is wrong with it."""
    try:
        found = _colmap(path, where)
        return (None if found is None else found.located(where)), ""
    except UserError as error:
        return None, str(error).removeprefix(f"{where}: ")


def _mvsnet(path: Path, where: str) -> Capture | None:
    files = mvsnet.find_cameras(path)
    return mvsnet.read_mvsnet(files, where) if files else None


def _poses(path: Path, where: str) -> Capture | None:
    scene = pose_folder.find_scene(path)
    return pose_folder.read_poses(scene, where) if scene else None


def _polycam(path: Path, where: str) -> Capture | None:
    keyframes = polycam.find_keyframes(path)
    return polycam.read_polycam(keyframes, where) if keyframes else None


def _record3d(path: Path, where: str) -> Capture | None:
    found = record3d.find_export(path)
    return record3d.read_record3d(*found, where) if found else None


def _metashape(path: Path, where: str) -> Capture | None:
    file = metashape.find_metashape(path)
    return metashape.read_metashape(file, where) if file else None


def _splat_trainer(path: Path, where: str) -> Capture | None:
    file = splat_cameras.find_splat_cameras(path)
    return splat_cameras.read_splat_cameras(file, where) if file else None


CAPTURES: tuple[Callable[[Path, str], Capture | None], ...] = (
    _transforms,
    _polycam,
    _record3d,
    _neus,
    _llff,
    _mvsnet,
    _poses,
    _colmap,
    _splat_trainer,
    _metashape,
    _co3d,
)
"""Readers of the layouts of captures, in the order in which they are tried; None where a path has another layout."""


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
