"""STL files, read by trimesh, and OFF files."""

import io
import re
from pathlib import Path

import numpy as np
import torch

from usd.core.errors import UserError
from usd.math.color import linear_from_srgb
from usd.mesh_io.colored_mesh import BaseColor
from usd.mesh_io.files import decode_text
from usd.mesh_io.part import Part, check_polygons
from usd.mesh_io.polygons import triangulate


def read_stl(path: Path, content: bytes) -> tuple[list[Part], list[str]]:
    """Return the shape of an ASCII or binary STL file."""
    import trimesh

    loaded = trimesh.load_scene(io.BytesIO(content), file_type="stl", process=False)
    meshes = [mesh for mesh in loaded.geometry.values() if isinstance(mesh, trimesh.Trimesh)]
    parts = [Part(np.asarray(m.vertices, np.float64), np.asarray(m.faces, np.int64)) for m in meshes]
    if not any(len(part.faces) for part in parts):
        raise UserError(f"{path}: has no faces; expected a triangle mesh")
    return parts, []


def read_off(path: Path, content: bytes) -> tuple[list[Part], list[str]]:
    """Return the polygons of an ASCII OFF file, with colors of vertices (COFF) or of faces where it has them."""
    text = re.sub(r"#[^\n]*", "", decode_text(content))
    match = re.match(r"\s*(ST)?(C)?(N)?OFF\b", text)
    if match is None or "BINARY" in text[: match.end() + 10]:
        raise UserError(f"{path}: cannot be read as a mesh: is no ASCII OFF file")
    lines = [line.split() for line in text[match.end() :].splitlines() if line.strip()]
    try:
        n, f = int(lines[0][0]), int(lines[0][1])
        table = np.array([[float(word) for word in row] for row in lines[1 : 1 + n]]).reshape(n, -1)
        rows = [(int(row[0]), row[1:]) for row in lines[1 + n : 1 + n + f]]
        flat = np.array([int(word) for count, row in rows for word in row[:count]], np.int64)
        counts = np.array([count for count, _ in rows], np.int64)
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}: cannot be read as a mesh ({error})") from error
    if not len(flat) or len(rows) < f:
        raise UserError(f"{path}: has {len(rows)} of {f} faces, {n} points; expected a triangle mesh")
    check_polygons(flat, counts, n, str(path))
    corner, owner = triangulate(flat, counts, table[:, :3])
    faces, light = flat[corner], None
    if match[2]:
        start = 6 if match[3] else 3
        light = _light(table[:, start : start + 3])[faces]
    elif all(len(row) >= count + 3 for count, row in rows):
        stored = np.array([[float(word) for word in row[count : count + 3]] for count, row in rows])
        light = _light(stored)[owner][:, None, :].repeat(3, 1)
    return [Part(table[:, :3], faces, BaseColor(named=light is not None), None, light)], []


def _light(stored: np.ndarray) -> np.ndarray:
    """Linear light and alpha of colors as displayed, in bytes where any is beyond 1."""
    shown = torch.from_numpy(stored / (255.0 if stored.max(initial=0.0) > 1 else 1.0)).clamp(0, 1)
    return np.concatenate([linear_from_srgb(shown).numpy(), np.ones((len(stored), 1))], 1)
