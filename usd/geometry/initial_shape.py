"""Shapes that a training starts from, as signed distances, positive outside: sphere, ellipsoid, a user's mesh."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.errors import ConfigError, UserError, did_you_mean
from usd.geometry.mesh_input import InitialShape, MeshPlacement, read_initial_shape
from usd.kernels.mesh_distance import mesh_distance
from usd.mesh_io.axes import Axis

Params = float | tuple[float, float, float]
SPHERE = 0.5  # default radius of the sphere, in radii of the object's cube
MESH = "mesh:"
KINDS = ("sphere", "ellipsoid", "mesh:FILE")


@dataclass(frozen=True)
class ShapeConfig:
    """Options of the shape that a training starts from."""

    shape_init: str | None = option(
        None,
        "shape to start from: sphere, ellipsoid, mesh:FILE, none (implicit-sdf); null: a sphere of half the radius",
        path=True,
    )
    shape_init_params: Params | None = option(
        None,
        "size of shape_init; sphere: radius; ellipsoid: half axes; mesh: largest coordinate, null: the file's",
        gt=0,
        le=10000,
    )
    shape_init_mesh_up: Axis | None = option(
        None, "axis of shape_init's file that is up; null: as its format has it"
    )
    shape_init_mesh_front: Axis | None = option(None, "axis of shape_init's file that becomes +x; null: +x")
    force_shape_init: bool = option(False, "start from shape_init even where an earlier stage was converted")


def mesh_file(config: ShapeConfig) -> Path | None:
    """Return the file of ``shape_init: mesh:FILE``; None for other shapes. Raises ``ConfigError`` for unknown ones."""
    kind = config.shape_init
    if kind is not None and kind.startswith(MESH):
        return Path(kind.removeprefix(MESH)).expanduser()
    if kind not in (None, "sphere", "ellipsoid"):
        hint = did_you_mean(kind, KINDS)
        raise ConfigError(
            f"system.geometry.shape_init: '{kind}' is no shape; expected {', '.join(KINDS)}.{hint}"
        )
    return None


def initial_mesh(config: ShapeConfig, radius: float) -> InitialShape:
    """Return the mesh of ``shape_init: mesh:FILE``, placed as the options say. Raises ``UserError``."""
    file = mesh_file(config)
    assert file is not None
    size = config.shape_init_params
    if isinstance(size, tuple):
        raise ConfigError("system.geometry.shape_init_params: a mesh has one size; expected a number or null")
    placement = MeshPlacement(config.shape_init_mesh_up, config.shape_init_mesh_front, size)
    try:
        return read_initial_shape(file, placement, radius)
    except UserError as error:
        where = "" if str(error).startswith("system.") else "system.geometry.shape_init: "
        raise UserError(f"{where}{error}") from error


def initial_distance(config: ShapeConfig, x: Float[Tensor, "N 3"], radius: float) -> Float[Tensor, "N"]:
    """Return the signed distance to the initial shape. Raises ``UserError`` where there is none to be had."""
    if mesh_file(config) is None:
        return primitive_distance(config.shape_init or "sphere", config.shape_init_params, x, radius)
    mesh = initial_mesh(config, radius).surface.to(x.device)
    return mesh_distance(x, mesh.vertices, mesh.faces)


def primitive_distance(
    kind: str, params: Params | None, x: Float[Tensor, "N 3"], radius: float
) -> Float[Tensor, "N"]:
    """Return |x| - r for a sphere; for an ellipsoid of half axes s k (k - 1) / |x / s^2| with k = |x / s|.

    The latter is the distance to first order at the surface, and exact where the axes are equal.
    """
    given = SPHERE * radius if params is None else params
    axes = (given,) * 3 if isinstance(given, float | int) else given
    if kind == "sphere":
        if len(set(axes)) != 1:
            raise ConfigError("system.geometry.shape_init_params: a sphere has one radius, got three numbers")
        return _length(x) - axes[0]
    size = x.new_tensor(axes)
    k = _length(x / size)
    return torch.where(k < 1e-6, -size.min(), k * (k - 1) / _length(x / size**2))


def _length(x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
    """Return |x| with a finite gradient (zero) at the origin."""
    a, b, c = x.unbind(-1)
    return (a * a + b * b + c * c).clamp_min(1e-20).sqrt()
