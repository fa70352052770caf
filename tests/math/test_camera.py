"""Cameras of all kinds: rays, projections and windows agree; a principal point anywhere is a part of a larger picture."""

import math

import pytest
import torch

from usd.math.camera import (
    Cameras,
    Spherical,
    camera_differences,
    join_cameras,
    look_at,
    orbit_cameras,
    orbit_cameras_deg,
    orthographic_cameras,
    pinhole_cameras,
)

FOV = math.radians(40.0)


def pinholes(distance=1.5, fov=FOV, height=12, width=16):
    place = Spherical(torch.tensor([0.1, 0.6]), torch.tensor([0.3, 2.0]), torch.full((2,), distance))
    return orbit_cameras(place, fov, height, width)


def orthographic(height=12, width=16):
    return orthographic_cameras(pinholes().c2w, torch.tensor([1.35, 0.9]), height, width)


def lenses(height=12, width=16):
    """Pinholes as real cameras are: focal lengths apart, principal points beside the middle."""
    return pinhole_cameras(
        pinholes().c2w, torch.tensor([[14.0, 17.0, 9.5, 5.0], [15.0, 13.0, 6.0, 7.5]]), height, width
    )


ALL_KINDS = pytest.mark.parametrize(
    "cameras", [pinholes(), orthographic(), lenses()], ids=["pinhole", "orthographic", "intrinsics"]
)


@ALL_KINDS
def test_a_point_on_a_ray_projects_to_its_pixel(cameras):
    origins, directions = cameras.rays()
    points = (origins + 1.3 * directions)[1].reshape(-1, 3)
    pixels, depth = cameras.project(points)
    y, x = torch.meshgrid(torch.arange(12) + 0.5, torch.arange(16) + 0.5, indexing="ij")
    assert torch.allclose(pixels[1], torch.stack([x, y], -1).reshape(-1, 2), atol=1e-4)
    assert (depth[1] > 0).all() and torch.allclose(directions.norm(dim=-1), torch.ones(2, 12, 16))


def lenses(height=12, width=16):
    """Pinholes as real cameras are: focal lengths apart, principal points beside the middle."""
    return pinhole_cameras(
        pinholes().c2w, torch.tensor([[14.0, 17.0, 9.5, 5.0], [15.0, 13.0, 6.0, 7.5]]), height, width
    )


ALL_KINDS = pytest.mark.parametrize(
    "cameras", [pinholes(), orthographic(), lenses()], ids=["pinhole", "orthographic", "intrinsics"]
)


@ALL_KINDS
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


def part_of(cameras: Cameras, top: int, left: int, height: int, width: int) -> Cameras:
    """The cameras that took a part of the pictures of pinholes."""
    focal = cameras.focal_px
    middle = torch.tensor([cameras.width / 2 - left, cameras.height / 2 - top]).expand(len(cameras), 2)
    return pinhole_cameras(cameras.c2w, torch.cat([focal[:, None], focal[:, None], middle], 1), height, width)


def test_a_part_of_a_picture_is_a_picture_with_its_principal_point_elsewhere():
    large = pinholes(height=24, width=30)
    part = part_of(large, 3, 11, 12, 16)
    for cut, whole in zip(part.rays(), large.rays()):
        assert torch.allclose(cut, whole[:, 3:15, 11:27], atol=1e-6)
    camera, x, y = torch.tensor([0, 1, 1]), torch.tensor([0, 5, 15]), torch.tensor([11, 3, 0])
    for cut, whole in zip(part.rays_at(camera, x, y), large.rays_at(camera, x + 11, y + 3)):
        assert torch.allclose(cut, whole, atol=1e-6)


def test_intrinsics_follow_the_picture_size_and_the_selection():
    cameras = lenses()
    double = cameras.resize(24, 32)
    assert double.intrinsics[1].tolist() == pytest.approx([30.0, 26.0, 12.0, 15.0])
    points = 0.2 * torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(double.project(points)[0], 2 * cameras.project(points)[0], atol=1e-4)
    assert cameras[1:].intrinsics.tolist() == cameras.intrinsics[1:].tolist()
    assert torch.allclose(cameras.fov_y, 2 * torch.atan(6 / cameras.focal_px))
    turned = cameras.turned(torch.tensor([0.3, -1.0]))
    assert torch.equal(turned.intrinsics, cameras.intrinsics)


def test_plain_pinholes_and_others_make_one_batch():
    plain, other = pinholes(), lenses()
    joined = join_cameras([plain, other])
    points = 0.2 * torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    expected = torch.cat([each.project(points)[0] for each in (plain, other)])
    assert torch.allclose(joined.project(points)[0], expected, atol=1e-4)
    assert join_cameras([plain, plain]).intrinsics is None


def test_intrinsics_that_say_nothing_new_are_not_kept():
    plain = pinholes()
    same = pinhole_cameras(plain.c2w, torch.cat([plain.focals, plain.principal_point], 1), 12, 16)
    assert same.intrinsics is None and torch.allclose(same.fov_y, plain.fov_y, atol=1e-6)


def test_cameras_with_other_intrinsics_are_other_cameras():
    cameras = lenses()
    moved = pinhole_cameras(cameras.c2w, cameras.intrinsics + torch.tensor([0, 0, 6.0, 0]), 12, 16)
    assert float(camera_differences(cameras, cameras[[0]])[0]) == 0
    assert float(camera_differences(moved, cameras[[0]])[0]) == pytest.approx(0.5)
    half = orthographic()
    assert float(camera_differences(half, half[[0]])[1]) > 0.45, "spans of 1.35 and 0.9"
