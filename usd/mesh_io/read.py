"""The reader of mesh files: GLB, glTF, OBJ, PLY, STL and OFF as one ``ColoredMesh``."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from usd.core.errors import UserError
from usd.mesh_io.axes import default_up, rotation_to_z_up
from usd.mesh_io.colored_mesh import BaseColor, ColoredMesh
from usd.mesh_io.files import read_content
from usd.mesh_io.gltf import read_gltf
from usd.mesh_io.obj import read_obj
from usd.mesh_io.ply import read_ply
from usd.mesh_io.primitive import Primitive, assemble
from usd.mesh_io.stl_off import read_off, read_stl

Up = Literal["auto", "y", "z"]
Reader = Callable[[Path, bytes], tuple[list[Primitive], list[str]]]
READERS: dict[str, Reader] = {
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".obj": read_obj,
    ".ply": read_ply,
    ".stl": read_stl,
    ".off": read_off,
}


def read_mesh(path: Path, up: Up = "auto") -> ColoredMesh:
    """Return the mesh of a file: all its parts in place, +z up, in its own units, with all its colors.

    ``up`` is the file's upward axis; ``auto`` follows its format. Raises UserError, in one line that names the file,
    for what is no triangle mesh, and for features without which it would be read wrongly.
    """
    content = read_content(path)
    try:
        parts, notes = READERS[path.suffix.lower()](path, content)
        parts = [part for part in parts if len(part.faces)]
        if not parts:
            raise UserError(f"{path}: has no faces; expected a triangle mesh")
        mesh = assemble(_color_uncolored(parts), path, notes)
    except UserError:
        raise
    except Exception as error:  # a broken file can break at any place
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: cannot be read as a mesh ({reason[:120]})") from error
    axis = {"auto": default_up(path), "y": "+y", "z": "+z"}[up]
    if axis == "+z":
        return mesh
    return mesh.move(mesh.vertices @ rotation_to_z_up("+y").T)


def _color_uncolored(parts: list[Primitive]) -> list[Primitive]:
    """Make primitives without colors white beside some that have them; vertex colors alone are colors too."""
    known = [
        replace(part, color=replace(part.color, named=True)) if part.light is not None else part
        for part in parts
    ]
    if not any(part.color.named for part in known):
        return known
    return [part if part.color.named else replace(part, color=BaseColor()) for part in known]
