"""Rotations as quaternions (real part first, of any length but 0), and as matrices."""

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


def quaternion_of_rotation(rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "4"]:
    """Return the quaternion of a rotation matrix: the eigenvector of Bar-Itzhack's symmetric matrix."""
    r = rotation.double()
    k = r.new_zeros(4, 4)
    k[0, 0] = r.trace()
    k[0, 1:] = k[1:, 0] = torch.stack([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    k[1:, 1:] = r + r.T - r.trace() * torch.eye(3, dtype=r.dtype, device=r.device)
    return torch.linalg.eigh(k)[1][:, -1].to(rotation)


def multiply_quaternions(a: Float[Tensor, "*#n 4"], b: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*n 4"]:
    """Return the quaternion that turns by b first, then by a."""
    p, q, r, s = a.unbind(-1)
    w, x, y, z = b.unbind(-1)
    return torch.stack(
        [
            p * w - q * x - r * y - s * z,
            p * x + q * w + r * z - s * y,
            p * y - q * z + r * w + s * x,
            p * z + q * y - r * x + s * w,
        ],
        -1,
    )
