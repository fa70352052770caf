"""Small geometries by name, and meshes to start them from."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from usd.core.config import parse
from usd.core.registry import find
from usd.math.isosurface import marching_cubes, sample_grid

SMALL = {"n_levels": 3, "log2_hashmap_size": 12, "base_resolution": 4}


def small(name: str, **options: object) -> Any:
    """A geometry with a small hash grid, always with the same weights."""
    torch.manual_seed(0)
    cls = find("geometry", name)
    grid = {} if name == "volume-grid" else {"pos_encoding_config": SMALL}
    return cls(parse(cls.Config, {**grid, **options}, "system.geometry"))


def points(n: int = 64, reach: float = 0.8) -> torch.Tensor:
    return (torch.rand(n, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1) * reach


def torus(x: torch.Tensor) -> torch.Tensor:
    """Signed distance to a torus around z, positive outside."""
    return torch.stack([x[:, :2].norm(dim=-1) - 0.5, x[:, 2]], -1).norm(dim=-1) - 0.2


def torus_file(folder: Path, name: str = "torus.ply", color: bool = True, turn: bool = False) -> Path:
    """A torus, red where x is positive and green elsewhere; with ``turn`` lying as +y-up files have it."""
    values = sample_grid(lambda x: -torus(x), 32, 1.0, torch.zeros(()))
    vertices, faces = (part.numpy() for part in marching_cubes(values, 0.0, 1.0))
    red = vertices[:, :1] > 0
    colors = np.where(red, [[255, 0, 0, 255]], [[0, 255, 0, 255]]).astype(np.uint8) if color else None
    if turn:
        vertices = np.stack([vertices[:, 0], vertices[:, 2], -vertices[:, 1]], -1)
    trimesh.Trimesh(vertices, faces, vertex_colors=colors, process=False).export(folder / name)
    return folder / name
