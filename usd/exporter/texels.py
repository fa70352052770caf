"""Textures: which texels a triangle covers, what is written there, and what the gaps between charts are filled with.

Texture coordinates (u, v) run from (0, 0), the upper left corner of the picture, to (1, 1), the lower right one. The
center of pixel (row i, column j) of an H x W picture is ((j + 0.5) / W, (i + 0.5) / H).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MARGIN_PX = (
    1.5  # so far beyond their borders charts are continued, for readers that interpolate between texels
)


@dataclass(frozen=True)
class Spots:
    """Pixel centers in triangles: the face, the pixel's number (row by row), and the weights of the face's corners."""

    face: Int[Tensor, "N"]
    pixel: Int[Tensor, "N"]
    weights: Float[Tensor, "N 3"]


def covered(
    corners: Float[Tensor, "F 3 2"], height: int, width: int, margin: float = 0.0, most: int = 1 << 19
) -> Iterator[Spots]:
    """All pixel centers in each triangle (corners in pixels, x right, y down), about ``most`` at a time.

    A positive margin widens triangles by so many pixels (weights are continued beyond the corners); a negative one
    narrows them. Triangles without area cover nothing.
    """
    side = _cross(corners)
    faces = (side.abs() > 1e-9).nonzero().flatten()
    y = corners[faces, :, 1]
    top = (y.amin(1) - margin - 0.5).ceil().clamp(0, height).long()
    bottom = (y.amax(1) + margin - 0.5).floor().clamp(-1, height - 1).long()
    for group, row in _expanded((bottom - top + 1).clamp_min(0), most // 8):
        face, line = faces[group], top[group] + row
        low, high = _span(corners[face], side[face].sign(), line + 0.5, margin)
        left = (low - 0.5).ceil().clamp(0, width).long()
        right = (high - 0.5).floor().clamp(-1, width - 1).long()
        for spans, step in _expanded((right - left + 1).clamp_min(0), most):
            x = left[spans] + step
            at = torch.stack([x + 0.5, line[spans] + 0.5], 1)
            yield Spots(face[spans], line[spans] * width + x, _weights(corners[face[spans]], at))


def _cross(corners: Float[Tensor, "N 3 2"]) -> Float[Tensor, "N"]:
    """Twice the signed area."""
    a, b, c = corners.unbind(1)
    return (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])


def _expanded(counts: Int[Tensor, "N"], most: int) -> Iterator[tuple[Int[Tensor, "M"], Int[Tensor, "M"]]]:
    """For each item i its number, ``counts[i]`` times, beside 0 .. counts[i] - 1; in parts of about ``most`` rows."""
    until = counts.cumsum(0)
    total = int(until[-1]) if len(counts) else 0
    cuts = torch.searchsorted(until, torch.arange(0, total, most, device=counts.device), right=True).tolist()
    for start, stop in zip(cuts, [*cuts[1:], len(counts)]):
        part = counts[start:stop]
        item = torch.repeat_interleave(torch.arange(start, stop, device=counts.device), part)
        rank = torch.arange(len(item), device=counts.device) - (part.cumsum(0) - part)[item - start]
        yield item, rank


def _span(
    corners: Float[Tensor, "N 3 2"], side: Float[Tensor, "N"], y: Float[Tensor, "N"], margin: float
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """The part low <= x <= high of the line at height y that lies in a triangle."""
    low = corners[..., 0].amin(1) - max(margin, 0.0)
    high = corners[..., 0].amax(1) + max(margin, 0.0)
    for i in range(3):
        p, q = corners[:, i], corners[:, (i + 1) % 3]
        along = q - p
        slope = side * along[:, 1]
        room = side * (along[:, 0] * (y - p[:, 1]) + along[:, 1] * p[:, 0]) + margin * along.norm(dim=1)
        limit = room / torch.where(slope == 0, torch.ones_like(slope), slope)
        high = torch.where(slope > 0, torch.minimum(high, limit), high)
        low = torch.where(slope < 0, torch.maximum(low, limit), low)
        high = torch.where((slope == 0) & (room < 0), low - 1, high)
    return low, high


def _weights(corners: Float[Tensor, "N 3 2"], at: Float[Tensor, "N 2"]) -> Float[Tensor, "N 3"]:
    """Barycentric coordinates, continued outside (at most one triangle's size away)."""
    a, b, c = corners.unbind(1)
    whole = _cross(corners)
    u = _cross(torch.stack([a, at, c], 1)) / whole
    v = _cross(torch.stack([a, b, at], 1)) / whole
    u, v = u.clamp(-1, 2), v.clamp(-1, 2)
    return torch.stack([1 - u - v, u, v], 1)


def baked(
    corners: Float[Tensor, "F 3 2"],
    size: int,
    values: Callable[[Spots], Float[Tensor, "N C"]],
    samples: int = 1,
) -> Float[Tensor, "S S C"]:
    """A square texture: each texel is the mean of ``values`` at samples x samples places in it.

    ``corners`` are texture coordinates. Charts are continued beyond their borders, then by their nearest texel, so
    that neither interpolation nor smaller copies of the texture show seams. All zero where nothing is covered.
    """
    total: Tensor | None = None
    weight = corners.new_zeros(size * size)
    fine = size * samples
    for spots in covered(corners * fine, fine, fine):
        row, column = spots.pixel // fine // samples, spots.pixel % fine // samples
        total = _add(total, weight, row * size + column, values(spots))
    empty = weight == 0
    for spots in covered(corners * size, size, size, MARGIN_PX):
        new = empty[spots.pixel]
        spots = Spots(spots.face[new], spots.pixel[new], spots.weights[new])
        if len(spots.face):
            total = _add(total, weight, spots.pixel, values(spots))
    if total is None:
        return corners.new_zeros(size, size, 3)
    mean = total / weight.clamp_min(1)[:, None]
    return dilated(mean.view(size, size, -1), (weight > 0).view(size, size))


def _add(
    total: Tensor | None, weight: Float[Tensor, "T"], at: Int[Tensor, "N"], values: Float[Tensor, "N C"]
) -> Float[Tensor, "T C"]:
    total = values.new_zeros(len(weight), values.shape[1]) if total is None else total
    weight.index_add_(0, at, torch.ones_like(at, dtype=weight.dtype))
    return total.index_add_(0, at, values)


def dilated(picture: Float[Tensor, "H W C"], filled: Bool[Tensor, "H W"]) -> Float[Tensor, "H W C"]:
    """Pixels that are not filled take the value of the nearest that is."""
    from scipy.ndimage import distance_transform_edt

    if not bool(filled.any()):
        return picture
    rows, columns = distance_transform_edt(~filled.cpu().numpy(), return_distances=False, return_indices=True)
    row, column = (torch.from_numpy(index).long().to(picture.device) for index in (rows, columns))
    return picture[row, column]
