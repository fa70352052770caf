"""What Gaussian splats start from: a blob, a simple shape, a mesh, a cloud of points, or splats of a file."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from usd.core.config import option
from usd.core.errors import ConfigError, UserError
from usd.core.random import generator
from usd.core.types import Mesh
from usd.geometry.initial_shape import ShapeConfig, initial_mesh, mesh_file
from usd.math.mesh import surface_samples
from usd.math.spherical_harmonics import CONSTANT
from usd.math.splats import ColoredSplats
from usd.mesh_io.splats import read_points

POINTS = "points:"
FLAT = 0.1
"""Thickness of Gaussians that start on a surface, in their widths."""
GRAY = 0.5


@dataclass(frozen=True)
class StartConfig(ShapeConfig):
    """Options of the Gaussians that a training starts from."""

    shape_init: str | None = option(
        None,
        "what Gaussians start as: blob, sphere, ellipsoid, mesh:FILE, or points:FILE (a cloud of points, or splats, as"
        " PLY, GLB or SPZ); null: blob",
        path=True,
    )
    n_splats: int = option(4096, "Gaussians to start from, where a file does not say", ge=1, le=50_000_000)
    initial_opacity: float = option(0.1, "opacity that Gaussians start with", gt=0, lt=1)
    blob_std: float = option(0.3, "standard deviation of the blob, in radii", gt=0, le=10)


def splat_start(config: StartConfig, radius: float) -> ColoredSplats:
    """Return the Gaussians that the options say. Raises ``UserError``."""
    kind = config.shape_init
    if kind in (None, "blob"):
        return blob(config, radius)
    if kind is not None and kind.startswith(POINTS):
        return _file_start(Path(kind.removeprefix(POINTS)).expanduser(), config)
    if mesh_file(config) is None:
        return cloud(_primitive_points(config, radius), None, config)
    found = initial_mesh(config, radius)
    return surface_start(found.colored or found.surface, config)


def blob(config: StartConfig, radius: float) -> ColoredSplats:
    """Return Gaussians around the origin, normally distributed."""
    draws = torch.randn(config.n_splats, 3, generator=generator("cpu", 0, "splats"))
    return cloud((config.blob_std * radius * draws).clamp(-radius, radius), None, config)


def surface_start(mesh: Mesh, config: StartConfig) -> ColoredSplats:
    """Return Gaussians evenly over a surface, with its colors where it has any. Raises ``UserError`` for none."""
    if mesh.empty:
        raise UserError("system.geometry: there is no surface to start from; expected a mesh with faces")
    face, share = surface_samples(
        mesh.vertices.cpu(), mesh.faces.cpu(), config.n_splats, generator("cpu", 0, "splats")
    )
    corners = mesh.faces.cpu()[face]
    points = (mesh.vertices.cpu()[corners] * share[..., None]).sum(1)
    color = None if mesh.color is None else (mesh.color.cpu()[corners] * share[..., None]).sum(1)
    return cloud(points, color, config)


def cloud(
    points: Float[Tensor, "N 3"],
    colors: Float[Tensor, "N 3"] | None,
    config: StartConfig,
    normals: Float[Tensor, "N 3"] | None = None,
) -> ColoredSplats:
    """Return a Gaussian at each point, as large as its neighbors are far: round, or flat across a normal."""
    scale = nearest_distance(points)[:, None].expand(-1, 3)
    turn = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(points), 4)
    if normals is not None:
        scale, turn = scale * scale.new_tensor([1.0, 1.0, FLAT]), _turn_to(normals)
    opacity = torch.full((len(points),), config.initial_opacity)
    shown = torch.full_like(points, GRAY) if colors is None else colors
    return ColoredSplats(points, scale, turn, opacity, (shown[:, None] - 0.5) / CONSTANT)


def _turn_to(normals: Float[Tensor, "N 3"]) -> Float[Tensor, "N 4"]:
    """Return quaternions of the shortest turns that bring +z, or -z where that is nearer, to the normals."""
    # A disc has no front: of n and -n that is taken which is not opposite to z.
    x, y, z = torch.where(normals[:, 2:] < 0, -normals, normals).unbind(1)
    return torch.nn.functional.normalize(torch.stack([1 + z, -y, x, torch.zeros_like(x)], 1), dim=1)


def nearest_distance(points: Float[Tensor, "N 3"], neighbors: int = 3) -> Float[Tensor, "N"]:
    """Return the root mean square distance of each point to its nearest neighbors, not less than a millionth."""
    count = min(neighbors, len(points) - 1)
    if count == 0:
        return torch.full((len(points),), 0.1)
    x = points.detach().cpu().double().numpy()
    # The nearest of all is the point itself.
    away = torch.from_numpy(cKDTree(x).query(x, k=list(range(2, count + 2)))[0])
    return away.square().mean(1).sqrt().clamp_min(1e-6).to(points)


def _file_start(path: Path, config: StartConfig) -> ColoredSplats:
    """Return the splats of a file, or a Gaussian at each point of a cloud."""
    found = read_points(path)
    return found if isinstance(found, ColoredSplats) else cloud(found.points, found.colors, config)


def _primitive_points(config: StartConfig, radius: float) -> Float[Tensor, "N 3"]:
    """Return points on a sphere or an ellipsoid."""
    size = config.shape_init_params if config.shape_init_params is not None else 0.5 * radius
    axes = torch.tensor(size if isinstance(size, tuple) else (size,) * 3)
    if config.shape_init == "sphere" and isinstance(size, tuple) and len(set(size)) != 1:
        raise ConfigError("system.geometry.shape_init_params: a sphere has one radius, got three numbers")
    index = torch.arange(config.n_splats, dtype=torch.float64) + 0.5
    # A Fibonacci spiral: equal areas, and a golden angle from each point to the next.
    z, angle = 1 - 2 * index / config.n_splats, index * (math.pi * (3 - math.sqrt(5)))
    flat = (1 - z * z).sqrt()
    return (torch.stack([flat * angle.cos(), flat * angle.sin(), z], -1).float()) * axes
