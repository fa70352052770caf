"""Losses against depths and normals that a network estimated from the reference picture alone.

Such a depth is known up to scale and shift only: it is fitted to the render first, or only its correlation counts.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.core.types import Render
from usd.losses import estimate_loss


@estimate_loss("depth", "depth")
def fitted_depth(render: Render, estimate: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared difference to the estimate a d + b, with a and b by least squares."""
    rendered, given = _inside(render, estimate, mask)
    if len(rendered) < 2:
        return render.opacity.sum() * 0
    # The fit follows the render but does not train it: a shrinking scene would fit everything.
    design = torch.stack([given, torch.ones_like(given)], 1)
    target = design @ torch.linalg.lstsq(design, rendered.detach()[:, None]).solution[:, 0]
    return (rendered - target).square().mean()


@estimate_loss("depth", "depth")
def depth_correlation(render: Render, estimate: Tensor, mask: Tensor) -> Tensor:
    """Return 1 - Pearson's correlation of rendered and estimated depth: 0 for any increasing linear relation."""
    rendered, given = (values - values.mean() for values in _inside(render, estimate, mask))
    if len(rendered) < 2:
        return render.opacity.sum() * 0
    spread = rendered.square().sum() * given.square().sum()
    return 1 - (rendered * given).sum() / spread.clamp_min(1e-12).sqrt()


@estimate_loss("normal", "normal")
def estimated_normal(render: Render, estimate: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of 1 - cosine between rendered and estimated normals, both in world coordinates."""
    if render.normal is None:
        raise UserError("system.loss.lambda_normal: needs normals; expected a geometry with a normal_type")
    cosine = torch.nn.functional.cosine_similarity(render.normal, estimate, dim=1)
    inside = (mask[:, 0] > 0.5).to(cosine)
    return ((1 - cosine) * inside).sum() / inside.sum().clamp_min(1)


def _inside(
    render: Render, estimate: Float[Tensor, "B 1 H W"], mask: Float[Tensor, "B 1 H W"]
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """Return rendered and estimated depths of the masked pixels. Raises ``UserError`` for a render without depth."""
    if render.depth is None:
        raise UserError("system.loss: lambda_depth and lambda_depth_rel need a renderer that gives a depth")
    inside = mask > 0.5
    return render.depth[inside], estimate[inside]


def world_normals(picture: Float[Tensor, "B 3 H W"], c2w: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B 3 H W"]:
    """Return unit world normals from pictures (n + 1) / 2 of normals in the camera's frame.

    That frame is OpenGL's: x right, y up, z toward the viewer.
    """
    normal = torch.nn.functional.normalize(2 * picture - 1, dim=1)
    return torch.einsum("bij,bjhw->bihw", c2w[:, :3, :3], normal)
