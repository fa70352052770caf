"""Wonder3D's output (arXiv 2310.15008): six orthographic views with normals, without a camera file.

    <scene>/rgb_000_<view>.png             colors over white
    <scene>/masked_colors/rgb_000_<view>.png   the same, cut out (RGBA)
    <scene>/normals_000_<view>.png         normals, cut out (RGBA); <scene>/normals/ holds them as generated

Views: front, front_right, right, back, left, front_left, at 256 pixels, the object's longest side on 192 of them; the
picture is 1.35 world units wide. All normals are given in the *front* camera's OpenGL axes, (n + 1) / 2 as a color.
The poses are the published ones, labels that the model was trained with, in the frame of the input camera: front stands
at -y. They are not corrected, although its users find views at other angles than the labels say. Nor are the published
weights of the views.
"""

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import UserError
from usd.data.file_names import Folder
from usd.data.masks import PLAIN, apply_masks
from usd.data.pictures import over, read_pictures, read_values, write_picture
from usd.data.view_set import ViewSet, same_size, view_set
from usd.math.camera import Cameras
from usd.math.view_groups import wonder3d_cameras

VIEWS = ("front", "front_right", "right", "back", "left", "front_left")
WEIGHTS = (1.0, 0.8, 0.2, 1.0, 0.4, 0.7)


def find_scene(path: Path) -> Path | None:
    """Return the scene's folder: ``path`` or the only scene in it; None where there is none."""
    if _is_scene(path):
        return path
    scenes = [folder for folder in sorted(path.glob("*")) if _is_scene(folder)] if path.is_dir() else []
    return scenes[0] if len(scenes) == 1 else None


def _is_scene(folder: Path) -> bool:
    files = Folder(folder, "")
    return any(files.find(f"{kind}_000_{view}.png") for kind in ("rgb", "normals") for view in VIEWS)


def read_scene(folder: Path, where: str) -> ViewSet:
    """Read the six views in the system's own frame, with world normals. Raises ``UserError`` for a missing file."""
    colors, notes = _colors(folder, where)
    cameras = wonder3d_cameras(colors[0].shape[-1])
    normals, note = _normals(folder, cameras, colors[0].shape[-1], where)
    names = tuple(f"rgb_000_{view}.png" for view in VIEWS)
    head = f"Wonder3D's scene {folder.name}: 6 orthographic views, cameras and weights as published"
    views = view_set(colors, cameras, names, [head, *notes, *note])
    return replace(views, weights=torch.tensor(WEIGHTS), normals=normals, reference=0)


def _colors(folder: Path, where: str) -> tuple[list[Tensor], list[str]]:
    """Return cut-out colors: ``masked_colors`` where all are there, else without their white background."""
    cut, missing = _six(folder / "masked_colors", "rgb", where)
    is_cut = not missing
    files, missing = (cut, missing) if is_cut else _six(folder, "rgb", where)
    if missing:
        raise UserError(f"{where}: {folder}: has no {missing[0]}; expected the six views {', '.join(VIEWS)}")
    names = [file.name for file in files]
    pictures, remarks = read_pictures(files, where)
    pictures = same_size(pictures, names, None, f"{where}: {folder}")
    if pictures[0].shape[-1] != pictures[0].shape[-2]:
        height, width = pictures[0].shape[-2:]
        raise UserError(f"{where}: {folder}: views are {width} x {height} pixels; expected square ones")
    if is_cut:
        return pictures, ["masks are those of masked_colors", *remarks]
    return apply_masks(pictures, names, [], "background", f"{where}: {folder}")[0], [PLAIN, *remarks]


def _six(folder: Path, kind: str, where: str) -> tuple[list[Path], list[str]]:
    """Return the pictures of a kind in the order of ``VIEWS``, and the names of those that are not there."""
    files = Folder(folder, f"{where}: {folder}")
    names = [f"{kind}_000_{view}.png" for view in VIEWS]
    found = {name: files.find(name) for name in names}
    return [file for file in found.values() if file is not None], [name for name in names if not found[name]]


def _normals(
    folder: Path, cameras: Cameras, size: int, where: str
) -> tuple[Float[Tensor, "V 3 H W"] | None, tuple[str, ...]]:
    files, missing = _six(folder, "normals", where)
    if missing:
        return None, (f"no normals: {missing[0]} is not there",)
    stored = [read_values(file, where) for file in files]
    maps = torch.stack(same_size(stored, [f.name for f in files], size, f"{where}: {folder}"))
    return world_normals(maps, cameras.c2w[0, :3, :3]), ("normals turned from the front camera to the world",)


def world_normals(maps: Float[Tensor, "V 4 H W"], front: Float[Tensor, "3 3"]) -> Float[Tensor, "V 3 H W"]:
    """Return unit normals from cut-out normal pictures; 0 where they are transparent. ``front`` is camera-to-world."""
    directions = torch.einsum("ij,vjhw->vihw", front, 2 * maps[:, :3] - 1)
    known = (maps[:, 3:] > 0.5) & (directions.norm(dim=1, keepdim=True) > 0.1)
    return torch.where(known, torch.nn.functional.normalize(directions, dim=1), torch.zeros_like(directions))


def write_scene(views: ViewSet, folder: Path) -> list[Path]:
    """Write the whole layout. The views must be those of ``wonder3d_cameras``, in their order, with normals."""
    if views.normals is None:
        raise UserError(f"{folder}: Wonder3D's layout holds normals, and these views have none")
    front = views.cameras.c2w[0, :3, :3]
    local = torch.einsum("ji,vjhw->vihw", front, views.normals)
    alpha = views.rgba[:, 3:]
    shade = torch.where(
        views.normals.norm(dim=1, keepdim=True) > 0.5, 0.5 + 0.5 * local, torch.ones_like(local)
    )
    written = []
    for view, rgba, normal, a in zip(VIEWS, views.rgba, shade, alpha, strict=True):
        cut = torch.cat([normal, a])
        written += [
            write_picture(folder / f"rgb_000_{view}.png", over(rgba)),
            write_picture(folder / "masked_colors" / f"rgb_000_{view}.png", rgba),
            write_picture(folder / "normals" / f"normals_000_{view}.png", over(cut)),
            write_picture(folder / f"normals_000_{view}.png", cut),
        ]
    return written
