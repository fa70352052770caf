"""Views of one solid agree at the elevation they were taken from, and nowhere else."""

import pytest
import torch

from usd.math.camera import orbit_cameras_deg
from usd.math.silhouette_consistency import disagreement, ray_points

TURNS = (-40.0, -20.0, 0.0, 20.0, 40.0)
SIZE = 48


def box_views(elevation_deg: float):
    """Pictures and masks of a colored box (half sides .3, .15, .2), by asking along each ray whether it is hit."""
    cameras = orbit_cameras_deg(elevation_deg, TURNS, 1.5, 40.0, SIZE)
    origins, directions = cameras.rays()
    half = torch.tensor([0.3, 0.15, 0.2])
    one, two = ((sign * half - origins) / directions for sign in (-1, 1))
    near, far = torch.minimum(one, two).amax(-1), torch.maximum(one, two).amin(-1)
    hit = (near < far).float()[:, None]
    places = origins + near[..., None] * directions
    colors = (0.5 + places / 0.7).permute(0, 3, 1, 2)
    return colors * hit + 1 - hit, hit


@pytest.mark.parametrize("truth", [-20.0, 10.0, 50.0])
def test_views_agree_best_at_their_own_elevation(truth):
    pictures, masks = box_views(truth)
    heights = [truth - 20, truth - 10, truth, truth + 10, truth + 20]
    found = [
        disagreement(pictures, masks, orbit_cameras_deg(e, TURNS, 1.5, 40.0, SIZE), samples=32)
        for e in heights
    ]
    assert min(range(5), key=lambda i: float(found[i])) == 2
    assert found[2] < 0.75 * min(found[0], found[4])


def test_it_is_the_turns_that_matter_and_not_where_they_start():
    pictures, masks = box_views(30.0)
    one = disagreement(pictures, masks, orbit_cameras_deg(10.0, TURNS, 1.5, 40.0, SIZE))
    turned = tuple(turn + 77.0 for turn in TURNS)
    two = disagreement(pictures, masks, orbit_cameras_deg(10.0, turned, 1.5, 40.0, SIZE))
    assert two == pytest.approx(float(one), abs=1e-4)


def test_silhouettes_alone_tell_too_and_an_empty_picture_costs_nothing():
    pictures, masks = box_views(30.0)
    at, off = (
        disagreement(pictures, masks, orbit_cameras_deg(e, TURNS, 1.5, 40.0, SIZE), color_weight=0.0)
        for e in (30.0, 60.0)
    )
    assert at < 0.6 * off
    assert disagreement(pictures, masks * 0, orbit_cameras_deg(0.0, TURNS, 1.5, 40.0, SIZE)) == 0


def test_points_lie_along_their_rays_within_the_ball():
    camera = orbit_cameras_deg(20.0, 0.0, 1.5, 40.0, 8)
    points = ray_points(camera, 16, 0.5)
    origins, directions = (x[0] for x in camera.rays())
    away = points - origins[..., None, :]
    assert torch.linalg.cross(away, directions[..., None, :].expand_as(away)).norm(dim=-1).max() < 1e-5
    through = (torch.linalg.cross(origins, directions).norm(dim=-1) < 0.45)[..., None]
    assert bool((points.norm(dim=-1)[through.expand(8, 8, 16)] < 0.5).all())
