"""Losses against monocular estimates: what scale, shift and camera may not matter."""

import pytest
import torch
from torch import Tensor

from usd.core.types import Render
from usd.losses.estimates import world_normals
from usd.losses.table import ESTIMATE_LOSSES


def setting() -> tuple[Tensor, Tensor]:
    """A random depth, and a mask that leaves some pixels out."""
    draw = torch.Generator().manual_seed(0)
    depth = 2 + torch.rand(1, 1, 6, 7, generator=draw)
    return depth, (torch.rand(1, 1, 6, 7, generator=draw) > 0.3).float()


def seen(depth: Tensor | None = None, normal: Tensor | None = None) -> Render:
    other = depth if depth is not None else normal
    assert other is not None
    return Render(
        other[:, :1].expand(-1, 3, -1, -1), torch.ones_like(other[:, :1]), depth=depth, normal=normal
    )


@pytest.mark.parametrize("name", ["depth", "depth_rel"])
def test_an_estimate_of_any_scale_and_shift_is_the_same(name: str) -> None:
    depth, mask = setting()
    estimate = torch.where(mask > 0.5, 0.3 * depth - 5, torch.full_like(depth, 9.0))
    loss = ESTIMATE_LOSSES[name]
    assert loss.estimate == "depth" and loss.needs == {"depth"}
    assert float(loss(seen(depth), estimate, mask)) == pytest.approx(0.0, abs=1e-6)
    assert float(loss(seen(depth), estimate, 0 * mask)) == 0


def test_the_relative_depth_is_one_minus_the_correlation() -> None:
    depth, mask = setting()
    both = torch.stack([depth[mask > 0.5], (depth**3)[mask > 0.5]])
    loss = ESTIMATE_LOSSES["depth_rel"]
    assert float(loss(seen(depth), depth**3, mask)) == pytest.approx(
        1 - float(torch.corrcoef(both)[0, 1]), abs=1e-5
    )
    assert float(loss(seen(depth), -depth, mask)) == pytest.approx(2.0, abs=1e-5)


def test_the_fitted_depth_leaves_what_no_line_explains_and_trains_the_render() -> None:
    """Residuals of a least-squares line: the variance that correlation leaves over."""
    depth, mask = setting()
    depth.requires_grad_()
    estimate = depth.detach() ** 2 + torch.rand(1, 1, 6, 7, generator=torch.Generator().manual_seed(3))
    error = ESTIMATE_LOSSES["depth"](seen(depth), estimate, mask)
    rendered, given = depth.detach()[mask > 0.5], estimate[mask > 0.5]
    left = rendered.var(correction=0) * (1 - torch.corrcoef(torch.stack([rendered, given]))[0, 1] ** 2)
    assert float(error.detach()) == pytest.approx(float(left), rel=1e-4)
    error.backward()
    assert depth.grad is not None and float(depth.grad[mask > 0.5].abs().sum()) > 0
    assert float(depth.grad[mask <= 0.5].abs().sum()) == 0


def test_estimated_normals_turn_with_the_camera() -> None:
    """What faces the viewer is the camera's +z axis; a quarter turn about x brings it to the world's -y."""
    camera = torch.eye(4)[None].clone()
    camera[0, :3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    facing = torch.tensor([0.5, 0.5, 1.0])[None, :, None, None].expand(1, 3, 4, 4)
    world = world_normals(facing, camera)
    assert torch.allclose(world[0, :, 0, 0], torch.tensor([0.0, -1, 0]), atol=1e-6)
    loss, mask = ESTIMATE_LOSSES["normal"], torch.ones(1, 1, 4, 4)
    assert float(loss(seen(normal=world), world, mask)) == pytest.approx(0.0, abs=1e-6)
    assert float(loss(seen(normal=-world), world, mask)) == pytest.approx(2.0, abs=1e-6)
