"""A mesh of the user's (GLB, OBJ, PLY, ...): new colors for it, and if wanted small moves of its vertices."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import ConfigError, option
from usd.core.registry import register
from usd.core.types import Mesh
from usd.geometry import Geometry
from usd.geometry.features import NETWORKS, FeatureConfig, FeatureSurface, copy_features
from usd.geometry.initial_shape import MESH, ShapeConfig, initial_mesh

PLACEHOLDER = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
"""The mesh of a geometry that is going to be made from an earlier one."""


@register("custom-mesh")
class CustomMesh(FeatureSurface["CustomMesh.Config"]):
    """Weights: the networks of features and, where the shape may change, ``offset`` (one vector a vertex).

    The file is read whenever the geometry is built; a checkpoint holds the vertices as they were, too.
    """

    @dataclass(frozen=True)
    class Config(ShapeConfig, FeatureConfig):
        fix_geometry: bool = option(True, "keep the vertices where the file has them")
        keep_start: bool = option(
            False,
            "keep the features that training starts from in checkpoints: texture-exporter applies their change",
        )

    vertices: Tensor
    faces: Tensor
    offset: Tensor | None

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.shape_init is not None and not config.shape_init.startswith(MESH):
            raise ConfigError(_needs_file(config))
        mesh = PLACEHOLDER if config.shape_init is None else initial_mesh(config, config.radius).surface
        self.register_buffer("vertices", mesh.vertices)
        self.register_buffer("faces", mesh.faces)
        self.register_load_state_dict_pre_hook(_make_room)
        self.offset = None if config.fix_geometry else torch.nn.Parameter(torch.zeros_like(mesh.vertices))
        self.start = torch.nn.ModuleDict()  # networks that nothing trains, by their names; empty until kept
        if config.keep_start:
            self.keep_start()

    def initialize(self) -> Mesh | None:
        """Return the mesh as the file has it, with its colors. Raises ``ConfigError`` where no file is named."""
        if self.config.shape_init is None:
            raise ConfigError(_needs_file(self.config))
        colored = initial_mesh(self.config, self.radius).colored
        return None if colored is None else colored.to(self.vertices.device)

    def keep_start(self) -> None:
        """Copy the networks of features as they are now, where ``keep_start`` is set."""
        if self.config.keep_start:
            for name in NETWORKS:
                network = self.get_submodule(name)
                self.start[name] = copy.deepcopy(network).requires_grad_(False)

    def at_start(self) -> "CustomMesh | None":
        """Return a mesh without a shape whose features are those kept."""
        if not len(self.start):
            return None
        made = CustomMesh(replace(self.config, shape_init=None, keep_start=False))
        for name in NETWORKS:
            made.add_module(name, self.start[name])
        return made.to(self.vertices.device)

    @classmethod
    def convert(cls, config: object, source: Geometry) -> "CustomMesh":
        """Return the mesh that ``source`` exports; its features where they fit."""
        assert isinstance(config, cls.Config)
        made = cls(config).to(next(iter(source.state_dict().values())).device)
        with torch.no_grad():
            mesh = source.export_mesh()
            made.make_room(mesh.vertices, mesh.faces)
            made.vertices.copy_(mesh.vertices)
            made.faces.copy_(mesh.faces)
            copy_features(made, source)
        return made

    def make_room(self, vertices: Tensor, faces: Tensor) -> None:
        """Have buffers as large as these; the offset stays the parameter that an optimizer knows."""
        self.vertices, self.faces = (
            torch.zeros_like(new, device=old.device)
            for new, old in ((vertices, self.vertices), (faces, self.faces))
        )
        if self.offset is not None and self.offset.shape != vertices.shape:
            self.offset.data = torch.zeros_like(self.vertices)

    def surface(self) -> Mesh:
        """Return the mesh as it is now."""
        moved: Float[Tensor, "V 3"] = self.vertices if self.offset is None else self.vertices + self.offset
        return Mesh(moved, self.faces)


def _make_room(geometry: torch.nn.Module, state: Mapping[str, Tensor], prefix: str, *_: object) -> None:
    """Let a state hold a mesh of any size: what was converted is in no file."""
    assert isinstance(geometry, CustomMesh)
    if f"{prefix}vertices" in state and f"{prefix}faces" in state:
        geometry.make_room(state[f"{prefix}vertices"], state[f"{prefix}faces"])


def _needs_file(config: CustomMesh.Config) -> str:
    """Return the error of a custom mesh without a file."""
    return (
        f"system.geometry.shape_init: is {config.shape_init or 'null'}; custom-mesh needs mesh:FILE, or"
        " system.geometry_convert_from"
    )
