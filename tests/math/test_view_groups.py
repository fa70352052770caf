"""Named views: which of the 96 is nearest to a camera, and where it stands."""

import math

import pytest
import torch

from usd.math.camera import Spherical, camera_differences, orbit_cameras, orbit_cameras_deg
from usd.math.view_groups import VIEW_GROUPS, named_views, nearest_named_cameras

FRONT = orbit_cameras_deg(10.0, 100.0, 1.5, 40.0, 8)


def test_the_view_of_the_right_side_is_taken_from_the_pictures_right():
    camera = orbit_cameras_deg(0.0, 190.0, 1.5, 40.0, 8)
    assert named_views(camera, FRONT).tolist() == [[2, 1, 1]]
    assert (
        float((camera.c2w[0, :3, 3] * FRONT.c2w[0, :3, 0]).sum()) > 1.4
    )  # the first column points to the right


@pytest.mark.parametrize(
    ("elevation", "turn", "distance", "named"),
    [
        (-16.0, 22.0, 1.5, (0, 0, 1)),
        (-14.0, 23.0, 1.5, (1, 1, 1)),
        (44.0, -23.0, 1.1, (7, 2, 0)),
        (46.0, 340.0, 2.1, (0, 3, 2)),
    ],
)
def test_a_camera_has_the_name_of_the_nearest_view(elevation, turn, distance, named):
    camera = orbit_cameras_deg(elevation, 100.0 + turn, distance, 40.0, 8)
    assert tuple(named_views(camera, FRONT)[0].tolist()) == named


def test_cameras_go_to_the_nearest_named_view_and_stay_there():
    angles = torch.tensor([[-40.0, 4.0, 40.0, 80.0], [7.0, 95.0, 200.0, 333.0]]).deg2rad()
    cameras = orbit_cameras(Spherical(*angles, torch.tensor([0.8, 1.4, 1.6, 3.0])), math.radians(40.0), 8, 8)
    named = nearest_named_cameras(cameras, FRONT)
    assert torch.equal(named_views(named, FRONT), named_views(cameras, FRONT))
    assert float(camera_differences(nearest_named_cameras(named, FRONT), named).max()) < 1e-5
    place = named.spherical
    torch.testing.assert_close(place.elevation.rad2deg(), torch.tensor([-30.0, 0.0, 30.0, 60.0]))
    torch.testing.assert_close(place.distance, 1.5 * torch.tensor([0.6, 1.0, 1.0, 1.8]))
    steps = (place.azimuth.rad2deg() - 100) / 45
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)


def test_the_named_group_is_every_azimuth_at_two_heights():
    group = VIEW_GROUPS["named"](FRONT, 8)
    numbers = named_views(group, FRONT).tolist()
    assert numbers == [[azimuth, elevation, 1] for elevation in (1, 2) for azimuth in range(8)]
    assert math.isclose(float(group.fov_y[0]), float(FRONT.fov_y[0]), rel_tol=1e-6)
