"""Points of structure from motion in space: each once, where it was, in the color that the pictures show there."""

from dataclasses import replace

import torch

from usd.data.view_points import tracked_cloud
from usd.data.view_set import SparsePoints, ViewSet, view_set
from usd.math.camera import orbit_cameras_deg, pinhole_cameras


def tracked_views(points: torch.Tensor) -> ViewSet:
    """Two views, green in the upper half, and what they know of the points: pixel and distance along the ray."""
    c2w = orbit_cameras_deg([10.0, 40.0], [0.0, 90.0], 2.0, 45.0, 32).c2w
    cameras = pinhole_cameras(c2w, torch.tensor([[40.0, 44.0, 17.0, 15.0]]).expand(2, 4), 32, 36)
    picture = torch.zeros(4, 32, 36)
    picture[1, :16], picture[3] = 1.0, 1.0
    made = view_set([picture, picture], cameras, ["a", "b"])
    pixel = cameras.project(points)[0]
    distance = (points - cameras.position[:, None]).norm(dim=-1)
    view = torch.arange(2).repeat_interleave(len(points))
    return replace(made, points=SparsePoints(view, pixel.flatten(0, 1), distance.flatten()))


def test_a_point_that_two_views_show_is_one_point_where_it_was() -> None:
    points = torch.tensor([[0.1, 0.05, 0.2], [-0.2, 0.1, -0.1], [0.0, 0.0, 0.3]])
    found = tracked_cloud(tracked_views(points))
    assert len(found) == 3
    nearest = torch.cdist(points, found.points).min(1)
    assert float(nearest.values.max()) < 1e-5
    colors = found.colors[nearest.indices]
    assert colors[2].tolist() == [0.0, 1.0, 0.0] and colors[1].tolist() == [0.0, 0.0, 0.0]


def test_views_without_points_have_no_cloud() -> None:
    assert len(tracked_cloud(replace(tracked_views(torch.zeros(1, 3)), points=None))) == 0
