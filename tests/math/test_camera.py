"""Orthographic cameras: the same rays, projections and windows as pinholes, and their limit."""

import math

import pytest
import torch

from usd.math.camera import (
    Spherical,
    join_cameras,
    look_at,
    orbit_cameras,
    orbit_cameras_deg,
    orthographic_cameras,
)

FOV = math.radians(40.0)


def pinholes(distance=1.5, fov=FOV, height=12, width=16):
    place = Spherical(torch.tensor([0.1, 0.6]), torch.tensor([0.3, 2.0]), torch.full((2,), distance))
    return orbit_cameras(place, fov, height, width)


def orthographic(height=12, width=16):
    return orthographic_cameras(pinholes().c2w, torch.tensor([1.35, 0.9]), height, width)


@pytest.mark.parametrize("cameras", [pinholes(), orthographic()], ids=["pinhole", "orthographic"])
def test_a_point_on_a_ray_projects_to_its_pixel(cameras):
    origins, directions = cameras.rays()
    points = (origins + 1.3 * directions)[1].reshape(-1, 3)
    pixels, depth = cameras.project(points)
    y, x = torch.meshgrid(torch.arange(12) + 0.5, torch.arange(16) + 0.5, indexing="ij")
    assert torch.allclose(pixels[1], torch.stack([x, y], -1).reshape(-1, 2), atol=1e-4)
    assert (depth[1] > 0).all() and torch.allclose(directions.norm(dim=-1), torch.ones(2, 12, 16))


@pytest.mark.parametrize("cameras", [pinholes(), orthographic()], ids=["pinhole", "orthographic"])
def test_clip_coordinates_agree_with_pixels(cameras):
    points = 0.3 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    pixels, _ = cameras.project(points)
    clip = torch.einsum("bij,nj->bni", cameras.mvp(), torch.cat([points, torch.ones(20, 1)], 1))
    ndc = clip[..., :3] / clip[..., 3:]
    seen = torch.stack([(ndc[..., 0] + 1) / 2 * 16, (1 - ndc[..., 1]) / 2 * 12], -1)
    assert torch.allclose(seen, pixels, atol=1e-3) and (ndc[..., 2].abs() < 1).all()


def test_orthographic_cameras_are_the_limit_of_far_pinholes():
    """fov = 2 atan(span / 2 / distance): the further away, the more parallel."""
    far, span = 4000.0, 1.2
    near_limit = pinholes(far, 2 * math.atan(0.5 * span / far))
    parallel = orthographic_cameras(pinholes(1.5).c2w, span, 12, 16)
    points = 0.4 * torch.randn(30, 3, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(near_limit.project(points)[0], parallel.project(points)[0], atol=0.02)


def test_a_window_of_rays_is_cut_from_all_rays():
    cameras = orthographic()
    for whole, part in zip(cameras.rays(), cameras.crop_rays(3, 5, 4, 6)):
        assert torch.equal(whole[:, 3:7, 5:11], part)


def test_selecting_resizing_and_joining_keep_the_kind():
    cameras = orthographic()
    assert cameras[1:].span_y.tolist() == pytest.approx([0.9])
    assert cameras.resize(24, 32).project(torch.zeros(1, 3))[0][0, 0].tolist() == pytest.approx([16, 12])
    joined = join_cameras([cameras[:1], cameras[1:]])
    assert torch.equal(joined.span_y, cameras.span_y) and torch.equal(joined.c2w, cameras.c2w)
    assert join_cameras([pinholes(), pinholes()]).span_y is None
    with pytest.raises(ValueError, match="differ"):
        join_cameras([cameras, pinholes()])


def test_looking_straight_down_is_allowed():
    c2w = look_at(torch.tensor([[0.0, 0.0, 2.0]]), torch.zeros(1, 3))
    assert torch.allclose(-c2w[0, :3, 2], torch.tensor([0.0, 0.0, -1.0]))
    assert torch.isfinite(orbit_cameras_deg(90.0, [0.0], 1.5, 40.0, 4).c2w).all()
