"""Wavefront OBJ files: polygons, materials of several libraries, vertex colors behind the coordinates."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from usd.core.errors import UserError
from usd.math.color import linear_from_srgb
from usd.mesh_io.colored_mesh import BaseColor
from usd.mesh_io.files import decode_text, find_neighbor
from usd.mesh_io.mtl import ObjMaterial, read_materials, texture_coordinates
from usd.mesh_io.polygons import triangulate
from usd.mesh_io.primitive import Primitive

MISSING = -(1 << 40)
UNKNOWN = ObjMaterial(BaseColor(known=False))
UNNAMED = ObjMaterial(BaseColor(named=False))


@dataclass
class _Lines:
    """The content of a file: numbers of each kind, and corners of polygons by material."""

    vertices: list[list[str]] = field(default_factory=list)
    coordinates: list[list[str]] = field(default_factory=list)
    painted: list[str] = field(default_factory=list)
    libraries: list[str] = field(default_factory=list)
    material: str = ""
    polygons: dict[str, list[tuple[int, list[tuple[int, int]]]]] = field(default_factory=dict)
    skipped: int = 0


def read_obj(path: Path, content: bytes) -> tuple[list[Primitive], list[str]]:
    """Return one part for each material, and what was assumed. Raises UserError for what is no polygon mesh."""
    lines = _Lines()
    text = decode_text(content).replace("\\\r\n", " ").replace("\\\n", " ")
    for number, line in enumerate(text.splitlines(), 1):
        try:
            _take(line.split(), line, number, lines)
        except (ValueError, IndexError):
            raise UserError(f"{path}: line {number}: '{line.strip()[:60]}' cannot be read") from None
    if not lines.polygons:
        what = f"{len(lines.vertices)} points only" if lines.vertices else "nothing"
        raise UserError(f"{path}: has no faces, {what}; expected a triangle mesh")
    notes = [f"{lines.skipped} lines, points or curves are left out"] if lines.skipped else []
    rows, shown = _vertex_table(lines.vertices, path), None
    vertices = rows[:, :3]
    if rows.shape[1] >= 6 and np.isfinite(rows[:, 3:6]).all():
        shown = _vertex_colors(rows[:, 3:6], notes)
    elif (paint := _paint("".join(lines.painted))) is not None and len(paint) == len(rows):
        shown = _vertex_colors(paint, notes)
    known = _materials(path, lines, notes)
    parts = []
    for name, polygons in lines.polygons.items():
        parts.append(_primitive(path, polygons, vertices, shown, lines.coordinates, known[name], notes))
    return parts, notes


def _take(words: list[str], line: str, number: int, lines: _Lines) -> None:
    """Take one line of the file into ``lines``."""
    word = words[0] if words else "#"
    if word in ("v", "vt", "f", "fo") and "#" in line:
        words = line.partition("#")[0].split()
    if word == "v":
        lines.vertices.append(words[1:])
    elif word == "#MRGB" and len(words) == 2:
        lines.painted.append(words[1])
    elif word == "vt":
        lines.coordinates.append(words[1:3])
    elif word in ("f", "fo"):
        counts = len(lines.vertices), len(lines.coordinates)
        corners = [_corner(corner, counts) for corner in words[1:]]
        lines.polygons.setdefault(lines.material, []).append((number, corners))
    elif word == "usemtl":
        lines.material = line.split(None, 1)[1].strip() if len(words) > 1 else ""
    elif word == "mtllib":
        lines.libraries.append(line.split(None, 1)[1].strip())
    elif word in ("l", "p", "curv", "curv2", "surf"):
        lines.skipped += 1


def _corner(text: str, counts: tuple[int, int]) -> tuple[int, int]:
    """Return numbers, from 0, of a corner's vertex and coordinate; negative ones in the file count backwards."""
    if "/" not in text:
        index = int(text)
        return (index - 1 if index > 0 else counts[0] + index if index < 0 else -1), MISSING
    words = text.split("/")
    index, other = int(words[0]), int(words[1]) if words[1] else 0
    vertex = index - 1 if index > 0 else counts[0] + index if index < 0 else -1
    return vertex, other - 1 if other > 0 else counts[1] + other if other < 0 else MISSING


def _vertex_table(words: list[list[str]], path: Path) -> np.ndarray:
    """Return numbers of ``v`` lines as a table; what some lines lack is NaN beyond the third column."""
    if not words:
        return np.zeros((0, 3))
    if min(map(len, words)) < 3:
        short = next(i for i, row in enumerate(words, 1) if len(row) < 3)
        raise UserError(f"{path}: vertex {short} has {len(words[short - 1])} coordinates; expected three")
    width = max(map(len, words))
    if width in (4, 5):
        width = 3  # a weight, which polygons have no use for
    try:
        return np.array([(row + ["nan"] * width)[:width] for row in words], np.float64)
    except ValueError as error:
        raise UserError(f"{path}: a vertex is not of numbers ({error})") from None


def _paint(digits: str) -> np.ndarray | None:
    """Return colors in [0, 1] of ZBrush's ``#MRGB`` comments: eight hexadecimal digits a vertex, mask before red."""
    try:
        return np.frombuffer(bytes.fromhex(digits), np.uint8).reshape(-1, 4)[:, 1:] / 255
    except ValueError:
        return None


def _vertex_colors(shown: np.ndarray, notes: list[str]) -> np.ndarray:
    """Return light of colors as displayed, in [0, 1] or in bytes."""
    if shown.max(initial=0.0) > 1:
        notes.append("vertex colors beyond 1 are taken as bytes")
        shown = shown / 255
    light = linear_from_srgb(torch.from_numpy(np.ascontiguousarray(shown)).clamp(0, 1)).numpy()
    return np.concatenate([light, np.ones((len(light), 1))], 1)


def _materials(path: Path, lines: _Lines, notes: list[str]) -> dict[str, ObjMaterial]:
    """Return the materials that faces name; unknown ones have no known color."""
    found: dict[str, ObjMaterial] = {}
    for library in lines.libraries:
        for file in _library_files(path, library, notes):
            for name, material in read_materials(file, notes).items():
                found.setdefault(name, material)
    used: dict[str, ObjMaterial] = {}
    for name in lines.polygons:
        if name and name not in found and lines.libraries:
            notes.append(f"material '{name}' is in no library: no colors")
        # Without any library a material is only a name, and the file has no colors but those of its vertices.
        used[name] = found.get(name, UNKNOWN if name and lines.libraries else UNNAMED)
    return used


def _library_files(path: Path, library: str, notes: list[str]) -> list[Path]:
    """Return the files of one ``mtllib`` line: one name with spaces, or several names."""
    whole = find_neighbor(path.parent, library)
    names = [library] if whole.path is not None else library.split()
    files = []
    for name in names:
        found = find_neighbor(path.parent, name)
        notes += [found.note] if found.note else []
        if found.path is None:
            notes.append(f"material library '{name}' is not there")
        else:
            files.append(found.path)
    return files


def _primitive(
    path: Path,
    polygons: list[tuple[int, list[tuple[int, int]]]],
    vertices: np.ndarray,
    light: np.ndarray | None,
    coordinates: list[list[str]],
    material: ObjMaterial,
    notes: list[str],
) -> Primitive:
    """Return the polygons of one material, colored by its texture, else by vertices, else by the material's color."""
    flat = np.array([corner for _, corners in polygons for corner in corners], np.int64).reshape(-1, 2)
    counts = np.array([len(corners) for _, corners in polygons])
    _check_vertices(path, flat[:, 0], counts, [line for line, _ in polygons], len(vertices))
    corner, _ = triangulate(flat[:, 0], counts, np.nan_to_num(vertices))
    faces, laid = flat[:, 0][corner], flat[:, 1][corner]
    shown = None if light is None else light[faces]
    used, inverse = np.unique(faces, return_inverse=True)
    vertices, faces = vertices[used], inverse.reshape(faces.shape)
    color, uv = material.color, None
    if ((laid >= 0) & (laid < len(coordinates))).all():
        table = np.array([(row + ["0"])[:2] for row in coordinates], np.float64)
        uv = texture_coordinates(table[laid], material)
    if color.texture is not None and uv is None:
        notes.append("faces with a texture have no texture coordinates: no colors")
        return Primitive(vertices, faces, BaseColor(known=False))
    if color.texture is not None:
        notes += ["vertex colors beside a texture are left out"] if light is not None else []
        return Primitive(vertices, faces, color, uv)
    if shown is not None:
        return Primitive(vertices, faces, BaseColor(), uv, shown)
    return Primitive(vertices, faces, color, uv)


def _check_vertices(path: Path, vertex: np.ndarray, counts: np.ndarray, lines: list[int], limit: int) -> None:
    wrong = np.flatnonzero((vertex < 0) | (vertex >= limit))
    if len(wrong):
        polygon = int(np.searchsorted(np.cumsum(counts), wrong[0], side="right"))
        raise UserError(
            f"{path}: line {lines[polygon]}: the face names vertex {int(vertex[wrong[0]]) + 1};"
            f" expected 1 to {limit}"
        )
