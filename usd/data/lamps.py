"""Lamps of training views, drawn with their cameras (DreamFusion, arXiv 2209.14988; Magic3D, arXiv 2211.10440)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.math.camera import Spherical, look_at

LampStrategy = Literal["dreamfusion", "magic3d"]
LOWEST_DEG = 30.0
"""Magic3D's lamps stand at least so high above the plane across the line from the origin to the camera."""


def draw_lamps(
    strategy: LampStrategy,
    position: Float[Tensor, "B 3"],
    perturb: float,
    distance_range: tuple[float, float],
    generator: torch.Generator,
) -> Float[Tensor, "B 3"]:
    """Draw the world position of one lamp a camera, at a distance from the origin that is uniform in the range.

    ``dreamfusion``: in the direction of the camera's ``position`` c plus normal noise, c + ``perturb`` n.
    ``magic3d``: at a random angle around the direction of c, 30 to 90 degrees above the plane across it.
    """
    count = len(position)
    low, high = distance_range
    distance = low + (high - low) * torch.rand(count, 1, generator=generator)
    if strategy == "magic3d":
        return distance * _around_axis(position, generator)
    noise = torch.randn(count, 3, generator=generator)
    return distance * torch.nn.functional.normalize(position + perturb * noise, dim=-1)


def _around_axis(position: Float[Tensor, "B 3"], generator: torch.Generator) -> Float[Tensor, "B 3"]:
    """Draw unit directions in the upper part of the hemisphere whose pole is the direction of ``position``."""
    count = len(position)
    turn = 2 * torch.pi * torch.rand(count, generator=generator)
    elevation = (LOWEST_DEG + (90 - LOWEST_DEG) * torch.rand(count, generator=generator)).deg2rad()
    local = Spherical(elevation, turn, torch.ones(count)).xyz()
    # A camera that looks at the origin has the pole as its +z axis; the turn about it is uniform anyway.
    frame = look_at(position, torch.zeros_like(position))[:, :3, :3]
    return torch.einsum("bij,bj->bi", frame, local)
