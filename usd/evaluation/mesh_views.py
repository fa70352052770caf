"""Mesh files as ground truth or prediction, and unlit pictures of them."""

from pathlib import Path

import torch

from usd.core.errors import UserError
from usd.data.view_set import ViewSet, view_set
from usd.math.camera import Cameras
from usd.mesh_io.colored_mesh import ColoredMesh
from usd.mesh_io.pictures import pictures
from usd.mesh_io.read import Up, read_mesh

RAYS_A_SIDE = 3
"""A pixel is the mean of this many rays a side."""


def open_mesh(path: Path, up: Up = "auto", where: str = "mesh") -> ColoredMesh:
    """Return the mesh of a file. Raises UserError, with ``where`` in front, for what is none."""
    try:
        return read_mesh(path, up)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def mesh_views(mesh: ColoredMesh, cameras: Cameras, rays_a_side: int = RAYS_A_SIDE) -> ViewSet:
    """Return unlit pictures with straight alpha, each pixel the mean of ``rays_a_side`` squared rays."""
    rgba = pictures(mesh, cameras, rays_a_side)
    # The rays give premultiplied colors; files and metrics hold straight ones.
    color, alpha = rgba[:, :3], rgba[:, 3:]
    straight = torch.where(alpha > 0, color / alpha.clamp_min(1e-6), torch.zeros_like(color))
    names = [f"{i:04d}.png" for i in range(len(cameras))]
    return view_set(list(torch.cat([straight, alpha], 1)), cameras, names, ["unlit pictures of the mesh"])
