"""One primitive of a mesh file as its reader finds it, polygons as triangles, and all of them as one mesh."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from usd.core.errors import UserError
from usd.math.mesh import face_cross
from usd.mesh_io.colored_mesh import NO_COLOR, BaseColor, ColoredMesh


@dataclass(frozen=True)
class Primitive:
    """Vertices where the file puts them, triangles, their base color, and coordinates and light at their corners."""

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    color: BaseColor = NO_COLOR
    uv: Float[np.ndarray, "F 3 2"] | None = None
    light: Float[np.ndarray, "F 3 4"] | None = None


def check_polygons(flat: Int[np.ndarray, "C"], counts: Int[np.ndarray, "P"], limit: int, where: str) -> None:
    """Raise UserError that names the first face with a vertex (numbered from 0) that is not there.

    ``flat`` holds the vertices of all faces, ``counts`` how many each has.
    """
    wrong = (flat < 0) | (flat >= limit)
    if wrong.any():
        corner = int(wrong.argmax())
        face = int(np.searchsorted(np.cumsum(counts), corner, side="right"))
        raise UserError(f"{where}: face {face} names vertex {int(flat[corner])}; expected 0 to {limit - 1}")


def assemble(parts: Sequence[Primitive], path: Path, notes: Sequence[str]) -> ColoredMesh:
    """Return all parts as one mesh: equal positions merged, faces without extent and unused vertices dropped.

    Raises UserError for vertices of faces that are not finite, and where no face is left.
    """
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    faces = np.concatenate([part.faces + start for part, start in zip(parts, starts)]).astype(np.int64)
    vertices = np.concatenate([part.vertices for part in parts]).astype(np.float64)
    _check_finite(vertices, faces, path)
    merged, label = np.unique(vertices + 0.0, axis=0, return_inverse=True)
    kinds = np.repeat(np.arange(len(parts)), [len(part.faces) for part in parts])
    mesh = ColoredMesh(
        torch.from_numpy(merged),
        torch.from_numpy(label.reshape(-1)[faces]),
        tuple(part.color for part in parts),
        torch.from_numpy(kinds),
        _corners([part.uv for part in parts], parts, 2, 0.0),
        _corners([part.light for part in parts], parts, 4, 1.0),
        tuple(dict.fromkeys(notes)),
    )
    kept = spans_triangle(mesh.faces)
    if not kept.any() or float(face_cross(mesh.vertices, mesh.faces).abs().max()) == 0:
        raise UserError(f"{path}: all its faces have collapsed; expected a mesh with an area")
    return mesh.select(kept)


def spans_triangle(faces: Int[Tensor, "F 3"]) -> Bool[Tensor, "F"]:
    """Return which faces name three different vertices."""
    a, b, c = faces.unbind(1)
    return (a != b) & (b != c) & (c != a)


def _check_finite(vertices: np.ndarray, faces: np.ndarray, path: Path) -> None:
    wrong = ~np.isfinite(vertices).all(1)
    hit = wrong[faces].any(1)
    if hit.any():
        face = int(hit.argmax())
        raise UserError(
            f"{path}: {int(wrong[np.unique(faces)].sum())} of its vertices are not numbers (first in face {face});"
            " expected finite coordinates"
        )


def _corners(
    given: Sequence[np.ndarray | None], parts: Sequence[Primitive], width: int, missing: float
) -> Tensor | None:
    """Return what corners of all faces hold, ``missing`` where a primitive holds nothing; None where none does."""
    if all(values is None for values in given):
        return None
    rows = [
        np.full((len(part.faces), 3, width), missing, np.float32) if values is None else values
        for values, part in zip(given, parts)
    ]
    return torch.from_numpy(np.concatenate(rows).astype(np.float32))
