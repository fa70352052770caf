"""Sketch-Shape: a rough mesh says where matter should be, and how near its surface anything is allowed.

L = mean over points of the object's cube of (1 - exp(-d^2 / 2 sigma^2)) * CE(occupancy o, guide q), with d the distance
to the mesh, q 0.99 inside it and 0.01 outside, and CE = -o ln q - (1 - o) ln (1 - q): linear in the occupancy
(Latent-NeRF, arXiv 2211.07600, section 3.4, and its published code).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.core.ranks import mean_over
from usd.geometry import Volumetric
from usd.geometry.mesh_input import MeshPlacement, read_initial_shape
from usd.kernels.mesh_distance import mesh_distance
from usd.math import rng
from usd.math.isosurface import grid_points
from usd.mesh_io.axes import Axis

SIDE = 65  # lattice points a side of the stored distance
SCALE = 0.7  # largest distance of a guide's vertices from the origin, of the object's radius
SIGMA = 0.3  # leniency: distance at which the mesh counts for 40 %
DELTA = 0.2  # length over which a density becomes an occupancy, 1 - exp(-delta density)
POINTS = 1 << 14
DOUBT = 0.01  # the guide's own doubt; without it a wrong occupancy would cost infinitely much


@dataclass(frozen=True)
class GuideShape:
    """The signed distance to a mesh, positive outside, on a lattice of the cube [-radius, radius]^3 (z, y, x)."""

    distance: Float[Tensor, "S S S"]
    radius: float

    def at(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return signed distances of points, interpolated; near the surface, where that is rough, nothing counts."""
        lattice = self.distance.to(x)[None, None]
        place = (x / self.radius).view(1, 1, 1, -1, 3)
        found = torch.nn.functional.grid_sample(lattice, place, padding_mode="border", align_corners=True)
        return found.flatten()


def read_guide_shape(path: Path, radius: float, up: Axis | None = None) -> GuideShape:
    """Return the guide of a mesh file, centered, its farthest vertex at 0.7 of the radius.

    ``up`` is the file's axis that is up; None: as its format has it. Raises ``UserError`` for a file that is no mesh,
    and for a mesh with holes: it has no inside.
    """
    try:
        mesh = read_initial_shape(path, MeshPlacement(up, size=radius / 2), radius, closed=True).surface
    except UserError as error:
        raise UserError(f"system.guide_shape: {error}") from error
    vertices = mesh.vertices * (SCALE * radius / mesh.vertices.norm(dim=-1).amax())
    x = grid_points(0, SIDE, SIDE, -radius, radius, vertices).view(SIDE, SIDE, SIDE, 3).transpose(0, 2)
    distance = mesh_distance(x.reshape(-1, 3), vertices, mesh.faces)
    return GuideShape(distance.view(SIDE, SIDE, SIDE), radius)


def shape_loss(geometry: Volumetric, guide: GuideShape, generator: torch.Generator) -> Float[Tensor, ""]:
    """Return the cross-entropy of occupancy and guide at points drawn in the object's cube."""
    weights = next(geometry.parameters())
    x = rng.uniform((POINTS, 3), generator, dtype=weights.dtype).to(weights.device)
    x = (2 * x - 1) * geometry.radius
    distance = guide.at(x)
    leniency = 1 - torch.exp(-distance.square() / (2 * SIGMA**2))
    occupancy = 1 - torch.exp(-DELTA * geometry.density(x))
    guided = torch.where(distance < 0, 1 - DOUBT, DOUBT).to(occupancy)
    entropy = -(occupancy * guided.log() + (1 - occupancy) * torch.log1p(-guided))
    return mean_over((leniency * entropy).sum(), len(x))
