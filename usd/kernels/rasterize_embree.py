"""The ray query of a mesh by Embree, where it is asked for: on a CPU, one thread. Read ``rasterize`` first."""

import importlib
import math

import torch
from torch import Tensor

from usd.kernels.accelerators import load_accelerator
from usd.kernels.rasterize import NO_FACE


class EmbreeTree:
    """Embree's scene: the hierarchy of boxes over the faces of one set of vertices."""

    def __init__(self, vertices: Tensor, faces: Tensor) -> None:
        self.scene = load_accelerator("embreex").EmbreeScene(robust=True)
        mesh_construction = importlib.import_module("embreex.mesh_construction")
        mesh_construction.TriangleMesh(self.scene, vertices.numpy(), faces.int().numpy())

    def cast(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Cast as ``Tracer.cast`` does."""
        found = self.scene.run(origins.contiguous().numpy(), directions.contiguous().numpy(), output=1)
        face, t = torch.from_numpy(found["primID"]).long(), torch.from_numpy(found["tfar"])
        return face, torch.where(face == NO_FACE, math.inf, t)
