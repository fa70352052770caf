"""Pictures of a mesh in its own colors, without light."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.core.progress import each
from usd.kernels.rasterize import NO_FACE, Tracer, intersect
from usd.math.camera import Cameras
from usd.mesh_io.colored_mesh import ColoredMesh

LAYERS = 16
"""A ray passes through so many cut-out faces at most."""


@torch.no_grad()
def pictures(mesh: ColoredMesh, cameras: Cameras, samples: int = 2) -> Float[Tensor, "B 4 H W"]:
    """Return premultiplied colors and alpha, ``samples`` squared rays a pixel. Cut-out places are seen through."""
    tracer = Tracer(mesh.vertices.float(), mesh.faces)
    fine = cameras.resize(cameras.height * samples, cameras.width * samples)
    rows = range(len(fine))
    # One picture is a part of a longer work, or none.
    shown = each(rows, "rendering the mesh") if len(rows) > 1 else rows
    views = [_view(mesh, tracer, fine[i : i + 1]) for i in shown]
    return torch.nn.functional.avg_pool2d(torch.cat(views), samples)


def _view(mesh: ColoredMesh, tracer: Tracer, camera: Cameras) -> Float[Tensor, "1 4 H W"]:
    origins, directions = (rays.reshape(-1, 3) for rays in camera.rays())
    face, weights = first_solid_hit(mesh, tracer, origins, directions)
    hit = face != NO_FACE
    rgba = torch.zeros(len(face), 4)
    rgba[hit, :3] = mesh.display_colors(face[hit], weights[hit])
    rgba[hit, 3] = 1.0
    return rgba.view(1, camera.height, camera.width, 4).permute(0, 3, 1, 2)


def first_solid_hit(
    mesh: ColoredMesh, tracer: Tracer, origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"]
) -> tuple[Int[Tensor, "R"], Float[Tensor, "R 3"]]:
    """Return the nearest face that each ray meets where it is not cut out (-1: none), and weights of its corners."""
    face = torch.full((len(origins),), NO_FACE)
    weights = torch.zeros(len(origins), 3)
    rows, start = torch.arange(len(origins)), origins
    step = 1e-5 * float(tracer.vertices.abs().max()) if len(tracer.vertices) else 0.0
    for _ in range(LAYERS if mesh.has_cutouts else 1):
        found, t = tracer.cast(start, directions[rows])
        hit = found != NO_FACE
        rows, found, at = rows[hit], found[hit], start[hit] + t[hit, None] * directions[rows[hit]]
        if len(rows) == 0:
            break
        # The weights are taken from nearby, so that tiny faces keep their digits.
        share = intersect(tracer.vertices[mesh.faces[found]], at, directions[rows])[0].nan_to_num(1 / 3)
        solid = mesh.is_solid(found, share)
        face[rows[solid]], weights[rows[solid]] = found[solid], share[solid]
        rows, start = rows[~solid], at[~solid] + step * directions[rows[~solid]]
    return face, weights
