"""Points where pictures agree: for captures that come without any, depths along rays are tried, and views compared.

A plane sweep (Collins 1996) on a few thousand rays: at the right depth all views of a place show the same colors.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample, pad, unfold

from usd.math.camera import Cameras
from usd.math.point_cloud import PointCloud

DEPTHS, NEIGHBORS = 64, 6
SPARE = 1.5
"""Rays that are tried for each point that is wanted: those that are least sure are left out."""
OUTSIDE = 0.5
"""Difference from a view that does not see a place: worse than most that do."""


@dataclass(frozen=True)
class _Sweep:
    """Views as they are compared: patches of 3 x 3 pixels, and which views stand near each other."""

    patches: Float[Tensor, "V 27 h w"]
    cameras: Cameras
    near: Int[Tensor, "V K"]

    @classmethod
    def of(cls, rgb: Float[Tensor, "V 3 H W"], cameras: Cameras) -> "_Sweep":
        """Return views made ready."""
        patches = unfold(pad(rgb, (1, 1, 1, 1), mode="replicate"), 3)
        away = torch.cdist(cameras.position, cameras.position)
        # The nearest of all is the view itself.
        near = away.argsort(1)[:, 1 : NEIGHBORS + 1]
        return cls(patches.view(len(rgb), -1, *rgb.shape[2:]), cameras, near)

    def look(
        self, view: int, points: Float[Tensor, "N 3"]
    ) -> tuple[Float[Tensor, "N 27"], Float[Tensor, "N"]]:
        """Return what a view shows where points are, and 1 where it sees them, else 0."""
        place, depth = self.cameras[view : view + 1].project(points)
        size = place.new_tensor([self.cameras.width, self.cameras.height])
        at = 2 * place[0] / size - 1
        found = grid_sample(self.patches[view : view + 1], at[None, None], align_corners=False)[0, :, 0].T
        return found, ((depth[0] > 0) & (at.abs() <= 1).all(-1)).float()

    def differences(self, view: int, points: Float[Tensor, "R D 3"]) -> Float[Tensor, "R D"]:
        """Return how much neighboring views differ from one at depths of its rays: the mean of the better half."""
        flat = points.flatten(0, 1)
        own = self.look(view, points[:, 0])[0]
        errors = []
        for other in self.near[view].tolist():
            shown, seen = self.look(other, flat)
            error = (shown.view(*points.shape[:2], -1) - own[:, None]).abs().mean(-1)
            errors.append(torch.where(seen.view_as(error) > 0, error, OUTSIDE))
        # Something may hide the place from the others.
        return torch.stack(errors).sort(0).values[: (len(errors) + 1) // 2].mean(0)


@torch.no_grad()
def swept_points(
    rgb: Float[Tensor, "V 3 H W"],
    cameras: Cameras,
    reach: tuple[float, float],
    count: int,
    generator: torch.Generator,
) -> PointCloud:
    """Return ``count`` points on what the pictures show, and their colors.

    ``reach`` is the nearest and the farthest distance from a camera that is tried. At least two views, and small ones:
    what differs by less than a pixel does not count.
    """
    sweep = _Sweep.of(rgb, cameras)
    wanted = round(SPARE * count)
    view = torch.randint(len(rgb), (wanted,), generator=generator).sort().values
    x = torch.randint(rgb.shape[-1], (wanted,), generator=generator)
    y = torch.randint(rgb.shape[-2], (wanted,), generator=generator)
    origins, directions = cameras.rays_at(view, x, y)
    # Evenly in one over the distance: equal steps in the other pictures.
    depths = 1 / torch.linspace(1 / reach[0], 1 / reach[1], DEPTHS)
    points, doubt = origins.clone(), torch.zeros(wanted)
    for index in view.unique().tolist():
        own = view == index
        along = origins[own][:, None] + depths[:, None] * directions[own][:, None]
        error = sweep.differences(index, along)
        best, at = error.min(1)
        points[own] = along[torch.arange(len(at)), at]
        # Of a wall without a pattern all depths fit equally well.
        doubt[own] = (best + 0.01) / (error.median(1).values + 0.01)
    kept = doubt.argsort()[:count]
    return PointCloud(points[kept], rgb[view[kept], :, y[kept], x[kept]])
