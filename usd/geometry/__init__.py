"""Geometries: densities, signed distances or meshes, with features that a material colors; all export a mesh.

Positions are world coordinates (+z up, object at the origin); the object lies in the cube [-radius, radius]^3.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.module import C, Module
from usd.core.progress import Work, counted
from usd.core.types import Field, Mesh
from usd.kernels.splat import Projection
from usd.math import mesh as meshes
from usd.math.isosurface import marching_cubes, sample_grid, silhouette_level, solid_field
from usd.math.point_cloud import PointCloud
from usd.math.splats import Splats

Level = float | Literal["auto"]
COARSE = 4  # the object is looked for on a lattice this many times coarser

ALIASES = {"gaussian-splats": "gaussian_splatting"}  # of another file's name


class Geometry(Module[C]):
    """An object's shape, and features for a material to color it with."""

    n_features: int
    radius: float
    texture_modules: ClassVar[tuple[str, ...]] = ("encoding", "feature_network")
    """Children that a geometry can lose without losing its shape; what is learned in them gives colors."""

    def feature_parameters(self) -> list[torch.nn.Parameter]:
        """Return the weights that colors may be fitted by, whatever becomes of the shape's own networks."""
        children = [child for name, child in self.named_children() if name in ("encoding", "feature_network")]
        return [p for child in children for p in child.parameters()]

    @abstractmethod
    def export_mesh(self, resolution: int | None = None, threshold: Level | None = None) -> Mesh:
        """Return the closed surface, without colors. None means the value of the geometry's own configuration.

        Raises ``UserError`` where there is no surface.
        """

    @abstractmethod
    def query(self, x: Float[Tensor, "N 3"], needs: frozenset[str]) -> Field:
        """Return density, and what ``needs`` names of ``features`` and ``normal``, at points."""

    def initialize(self) -> Mesh | None:
        """Take the shape that a new training starts from; return a mesh with the colors to start from, if any."""
        return None

    def keep_start(self) -> None:
        """Remember the colors that a training starts from, where the options ask for it."""

    def at_start(self) -> "Geometry | None":
        """Return a geometry whose features are those that the training started from; None where they are not kept."""
        return None

    @classmethod
    def convert(cls, config: object, source: "Geometry") -> "Geometry":  # noqa: ARG003 - for overrides
        """Return a geometry of this class that looks like ``source``: how a later stage starts from an earlier one.

        Raises ``UserError`` where it cannot.
        """
        raise UserError(f"{cls.__name__} cannot be made from {type(source).__name__}")


@dataclass(frozen=True)
class CubeConfig:
    """The size of the object, which every geometry but a mesh file has: kept where one takes another's place."""

    radius: float = option(
        1.0, "half the side of the cube that the object lies in: [-radius, radius]^3", gt=0, le=10000
    )


V = TypeVar("V", bound="VolumetricConfig", default="VolumetricConfig", covariant=True)


class Volumetric(Geometry[V]):
    """A density everywhere in the cube [-radius, radius]^3, zero outside it."""

    @dataclass(frozen=True)
    class Config(CubeConfig):
        isosurface_resolution: int = option(128, "lattice points a side when a mesh is made", ge=4, le=1024)
        isosurface_threshold: Level = option(
            "auto", "density of the surface; auto: silhouettes as rendered", gt=0
        )
        isosurface_chunk: int = option(1 << 18, "points evaluated at once when a mesh is made", ge=1)
        isosurface_coarse_to_fine: bool = option(
            False, "put the lattice around the object alone, found on a coarser one"
        )
        isosurface_remove_outliers: bool = option(True, "drop small components of the mesh that is made")
        isosurface_outlier_area: float = option(
            0.05, "share of the largest component's area below which components are dropped", ge=0, le=1
        )

    def __init__(self, config: V) -> None:
        super().__init__(config)
        self.radius = config.radius

    @abstractmethod
    def density(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return the optical depth per unit length, non-negative."""

    @torch.no_grad()
    def export_mesh(self, resolution: int | None = None, threshold: Level | None = None) -> Mesh:
        """March cubes through the density at a threshold, or with "auto" its solid field at the silhouette level.

        See ``usd.math.isosurface``.
        """
        config = self.config
        side = config.isosurface_resolution if resolution is None else resolution
        threshold = config.isosurface_threshold if threshold is None else threshold
        center, half = (
            self._lattice_cube(side, threshold) if config.isosurface_coarse_to_fine else (None, self.radius)
        )
        density = self._sample_cube(side, center, half)
        field, level = _surface_level(density, threshold, half)
        vertices, faces = marching_cubes(field, level, half)
        vertices = vertices if center is None else vertices + center
        if len(faces) == 0:
            raise UserError(
                f"empty surface: the threshold {level:.4g} is above the largest density; {_largest_density(density)}"
            )
        if config.isosurface_remove_outliers:
            keep = meshes.large_components(vertices, faces, config.isosurface_outlier_area)
            vertices, faces = meshes.drop_unused(vertices, faces[keep])
        return Mesh(vertices, faces)

    def _sample_cube(
        self, side: int, center: Float[Tensor, "3"] | None, half: float
    ) -> Float[Tensor, "X Y Z"]:
        """Return densities on a lattice of a cube around a point; None: around the origin."""
        field = self.density if center is None else lambda x: self.density(x + center)
        with Work("looking for the surface, slices", side) as work:
            sliced = counted(field, work, lambda x: len(x) / side**2)
            return sample_grid(sliced, side, half, next(self.parameters()), self.config.isosurface_chunk)

    def _lattice_cube(self, side: int, threshold: Level) -> tuple[Float[Tensor, "3"] | None, float]:
        """Return middle and half side of a cube around the object; (None, radius) where no object is found."""
        n = max(8, side // COARSE)
        try:
            density = self._sample_cube(n, None, self.radius)
            field, level = _surface_level(density, threshold, self.radius)
        except UserError:
            return None, self.radius
        inside = (field > level).nonzero()
        if len(inside) == 0:
            return None, self.radius
        # What lies between two coarse points may reach nearly to the next ones.
        spacing = 2 * self.radius / (n - 1)
        low, high = (end * spacing - self.radius for end in (inside.amin(0) - 1.5, inside.amax(0) + 1.5))
        half = min(self.radius, float((high - low).amax()) / 2)
        return ((low + high) / 2).clamp(half - self.radius, self.radius - half), half


VolumetricConfig = Volumetric.Config


class ExplicitSurface(Geometry[C]):
    """A surface that is a mesh at every step: what the rasterizer renders."""

    @abstractmethod
    def surface(self) -> Mesh:
        """Return the mesh as it is now, differentiable with respect to the geometry's parameters.

        Faces turn counter-clockwise seen from outside. ``color`` is None: colors are made of ``features``.
        """

    @abstractmethod
    def features(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
        """Return what a material colors points of the surface with; differentiable, by the position too."""

    def query(self, x: Float[Tensor, "N 3"], needs: frozenset[str]) -> Field:
        """Return features. A surface has no density (zero everywhere) and no normal beside its faces'."""
        return Field(torch.zeros_like(x[:, 0]), self.features(x) if "features" in needs else None)

    @torch.no_grad()
    def export_mesh(self, resolution: int | None = None, threshold: Level | None = None) -> Mesh:
        """Return the mesh as it is rendered; a surface has neither another resolution nor a threshold."""
        if resolution is not None or threshold is not None:
            raise UserError(
                f"exporter.{'threshold' if resolution is None else 'resolution'}: expected null: "
                f"{type(self).__name__} is a mesh already and is exported as it is"
            )
        mesh = self.surface()
        if mesh.empty:
            raise UserError("empty surface: the mesh has no faces")
        return Mesh(mesh.vertices.detach(), mesh.faces)


class SplatCloud(Geometry[C]):
    """Gaussians in space with colors of their own: what the splat renderer draws."""

    n_features: int = 3

    @abstractmethod
    def splats(self) -> Splats:
        """Return the Gaussians as they are now, differentiable with respect to the geometry's parameters."""

    @abstractmethod
    def harmonics(self) -> Float[Tensor, "N K 3"]:
        """Return the coefficients of the colors (``usd.math.spherical_harmonics``)."""

    @abstractmethod
    def start_at(self, start: PointCloud) -> None:
        """Take Gaussians at points, with their colors, in the place of those that there are."""

    @abstractmethod
    def paint(self, colors: Float[Tensor, "N 3"]) -> None:
        """Give the Gaussians colors in [0, 1], the same from everywhere."""

    def watch(self, seen: Projection) -> None:
        """Take note of what a picture that is trained on shows of each Gaussian. Nothing by default."""


@dataclass(frozen=True)
class DistanceField:
    """Signed distances of N points, with derivatives and features. Parts nobody asked for are None."""

    distance: Float[Tensor, "N"]
    gradient: Float[Tensor, "N 3"] | None = None
    laplacian: Float[Tensor, "N"] | None = None
    features: Float[Tensor, "N F"] | None = None


class SignedDistance(Geometry[C]):
    """A signed distance everywhere: *positive outside*, zero on the surface, negative inside; world units.

    So its gradient is the outward normal, of length one where the distance is true.
    """

    @abstractmethod
    def distance(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return signed distances of points."""

    @abstractmethod
    def distance_field(self, x: Float[Tensor, "N 3"], needs: frozenset[str]) -> DistanceField:
        """Return distances, and what ``needs`` names of ``gradient`` (not normalized), ``laplacian``, ``features``."""

    @abstractmethod
    def start_from_mesh(self, mesh: Mesh) -> bool:
        """Start as a closed surface; return whether it can, as configured. Raises ``UserError`` for a sheet."""


def _surface_level(density: Float[Tensor, "X Y Z"], threshold: Level, radius: float) -> tuple[Tensor, float]:
    """Return the field to march through, and the level of its surface.

    Raises ``UserError`` where there is no surface.
    """
    if not bool(density.isfinite().all()):
        raise UserError(
            f"empty surface: some densities are not numbers, so training diverged; {_largest_density(density)}"
        )
    if threshold != "auto":
        return density, threshold
    spacing = 2 * radius / (len(density) - 1)
    field = solid_field(density, spacing)
    level = silhouette_level(field, density, spacing)
    if level is None:
        why = "no line of sight is even half opaque: train longer, or give a threshold"
        raise UserError(f"empty surface: {why}; {_largest_density(density)}")
    return field, level


def _largest_density(density: Float[Tensor, "X Y Z"]) -> str:
    """Return the clause that says how large the densities are, for errors."""
    return f"the largest density on the {len(density)}^3 grid is {float(density.max()):.4g}"
