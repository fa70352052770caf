"""The points of a capture in space, with the colors of the pictures that show them."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from usd.data.view_set import ViewSet
from usd.math.point_cloud import PointCloud

SAME = 1e-4
"""Points closer than this share of the distance of the cameras are one, found in several views."""


def tracked_cloud(views: ViewSet) -> PointCloud:
    """Return the places of structure from motion's points, each once, and their mean colors; none without any."""
    found = views.points
    if found is None or len(found) == 0:
        return PointCloud(torch.zeros(0, 3), torch.zeros(0, 3))
    places, colors = _places(views), _colors(views)
    spread = float(views.cameras.position.std(0).norm()) or 1.0
    cell = (places / (SAME * spread)).round()
    _, index, count = cell.unique(dim=0, return_inverse=True, return_counts=True)
    total = torch.zeros(len(count), 6).index_add_(0, index, torch.cat([places, colors], 1))
    mean = total / count[:, None]
    return PointCloud(mean[:, :3], mean[:, 3:])


def _places(views: ViewSet) -> Float[Tensor, "M 3"]:
    """Return where points are: along the rays through their pixels, as far as they are."""
    assert views.points is not None
    camera, points = views.cameras, views.points
    plane = (points.pixel - camera.principal_point[points.view]) / camera.focals[points.view]
    # Our cameras look along -z, and pictures count downwards.
    local = torch.cat([plane * plane.new_tensor([1, -1]), -torch.ones_like(plane[:, :1])], 1)
    c2w = camera.c2w[points.view]
    along = torch.einsum("mij,mj->mi", c2w[:, :3, :3], normalize(local, dim=1))
    return c2w[:, :3, 3] + points.depth[:, None] * along


def _colors(views: ViewSet) -> Float[Tensor, "M 3"]:
    """Return the pixels that points are in."""
    assert views.points is not None
    x, y = views.points.pixel.floor().long().unbind(1)
    x, y = x.clamp(0, views.width - 1), y.clamp(0, views.height - 1)
    colors = torch.zeros(len(x), 3)
    for i in range(len(views)):
        own = views.points.view == i
        colors[own] = views.picture(i)[:3, y[own], x[own]].T
    return colors
