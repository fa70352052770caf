"""Signed distance of points to a triangle mesh: positive outside, also where the mesh has holes.

The sign is that of the generalized winding number (Jacobson et al. 2013): the solid angle of all faces seen from the
point, over 4 pi, is one inside a closed mesh and zero outside; a point is inside above one half. An open mesh has a
sensible inside so, and a mesh turned inside out has none.

Warp walks a bounding volume hierarchy (its winding number is a far-field approximation); the torch twin looks at every
pair of a point and a face.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.kernels.runtime import Implementation, choose

PAIRS = 1 << 19  # pairs of a point and a face that the twin holds at once


def mesh_distance(
    x: Float[Tensor, "N 3"],
    vertices: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    implementation: Implementation = "auto",
) -> Float[Tensor, "N"]:
    """Return signed distances, not differentiable. Raises ``ValueError`` for a mesh without faces."""
    if len(faces) == 0:
        raise ValueError("mesh distance: the mesh has no faces")
    # Distances only say how a field starts: nothing is trained through them.
    x, vertices = x.detach(), vertices.detach()
    if choose(implementation, x, vertices) == "warp":
        from usd.kernels import mesh_distance_warp

        return mesh_distance_warp.distance(x, vertices, faces)
    # The table of all points and faces must fit into memory.
    rows = max(1, PAIRS // len(faces))
    return torch.cat([mesh_distance_torch(part, vertices, faces) for part in x.split(rows)])


# ------------------------------------------------------------------------------------------------------ the twin


def mesh_distance_torch(
    x: Float[Tensor, "N 3"], vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]
) -> Float[Tensor, "N"]:
    """Return what ``mesh_distance`` does, from all pairs of a point and a face at once."""
    corners = vertices[faces]
    nearest = point_triangle_distance(x, corners).amin(1)
    return torch.where(winding_number(x, corners) > 0.5, -nearest, nearest)


def winding_number(x: Float[Tensor, "N 3"], corners: Float[Tensor, "F 3 3"]) -> Float[Tensor, "N"]:
    """Return solid angle of all triangles seen from each point, over 4 pi (Van Oosterom and Strackee 1983)."""
    # Seen from the point, hence the difference.
    a, b, c = (corners[None, :, i] - x[:, None] for i in range(3))
    la, lb, lc = a.norm(dim=-1), b.norm(dim=-1), c.norm(dim=-1)
    # tan(angle / 2) = over / under; atan2 knows the quadrant where under is negative.
    over = (a * torch.linalg.cross(b, c)).sum(-1)
    under = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
    return torch.atan2(over, under).sum(1) / (2 * math.pi)


def point_triangle_distance(x: Float[Tensor, "N 3"], corners: Float[Tensor, "F 3 3"]) -> Float[Tensor, "N F"]:
    """Return distance of every point to every triangle: to its plane where the foot lies in it, else to its edges."""
    at = x[:, None]
    a, b, c = corners.unbind(1)
    ends = [(a, b), (b, c), (c, a)]
    normal = torch.linalg.cross(b - a, c - a)
    length = normal.norm(dim=-1)
    unit = normal / length.clamp_min(1e-30)[:, None]
    # Height over the plane, and the foot below.
    above = ((at - a) * unit).sum(-1)
    foot = at - above[..., None] * unit
    # The foot is in the triangle where it is left of all three edges.
    within = [(torch.linalg.cross((q - p)[None], foot - p) * unit).sum(-1) >= 0 for p, q in ends]
    hit = within[0] & within[1] & within[2] & (length > 1e-30)
    rim = torch.stack([_segment_distance(at, p, q) for p, q in ends]).amin(0)
    return torch.where(hit, above.abs(), rim)


def _segment_distance(at: Tensor, p: Tensor, q: Tensor) -> Float[Tensor, "N F"]:
    along = q - p
    # Clamped to the ends; a segment without length is a point.
    t = ((at - p) * along).sum(-1) / along.square().sum(-1).clamp_min(1e-30)
    return (at - p - t.clamp(0, 1)[..., None] * along).norm(dim=-1)
