"""What files get wrong about surfaces: stray faces far away, double-sided faces, faces that turn the wrong way round.

Everything here takes and returns a ``ColoredMesh`` and says in its notes what it changed.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from usd.math.mesh import coincident, directed_edges, face_cross
from usd.mesh_io.colored_mesh import ColoredMesh
from usd.mesh_io.primitive import spans_triangle

FAR = 50.0
"""Faces so many times farther from the middle than nine tenths of all corners are strays."""
SHARE = 0.9
FLAT = 1e-3
"""An open sheet that bulges by less than this (volume over area to the power 3/2) has no outside."""


def weld(mesh: ColoredMesh, tolerance: float) -> ColoredMesh:
    """Merge vertices that round to the same multiple of ``tolerance``; faces that collapse are dropped."""
    label = coincident(mesh.vertices, tolerance)
    first = first_of_groups(label)
    merged = replace(mesh, vertices=mesh.vertices[first], faces=label[mesh.faces])
    return merged.select(spans_triangle(merged.faces))


def first_of_groups(label: Int[Tensor, "N"]) -> Int[Tensor, "G"]:
    """Return the first member of each group, where ``label`` numbers the groups from 0."""
    none = torch.full((int(label.max()) + 1,), len(label))
    return none.scatter_reduce(0, label, torch.arange(len(label)), "amin")


def drop_strays(mesh: ColoredMesh) -> ColoredMesh:
    """Drop faces that lie so far from the rest that the object would vanish in their bounding box."""
    far = is_stray(mesh)
    if not far.any():
        return mesh
    note = (
        f"{int(far.sum())} of {len(far)} faces lie more than {FAR:g} times farther from the middle than"
        " the rest, and are left out"
    )
    return mesh.select(~far, note)


def is_stray(mesh: ColoredMesh) -> Bool[Tensor, "F"]:
    """Return which faces have a corner far beyond all but a tenth of the corners."""
    corners = mesh.vertices[mesh.faces].reshape(-1, 3)
    away = (corners - corners.median(0).values).abs().amax(1)
    reach = torch.quantile(away[:: max(1, len(away) // 1_000_000)], SHARE)
    return (away > FAR * reach).view(-1, 3).any(1) if reach > 0 else torch.zeros(len(mesh.faces)).bool()


def face_outward(mesh: ColoredMesh) -> ColoredMesh:
    """Turn faces consistently, and outward where a connected sheet that lies in no other has an outside.

    Of faces on the same three vertices (double-sided ones) the first is kept. Sheets inside others are cavities or
    overlapping parts and keep the direction of most of their faces.
    """
    mesh = _single_sided(mesh)
    sheet, turned = consistent_turns(mesh.faces)
    turned = turned ^ _inward(mesh.vertices, mesh.flip(turned).faces, sheet)[sheet]
    count = int(turned.sum())
    if count == 0:
        return mesh
    everything = count == len(turned)
    what = (
        "it is turned inside out"
        if everything
        else f"{count} of {len(turned)} faces turn the wrong way round"
    )
    return mesh.flip(turned, f"{what}; righted")


def _single_sided(mesh: ColoredMesh) -> ColoredMesh:
    key, group = torch.unique(mesh.faces.sort(dim=1).values, dim=0, return_inverse=True)
    if len(key) == len(mesh.faces):
        return mesh
    count = len(group) - len(key)
    first = first_of_groups(group)[group] == torch.arange(len(group))
    return mesh.select(first, f"{count} faces on the same corners as others (double-sided) are dropped")


def consistent_turns(faces: Int[Tensor, "F 3"]) -> tuple[Int[Tensor, "F"], Bool[Tensor, "F"]]:
    """Return the connected sheet of each face, and which faces to turn so that neighbors agree.

    Neighbors share an edge that no third face has. The fewer faces of a sheet are turned; of one with a single side
    (Moebius) none.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(faces)
    one, other, same = _neighbors(faces)
    # Node f is face f as it is, node F + f is it turned: connected nodes agree about all directions.
    ends = (
        np.concatenate([one, one + count]),
        np.concatenate([other + same * count, other + (1 - same) * count]),
    )
    graph = coo_matrix((np.ones(len(ends[0])), ends), shape=(2 * count, 2 * count))
    label = connected_components(graph, directed=False)[1]
    straight, turned = label[:count], label[count:]
    sheet = np.unique(np.minimum(straight, turned), return_inverse=True)[1]
    flip = (turned < straight).astype(np.int64)
    most = np.bincount(sheet, flip) * 2 > np.bincount(sheet)
    return torch.from_numpy(sheet), torch.from_numpy((flip ^ most[sheet]).astype(bool) & (straight != turned))


def _neighbors(faces: Int[Tensor, "F 3"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs of faces that share an edge of their own, and 1 where both run along it in the same direction."""
    edges = directed_edges(faces).numpy()
    face = np.tile(np.arange(len(faces)), 3)
    low, high = edges.min(1), edges.max(1)
    order = np.lexsort((high, low))
    low, high, face, forth = low[order], high[order], face[order], (edges[:, 0] < edges[:, 1])[order]
    starts = np.flatnonzero(np.r_[True, (low[1:] != low[:-1]) | (high[1:] != high[:-1])])
    pairs = starts[np.diff(np.r_[starts, len(low)]) == 2]
    return face[pairs], face[pairs + 1], (forth[pairs] == forth[pairs + 1]).astype(np.int64)


def _inward(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], sheet: Int[Tensor, "F"]
) -> Bool[Tensor, "S"]:
    """Return which sheets face inward: their volume about their middle is negative, and no other's box holds theirs."""
    vertices, count = vertices.double(), int(sheet.max()) + 1
    corners = vertices[faces]
    index = sheet[:, None].expand(-1, 3)
    low = torch.full((count, 3), torch.inf, dtype=torch.float64).scatter_reduce(
        0, index, corners.amin(1), "amin"
    )
    high = torch.full((count, 3), -torch.inf, dtype=torch.float64).scatter_reduce(
        0, index, corners.amax(1), "amax"
    )
    middle = corners.mean(1)
    center = (
        torch.zeros(count, 3, dtype=torch.float64).index_add(0, sheet, middle)
        / torch.bincount(sheet)[:, None]
    )
    cross = face_cross(vertices, faces)
    volume = torch.zeros(count, dtype=torch.float64).index_add(
        0, sheet, ((middle - center[sheet]) * cross).sum(1) / 6
    )
    area = torch.zeros(count, dtype=torch.float64).index_add(0, sheet, cross.norm(dim=1) / 2)
    bulge = torch.where(_is_closed_sheet(faces, sheet), 0.0, FLAT * area**1.5)
    return (volume < -bulge) & ~_inside_boxes(low, high)


def _is_closed_sheet(faces: Int[Tensor, "F 3"], sheet: Int[Tensor, "F"]) -> Bool[Tensor, "S"]:
    """Return which sheets have a neighbor at every edge of every face."""
    one, other, _ = _neighbors(faces)
    shared = np.bincount(np.concatenate([one, other]), minlength=len(faces))
    open_faces = torch.from_numpy((shared < 3).astype(np.int64))
    return torch.zeros(int(sheet.max()) + 1).long().index_add(0, sheet, open_faces) == 0


def _inside_boxes(low: Float[Tensor, "S 3"], high: Float[Tensor, "S 3"]) -> Bool[Tensor, "S"]:
    """Return which boxes lie strictly in another one."""
    order = (high - low).prod(1).argsort(descending=True)[:256].tolist()
    held = torch.zeros(len(low), dtype=torch.bool)
    for large in order:
        held |= ((low > low[large]) & (high < high[large])).all(1)
    return held
