"""What is evaluated, and against what: a mesh, a folder of views with cameras, a trial, or a toybox seed.

source          surface                                      pictures
mesh file       its faces                                    unlit, from any camera, if it has colors
views           ``mesh.glb`` (or .obj, .ply) beside them      its own, from its own cameras
trial           the newest save/it<step>-export/             the newest save/it<step>-test/, else turntable
toybox seed     its zero level                               exact, from any camera
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from usd.core.config import parse
from usd.core.errors import UserError
from usd.core.places import command
from usd.core.types import Mesh
from usd.data.toy_views import render_toy_views, toy_seed
from usd.data.view_readers import ViewOptions, is_trial, read_views, trial_folders
from usd.data.view_set import ViewSet
from usd.evaluation.mesh_views import mesh_views, open_mesh
from usd.math.camera import Cameras
from usd.mesh_io.colored_mesh import ColoredMesh
from usd.mesh_io.files import READABLE
from usd.mesh_io.read import Up
from usd.toybox.mesh import toy_mesh
from usd.toybox.objects import make_toy

TOY_RESOLUTION = 160
OTHER_MESHES = (
    ".3ds",
    ".3mf",
    ".abc",
    ".blend",
    ".dae",
    ".fbx",
    ".ma",
    ".max",
    ".usd",
    ".usda",
    ".usdc",
    ".usdz",
    ".x3d",
)
"""Endings of files with meshes that others read."""


@dataclass(frozen=True)
class EvaluationSource:
    """Something with a surface, with pictures, or both. ``see`` makes pictures from any cameras.

    ``colored`` is false for a mesh without colors: its pictures are silhouettes.
    """

    name: str
    kind: str
    mesh: Mesh | None = None
    views: ViewSet | None = None
    see: Callable[[Cameras], ViewSet] | None = None
    surface: ColoredMesh | None = None
    colored: bool = True
    notes: tuple[str, ...] = ()


def open_source(text: str, where: str, up: Up = "auto", input_azimuth_deg: float = 0.0) -> EvaluationSource:
    """Return the source that ``text`` names. Raises ``UserError`` that says what was expected."""
    seed, path = toy_seed(text), Path(text)
    if seed is not None and not path.exists():
        return _toy(seed)
    if path.suffix.lower() in READABLE:
        return mesh_source(open_mesh(path, up, where), text, "mesh", (f"mesh {path.name}",))
    if path.suffix.lower() in OTHER_MESHES:
        raise UserError(f"{where}: {path}: is no mesh file that is read; expected {', '.join(READABLE)}")
    options: ViewOptions = parse(ViewOptions, {"input_azimuth_deg": input_azimuth_deg}, where)
    if is_trial(path):
        return _trial(path, options, up, where)
    views = read_views(path, options, where)
    folder = path if path.is_dir() else path.parent
    files = [folder / f"mesh{ending}" for ending in READABLE if (folder / f"mesh{ending}").is_file()]
    found = open_mesh(files[0], up, where) if files else None
    notes = (*views.notes, *((f"surface from {files[0].name}", *found.notes) if found else ()))
    return EvaluationSource(text, "views", found.mesh if found else None, views, notes=notes, surface=found)


def _toy(seed: int) -> EvaluationSource:
    toy = make_toy(seed)
    mesh = toy_mesh(toy, TOY_RESOLUTION)
    note = f"toybox {seed}: {toy.caption}"
    return EvaluationSource(
        f"toybox:{seed}", "toybox", mesh, see=lambda cameras: render_toy_views(seed, cameras), notes=(note,)
    )


def mesh_source(mesh: ColoredMesh, name: str, kind: str, notes: tuple[str, ...]) -> EvaluationSource:
    """Return a mesh as a source: its pictures are unlit."""
    silent = () if mesh.has_colors else ("no colors: PSNR and SSIM are left out",)
    cut = ("alpha cuts holes into it: pictures have them, its surface is whole",) if mesh.has_cutouts else ()
    return EvaluationSource(
        name,
        kind,
        mesh.mesh,
        see=lambda cameras: mesh_views(mesh, cameras),
        surface=mesh,
        colored=mesh.has_colors,
        notes=(*notes, *mesh.notes, *cut, *silent),
    )


def with_surface(source: EvaluationSource, surface: ColoredMesh) -> EvaluationSource:
    """Return a mesh source with another mesh in the place of its own."""
    moved = mesh_source(surface, source.name, source.kind, ())
    return replace(moved, notes=source.notes)


def _trial(path: Path, options: ViewOptions, up: Up, where: str) -> EvaluationSource:
    folders, exported = trial_folders(path), exported_mesh(path)
    if not folders and exported is None:
        raise UserError(
            f"{where}: {path}: has neither rendered views nor an exported mesh; run "
            f"{command('test')} or {command('export')}"
        )
    # The newest test pass, else a turntable: whatever the test was asked to render comes before its by-product.
    name = next((n for n in ("test", "turntable", *sorted(folders)) if n in folders), None)
    views = read_views(path, replace(options, trial_views=name), where) if name else None
    found = open_mesh(exported, up, where) if exported else None
    notes = (
        *(views.notes if views else ()),
        *((f"surface from {exported.parent.name}", *found.notes) if exported and found else ()),
    )
    return EvaluationSource(
        str(path), "trial", found.mesh if found else None, views, notes=notes, surface=found
    )


def exported_mesh(path: Path) -> Path | None:
    """Return the mesh file of the newest export of a trial."""
    folders = [
        (int(m[1]), f) for f in (path / "save").glob("it*-export") if (m := re.match(r"it(\d+)-", f.name))
    ]
    for _, folder in sorted(folders, reverse=True):
        files = [file for ending in READABLE for file in sorted(folder.glob(f"*{ending}"))]
        if files:
            return files[0]
    return None


__all__ = ["EvaluationSource", "exported_mesh", "mesh_source", "open_source", "with_surface"]
