"""Canny's edges on pictures whose edges are known."""

import math

import pytest
import torch

from usd.math.canny import canny_edges, sobel


def _disc(size: int, radius: float) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size) - size / 2, torch.arange(size) - size / 2, indexing="ij")
    return ((x.square() + y.square()).sqrt() < radius).float().expand(1, 3, size, size)


def test_a_step_is_one_line_of_one_pixel_where_it_is_steepest() -> None:
    picture = torch.zeros(1, 3, 16, 24)
    picture[..., 12:] = 1
    for turned in (picture, picture.transpose(-1, -2), 1 - picture):
        edges = canny_edges(turned, blur=1)
        rows = edges if turned.shape[-1] == 24 else edges.transpose(-1, -2)
        assert bool((rows.sum(-1) == 1).all()), "one pixel a row"
        assert set(rows[0, 0].nonzero()[:, 1].tolist()) <= {11, 12}


def test_a_disc_has_a_closed_thin_outline_at_its_radius() -> None:
    edges = canny_edges(_disc(64, 20.0), blur=1)[0, 0]
    y, x = edges.nonzero(as_tuple=True)
    distance = ((x - 32.0).square() + (y - 32.0).square()).sqrt()
    assert float((distance - 20).abs().max()) < 2
    assert 0.8 * 2 * math.pi * 20 < len(x) < 1.3 * 2 * math.pi * 20
    angles = torch.atan2(y - 32.0, x - 32.0).sort().values
    assert float(angles.diff().max()) < 0.2, "no gaps"


def test_a_flat_picture_has_no_edge_whatever_its_color() -> None:
    assert not canny_edges(torch.full((2, 3, 9, 9), 0.7)).any()


def test_weak_edges_stay_only_where_they_meet_strong_ones() -> None:
    ramp = torch.linspace(0.0, 0.3, 64)  # the step along x = 16 grows stronger downwards
    picture = torch.zeros(1, 3, 64, 32)
    picture[..., 16:] = ramp[:, None]
    strong = canny_edges(picture, low=0.5, high=0.5, blur=1)
    both = canny_edges(picture, low=0.2, high=0.5, blur=1)
    weak = canny_edges(picture, low=0.2, high=0.2, blur=1)
    assert 0 < strong.sum() < both.sum() and torch.equal(both, weak), "one line: all of it hangs together"
    assert not canny_edges(picture[:, :, :20], low=0.2, high=0.5, blur=1).any(), "no strong pixel to hang on"


def test_a_picture_of_a_batch_does_not_see_the_others() -> None:
    pictures = torch.cat([_disc(32, 9.0), torch.zeros(1, 3, 32, 32), 0.5 * _disc(32, 5.0)])
    assert torch.equal(canny_edges(pictures), torch.cat([canny_edges(p[None]) for p in pictures]))


def test_sobel_of_a_plane_is_eight_times_its_slope() -> None:
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(9.0), indexing="ij")
    dx, dy = sobel((0.5 * x - 0.25 * y)[None, None])
    assert dx[..., 1:-1, 1:-1].unique().tolist() == pytest.approx([4.0])
    assert dy[..., 1:-1, 1:-1].unique().tolist() == pytest.approx([-2.0])
