"""Rotations as vectors: axis times angle (so(3))."""

import torch
from jaxtyping import Float
from torch import Tensor


def rotate(vector: Float[Tensor, "N 3"], points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Return points turned by rotation vectors, each by its own (Rodrigues' formula); smooth at zero, too.

    p + (w x p) sin a / a + w x (w x p) (1 - cos a) / a^2, with the angle a = |w|.
    """
    square = (vector * vector).sum(-1, keepdim=True)
    # Near zero a series stands for the quotients, whose gradients would not be finite.
    small = square < 1e-6
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    sine = torch.where(small, 1 - square / 6, angle.sin() / angle)
    rest = torch.where(small, 0.5 - square / 24, (1 - angle.cos()) / angle**2)
    across = torch.linalg.cross(vector, points)
    return points + sine * across + rest * torch.linalg.cross(vector, across)
