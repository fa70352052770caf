"""The tetrahedral grid learns shapes from masks and normals alone, through the rasterizer."""

from dataclasses import replace

import torch

from benchmarks.fit_mesh import (
    NEEDS,
    Fixed,
    Setting,
    around,
    field_mesh,
    fit,
    hull_distance,
    measure,
    renderer_of,
    torus_mesh,
)
from usd.math.isosurface import grid_points

QUICK = Setting(resolution=32, size_px=40, steps=40, views_a_step=2, rate=0.015, smooth=0.03, signs=0.01)


def test_a_sphere_is_grown_from_a_smaller_one() -> None:
    truth = field_mesh(lambda x: 0.65 - (x * torch.tensor([1.0, 1.0, 1.2])).norm(dim=-1))
    grid, start = fit(truth, replace(QUICK, start="sphere"))
    result = measure("egg", truth, grid, start, 0.0)
    assert result.start_chamfer_of_diagonal > 0.02 and result.chamfer_of_diagonal < 0.01
    assert result.closed and result.euler == 2 and result.smallest_tetrahedron > 0


def test_a_torus_is_found_within_its_masks() -> None:
    truth = torus_mesh()
    grid, start = fit(truth, replace(QUICK, resolution=40, size_px=48, steps=8, rate=0.002))
    result = measure("torus", truth, grid, start, 0.0)
    assert result.chamfer_of_diagonal < 0.01 and result.volume_ratio > 0.9
    assert result.closed and result.euler == result.true_euler == 0


def test_the_hull_of_a_ball_s_masks_is_the_ball() -> None:
    truth = field_mesh(lambda x: 0.5 - x.norm(dim=-1))
    cameras = around(64)
    masks = renderer_of(Fixed(truth)).render(cameras, NEEDS).opacity
    x = grid_points(0, 9, 9, -0.9, 0.9, torch.zeros(()))
    found, wanted = hull_distance(x, cameras, masks), x.norm(dim=-1) - 0.5
    sure = wanted.abs() > 0.05
    assert torch.equal(found[sure] < 0, wanted[sure] < 0)
