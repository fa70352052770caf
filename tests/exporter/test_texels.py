"""Which texels a triangle covers, and what they hold: compared with a test of every pixel, and with closed forms."""

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from usd.exporter import texels
from usd.exporter.texels import TexelSamples, bake_texture, covered_texels, dilate, texel_count

H, W = 24, 32


def triangles(n: int = 40) -> Float[Tensor, "F 3 2"]:
    """Random ones, some thin, some partly outside the picture, one without area."""
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(n, 3, 2, generator=generator) * torch.tensor([W + 8.0, H + 8.0]) - 4
    corners[0, 2] = corners[0, 1]
    corners[1, 2] = corners[1, 0] + 0.02
    return corners


def all_spots(corners: Float[Tensor, "F 3 2"], **options: object) -> TexelSamples:
    parts = list(covered_texels(corners, H, W, **options))
    return TexelSamples(
        *(torch.cat([getattr(p, name) for p in parts]) for name in ("face", "pixel", "weights"))
    )


def inside(corners: Float[Tensor, "F 3 2"]) -> set[tuple[int, int]]:
    """Every pixel center against every triangle."""
    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    at = torch.stack([x, y], -1).view(1, -1, 2)
    sides = []
    for i in range(3):
        p, q = corners[:, None, i], corners[:, None, (i + 1) % 3]
        d, r = q - p, at - p
        sides.append(d[..., 0] * r[..., 1] - d[..., 1] * r[..., 0])
    side = torch.stack(sides)
    hit = (side > 1e-4).all(0) | (side < -1e-4).all(0)
    return {(int(f), int(p)) for f, p in hit.nonzero()}


@pytest.mark.parametrize("most", [8, 1 << 19])
def test_covered_pixels_are_those_whose_center_is_inside(most: int) -> None:
    corners = triangles()
    samples = all_spots(corners, most=most)
    found = set(zip(samples.face.tolist(), samples.pixel.tolist()))
    assert len(found) == len(samples.face) and inside(corners) <= found
    assert len(found - inside(corners)) < 5  # centers on a side


def test_weights_lead_back_to_the_pixel() -> None:
    corners = triangles()
    samples = all_spots(corners)
    at = (corners[samples.face] * samples.weights[..., None]).sum(1)
    center = torch.stack([samples.pixel % W, samples.pixel // W], 1) + 0.5
    assert torch.allclose(at, center, atol=1e-3)
    assert float(samples.weights.min()) > -1e-3


def test_a_margin_widens_by_so_many_pixels() -> None:
    corners = torch.tensor([[[8.0, 8.0], [20.0, 8.0], [8.0, 20.0]]])
    bare, wide = all_spots(corners), all_spots(corners, margin=2.0)
    assert set(bare.pixel.tolist()) < set(wide.pixel.tolist())
    assert int((wide.pixel // W).min()) == 6 and int((wide.pixel % W).min()) == 6
    narrow = all_spots(corners, margin=-2.0)
    assert set(narrow.pixel.tolist()) < set(bare.pixel.tolist())


SQUARE = torch.tensor([[[0.1, 0.1], [0.9, 0.1], [0.1, 0.9]], [[0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]])


def places(samples: TexelSamples) -> Float[Tensor, "N 2"]:
    return (SQUARE[samples.face] * samples.weights[..., None]).sum(1)


@pytest.mark.parametrize("samples", [1, 3])
def test_a_linear_color_is_baked_exactly_also_beyond_the_border(samples: int) -> None:
    size = 40
    picture = bake_texture(
        SQUARE, size, lambda samples: torch.cat([places(samples), places(samples)[:, :1]], 1), samples
    )
    centers = (torch.arange(size) + 0.5) / size
    near = (centers > 0.1 - 1 / size) & (centers < 0.9 + 1 / size)
    rows = picture[near][:, near]
    assert torch.allclose(
        rows[..., 0], centers[near].expand(len(rows), -1), atol=1e-4 if samples == 1 else 0.6 / size
    )
    assert torch.allclose(
        rows[..., 1], centers[near][:, None].expand(-1, len(rows)), atol=1e-4 if samples == 1 else 0.6 / size
    )


def test_samples_smooth_an_edge_in_the_color() -> None:
    def step(samples: TexelSamples) -> Float[Tensor, "N 3"]:
        return (places(samples)[:, :1] > 0.51).float().expand(-1, 3)

    hard, soft = (bake_texture(SQUARE, 20, step, samples)[10, :, 0] for samples in (1, 4))
    assert set(hard.tolist()) == {0.0, 1.0}
    assert float(soft[10]) == pytest.approx(0.75)  # the texel from 0.5 to 0.55


def test_gaps_take_the_nearest_color() -> None:
    picture, filled = torch.zeros(5, 9, 1), torch.zeros(5, 9, dtype=torch.bool)
    picture[2, 1], picture[2, 7] = 1.0, 2.0
    filled[2, 1] = filled[2, 7] = True
    full = dilate(picture, filled)[..., 0]
    assert (full[:, :4] == 1).all() and (full[:, 5:] == 2).all()


def scattered(height: int, width: int, rows: slice) -> tuple[Tensor, Tensor]:
    """A picture whose values say where they are from, and which of its pixels are filled: some of these rows."""
    filled = torch.zeros(height, width, dtype=torch.bool)
    generator = torch.Generator().manual_seed(5)
    filled[rows] = torch.rand(filled[rows].shape, generator=generator) < 0.05
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.where(filled[..., None], torch.stack([y, x], -1), -1).float(), filled


def test_gaps_filled_band_by_band_take_the_nearest_color_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texels, "BAND", 8)
    monkeypatch.setattr(texels, "REACH", 16)
    picture, filled = scattered(45, 20, slice(0, 45))
    there = filled.nonzero().float()
    full = dilate(picture, filled)
    assert full is picture, "no copy of a large texture"
    at = torch.stack(torch.meshgrid(torch.arange(45.0), torch.arange(20.0), indexing="ij"), -1)
    nearest = torch.cdist(at.view(-1, 2), there).amin(1)
    assert torch.allclose((full - at).norm(dim=-1).flatten(), nearest, atol=1e-4)


@pytest.mark.parametrize("rows", [slice(0, 6), slice(36, 45), slice(20, 24)])
def test_bands_far_from_every_chart_continue_the_rows_beside_them(
    monkeypatch: pytest.MonkeyPatch, rows: slice
) -> None:
    monkeypatch.setattr(texels, "BAND", 8)
    monkeypatch.setattr(texels, "REACH", 2)
    picture, filled = scattered(45, 20, rows)
    full = dilate(picture, filled)
    assert bool(filled.any()) and float(full.min()) >= 0, "nothing is left empty"
    there = full.long()
    assert bool(filled[there[..., 0], there[..., 1]].all()), "and every value is a filled pixel's"


def test_nothing_to_cover_leaves_an_empty_picture() -> None:
    flat = torch.full((2, 3, 2), 0.5)
    assert bake_texture(flat, 16, lambda samples: torch.ones(len(samples.face), 3)).abs().sum() == 0


def test_texels_are_counted_by_area() -> None:
    halves = torch.tensor([[[0, 0], [1, 0], [0, 1]], [[0.5, 0.5], [0.5, 1.0], [1.0, 0.5]]])
    assert texel_count(halves, 64) == 64**2 // 2 + 64**2 // 8
    inside = sum(len(part.pixel) for part in covered_texels(halves * 64, 64, 64))
    assert abs(texel_count(halves, 64) - inside) < 2 * 64
    assert texel_count(halves[:0], 64) == 1, "a work has a unit at least"
