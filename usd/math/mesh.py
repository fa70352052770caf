"""Triangle meshes as plain functions of vertices (V 3) and faces (F 3): measures, normals, components, cleaning.

Faces turn counter-clockwise seen from outside. A mesh is *closed* when every edge is used once in each direction by
its faces. Nothing here is differentiable by accident: measures and normals are, cleaning is not.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Vertices = Float[Tensor, "V 3"]
Faces = Int[Tensor, "F 3"]


def face_cross(vertices: Vertices, faces: Faces) -> Float[Tensor, "F 3"]:
    """Return outward face normals, as long as twice the face's area."""
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a)


def area(vertices: Vertices, faces: Faces) -> Float[Tensor, ""]:
    """Return surface area."""
    return 0.5 * face_cross(vertices, faces).norm(dim=-1).sum()


def volume(vertices: Vertices, faces: Faces) -> Float[Tensor, ""]:
    """Return the enclosed volume of a closed mesh (divergence theorem); negative when faces turn the wrong way."""
    return (vertices[faces[:, 0]] * face_cross(vertices, faces)).sum() / 6


def directed_edges(faces: Faces) -> Int[Tensor, "E 2"]:
    """Return the three edges of every face, along its direction of turning."""
    return torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def is_closed(faces: Faces) -> bool:
    """Return whether every edge is used exactly once in each direction (watertight and consistently oriented)."""
    edges = directed_edges(faces)
    n = int(faces.max()) + 1 if len(faces) else 1
    forth, back = (edges[:, 0] * n + edges[:, 1]).sort().values, (edges[:, 1] * n + edges[:, 0]).sort().values
    return bool(torch.equal(forth, back) and (forth[1:] != forth[:-1]).all())


def euler_number(faces: Faces) -> int:
    """Return v - E + F over the vertices in use: 2 for a sphere, 0 for a torus, summed over components."""
    edges = directed_edges(faces).sort(dim=1).values
    return len(torch.unique(faces)) - len(torch.unique(edges, dim=0)) + len(faces)


def vertex_normals(vertices: Vertices, faces: Faces) -> Float[Tensor, "V 3"]:
    """Return unit normals at vertices, the faces around weighted by their area. Zero at vertices without faces."""
    cross = face_cross(vertices, faces)
    total = torch.zeros_like(vertices).index_add(0, faces.flatten(), cross.repeat_interleave(3, 0))
    return torch.nn.functional.normalize(total, dim=-1)


def surface_samples(
    vertices: Vertices, faces: Faces, n: int, generator: torch.Generator | None = None
) -> tuple[Int[Tensor, "N"], Float[Tensor, "N 3"]]:
    """Draw ``n`` points evenly over the area: the face of each, and its weights for the face's three corners."""
    u = torch.rand(n, 3, generator=generator, device=vertices.device, dtype=vertices.dtype)
    return area_points(vertices, faces, u[:, 0], u[:, 1:])


def area_points(
    vertices: Vertices,
    faces: Faces,
    pick: Float[Tensor, "N"],
    within: Float[Tensor, "N 2"],
) -> tuple[Int[Tensor, "N"], Float[Tensor, "N 3"]]:
    """Map uniform numbers in [0, 1) to points evenly over the area: faces, and weights for their three corners.

    ``pick`` chooses a face by its share of the area, ``within`` a point of it.
    """
    # In double precision: the sum of many small areas must still tell the last ones apart.
    total = face_cross(vertices.detach(), faces).norm(dim=-1).double().cumsum(0)
    face = torch.searchsorted(total, pick.double() * total[-1], right=True).clamp_max(len(faces) - 1)
    # The root makes points dense where the triangle is wide, at the side opposite the first corner.
    root, v = within[:, 0].sqrt(), within[:, 1]
    return face, torch.stack([1 - root, root * (1 - v), root * v], -1)


def components(faces: Faces, n_vertices: int) -> Int[Tensor, "F"]:
    """Return for each face the number of the connected component (by shared vertices) that it belongs to, from 0."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = directed_edges(faces).cpu().numpy()
    graph = coo_matrix(([True] * len(edges), (edges[:, 0], edges[:, 1])), shape=(n_vertices, n_vertices))
    label = torch.from_numpy(connected_components(graph, directed=False)[1]).to(faces.device)
    return torch.unique(label[faces[:, 0]].long(), return_inverse=True)[1]


def large_components(vertices: Vertices, faces: Faces, fraction: float) -> Bool[Tensor, "F"]:
    """Return which faces belong to components whose area is at least ``fraction`` of the largest component's area.

    0 keeps everything, 1 keeps the largest component (and any that equals it).
    """
    if len(faces) == 0:
        return torch.zeros(0, dtype=torch.bool, device=faces.device)
    label = components(faces, len(vertices))
    each = 0.5 * face_cross(vertices, faces).norm(dim=-1)
    areas = each.new_zeros(int(label.max()) + 1).index_add(0, label, each)
    return (areas >= fraction * areas.max())[label]


def drop_unused(vertices: Vertices, faces: Faces) -> tuple[Float[Tensor, "U 3"], Faces]:
    """Return the same surface without vertices that no face uses."""
    used, renumbered = torch.unique(faces, return_inverse=True)
    return vertices[used], renumbered.view(-1, 3)


def coincident(vertices: Vertices, tolerance: float) -> Int[Tensor, "V"]:
    """Return for each vertex the number of its group, from 0: all that round to the same multiple of ``tolerance``."""
    return torch.unique((vertices / tolerance).round().long(), dim=0, return_inverse=True)[1]


def clip_to_box(
    vertices: Vertices, faces: Faces, low: Float[Tensor, "3"], high: Float[Tensor, "3"]
) -> tuple[Float[Tensor, "U 3"], Int[Tensor, "G 3"]]:
    """Return the part of a mesh inside a box, cut exactly at its sides, where it stays open."""
    for axis in range(3):
        vertices, faces = clip_faces(vertices, faces, vertices[:, axis] - low[axis])
        vertices, faces = clip_faces(vertices, faces, high[axis] - vertices[:, axis])
    return drop_unused(vertices, faces)


def clip_faces(
    vertices: Vertices, faces: Faces, height: Float[Tensor, "V"]
) -> tuple[Float[Tensor, "W 3"], Int[Tensor, "G 3"]]:
    """Return the part of a mesh whose ``height``, given at vertices and linear on faces, is at least 0."""
    inside = height >= 0
    count = inside[faces].sum(1)
    single = _turned_to(faces[count == 1], inside)  # one corner inside: a smaller triangle is left
    double = _turned_to(faces[count == 2], ~inside)  # one corner outside: a quadrangle is left
    # A cut edge gets one new vertex, whichever of its faces asks for it, so that the surface stays connected.
    cut = torch.cat([single[:, [0, 1]], single[:, [0, 2]], double[:, [0, 1]], double[:, [0, 2]]])
    edges, number = torch.unique(cut.sort(1).values, dim=0, return_inverse=True)
    ends = height[edges]
    share = (ends[:, :1] / (ends[:, :1] - ends[:, 1:])).to(vertices)
    added = torch.lerp(vertices[edges[:, 0]], vertices[edges[:, 1]], share)
    p, q, r, s = (number + len(vertices)).split([len(single)] * 2 + [len(double)] * 2)
    kept = [
        faces[count == 3],
        torch.stack([single[:, 0], p, q], 1),
        torch.stack([r, double[:, 1], double[:, 2]], 1),
        torch.stack([r, double[:, 2], s], 1),
    ]
    return torch.cat([vertices, added]), torch.cat(kept)


def _turned_to(faces: Faces, marked: Bool[Tensor, "V"]) -> Faces:
    """Return faces turned so that their first corner is the marked one, of which each has one."""
    first = marked[faces].int().argmax(1, keepdim=True) if len(faces) else faces[:, :1]
    return faces.gather(1, (first + torch.arange(3, device=faces.device)) % 3)
