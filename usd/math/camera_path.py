"""Cameras along a smooth way through a few key views: for videos.

A key view is a position, a point looked at and a field of view. The point, the direction from it to the camera and the
distance are interpolated each for itself (Catmull-Rom splines, which pass through the keys), so that between views
around an object the camera goes around it, too, and keeps looking at it.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.math.camera import Cameras, look_at


def path_cameras(
    position: Float[Tensor, "K 3"],
    target: Float[Tensor, "K 3"],
    fov_y: Float[Tensor, "K"],
    frames: int,
    size: tuple[int, int],
    *,
    loop: bool = False,
) -> Cameras:
    """Return ``frames`` cameras of ``size`` (rows, columns) along the way, evenly from the first key to the last.

    With ``loop`` the way goes back to the first key, whose view is not repeated at the end. ``fov_y`` is in radians.
    """
    away = position - target
    distance = away.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    values = torch.cat([target, away / distance, distance.log(), fov_y[:, None]], 1)
    at = spline(values, key_times(len(position), frames, loop), loop)
    looked_at, direction, log_distance, fov = at.split([3, 3, 1, 1], 1)
    direction = torch.nn.functional.normalize(direction, dim=-1)
    c2w = look_at(looked_at + direction * log_distance.exp(), looked_at)
    return Cameras(c2w, fov[:, 0], *size)


def key_times(keys: int, frames: int, loop: bool) -> Float[Tensor, "N"]:
    """Return the time of each frame in units of key views."""
    if loop:
        return torch.arange(frames) * (keys / frames)
    return torch.linspace(0, keys - 1, frames)


def spline(values: Float[Tensor, "K C"], times: Float[Tensor, "N"], loop: bool) -> Float[Tensor, "N C"]:
    """Return the Catmull-Rom spline through ``values`` at times 0, 1, ..., K - 1; with ``loop`` of period K."""
    count = len(values)
    low = times.floor().long().clamp(0, count - 1 if loop else max(count - 2, 0))
    u = (times - low)[:, None].to(values)
    before, start, end, after = (_rows_at(values, low + offset, loop) for offset in (-1, 0, 1, 2))
    slope_in, slope_out = 0.5 * (end - before), 0.5 * (after - start)
    # Hermite's basis: values at both ends, and slopes that neighbors on both sides agree on.
    return (
        (2 * u**3 - 3 * u**2 + 1) * start
        + (u**3 - 2 * u**2 + u) * slope_in
        + (3 * u**2 - 2 * u**3) * end
        + (u**3 - u**2) * slope_out
    )


def _rows_at(values: Float[Tensor, "K C"], index: Int[Tensor, "N"], loop: bool) -> Float[Tensor, "N C"]:
    """Return rows by index; beyond the ends they go on around, or along a straight line."""
    count = len(values)
    if loop or count == 1:
        return values[index % count]
    inside = values[index.clamp(0, count - 1)]
    before = (index < 0)[:, None] * (values[0] - values[1])
    return inside + before + (index >= count)[:, None] * (values[-1] - values[-2])
