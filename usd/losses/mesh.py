"""Losses on the mesh itself: smoothness of its normals and vertices, and the amount of surface."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.core.errors import UserError
from usd.core.types import Mesh, Render
from usd.losses import loss
from usd.math import tetrahedra
from usd.math.mesh import directed_edges, vertex_normals


@loss("mesh")
def normal_consistency(render: Render) -> Tensor:
    """Penalize bends: 1 - cos of the angle between the normals at the two ends of an edge, mean over edges."""
    mesh = _required_mesh(render)
    a, b = vertex_normals(mesh.vertices, mesh.faces)[unique_edges(mesh.faces)].unbind(1)
    return 1 - (a * b).sum(-1).mean()


@loss("mesh")
def laplacian_smoothness(render: Render) -> Tensor:
    """Penalize vertices away from the middle of their neighbors: |sum of v - neighbor|, mean over vertices.

    The uniform Laplacian, not divided by the number of neighbors. World units.
    """
    mesh = _required_mesh(render)
    return uniform_laplacian(mesh.vertices, mesh.faces).norm(dim=-1).mean()


@loss("mesh")
def sign_changes(render: Render) -> Tensor:
    """Penalize edges of a tetrahedral grid whose ends differ in sign: floaters, walls inside (arXiv 2111.12503, eq. 2).

    About 1 where the surface is sharp, ln 2 where distances are near zero. Weigh it less and less.
    """
    ends = _required_mesh(render).cut
    if ends is None:
        raise UserError(
            "system.loss: lambda_sign_changes needs distances on a grid; "
            "expected system.geometry_type to be tetrahedra-sdf-grid"
        )
    return tetrahedra.sign_changes(ends)


def uniform_laplacian(vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "V 3"]:
    """Return the sum over neighbors of (vertex - neighbor). Zero at vertices without faces."""
    low, high = unique_edges(faces).unbind(1)
    step = vertices.index_select(0, low) - vertices.index_select(0, high)
    return torch.zeros_like(vertices).index_add(0, low, step).index_add(0, high, -step)


def unique_edges(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "E 2"]:
    """Return every edge once, its lower vertex first."""
    ends = directed_edges(faces).sort(dim=1).values
    n = int(faces.max()) + 1 if len(faces) else 1
    key = torch.unique(ends[:, 0] * n + ends[:, 1])
    return torch.stack([key // n, key % n], -1)


def _required_mesh(render: Render) -> Mesh:
    """Return the rendered mesh. Raises ``UserError`` for a renderer without one."""
    if render.mesh is None:
        raise UserError(
            "system.loss: lambda_normal_consistency, lambda_laplacian_smoothness and lambda_sign_changes need a mesh; "
            "expected system.renderer_type to be nvdiff-rasterizer"
        )
    return render.mesh
