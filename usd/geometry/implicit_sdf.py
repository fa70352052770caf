"""A signed distance on a hash grid, *positive outside*: start(x) + network(encoding(x)).

``start`` is the distance to a sphere or an ellipsoid in closed form, plus a small fixed grid that makes it the distance
to a mesh where one is given. A new network gives nearly zero, so a training starts as that shape, to about 1e-4 and
without fitting. For NeuS-like renderers it gives distances and gradients, for the rasterizer a mesh.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.core.config import ConfigError, option
from usd.core.errors import UserError
from usd.core.progress import Work, counted
from usd.core.registry import register
from usd.core.types import Field, Mesh
from usd.geometry import DistanceField, Geometry, Level, SignedDistance
from usd.geometry.distance_lattice import LATTICE, enclosed_distance, interpolate_lattice, lattice_points
from usd.geometry.features import FeatureConfig, FeatureSurface, copy_features
from usd.geometry.initial_shape import Params, ShapeConfig, initial_mesh, mesh_file, primitive_distance
from usd.geometry.tetrahedra_sdf_grid import box_around, large_components_by_faces
from usd.kernels.mesh_distance import mesh_distance
from usd.math import differences
from usd.math import mesh as meshes
from usd.math.isosurface import marching_cubes, sample_grid
from usd.math.tetrahedra import (
    TetrahedralGrid,
    cells_for,
    grid_shift,
    grid_surface,
    near_surface,
    tetrahedral_grid,
)
from usd.network.encoding import Encoding, HashGrid
from usd.network.mlp import mlp, sphere_mlp

NETWORK_ALONE = "none"  # a shape_init: the distance is the network's, as imported weights want it
COARSE = 4  # the object's box is looked for on a grid this many times coarser


@register("implicit-sdf")
class ImplicitSDF(SignedDistance["ImplicitSDF.Config"], FeatureSurface["ImplicitSDF.Config"]):
    """Weights: ``encoding``, ``sdf_network``, ``feature_network``; ``deformation_network`` where the grid may move."""

    @dataclass(frozen=True)
    class Config(ShapeConfig, FeatureConfig):
        normal_type: Literal["analytic", "finite_difference", "finite_difference_laplacian"] | None = option(
            "finite_difference", "way in which gradients are computed; null: no component can ask for them"
        )
        finite_difference_normal_eps: float | Literal["progressive"] = option(
            0.01,
            "step of finite differences, world units; progressive: a cell of the finest level that is on",
            gt=0,
            le=1000,
        )
        sdf_bias: float | Literal["sphere", "ellipsoid"] = option(
            0.0, "number added to the distance, or the shape to start from where shape_init is null"
        )
        sdf_bias_params: Params | None = option(
            None, "parameters of the shape that sdf_bias names, as shape_init_params", gt=0, le=10000
        )
        isosurface_resolution: int = option(
            128,
            "lattice points a side when a mesh is made; fineness of the grid that is rasterized",
            ge=4,
            le=1024,
        )
        isosurface_threshold: float = option(0.0, "distance of the surface that is exported")
        isosurface_chunk: int = option(1 << 18, "points evaluated at once when a mesh is made; 0: all", ge=0)
        isosurface_coarse_to_fine: bool = option(
            True, "put the grid that is rasterized around the object, found on a coarser one"
        )
        isosurface_deformable_grid: bool = option(
            False, "let points of the grid that is rasterized move, by a network"
        )
        isosurface_remove_outliers: bool = option(False, "drop small components of the mesh that is made")
        isosurface_outlier_n_faces_threshold: int | float = option(
            0.01, "faces below which components are dropped; below 1: a share of the largest one's", ge=0
        )

    start: Tensor
    eps: Tensor
    encoding: Encoding

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.from_file = config.shape_init != NETWORK_ALONE and mesh_file(config) is not None
        width = self.encoding.n_output
        self.sdf_network = _distance_network(width, config)
        moving = config.isosurface_deformable_grid
        self.deformation_network = mlp(width, 3, config.mlp_network_config) if moving else None
        self.register_buffer("start", torch.zeros(LATTICE.n_rows, 1))
        self._start_cache: tuple[object, bool] | None = None
        self.register_buffer("eps", torch.tensor(self._step_at(0)))

    def update(self, step: int, generator: torch.Generator) -> None:
        """Switch levels of a progressive hash grid on, and shorten the step of finite differences with them."""
        super().update(step, generator)
        self.eps.fill_(self._step_at(step))

    def _step_at(self, step: int) -> float:
        """Return the step of finite differences at a training step. Raises ``ConfigError``."""
        eps = self.config.finite_difference_normal_eps
        if eps != "progressive":
            return eps
        if not isinstance(self.encoding, HashGrid) or self.encoding.mask is None:
            raise ConfigError(
                "system.geometry.finite_difference_normal_eps: progressive follows the levels of a"
                " pos_encoding_config.otype ProgressiveBandHashGrid; expected that, or a number"
            )
        return 2 * self.radius / self.encoding.spec.resolutions[self.encoding.active_levels(step) - 1]

    # ------------------------------------------------------------------------------------------------- the start

    @torch.no_grad()
    def initialize(self) -> Mesh | None:
        """Take the mesh that ``shape_init`` names. Raises ``UserError`` where its file cannot be read."""
        if not self.from_file:
            return None
        start = initial_mesh(self.config, self.radius)
        self._start_from_mesh(start.surface.to(self.start.device))
        return None if start.colored is None else start.colored.to(self.start.device)

    @classmethod
    def convert(cls, config: object, source: Geometry) -> "ImplicitSDF":
        """Return the distance to the mesh that ``source`` exports, as the start; its features where they fit."""
        assert isinstance(config, cls.Config)
        made = cls(config).to(next(iter(source.state_dict().values())).device)
        with torch.no_grad():
            made._start_from_mesh(source.export_mesh())
            copy_features(made, source)
        return made

    @torch.no_grad()
    def start_from_mesh(self, mesh: Mesh) -> bool:
        """Start as a closed surface, unless the network alone is the distance. Raises ``UserError`` for a sheet."""
        if self.config.mlp_network_config.sphere_init or self.config.shape_init == NETWORK_ALONE:
            return False
        self._start_from_mesh(mesh)
        return True

    def _start_from_mesh(self, mesh: Mesh) -> None:
        """Fill the start grid with what the closed form lacks of a mesh's distance."""
        x = lattice_points(self.radius, self.start)
        found = enclosed_distance(lambda at: mesh_distance(at, mesh.vertices, mesh.faces), x)
        missing = found - self._closed_form(x)
        self.start.copy_(missing[:, None])

    def _closed_form(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return the distance to the sphere or ellipsoid that the training starts from."""
        config, bias = self.config, self.config.sdf_bias
        if isinstance(bias, str) and config.shape_init is None:
            return primitive_distance(bias, config.sdf_bias_params, x, self.radius)
        if config.shape_init == NETWORK_ALONE:
            return torch.zeros_like(x[:, 0])
        plain = self.from_file or config.shape_init is None
        kind, params = ("sphere", None) if plain else (str(config.shape_init), config.shape_init_params)
        return primitive_distance(kind, params, x, self.radius)

    # --------------------------------------------------------------------------------------------- the distance

    def distance(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return signed distances of points, positive outside."""
        return self._distance(x, self.encode(x))

    def _distance(self, x: Float[Tensor, "N 3"], encoded: Float[Tensor, "N E"]) -> Float[Tensor, "N"]:
        """Return signed distances of points whose encoding is known."""
        bias = self.config.sdf_bias
        if self.config.mlp_network_config.sphere_init:
            return self.radius * self.sdf_network(encoded)[:, 0]
        start = self._closed_form(x) + (0.0 if isinstance(bias, str) else bias)
        if self._has_start_grid():
            start = start + interpolate_lattice(x, self.start, self.radius)
        return start + self.sdf_network(encoded)[:, 0]

    def _has_start_grid(self) -> bool:
        """Return whether the start is more than its closed form; looked up again where the buffer was written to."""
        state = (self.start._version, self.start.data_ptr())
        if self._start_cache is None or self._start_cache[0] != state:
            self._start_cache = (state, bool(self.start.any()))
        return self._start_cache[1]

    def distance_field(self, x: Float[Tensor, "N 3"], needs: frozenset[str]) -> DistanceField:
        """Return distances, and what ``needs`` names of ``gradient``, ``laplacian`` and ``features``."""
        if "gradient" not in needs or self.config.normal_type != "analytic" or torch.is_grad_enabled():
            return self._field(x, needs)
        with torch.enable_grad():
            return _detach(self._field(x.detach(), needs, keep_graph=False))

    def _field(
        self, x: Float[Tensor, "N 3"], needs: frozenset[str], keep_graph: bool = True
    ) -> DistanceField:
        """Return what ``needs`` names; an analytic gradient needs a graph, kept where it is to be trained."""
        analytic = "gradient" in needs and self.config.normal_type == "analytic"
        at = x.detach().requires_grad_() if analytic and not x.requires_grad else x
        encoded = self.encode(at)
        distance = self._distance(at, encoded)
        gradient, laplacian = self._finite_differences(at, distance, needs)
        if analytic:
            (gradient,) = torch.autograd.grad(distance.sum(), at, create_graph=keep_graph, retain_graph=True)
        features = None
        if "features" in needs:
            empty = x.new_zeros(len(x), 0)
            features = empty if self.feature_network is None else self.feature_network(encoded)
        return DistanceField(distance, gradient, laplacian, features)

    def _finite_differences(
        self, x: Tensor, distance: Tensor, needs: frozenset[str]
    ) -> tuple[Float[Tensor, "N 3"] | None, Float[Tensor, "N"] | None]:
        """Return gradient (unless it is analytic) and Laplacian by finite differences, where they are needed."""
        gradient_wanted = "gradient" in needs and self.config.normal_type != "analytic"
        if gradient_wanted and self.config.normal_type is None:
            raise UserError(
                "system.geometry.normal_type: is null, but something needs the normals of this implicit-sdf; "
                "expected finite_difference or analytic"
            )
        if not gradient_wanted and "laplacian" not in needs:
            return None, None
        values = differences.corner_values(self.distance, x, self.eps)
        gradient = differences.gradient(values, self.eps) if gradient_wanted else None
        return gradient, differences.laplacian(values, distance, self.eps) if "laplacian" in needs else None

    def query(self, x: Float[Tensor, "N 3"], needs: frozenset[str]) -> Field:
        """Return features and unit normals. A distance has no density of its own: it is zero everywhere."""
        wanted = {"normal": "gradient", "features": "features"}
        field = self.distance_field(x, frozenset(wanted[name] for name in needs))
        normal = None if field.gradient is None else torch.nn.functional.normalize(field.gradient, dim=-1)
        return Field(torch.zeros_like(field.distance), field.features, normal)

    # -------------------------------------------------------------------------------------------------- meshes

    def surface(self) -> Mesh:
        """Return the mesh on a tetrahedral grid; only points near the surface are evaluated differentiably.

        Raises ``UserError`` where nothing is inside.
        """
        grid = tetrahedral_grid(cells_for(self.config.isosurface_resolution), self.start.device)
        box = self._box()
        still = box[0] + grid.points * (box[1] - box[0])
        rough = self._sample(still)
        near = near_surface(grid, rough < 0).unique()
        fresh = self.encode(still[near])
        distance = rough.index_copy(0, near, self._distance(still[near], fresh))
        vertices, faces = grid_surface(grid, self._deform_grid(grid, still, near, fresh, box), distance)
        return self._finish_mesh(vertices, faces, rough)

    def _deform_grid(
        self,
        grid: TetrahedralGrid,
        still: Float[Tensor, "V 3"],
        near: Int[Tensor, "C"],
        encoded: Float[Tensor, "C E"],
        box: Float[Tensor, "2 3"],
    ) -> Float[Tensor, "V 3"]:
        """Return grid points in the world, those near the surface moved as the network says."""
        if self.deformation_network is None:
            return still
        wanted = torch.zeros_like(still).index_copy(0, near, self.deformation_network(encoded) / grid.cells)
        return still + grid_shift(grid, wanted) * (box[1] - box[0])

    @torch.no_grad()
    def _sample(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """Return distances without gradients, in chunks."""
        return torch.cat([self.distance(part) for part in x.split(self.config.isosurface_chunk or len(x))])

    @torch.no_grad()
    def _box(self) -> Float[Tensor, "2 3"]:
        """Return where the rasterized grid is: around the object, or the whole cube."""
        r = self.radius
        whole = self.start.new_tensor([[-r] * 3, [r] * 3])
        if not self.config.isosurface_coarse_to_fine:
            return whole
        cells = max(8, cells_for(self.config.isosurface_resolution) // COARSE)
        x = tetrahedral_grid(cells, whole.device).points * 2 * r - r
        inside = x[self._sample(x) < 0]
        if len(inside) == 0:
            return whole
        found = box_around(inside, 1.0)
        return torch.stack([found[0] - 3 * r / cells, found[1] + 3 * r / cells]).clamp(-r, r)

    @torch.no_grad()
    def export_mesh(self, resolution: int | None = None, threshold: Level | None = None) -> Mesh:
        """March cubes at ``isosurface_threshold``; with a deformable grid return the mesh as it is rasterized."""
        config = self.config
        if self.deformation_network is not None and resolution is None:
            return super().export_mesh(None, threshold)
        side = resolution or config.isosurface_resolution
        level = config.isosurface_threshold if threshold in (None, "auto") else float(threshold)
        with Work("looking for the surface, slices", side) as work:
            distance = counted(self.distance, work, lambda x: len(x) / side**2)
            values = sample_grid(distance, side, self.radius, self.start, config.isosurface_chunk or side**3)
        vertices, faces = marching_cubes(-values, -level, self.radius)
        return self._finish_mesh(vertices, faces, values)

    def _finish_mesh(self, vertices: Tensor, faces: Tensor, values: Tensor) -> Mesh:
        """Return the mesh without small components. Raises ``UserError`` where there is none."""
        if not bool(values.isfinite().all()):
            raise UserError("empty surface: some distances are not numbers, so training diverged")
        if len(faces) == 0:
            raise UserError(
                f"empty surface: distances are between {float(values.min()):.4g} and {float(values.max()):.4g};"
                " some must be below zero (inside)"
            )
        if self.config.isosurface_remove_outliers:
            keep = large_components_by_faces(
                faces, len(vertices), self.config.isosurface_outlier_n_faces_threshold
            )
            vertices, faces = meshes.drop_unused(vertices, faces[keep])
        return Mesh(vertices, faces)


def _distance_network(width: int, config: ImplicitSDF.Config) -> torch.nn.Sequential:
    """Return the network of the distance. Raises ``ConfigError`` where its own start has no position, or not alone."""
    network = config.mlp_network_config
    if not network.sphere_init:
        return mlp(width, 1, network)
    if not config.pos_encoding_config.include_xyz:
        raise ConfigError(
            "system.geometry.mlp_network_config.sphere_init: starts from the position itself; expected "
            "pos_encoding_config.include_xyz=true beside it"
        )
    if config.shape_init is not None:
        raise ConfigError(
            f"system.geometry.shape_init: is {config.shape_init}, and mlp_network_config.sphere_init another start; "
            "expected null"
        )
    return sphere_mlp(width, network)


def _detach(field: DistanceField) -> DistanceField:
    """Return the field without its graph."""
    parts = (field.distance, field.gradient, field.laplacian, field.features)
    distance, *others = (None if part is None else part.detach() for part in parts)
    assert distance is not None
    return DistanceField(distance, *others)
