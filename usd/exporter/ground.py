"""What an object of a capture stands on, taken away from its surface.

The ground is the plane with the most area of faces that look up. It is found by random sampling (RANSAC, Fischler and
Bolles 1981) among such faces and fitted to those near it; then it goes with all that lies below, and of the rest the
largest piece is the object.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from usd.core.errors import UserError
from usd.core.types import Mesh

STEEPEST = 0.8
"""Least upward component of the unit normal of a face that may be ground: about 37 degrees of slope."""
THICKNESS = 0.01
"""How far, as a share of the mesh's size, the surface of the ground reaches above and below its plane."""
TRIALS = 256
LEAST_SHARE = 0.02
"""Least share of the mesh's area that a ground has."""


def without_ground(mesh: Mesh, seed: int = 0) -> Mesh:
    """Return the largest piece of a mesh (+z up) above the plane that it stands on.

    Raises ``UserError`` where there is no such plane, or nothing above it.
    """
    corners = mesh.vertices[mesh.faces]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = normal.norm(dim=1) / 2
    middle = corners.mean(1)
    size = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm())
    upward = normal[:, 2] > STEEPEST * normal.norm(dim=1).clamp_min(1e-20)
    found = _largest_plane(middle[upward], area[upward], THICKNESS * size, seed)
    if found is None or found[2] < LEAST_SHARE * float(area.sum()):
        raise UserError(
            "exporter.drop_ground: the surface has no ground, a plane that looks up; expected false"
        )
    direction, offset, _ = found
    # Faces that touch the ground go with it, so that the object has no rim of it.
    above = ((mesh.vertices @ direction - offset) > THICKNESS * size)[mesh.faces].all(1)
    if not bool(above.any()):
        raise UserError("exporter.drop_ground: nothing stands on the ground; expected false")
    return largest_piece(mesh, above)


def _largest_plane(
    points: Float[Tensor, "N 3"], area: Float[Tensor, "N"], reach: float, seed: int
) -> tuple[Float[Tensor, "3"], float, float] | None:
    """Return the upward unit normal, offset and area of the plane with the most area within ``reach``; None without."""
    if len(points) < 3:
        return None
    # By area: of faces drawn evenly, finely cut ones would decide.
    rng = torch.Generator().manual_seed(seed)
    chosen = torch.multinomial(area.cpu().double(), 3 * TRIALS, replacement=True, generator=rng).view(
        TRIALS, 3
    )
    a, b, c = points[chosen.to(points.device)].unbind(1)
    normals = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
    # Only planes that lie flat themselves are ground.
    normals = normals * torch.sign(normals[:, 2:])
    offsets = (normals * a).sum(1)
    near = ((points @ normals.T - offsets).abs() < reach) & (normals[:, 2] > STEEPEST)
    score = area @ near.to(area)
    best = int(score.argmax())
    if float(score[best]) <= 0:
        return None
    return _fit(points[near[:, best]], area[near[:, best]])


def _fit(points: Float[Tensor, "N 3"], area: Float[Tensor, "N"]) -> tuple[Float[Tensor, "3"], float, float]:
    """Return the plane of least squares, weighted by area."""
    middle = (points * area[:, None]).sum(0) / area.sum()
    # Each point counts as its area: the root of it enters the square.
    offset = (points - middle) * area[:, None].sqrt()
    # The direction in which the points differ least is the normal.
    normal = torch.linalg.eigh(offset.T @ offset).eigenvectors[:, 0]
    normal = normal * torch.sign(normal[2])
    return normal, float(normal @ middle), float(area.sum())


def largest_piece(mesh: Mesh, kept: Bool[Tensor, "F"]) -> Mesh:
    """Return the connected piece of the kept faces with the most area, without the vertices that are then unused."""
    faces = mesh.faces[kept]
    piece = _pieces(faces, len(mesh.vertices))
    corners = mesh.vertices[faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    total = torch.zeros(int(piece.max()) + 1, dtype=area.dtype, device=area.device).index_add(0, piece, area)
    faces = faces[piece == total.argmax()]
    # Vertices are numbered anew, those of other pieces left out.
    used, number = torch.unique(faces, return_inverse=True)
    return Mesh(mesh.vertices[used], number.view(-1, 3))


def _pieces(faces: Int[Tensor, "F 3"], vertices: int) -> Int[Tensor, "F"]:
    """Return the number of each face's piece: faces that share a vertex are of one."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ends = torch.cat([faces[:, :2], faces[:, 1:]]).cpu().numpy()
    edges = coo_matrix(([True] * len(ends), (ends[:, 0], ends[:, 1])), shape=(vertices, vertices))
    _, label = connected_components(edges, directed=False)
    return torch.from_numpy(label).to(faces.device).long()[faces[:, 0]]
