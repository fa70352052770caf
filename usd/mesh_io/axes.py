"""Axes of mesh files: which formats are +y up, and the rotations between a file's axes and ours (+z up)."""

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Axis = Literal["+x", "+y", "+z", "-x", "-y", "-z"]
Y_UP = (".glb", ".gltf", ".obj")
"""Endings of the formats whose files are +y up, as importers assume; the others are +z up."""


def default_up(path: Path) -> Axis:
    """Return the axis that is up in files of the path's format."""
    return "+y" if path.suffix.lower() in Y_UP else "+z"


def rotation_to_z_up(up: Axis, front: Axis = "+x") -> Float[Tensor, "3 3"]:
    """Return the rotation (float64) that takes a file's ``up`` to +z and its ``front`` to +x.

    Raises ValueError where both lie along one line.
    """
    if up[1] == front[1]:
        raise ValueError(f"front '{front}' is along up '{up}'")
    z, x = unit_vector(up), unit_vector(front)
    return torch.stack([x, torch.linalg.cross(z, x), z])


def unit_vector(axis: Axis) -> Float[Tensor, "3"]:
    """Return the unit vector (float64) along a named axis."""
    sign = 1.0 if axis[0] == "+" else -1.0
    return torch.eye(3, dtype=torch.float64)["xyz".index(axis[1])] * sign


def y_up_from_z_up(points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Turn points by a quarter about x, from +z up to +y up: (x, y, z) becomes (x, z, -y)."""
    x, y, z = points.unbind(-1)
    return torch.stack([x, z, -y], -1)
