"""A textured room around toys: views with a background that is somewhere, for scenes whose truth is known.

The room is a cube about the origin. Its walls are patterns of waves and tiles in closed form, and so is what rays see.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from usd.data.view_set import ViewSet

HALF = 3.0
"""Half the room's side."""


def room_colors(
    origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"], half: float = HALF
) -> Float[Tensor, "R 3"]:
    """Return what rays that begin in the room see of its walls. Each wall has its own tint."""
    walls = torch.where(directions >= 0, half, -half)
    times = (walls - origins) / torch.where(
        directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions
    )
    distance, axis = times.min(-1)
    x = (origins + distance[:, None] * directions) / half
    side = axis + 3 * (directions.gather(1, axis[:, None])[:, 0] >= 0)
    tints = 0.5 + 0.35 * torch.cos(torch.arange(18.0).view(6, 3) * 2.4).to(x)
    waves = 0.5 + 0.5 * torch.sin(x @ x.new_tensor([[7.0, 3.0, 5.0], [2.0, 8.0, 6.0], [5.0, 4.0, 9.0]]))
    tiles = ((x * 3 + 0.5).floor().sum(-1) % 2)[:, None]
    return (0.55 * tints[side] + 0.3 * waves + 0.15 * tiles).clamp(0, 1)


def in_room(views: ViewSet, half: float = HALF) -> ViewSet:
    """Return views of an object before the walls of a room; they are opaque, and masked no more."""
    origins, directions = views.cameras.rays()
    shape = directions.shape
    walls = room_colors(origins.reshape(-1, 3), directions.reshape(-1, 3), half)
    behind = walls.view(shape).permute(0, 3, 1, 2)
    color, alpha = views.rgba.split([3, 1], 1)
    seen = torch.cat([color * alpha + behind * (1 - alpha), torch.ones_like(alpha)], 1)
    return views.repainted(seen, masked=False)
