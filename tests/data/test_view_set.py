"""Captures that people make are taken, whatever path the camera went; cameras in the wrong place are named."""

import math
from dataclasses import replace

import pytest
import torch

from tests.data.test_views import RADIUS, balls
from usd.core.errors import UserError
from usd.data.pixel_array import PixelArray
from usd.data.toy_views import sphere_cameras
from usd.data.view_set import (
    SightLines,
    ViewSet,
    cameras_inside,
    fit_world,
    focus,
    refuse_outside,
    refuse_useless,
    silhouette_radius,
    transform_world,
)
from usd.math.camera import Cameras, look_at, orbit_cameras_deg

SIZE = 40


def looking(positions, targets=None, fov_y=0.7) -> Cameras:
    place = torch.tensor(positions, dtype=torch.float32)
    toward = torch.zeros_like(place) if targets is None else torch.tensor(targets, dtype=torch.float32)
    return Cameras(look_at(place, toward), torch.full((len(place),), fov_y), SIZE, SIZE)


def ring(distance: float, count: int = 8, elevation: float = 0.0, start: float = 0.0) -> list[list[float]]:
    azimuth = [start + 2 * math.pi * i / count for i in range(count)]
    flat, height = distance * math.cos(elevation), distance * math.sin(elevation)
    return [[flat * math.cos(a), flat * math.sin(a), height] for a in azimuth]


def straight(positions) -> Cameras:
    """All look along -x, whatever is there."""
    return looking(positions, [[x - 1, y, z] for x, y, z in positions])


GOOD = {
    "a walk towards it": looking([[d, 0, 0] for d in (3.0, 2.5, 2.0, 1.5, 1.0, 0.7)]),
    "a walk past its side": looking([[d, 0.1 * d, 0.05 * d] for d in (3.0, 2.5, 2.0, 1.5, 1.0, 0.7)]),
    "a walk, then around": looking([[d, 0, 0] for d in (3.0, 2.0, 1.0)] + ring(0.9, 6), fov_y=1.2),
    "rings at two distances": looking(ring(1.0) + ring(3.0)),
    "two sparse rings": looking(ring(0.8, 4) + ring(3.0, 4)),
    "rings at two distances, turned": looking(ring(1.0, 5) + ring(2.0, 5, 0.4, 0.3)),
    "each frame twice": looking([p for p in ring(1.5, 6) for _ in range(2)]),
    "a walk, each frame twice": looking([[d, 0, 0] for d in (3.0, 2.0, 1.0) for _ in range(2)]),
    "two rings, each frame thrice": looking([p for p in ring(0.7, 4) + ring(2.0, 4) for _ in range(3)]),
    "one ring": looking(ring(1.5, 12)),
    "one wide ring": looking(ring(0.65, 8), fov_y=2.2),
    "from one side": looking([[1.5, y, z] for y in (-0.4, 0, 0.4) for z in (-0.3, 0.3)]),
    "forward-facing": straight([[2.0, y, z] for y in (-0.2, 0, 0.2) for z in (-0.1, 0.1)]),
    "forward-facing, at two distances": straight([[x, y, 0.05] for x in (1.2, 2.4) for y in (-0.1, 0, 0.1)]),
    "all around": sphere_cameras(12, SIZE),
    "two views": looking(ring(1.5, 2, 0.1)),
    "from both sides": looking([[1.5, 0, 0.1], [-1.5, 0, 0.1], [1.2, 0, 0.1], [-1.2, 0, 0.1]]),
}


def box(cameras: Cameras, half=(0.08, 0.08, 0.6)) -> ViewSet:
    """Exact silhouettes of a tall box about the origin."""
    origins, directions = cameras.rays()
    near, far = ((sign * torch.tensor(half) - origins) / directions for sign in (-1, 1))
    first, last = torch.minimum(near, far).amax(-1), torch.maximum(near, far).amin(-1)
    hit = ((first < last) & (last > 0)).float()
    return replace(balls(cameras).repainted(hit[:, None].expand(-1, 4, -1, -1)), normals=None)


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("see", [balls, box], ids=["ball", "tall box"])
def test_good_captures_are_taken(name, see):
    views = see(GOOD[name])
    assert cameras_inside(views) == []
    taken = refuse_useless(views, "data.path")
    assert taken.notes == ()
    refuse_outside(taken, 0.6)


@pytest.mark.parametrize("name", ["all around", "rings at two distances", "each frame twice", "one ring"])
@pytest.mark.parametrize("place", [(0.1, 0.0, 0.05), (0.0, -0.2, 0.0)])
def test_a_camera_inside_is_named_among_all_others(name, place):
    cameras = GOOD[name]
    c2w = cameras.c2w.clone()
    c2w[2, :3, 3] = torch.tensor(place)
    views = replace(balls(cameras), cameras=replace(cameras, c2w=c2w))
    assert cameras_inside(views) == [2]
    with pytest.raises(UserError, match=r"1 of \d+ cameras \(2\.png\) stand inside the object"):
        refuse_useless(views, "data.path")


@pytest.mark.parametrize("shift", [(4.0, 0.0, 0.0), (0.0, -3.0, 5.0), (0.0, 0.0, -40.0)])
def test_a_camera_in_the_wrong_place_moves_neither_middle_nor_size(shift):
    """One of twelve is carried away with its lines of sight; the world is fitted as without it, and it is said."""
    truth = balls(sphere_cameras(12, 48))
    c2w = truth.cameras.c2w.clone()
    c2w[5, :3, 3] += torch.tensor(shift)
    spoilt = replace(truth, cameras=replace(truth.cameras, c2w=c2w))
    if focus(spoilt).norm() > 0.1:  # a shift along its own line of sight stays one that sees the object
        pytest.fail("the middle moved")
    without = truth.select([i for i in range(12) if i != 5])
    found, wanted = fit_world(spoilt), fit_world(without)
    kept = [i for i in range(12) if i != 5]
    assert torch.allclose(found.cameras.position[kept], wanted.cameras.position, atol=1e-3)
    assert "1 of 12 cameras (5.png) look past what the others look at" in refuse_useless(spoilt, "x").notes[0]


def test_the_middle_of_a_walk_follows_from_the_sizes():
    views = balls(GOOD["a walk towards it"])
    away = transform_world(views, torch.eye(3), torch.tensor([-2.0, 1.0, 0.5]), 3.0)
    assert torch.allclose(focus(away), 3 * torch.tensor([2.0, -1.0, -0.5]), atol=0.25)
    found = fit_world(away)
    assert silhouette_radius(found, torch.zeros(3)) == pytest.approx(0.5, abs=0.02)
    distances = found.cameras.position.norm(dim=-1)
    assert torch.allclose(distances, torch.tensor([3.0, 2.5, 2.0, 1.5, 1.0, 0.7]) * 0.5 / RADIUS, rtol=0.12)


def test_without_masks_nobody_knows_how_far_parallel_cameras_look():
    views = replace(balls(GOOD["forward-facing"]), masked=False)
    with pytest.raises(
        UserError, match=r"data\.path: x: the cameras look in one direction and there are no masks"
    ):
        fit_world(views, where="data.path: x")


def test_most_cameras_and_not_a_few_decide_that_they_stand_in_the_object():
    near = balls(looking(ring(0.5, 3) + ring(1.5, 9)))
    refuse_outside(near, 0.6)
    with pytest.raises(UserError, match=r"9 of 12 cameras .* stand within 0\.6 of the origin"):
        refuse_outside(balls(looking(ring(0.5, 9) + ring(1.5, 3))), 0.6)


def test_the_radius_of_large_silhouettes_is_that_of_small_ones():
    small, large = (
        silhouette_radius(balls(orbit_cameras_deg(10.0, [0.0, 90.0], 1.5, 40.0, n)), torch.zeros(3))
        for n in (64, 600)
    )
    assert large == pytest.approx(small, abs=0.01)


@pytest.mark.parametrize("count", [1, 7, 300])
def test_without_masks_lines_of_sight_are_optical_axes_however_many_views_there_are(count):
    cameras = sphere_cameras(count, 8)
    sights = SightLines.of(replace(balls(cameras), masked=False))
    torch.testing.assert_close(sights.origins, cameras.position)
    torch.testing.assert_close(sights.directions, -cameras.c2w[:, :3, 2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("parallel", [False, True])
def test_lines_of_sight_of_several_lenses_are_the_means_of_their_own_rays(parallel):
    cameras = sphere_cameras(7, 24)
    if parallel:
        cameras = replace(cameras, span_y=torch.linspace(1, 2, 7))
    else:
        lenses = torch.tensor([[30.0, 28, 9, 14], [25, 25, 12, 12], [40, 44, 3, 20]])
        cameras = replace(cameras, intrinsics=lenses[[0, 1, 2, 0, 2, 1, 0]])
    sights = SightLines.of(replace(balls(cameras), masked=False))
    origins, directions = (each.flatten(1, 2).mean(1) for each in cameras.rays())
    torch.testing.assert_close(sights.origins, origins, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        sights.directions, torch.nn.functional.normalize(directions, dim=-1), atol=1e-5, rtol=0
    )


def test_an_empty_silhouette_has_the_line_of_sight_of_its_view():
    cameras = sphere_cameras(3, SIZE)
    full = balls(cameras)
    alpha = full.pictures.all().clone()
    alpha[1, ..., 3] = 0
    empty = replace(full, pictures=PixelArray.of(alpha))
    sights = SightLines.of(empty)
    assert torch.equal(sights.directions[[0, 2]], SightLines.of(full).directions[[0, 2]])
    torch.testing.assert_close(sights.directions[1], -cameras.c2w[1, :3, 2], atol=1e-4, rtol=0)
