"""Rotations: quaternions (real part first, of any length but 0) and matrices."""

import torch
from jaxtyping import Float
from torch import Tensor


def rotation_of_quaternion(q: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 3 3"]:
    """Return rotation matrices of quaternions, divided by their lengths."""
    w, x, y, z = torch.nn.functional.normalize(q, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
