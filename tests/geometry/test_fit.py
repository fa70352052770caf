"""The tetrahedral grid learns shapes from masks and normals alone, through the rasterizer."""

from dataclasses import replace

import pytest
import torch

from benchmarks.fit_mesh import (
    NEEDS,
    Fixed,
    Setting,
    Truth,
    around,
    field_mesh,
    fit,
    hull_distance,
    measure,
    renderer_of,
    torus_mesh,
)
from usd.math.isosurface import grid_points

QUICK = Setting(resolution=32, size_px=40, steps=40, views_a_step=2, rate=0.1, smooth=0.03, signs=0.01)


def test_a_ball_becomes_an_egg() -> None:
    truth = field_mesh(lambda x: 0.65 - (x * torch.tensor([1.0, 1.0, 1.2])).norm(dim=-1))
    grid, start = fit(truth, replace(QUICK, start="sphere"))
    result = measure("egg", Truth(truth, (2,)), grid, start, (0.0, 0.0))
    assert result.start_chamfer_of_diagonal > 0.02 and result.chamfer_of_diagonal < 0.01
    assert result.closed and result.euler == 2 and result.smallest_tetrahedron > 0


@pytest.mark.parametrize(
    ("start", "steps", "views"), [("hull", 8, 2), pytest.param("sphere", 60, 3, marks=pytest.mark.slow)]
)
def test_a_torus_is_found_within_its_masks_or_within_a_ball(start: str, steps: int, views: int) -> None:
    """From a ball its hole has to be opened, where no silhouette is at first."""
    truth = torus_mesh()
    setting = replace(QUICK, resolution=40, size_px=64, steps=steps, views_a_step=views, start=start)
    grid, first = fit(truth, setting)
    result = measure("torus", Truth(truth, (0,)), grid, first, (0.0, 0.0))
    assert result.chamfer_of_diagonal < 0.01 and 0.9 < result.volume_ratio < 1.1
    assert result.closed and result.euler == 0
    assert result.smallest_tetrahedron > 0


def test_the_hull_of_a_ball_s_masks_is_the_ball() -> None:
    truth = field_mesh(lambda x: 0.5 - x.norm(dim=-1))
    cameras = around(64)
    masks = renderer_of(Fixed(truth)).render(cameras, NEEDS).opacity
    x = grid_points(0, 9, 9, -0.9, 0.9, torch.zeros(()))
    found, wanted = hull_distance(x, cameras, masks), x.norm(dim=-1) - 0.5
    sure = wanted.abs() > 0.05
    assert torch.equal(found[sure] < 0, wanted[sure] < 0)
