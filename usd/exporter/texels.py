"""Textures: texels that triangles cover, values written there, and the filling of gaps between charts.

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

BAND, REACH = 1024, 256
"""Rows whose gaps are filled at once, and how far beyond them the nearest texel is looked for."""


@dataclass(frozen=True)
class TexelSamples:
    """Pixel centers in triangles: the face, the pixel's number (row by row), and the weights of the face's corners."""

    face: Int[Tensor, "N"]
    pixel: Int[Tensor, "N"]
    weights: Float[Tensor, "N 3"]


TexelValues = Callable[[TexelSamples], Float[Tensor, "N C"]]


def covered_texels(
    corners: Float[Tensor, "F 3 2"], height: int, width: int, margin: float = 0.0, most: int = 1 << 19
) -> Iterator[TexelSamples]:
    """Yield all pixel centers in each triangle (corners in pixels, x right, y down), about ``most`` at a time.

    A positive margin widens triangles by so many pixels (weights continue beyond corners). No area covers nothing.
    """
    side = _double_area(corners)
    faces = (side.abs() > 1e-9).nonzero().flatten()
    # Triangles are cut into scan lines, scan lines into pixels; memory follows the pixels, not bounding boxes.
    y = corners[faces, :, 1]
    top = (y.amin(1) - margin - 0.5).ceil().clamp(0, height).long()
    bottom = (y.amax(1) + margin - 0.5).floor().clamp(-1, height - 1).long()
    for group, row in _expand((bottom - top + 1).clamp_min(0), most // 8):
        face, line = faces[group], top[group] + row
        yield from _line_texels(corners[face], face, side[face].sign(), line, (width, margin, most))


def _line_texels(
    corners: Float[Tensor, "L 3 2"],
    face: Int[Tensor, "L"],
    side: Float[Tensor, "L"],
    line: Int[Tensor, "L"],
    raster: tuple[int, float, int],
) -> Iterator[TexelSamples]:
    """Yield the pixels of scan lines, each through one triangle; ``raster``: width, margin, and rows at a time."""
    width, margin, most = raster
    low, high = _scanline_span(corners, side, line + 0.5, margin)  # through the pixels' centers
    left = (low - 0.5).ceil().clamp(0, width).long()
    right = (high - 0.5).floor().clamp(-1, width - 1).long()
    for spans, step in _expand((right - left + 1).clamp_min(0), most):
        x = left[spans] + step
        at = torch.stack([x + 0.5, line[spans] + 0.5], 1)
        yield TexelSamples(face[spans], line[spans] * width + x, _barycentric(corners[spans], at))


def _double_area(corners: Float[Tensor, "N 3 2"]) -> Float[Tensor, "N"]:
    """Return twice the signed area of triangles."""
    a, b, c = corners.unbind(1)
    return (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])


def _expand(counts: Int[Tensor, "N"], most: int) -> Iterator[tuple[Int[Tensor, "M"], Int[Tensor, "M"]]]:
    """Yield each item i ``counts[i]`` times, beside 0 .. counts[i] - 1; in parts of about ``most`` rows."""
    until = counts.cumsum(0)
    total = int(until[-1]) if len(counts) else 0
    # Cuts between items, as near as possible to every multiple of ``most``.
    cuts = torch.searchsorted(until, torch.arange(0, total, most, device=counts.device), right=True).tolist()
    for start, stop in zip(cuts, [*cuts[1:], len(counts)]):
        part = counts[start:stop]
        item = torch.repeat_interleave(torch.arange(start, stop, device=counts.device), part)
        # Position in the part minus the position at which the item begins.
        rank = torch.arange(len(item), device=counts.device) - (part.cumsum(0) - part)[item - start]
        yield item, rank


def _scanline_span(
    corners: Float[Tensor, "N 3 2"], side: Float[Tensor, "N"], y: Float[Tensor, "N"], margin: float
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """Return low and high: the part low <= x <= high of the line at height y that lies in a triangle."""
    low = corners[..., 0].amin(1) - max(margin, 0.0)
    high = corners[..., 0].amax(1) + max(margin, 0.0)
    # A triangle is three half planes; each bounds x from one side, or where its edge is level, y alone.
    for i in range(3):
        p, q = corners[:, i], corners[:, (i + 1) % 3]
        along = q - p
        slope = side * along[:, 1]
        room = side * (along[:, 0] * (y - p[:, 1]) + along[:, 1] * p[:, 0]) + margin * along.norm(dim=1)
        # The margin moves the half plane outwards along its normal, so along x by room / slope.
        limit = room / torch.where(slope == 0, torch.ones_like(slope), slope)
        high = torch.where(slope > 0, torch.minimum(high, limit), high)
        low = torch.where(slope < 0, torch.maximum(low, limit), low)
        high = torch.where((slope == 0) & (room < 0), low - 1, high)
    return low, high


def _barycentric(corners: Float[Tensor, "N 3 2"], at: Float[Tensor, "N 2"]) -> Float[Tensor, "N 3"]:
    """Return barycentric coordinates, continued outside (at most one triangle's size away)."""
    a, b, c = corners.unbind(1)
    whole = _double_area(corners)
    # Ratios of signed areas: right for either orientation, and linear beyond the edges.
    u = _double_area(torch.stack([a, at, c], 1)) / whole
    v = _double_area(torch.stack([a, b, at], 1)) / whole
    # Thin triangles would be continued without bound, far from what they show.
    u, v = u.clamp(-1, 2), v.clamp(-1, 2)
    return torch.stack([1 - u - v, u, v], 1)


def texel_count(corners: Float[Tensor, "F 3 2"], size: int) -> int:
    """Return about how many texels of a square texture triangles cover, in texture coordinates: their area."""
    return max(1, round(float(_double_area(corners).abs().sum()) / 2 * size**2))


def bake_texture(
    corners: Float[Tensor, "F 3 2"], size: int, values: TexelValues, samples: int = 1
) -> Float[Tensor, "S S C"]:
    """Return a square texture: each texel is the mean of ``values`` at samples x samples places in it.

    ``corners`` are texture coordinates. Charts are continued beyond their borders, then by their nearest texel, so
    that neither interpolation nor smaller copies of the texture show seams. All zero where nothing is covered.
    """
    weight = corners.new_zeros(size * size)
    total = _accumulate_inside(corners, size, values, samples, weight)
    total = _accumulate_borders(corners, size, values, total, weight)
    if total is None:
        return corners.new_zeros(size, size, 3)
    # What no chart touches is filled by its nearest texel, for smaller copies of the texture.
    filled = (weight > 0).view(size, size)
    # In place: at 8192 texels a side each copy of the texture is 0.8 GiB.
    mean = total.div_(weight.clamp_(min=1)[:, None])
    return dilate(mean.view(size, size, -1), filled)


def _accumulate_inside(
    corners: Float[Tensor, "F 3 2"], size: int, values: TexelValues, samples: int, weight: Float[Tensor, "T"]
) -> Float[Tensor, "T C"] | None:
    """Return sums over samples x samples places in each texel, counted in ``weight``."""
    total, fine = None, size * samples
    # Places on a finer raster, added up in the texel that holds them.
    for places in covered_texels(corners * fine, fine, fine):
        row, column = places.pixel // fine // samples, places.pixel % fine // samples
        total = _accumulate(total, weight, row * size + column, values(places))
    return total


def _accumulate_borders(
    corners: Float[Tensor, "F 3 2"],
    size: int,
    values: TexelValues,
    total: Float[Tensor, "T C"] | None,
    weight: Float[Tensor, "T"],
) -> Float[Tensor, "T C"] | None:
    """Return the sums with texels around the charts, whose values are continued from inside."""
    empty = weight == 0
    # Texels that only their own chart's border touches: bilinear readers mix them in.
    for places in covered_texels(corners * size, size, size, MARGIN_PX):
        new = empty[places.pixel]
        border = TexelSamples(places.face[new], places.pixel[new], places.weights[new])
        if len(border.face):
            total = _accumulate(total, weight, border.pixel, values(border))
    return total


def _accumulate(
    total: Tensor | None, weight: Float[Tensor, "T"], at: Int[Tensor, "N"], values: Float[Tensor, "N C"]
) -> Float[Tensor, "T C"]:
    """Return the sums with values added, which are made at the first call; count them in ``weight``."""
    total = values.new_zeros(len(weight), values.shape[1]) if total is None else total
    weight.index_add_(0, at, torch.ones_like(at, dtype=weight.dtype))
    return total.index_add_(0, at, values)


def dilate(picture: Float[Tensor, "H W C"], filled: Bool[Tensor, "H W"]) -> Float[Tensor, "H W C"]:
    """Fill a picture in place, each gap with the value of its nearest filled pixel; return it.

    Nearest in a band of rows that reaches ``REACH`` beyond the gap: exact up to that distance, and the memory is that
    of a band. Where a band holds nothing, the rows above are continued, then those below.
    """
    if bool(filled.any()):
        height = len(filled)
        starts = range(0, height, BAND)
        empty = [first for first in starts if not _dilate_band(picture, filled, first)]
        _fill_bands(picture, empty)
    return picture


def _dilate_band(picture: Float[Tensor, "H W C"], filled: Bool[Tensor, "H W"], first: int) -> bool:
    """Fill the gaps of one band; return False where nothing near it is filled."""
    from scipy.ndimage import distance_transform_edt

    # Looked for beyond the band as well, or its borders would show as lines.
    low, high = max(0, first - REACH), min(len(filled), first + BAND + REACH)
    if not bool(filled[low:high].any()):
        return False
    empty = ~filled[low:high].cpu().numpy()
    found = distance_transform_edt(empty, return_distances=False, return_indices=True)
    here = slice(first - low, first - low + BAND)
    gaps = ~filled[first : first + BAND]
    row, column = (torch.from_numpy(index[here]).to(picture.device)[gaps].long() for index in found)
    # Read from filled pixels alone, so that bands which are done do not count as filled.
    picture[first : first + BAND][gaps] = picture[row + low, column]
    return True


def _fill_bands(picture: Float[Tensor, "H W C"], empty: list[int]) -> None:
    """Continue the nearest row of the bands above, else of those below, through bands that hold nothing."""
    below = [first for first in range(0, len(picture), BAND) if first not in empty]
    for first in empty:
        source = max((b + BAND - 1 for b in below if b < first), default=below[0])
        picture[first : first + BAND] = picture[source]
