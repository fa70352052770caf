"""Densities that start as a surface: sphere, ellipsoid, a user's mesh, or what an earlier stage made.

With d the signed distance, positive outside, the density is VolSDF's (Yariv et al., arXiv 2106.12052): the distribution
function of a Laplace variable of scale beta, over beta, here of d + 2 beta. So it is 1 / beta deep inside and falls off
within a few beta around the surface.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar

from usd.core.config import ConfigError, option, plain_options
from usd.core.types import Mesh
from usd.geometry import Geometry, Volumetric
from usd.geometry.initial_shape import ShapeConfig, initial_distance, initial_mesh, mesh_file
from usd.kernels.mesh_distance import mesh_distance
from usd.network.activation import ActivationName

BETA = 0.01  # of the object's radius: soft enough to be trained, sharp enough to be seen as a surface
INSET = 2.0  # in beta: a ray that grazes the surface is then about half opaque, as a silhouette should be
LEAST = 1e-5  # densities below this are none
LARGE = 20.0  # beyond this softplus is the identity
START_KEYS = ("isosurface_", "shape_init", "force_shape_init")

Distance = Callable[[Tensor], Tensor]


def _softplus_inverse(y: Tensor) -> Tensor:
    """Return log(exp(y) - 1), which is y itself for large y."""
    return torch.where(y > LARGE, y, torch.expm1(y.clamp_max(LARGE)).log())


INVERSES: dict[ActivationName, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": lambda y: y,
    "softplus": _softplus_inverse,
    "shifted_softplus": lambda y: _softplus_inverse(y) + 1,
    "exp": torch.log,
    "trunc_exp": torch.log,
    "shifted_exp": lambda y: y.log() + 1,
    "shifted_trunc_exp": lambda y: y.log() + 1,
}


def raw_density(
    distance: Float[Tensor, "N"], radius: float, activation: ActivationName
) -> Float[Tensor, "N"]:
    """Return what an activation turns into the density of a signed distance.

    Raises ``ConfigError`` for an activation that no density of a solid comes out of.
    """
    require_solid(activation)
    beta = BETA * radius
    distance = distance + INSET * beta
    tail = 0.5 * torch.exp(-distance.abs() / beta)
    return INVERSES[activation]((torch.where(distance > 0, tail, 1 - tail) / beta).clamp_min(LEAST))


def require_solid(activation: ActivationName) -> None:
    """Raise ``ConfigError`` for an activation that no density of a solid comes out of."""
    if activation not in INVERSES:
        raise ConfigError(
            f"system.geometry.density_activation: {activation} makes no density as large as a solid's, so no shape"
            f" can be its start; expected one of {', '.join(INVERSES)}"
        )


@dataclass(frozen=True)
class VolumeConfig(ShapeConfig, Volumetric.Config):
    """Options that densities share: their activation, their blob, and a surface to start from instead of it."""

    shape_init: str | None = option(
        None, "shape to start from: sphere, ellipsoid or mesh:FILE; null: the blob of density_bias", path=True
    )
    n_feature_dims: int = option(3, "numbers that a material gets for each point", ge=1, le=4096)
    density_activation: ActivationName = option("softplus", "activation that makes densities non-negative")
    density_blob_scale: float = option(10.0, "height of the density's blob")
    density_blob_std: float = option(0.5, "radius of the density's blob", gt=0, le=10000)
    finite_difference_normal_eps: float = option(
        0.01, "step of the finite differences, world units", gt=0, le=1000
    )


V = TypeVar("V", bound=VolumeConfig, default=VolumeConfig, covariant=True)


class ShapedVolume(Volumetric[V]):
    """A density that may start as a given surface."""

    def __init__(self, config: V) -> None:
        super().__init__(config)
        if config.shape_init is not None:
            mesh_file(config)
            require_solid(config.density_activation)

    @abstractmethod
    def start_from(self, distance: Distance) -> None:
        """Make the density that of a signed distance (N 3 -> N), positive outside."""

    @torch.no_grad()
    def initialize(self) -> Mesh | None:
        """Take the shape that ``shape_init`` names, if any. Raises ``UserError`` where its file cannot be read."""
        config = self.config
        if config.shape_init is None:
            return None
        if mesh_file(config) is None:
            self.start_from(lambda x: initial_distance(config, x, self.radius))
            return None
        start = initial_mesh(config, self.radius)
        self._start_from_mesh(start.surface)
        return None if start.colored is None else start.colored.to(next(self.parameters()).device)

    @classmethod
    def convert(cls, config: object, source: Geometry) -> "ShapedVolume[V]":
        """Return the density of the surface that ``source`` exports; features are for the caller to fit.

        A volume of the same options is copied as it is.
        """
        assert isinstance(config, cls.Config) and isinstance(config, VolumeConfig)
        require_solid(config.density_activation)
        made = cls(cast(V, config)).to(next(iter(source.state_dict().values())).device)
        with torch.no_grad():
            if type(source) is cls and _same_field(config, source.config):
                made.load_state_dict(source.state_dict())
            else:
                made._start_from_mesh(source.export_mesh())
        return made

    def _start_from_mesh(self, mesh: Mesh) -> None:
        """Make the density that of a mesh."""
        mesh = mesh.to(next(self.parameters()).device)
        self.start_from(lambda x: mesh_distance(x, mesh.vertices, mesh.faces))


def _same_field(config: object, other: object) -> bool:
    """Return whether two configurations differ at most in how a field starts and is exported."""
    mine, theirs = (
        {key: value for key, value in plain_options(c).items() if not key.startswith(START_KEYS)}
        for c in (config, other)
    )
    return mine == theirs
