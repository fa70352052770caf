"""Fewer triangles, same surface, for meshes of any size and place."""

from jaxtyping import Float, Int
from torch import Tensor

from usd.core.progress import Work
from usd.kernels.edge_collapse import collapse_edges
from usd.kernels.runtime import Implementation
from usd.math.mesh import drop_unused


def decimate(
    vertices: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    target: int,
    implementation: Implementation = "auto",
) -> tuple[Float[Tensor, "U 3"], Int[Tensor, "K 3"]]:
    """Return the surface with ``target`` faces (or one less); with more where no further edge may collapse.

    Borders of open meshes stay in place; vertices at edges with more than two faces do not move.
    """
    if len(faces) <= target:
        return vertices, faces
    # Unit size in double precision: quadrics square coordinates twice, and all thresholds are relative.
    scale = (vertices.amax(0) - vertices.amin(0)).amax().double().clamp_min(1e-12)
    with Work("decimating, faces", len(faces) - target) as work:
        x, faces = collapse_edges(vertices.double() / scale, faces, target, work.show, implementation)
    # Collapsed vertices are still there, and belong to no face.
    x, faces = drop_unused(x * scale, faces)
    return x.to(vertices.dtype), faces
