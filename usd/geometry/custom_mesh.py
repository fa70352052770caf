"""A mesh of the user's (GLB, OBJ, PLY, ...): new colors for it, and if wanted small moves of its vertices."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import ConfigError, option
from usd.core.registry import register
from usd.core.types import Mesh
from usd.geometry.features import FeatureConfig, FeatureSurface
from usd.geometry.initial_shape import MESH, ShapeConfig, initial_mesh, mesh_file


@register("custom-mesh")
class CustomMesh(FeatureSurface["CustomMesh.Config"]):
    """Weights: the networks of features and, where the shape may change, ``offset`` (one vector a vertex).

    The file is read whenever the geometry is built; a checkpoint holds the vertices as they were, too.
    """

    @dataclass(frozen=True)
    class Config(ShapeConfig, FeatureConfig):
        fix_geometry: bool = option(True, "keep the vertices where the file has them")

    vertices: Tensor
    faces: Tensor
    offset: Tensor | None

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if not (config.shape_init or "").startswith(MESH) or mesh_file(config) is None:
            raise ConfigError(
                f"system.geometry.shape_init: is {config.shape_init or 'null'}; custom-mesh needs mesh:FILE"
            )
        mesh = initial_mesh(config, config.radius).surface
        self.register_buffer("vertices", mesh.vertices)
        self.register_buffer("faces", mesh.faces)
        self.offset = None if config.fix_geometry else torch.nn.Parameter(torch.zeros_like(mesh.vertices))

    def initialize(self) -> Mesh | None:
        """Return the mesh as the file has it, with its colors."""
        colored = initial_mesh(self.config, self.radius).colored
        return None if colored is None else colored.to(self.vertices.device)

    def surface(self) -> Mesh:
        """Return the mesh as it is now."""
        moved: Float[Tensor, "V 3"] = self.vertices if self.offset is None else self.vertices + self.offset
        return Mesh(moved, self.faces)
