"""Small surfaces with known topology and colors."""

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import parse
from usd.core.types import Field, Mesh
from usd.exporter.mesh import MeshExporter
from usd.geometry import Geometry, Level
from usd.material import Material
from usd.math.isosurface import marching_cubes, sample_grid


def sphere(lattice: int = 24, radius: float = 0.5) -> Mesh:
    return _mesh(lambda x: radius - x.norm(dim=-1), lattice)


def torus(lattice: int = 32) -> Mesh:
    return _mesh(lambda x: 0.2 - ((x[:, :2].norm(dim=-1) - 0.5).square() + x[:, 2].square()).sqrt(), lattice)


def two_spheres(lattice: int = 32) -> Mesh:
    offset = torch.tensor([0.5, 0.0, 0.0])
    return _mesh(lambda x: 0.3 - torch.minimum((x - offset).norm(dim=-1), (x + offset).norm(dim=-1)), lattice)


def _mesh(inside: object, lattice: int) -> Mesh:
    return Mesh(*marching_cubes(sample_grid(inside, lattice, 1.0, torch.zeros(1)), 0.0, 1.0))


def plane(n: int = 12) -> Mesh:
    """An open square of n x n cells in z = 0, from 0 to 1."""
    i = torch.arange(n * (n + 1)).view(n, n + 1)[:, :n].flatten()
    quads = torch.stack([i, i + n + 1, i + n + 2, i + 1], 1)
    axis = torch.linspace(0, 1, n + 1)
    points = torch.cartesian_prod(axis, axis)
    vertices = torch.cat([points, torch.zeros(len(points), 1)], 1)
    return Mesh(vertices, torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]))


def ramp(turns: int = 3, steps: int = 24) -> Mesh:
    """A spiral staircase's underside: seen from above it lies over itself ``turns`` times."""
    angle = torch.linspace(0, turns * 2 * torch.pi, turns * steps + 1)
    rim = torch.stack([angle.cos(), angle.sin(), 0.05 * angle], 1)
    axis = rim * torch.tensor([0.2, 0.2, 1.0])
    i = torch.arange(len(angle) - 1)
    n = len(angle)
    faces = torch.cat([torch.stack([i, n + i, n + i + 1], 1), torch.stack([i, n + i + 1, i + 1], 1)])
    return Mesh(torch.cat([axis, rim]), faces)


class Painted(Geometry):
    """A mesh whose color is a smooth function of the place."""

    n_features, radius = 3, 1.0

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(None)
        self.found = mesh

    def export_mesh(self, resolution: int | None = None, threshold: Level | None = None) -> Mesh:
        return self.found

    def query(self, x: Float[Tensor, "N 3"], needs: frozenset[str]) -> Field:
        return Field(torch.zeros_like(x[:, 0]), 0.5 + 0.4 * torch.sin(4 * x))


class AsIs(Material):
    """Features that are colors already."""

    n_features = 3

    def __init__(self) -> None:
        super().__init__(None)

    def color(
        self,
        features: Float[Tensor, "N F"],
        positions: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        normals: Float[Tensor, "N 3"] | None,
    ) -> Float[Tensor, "N 3"]:
        return features


def exporter(**options: object) -> MeshExporter:
    small = {"texture_size": 128, "unwrap_time_limit": 0}
    return MeshExporter(parse(MeshExporter.Config, {**small, **options}, "exporter"))
