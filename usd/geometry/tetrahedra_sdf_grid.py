"""A deformable tetrahedral grid of signed distances (DMTet, arXiv 2111.04276), and the mesh marched through it.

Signed distances are positive outside. The grid's points may move, each less than it takes to turn a tetrahedron over;
so the mesh is closed, a manifold, and never cuts itself, whatever is learned.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.core.types import Mesh
from usd.geometry import Geometry
from usd.geometry.features import FeatureConfig, FeatureSurface, copy_features
from usd.geometry.initial_shape import ShapeConfig, initial_distance, initial_mesh, mesh_file
from usd.kernels.mesh_distance import mesh_distance
from usd.math import mesh as meshes
from usd.math.tetrahedra import (
    TetrahedralGrid,
    cells_for,
    grid_cut,
    grid_shift,
    tetrahedral_grid,
)

MARGIN = 1.25  # a grid made around an object is this much larger than the object


@register("tetrahedra-sdf-grid")
class TetrahedraSDFGrid(FeatureSurface["TetrahedraSDFGrid.Config"]):
    """Weights: ``sdf`` (one number a grid point, world units), ``deformation``, and the networks of features."""

    @dataclass(frozen=True)
    class Config(ShapeConfig, FeatureConfig):
        isosurface_resolution: int = option(
            128, "fineness of the grid: (half of this)^3 points, so 128 has about 270,000", ge=4, le=512
        )
        isosurface_deformable_grid: bool = option(True, "let grid points move")
        isosurface_remove_outliers: bool = option(False, "drop small components of the mesh")
        isosurface_outlier_n_faces_threshold: int | float = option(
            0.01, "faces below which components are dropped; below 1: a share of the largest one's", ge=0
        )
        geometry_only: bool = option(False, "whether features are left out: they are zeros")
        fix_geometry: bool = option(False, "keep the shape, train the features")

    sdf: Tensor
    deformation: Tensor | None
    box: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config, colored=not config.geometry_only)
        self.from_file = mesh_file(config) is not None
        self.cells = cells_for(config.isosurface_resolution)
        points = tetrahedral_grid(self.cells).points
        self.register_buffer("box", torch.tensor([[-config.radius] * 3, [config.radius] * 3]))
        self._add_weight("sdf", torch.full((len(points),), config.radius))
        moving = config.isosurface_deformable_grid
        self._add_weight("deformation", torch.zeros_like(points) if moving else None)
        self._cached_surface: tuple[object, Mesh] | None = None
        if not self.from_file:
            self.initialize()

    def _add_weight(self, name: str, value: Tensor | None) -> None:
        """Register a parameter, or a buffer where the shape is fixed."""
        if self.config.fix_geometry or value is None:
            self.register_buffer(name, value)
        else:
            self.register_parameter(name, torch.nn.Parameter(value))

    @torch.no_grad()
    def initialize(self) -> Mesh | None:
        """Take the shape that ``shape_init`` names. Raises ``UserError`` where its file cannot be read."""
        if not self.from_file:
            x = self.positions()
            self._set(self.box, initial_distance(self.config, x, self.radius))
            return None
        start = initial_mesh(self.config, self.radius)
        self._start_from_mesh(start.surface.to(self.box.device))
        return None if start.colored is None else start.colored.to(self.box.device)

    @property
    def grid(self) -> TetrahedralGrid:
        """The grid in the unit cube, not deformed."""
        return tetrahedral_grid(self.cells, self.box.device)

    def positions(self) -> Float[Tensor, "V 3"]:
        """Return grid points in the world, moved as learned. Those on the border stay."""
        unit = self.grid.points
        if self.deformation is not None:
            unit = unit + grid_shift(self.grid, self.deformation)
        return self.box[0] + unit * (self.box[1] - self.box[0])

    def surface(self) -> Mesh:
        """Return the mesh as it is now. Raises ``UserError`` where nothing is inside any more."""
        if not self.config.fix_geometry:
            return self._march()
        state = (self.sdf._version, self.box._version, self.sdf.device, id(self.sdf))
        if self._cached_surface is None or self._cached_surface[0] != state:
            self._cached_surface = (state, self._march())
        return self._cached_surface[1]

    def _march(self) -> Mesh:
        """Return the mesh marched through the grid. Raises ``UserError`` where it is empty."""
        vertices, faces, ends = grid_cut(self.grid, self.positions(), self.sdf)
        if len(faces) == 0:
            sdf = self.sdf.detach()
            raise UserError(
                f"empty surface: signed distances are between {float(sdf.min()):.4g} and {float(sdf.max()):.4g};"
                " some must be below zero (inside)"
            )
        if self.config.isosurface_remove_outliers:
            keep = large_components_by_faces(
                faces, len(vertices), self.config.isosurface_outlier_n_faces_threshold
            )
            vertices, faces = meshes.drop_unused(vertices, faces[keep])
        edge = (self.box[1, 0] - self.box[0, 0]) / self.cells
        return Mesh(vertices, faces, cut=ends / edge)

    @classmethod
    def convert(cls, config: object, source: Geometry) -> "TetrahedraSDFGrid":
        """Return the surface that ``source`` exports, as distances on a grid around it; its features where they fit.

        A grid of the same settings is taken over as it is.
        """
        assert isinstance(config, cls.Config)
        made = cls(config).to(next(iter(source.state_dict().values())).device)
        with torch.no_grad():
            made._start_from_geometry(source)
            copy_features(made, source)
        return made

    def _start_from_geometry(self, source: Geometry) -> None:
        """Copy a grid of the same settings, or take the distances to any other surface."""
        if isinstance(source, TetrahedraSDFGrid) and self._can_copy(source):
            self._set(source.box, source.sdf)
            if self.deformation is not None and source.deformation is not None:
                self.deformation.copy_(source.deformation)
            return
        self._start_from_mesh(source.export_mesh())

    def _start_from_mesh(self, mesh: Mesh) -> None:
        """Put the grid around a mesh, and take the distances to it."""
        self._set(box_around(mesh.vertices, MARGIN), self.sdf)
        self._set(self.box, mesh_distance(self.positions(), mesh.vertices, mesh.faces))

    def _can_copy(self, source: "TetrahedraSDFGrid") -> bool:
        """Return whether another grid's state fits into this one."""
        return source.cells == self.cells and (source.deformation is None or self.deformation is not None)

    def _set(self, box: Tensor, sdf: Tensor) -> None:
        """Write box and distances in place, so that optimizers keep their tensors."""
        self.box.copy_(box)
        self.sdf.copy_(sdf)


def box_around(vertices: Float[Tensor, "V 3"], margin: float) -> Float[Tensor, "2 3"]:
    """Return the cube around a mesh's bounding box, ``margin`` times as wide as its longest side."""
    low, high = vertices.amin(0), vertices.amax(0)
    half = (high - low).max() / 2 * margin
    middle = (low + high) / 2
    return torch.stack([middle - half, middle + half])


def large_components_by_faces(
    faces: Int[Tensor, "F 3"], n_vertices: int, threshold: int | float
) -> Bool[Tensor, "F"]:
    """Return which faces belong to components of ``threshold`` faces or more, or of that share of the largest."""
    label = meshes.components(faces, n_vertices)
    sizes = torch.bincount(label)
    least = threshold * int(sizes.max()) if threshold < 1 else min(float(threshold), float(sizes.max()))
    return (sizes >= least)[label]
