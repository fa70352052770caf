"""Do views around an object agree about where they were taken from? Circular motion gives the elevation away.

Turning a camera about the vertical moves the picture sideways when it stands low and turns it in its plane when it
stands high. Views whose *turns* are known therefore agree for one elevation only: along the ray of every pixel of the
object there is then a point that all views see as object (the coherence of silhouettes under circular motion:
Hernandez, Schmitt and Cipolla, PAMI 2007) and that neighboring views see in the same color.

``V`` views of ``h w`` pixels, ``S`` points along each ray within a ball around the origin.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from usd.math.camera import Cameras


def disagreement(
    pictures: Float[Tensor, "V 3 h w"],
    masks: Float[Tensor, "V 1 h w"],
    cameras: Cameras,
    color_weight: float = 1.0,
    samples: int = 32,
    radius: float = 0.52,
) -> Float[Tensor, ""]:
    """Return mean over all object pixels of the least that any point of their ray is contradicted by the other views.

    A point costs 1 where another view sees none of the object, and ``color_weight`` times the mean difference of its
    color in the next views on either side. Views are given in the order of their azimuths. 0 is perfect agreement.
    """
    costs = [
        _costs(pictures, masks, cameras, i, color_weight, ray_points(cameras[[i]], samples, radius))
        for i in range(len(cameras))
    ]
    return (torch.stack(costs) * masks[:, 0]).sum() / masks.sum().clamp_min(1e-6)


def ray_points(camera: Cameras, samples: int, radius: float) -> Float[Tensor, "h w S 3"]:
    """Return points along the rays of one camera, evenly within the ball; rays that miss it have theirs at its rim."""
    origins, directions = (x[0] for x in camera.rays())
    middle = -(origins * directions).sum(-1, keepdim=True)
    nearest = (origins.square().sum(-1, keepdim=True) - middle.square()).clamp_min(0)
    reach = (radius**2 - nearest).clamp_min(1e-6).sqrt()
    steps = (torch.arange(samples, device=origins.device) + 0.5) / samples * 2 - 1
    return origins[..., None, :] + (middle + reach * steps)[..., None] * directions[..., None, :]


def _costs(
    pictures: Tensor, masks: Tensor, cameras: Cameras, own: int, color_weight: float, points: Tensor
) -> Float[Tensor, "h w"]:
    """Return the least cost along each ray of view ``own``."""
    h, w, samples, _ = points.shape
    pixels, _ = cameras.project(points.reshape(-1, 3))
    half = pixels.new_tensor([0.5 * w, 0.5 * h])
    grid = (pixels / half - 1).view(len(cameras), h * w, samples, 2)
    seen = grid_sample(torch.cat([masks, pictures], 1), grid, align_corners=False, padding_mode="zeros")
    others = [i for i in range(len(cameras)) if i != own]
    inside = seen[others, 0].amin(0)
    near = [i for i in (own - 1, own + 1) if 0 <= i < len(cameras)]
    change = (seen[near, 1:] - pictures[own].flatten(1)[None, :, :, None]).abs().mean((0, 1))
    return (1 - inside + color_weight * change).amin(-1).view(h, w)
