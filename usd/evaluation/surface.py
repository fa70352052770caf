"""How far one surface is from another. Pure functions of meshes and points; distances in the meshes' units.

Chamfer here is the mean over both directions of the mean (not squared) distance to the nearest point of the other set.
What the points are is said by name: ``area_samples`` covers a surface evenly, hidden parts included;
``visible_points`` holds only what sixteen cameras see.

Letters: N points, V F vertices and faces, G points of a lattice per side.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from usd.core.random import generator
from usd.core.types import Mesh
from usd.kernels.rasterize import NO_FACE, Tracer
from usd.math.camera import Cameras
from usd.math.mesh import area_points, directed_edges, face_cross, is_closed, volume

THRESHOLDS = (0.01, 0.02, 0.05)
"""Distances of the F-scores, of an object whose longest side is 1."""
LATTICE = 64
DISPARATE, ROUGH = 10.0, 0.01
"""Between sets whose sizes differ by more than this factor, distances may be too long by about this share."""
VOXEL = 0.01


@dataclass(frozen=True)
class Points:
    """Points on a surface and its unit normals there."""

    x: Float[Tensor, "N 3"]
    normal: Float[Tensor, "N 3"]

    def __len__(self) -> int:
        return self.x.shape[0]


@dataclass(frozen=True)
class NearestNeighbors:
    """For every point of one set, the nearest of the other: its distance, and |cos| between their normals."""

    distance: Float[Tensor, "N"]
    agreement: Float[Tensor, "N"]


# --------------------------------------------------------------------------------------------------------- points


def area_samples(mesh: Mesh, count: int, seed: int) -> Points:
    """Return ``count`` points drawn uniformly by area, from all faces; none for an empty mesh."""
    corners, cross = mesh.vertices[mesh.faces], face_cross(mesh.vertices, mesh.faces)
    if not (cross.norm(dim=-1) > 0).any():
        return Points(torch.zeros(0, 3), torch.zeros(0, 3))
    draw = generator("cpu", seed, "area")
    pick = torch.rand(count, generator=draw, dtype=torch.float64)
    within = torch.rand(2, count, generator=draw).T
    face, weights = area_points(mesh.vertices, mesh.faces, pick, within)
    x = (corners[face] * weights[..., None]).sum(1)
    return Points(x, torch.nn.functional.normalize(cross[face], dim=-1))


def visible_points(mesh: Mesh, cameras: Cameras, voxel: float = VOXEL) -> Points:
    """Return what the cameras see, one ray a pixel, thinned to one point (the mean) in each cube of side ``voxel``.

    Normals turn towards the camera that sees them.
    """
    if mesh.empty:
        return Points(torch.zeros(0, 3), torch.zeros(0, 3))
    origins, directions = (rays.reshape(-1, 3) for rays in cameras.rays())
    face, t = Tracer(mesh.vertices, mesh.faces).cast(origins, directions)
    hit = face != NO_FACE
    x = origins[hit] + t[hit, None] * directions[hit]
    normal = torch.nn.functional.normalize(face_cross(mesh.vertices, mesh.faces), dim=-1)[face[hit]]
    # Turned towards the ray: the far side of a thin wall must not count as its front.
    normal = normal * -torch.sign((normal * directions[hit]).sum(-1, keepdim=True))
    return voxel_means(Points(x, normal), voxel)


def voxel_means(points: Points, voxel: float) -> Points:
    """Return the mean point and mean normal of each occupied cube.

    The lattice starts at the lowest corner of the points.
    """
    if len(points) == 0:
        return points
    # Half a cube before the lowest point, so that rounding cannot put it into a cube of its own.
    low = points.x.amin(0) - 0.5 * voxel
    cell = ((points.x - low) / voxel).floor().long()
    # index_add instead of a loop over cubes: one pass whatever their number.
    unique, label, counts = torch.unique(_cube_numbers(cell), return_inverse=True, return_counts=True)
    zeros = torch.zeros(len(unique), 3)
    x = zeros.index_add(0, label, points.x) / counts[:, None]
    normal = torch.nn.functional.normalize(zeros.index_add(0, label, points.normal), dim=-1)
    return Points(x, normal)


def _cube_numbers(cell: Int[Tensor, "N 3"]) -> Int[Tensor, "N"]:
    """Return one number for each cube, however many there are."""
    # x side^2 + y side + z fits 63 bits up to a side of 2^21; beyond that rows are compared whole.
    side = int(cell.max()) + 1
    if side < 1 << 20:
        return (cell[:, 0] * side + cell[:, 1]) * side + cell[:, 2]
    return torch.unique(cell, dim=0, return_inverse=True)[1]


# -------------------------------------------------------------------------------------------------------- measures


def nearest(points: Points, others: Points) -> NearestNeighbors:
    """Return distances (infinite where the other set is empty) and agreement of normals, whichever way these point."""
    if len(others) == 0 or len(points) == 0:
        return NearestNeighbors(torch.full((len(points),), torch.inf), torch.zeros(len(points)))
    distance, index = nearest_of(points.x, others.x)
    # The size of the cosine: meshes from pictures often agree about a surface and not about its outside.
    cosine = (points.normal * others.normal[index]).sum(-1)
    return NearestNeighbors(distance.float(), cosine.abs())


def nearest_of(
    points: Float[Tensor, "N 3"], others: Float[Tensor, "M 3"]
) -> tuple[Float[Tensor, "N"], Int[Tensor, "N"]]:
    """Return the distance from each point to the nearest of others, and its number.

    Exact for sets of like size. Where sizes differ much, all members of one set are about as near to each of the other,
    and a tree can rule none of them out: there points in one small cube share their neighbor, found approximately.
    """
    # A tree prunes by distances to boxes; seen from far away all its boxes are as near.
    spans = [float((x.amax(0) - x.amin(0)).max()) for x in (points, others)]
    tree = cKDTree(others.numpy())
    if max(spans) <= DISPARATE * min(spans):
        distance, index = tree.query(points.numpy())
        return torch.from_numpy(np.asarray(distance)), torch.from_numpy(np.asarray(index)).long()
    cube = _cube_numbers(((points - points.amin(0)) / (0.2 * ROUGH * spans[1] + 1e-12)).long())
    label = torch.unique(cube, return_inverse=True)[1]
    # The first point of each cube asks for all points in it.
    first = torch.full((int(label.max()) + 1,), len(label))
    first = first.scatter_reduce(0, label, torch.arange(len(label)), "amin")
    index = torch.from_numpy(np.asarray(tree.query(points[first].numpy(), eps=ROUGH)[1])).long()[label]
    return (points - others[index]).norm(dim=1), index


def chamfer(forth: NearestNeighbors, back: NearestNeighbors) -> float:
    """Return the mean over both directions of the mean distance; infinite when one surface is empty."""
    if len(forth.distance) == 0 or len(back.distance) == 0:
        return float("inf")
    return 0.5 * (float(forth.distance.mean()) + float(back.distance.mean()))


def f_score(forth: NearestNeighbors, back: NearestNeighbors, threshold: float) -> float:
    """Return the harmonic mean of precision and recall within ``threshold``; 0 when one surface is empty."""
    if len(forth.distance) == 0 or len(back.distance) == 0:
        return 0.0
    # Precision: predicted points near the truth. Recall: true points that were found.
    precision = float((forth.distance <= threshold).float().mean())
    recall = float((back.distance <= threshold).float().mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def normal_consistency(forth: NearestNeighbors, back: NearestNeighbors) -> float:
    """Return the mean over both directions of |cos| between a point's normal and that of its nearest.

    Blind to orientation.
    """
    if len(forth.agreement) == 0 or len(back.agreement) == 0:
        return 0.0
    return 0.5 * (float(forth.agreement.mean()) + float(back.agreement.mean()))


# ---------------------------------------------------------------------------------------------------------- volume


def lattice(side: int = LATTICE, extent: float = 1.0) -> Float[Tensor, "G"]:
    """Return the middles of ``side`` equal cells from -extent to extent."""
    return (torch.arange(side) + 0.5) * (2 * extent / side) - extent


def occupancy(mesh: Mesh, side: int = LATTICE, extent: float = 1.0) -> Bool[Tensor, "G G G"]:
    """Return which points of the lattice (x, y, z) lie inside, whichever way the faces turn.

    The winding number of a point is its mean number of signed crossings along rays to infinity (Jacobson et al. 2013);
    here along the six directions of the axes. For a closed mesh each of the six is that number; for an open one their
    mean estimates it. Inside is where it is at least one half in size.
    """
    if mesh.empty:
        return torch.zeros(side, side, side, dtype=torch.bool)
    tracer = Tracer(mesh.vertices, mesh.faces)
    outward = face_cross(mesh.vertices, mesh.faces)
    parts = [_windings_along(tracer, outward, axis, side, extent) for axis in range(3)]
    # Six windings are summed, so one half of a winding each is 3 of the sum; the rest forgives rounding.
    return torch.stack(parts).sum(0).abs() >= 3.0 - 1e-3


def _windings_along(
    tracer: Tracer, outward: Float[Tensor, "F 3"], axis: int, side: int, extent: float
) -> Float[Tensor, "G G G"]:
    """Return the sum of both windings of lattice points seen along an axis: crossings ahead, and crossings behind.

    One ray runs through each row of the lattice, a thousandth of a cell off it, so as to miss the edges of boxes.
    """
    at = lattice(side, extent)
    # Different shifts along both, so that no ray runs within a plane of the diagonal either.
    b, c = torch.meshgrid(at + 0.71e-3 / side, at - 0.53e-3 / side, indexing="ij")
    # Rays start outside everything, so that the first crossing enters.
    reach = float(tracer.vertices.abs().max()) + extent + 1.0
    others = [i for i in range(3) if i != axis]
    origins = torch.full((side * side, 3), -reach)
    origins[:, others[0]], origins[:, others[1]] = b.flatten(), c.flatten()
    direction = torch.eye(3)[axis].expand_as(origins)
    total = torch.zeros(side, side * side)
    # A crossing is ahead of some points of its row and behind the others; behind counts with the other sign.
    for place, sign in crossings(tracer, outward, origins, direction):
        ahead = place - reach > at[:, None]
        total += torch.where(ahead, sign, -sign)
    return total.view(side, side, side).movedim(0, axis)


def crossings(
    tracer: Tracer,
    outward: Float[Tensor, "F 3"],
    origins: Float[Tensor, "R 3"],
    directions: Float[Tensor, "R 3"],
    at_most: int = 256,
) -> "list[tuple[Float[Tensor, 'R'], Float[Tensor, 'R']]]":
    """Return all surfaces that rays cross, in order: (distance, sign), +1 leaving, -1 entering.

    0 (at infinity) for none.
    """
    found: list[tuple[Tensor, Tensor]] = []
    # The step over a crossing must exceed float32's rounding at the mesh's size, or it would be found again.
    start, step = torch.zeros(len(origins)), 2e-5 * float(tracer.vertices.abs().max())
    while len(found) < at_most:
        face, t = tracer.cast(origins + start[:, None] * directions, directions)
        hit = face != NO_FACE
        if not hit.any():
            break
        # Along the outward normal a ray leaves; against it, it enters.
        facing = torch.sign((outward[face.clamp_min(0)] * directions).sum(-1))
        place = torch.where(hit, start + t, torch.full_like(t, torch.inf))
        found.append((place, torch.where(hit, facing, torch.zeros_like(facing))))
        # Rays that left are moved out of everything's way instead of being taken out of the batch.
        start = torch.where(hit, place + step, torch.full_like(t, 1e6))
    return found


def volume_iou(a: Bool[Tensor, "G G G"], b: Bool[Tensor, "G G G"]) -> float:
    """Return shared over joint occupied lattice points; 0 when neither has any."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0


# ------------------------------------------------------------------------------------------------------- condition


def condition(mesh: Mesh) -> tuple[str, ...]:
    """Return notes on what is unusual about a mesh and how the measures take it.

    None for a closed one turned outward.
    """
    if mesh.empty:
        return ("empty: Chamfer is infinite, F-score, Volume IoU and normal consistency are 0",)
    if not is_closed(mesh.faces):
        return (
            f"not closed ({boundary_edges(mesh.faces)} edges without a partner): its inside is where most of six rays "
            "out cross it",
        )
    # Only a closed mesh has a volume whose sign means anything.
    if float(volume(mesh.vertices, mesh.faces)) < 0:
        return ("turned inside out: the measures do not look at the direction of faces",)
    return ()


def boundary_edges(faces: Int[Tensor, "F 3"]) -> int:
    """Return how many directed edges have no partner in the opposite direction."""
    edges = directed_edges(faces)
    # An edge as one number, so that partners are found by looking for the number of the reversed edge.
    n = int(faces.max()) + 1 if len(faces) else 1
    forth, back = edges[:, 0] * n + edges[:, 1], edges[:, 1] * n + edges[:, 0]
    return int((~torch.isin(forth, back)).sum())
