"""Losses on rendered normals: closed forms of planes, ramps, balls and bowls."""

import math

import pytest
import torch
from torch import Tensor

from usd.core.errors import UserError
from usd.core.types import Render, Samples
from usd.losses.table import REGULARIZERS


def picture(normal: Tensor, **parts: object) -> Render:
    opacity = torch.ones_like(normal[:, :1])
    return Render(torch.zeros_like(normal), opacity, normal=normal, **parts)


@pytest.mark.parametrize("name", ["normal_smooth", "normal_smoothness_2d"])
def test_smoothness_is_the_squared_change_of_the_normals_as_colors(name: str) -> None:
    """A normal that turns by the angle a from pixel to pixel changes by a chord 2 sin(a / 2), half of it as a color."""
    a = 0.1
    angle = a * torch.arange(6.0).expand(4, 6)
    normal = torch.stack([angle.cos(), angle.sin(), 0 * angle])[None]
    chord = (2 * math.sin(a / 2) / 2) ** 2 / 3  # mean over three channels
    assert float(REGULARIZERS[name](picture(normal))) == pytest.approx(chord, rel=1e-5)
    assert float(REGULARIZERS[name](picture(normal[..., :1].expand(1, 3, 4, 6)))) == 0
    with pytest.raises(UserError, match="lambda_normal_smooth: needs normals"):
        REGULARIZERS[name](Render(normal, normal[:, :1]))


def test_smoothness_in_space_compares_a_sample_with_one_beside_it() -> None:
    normal = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    beside = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
    ray, t = torch.tensor([0, 0]), torch.ones(2)
    samples = Samples(ray, t, t, normal, normal, normal_perturb=beside)
    assert float(REGULARIZERS["3d_normal_smooth"](picture(torch.zeros(1, 3, 1, 1), samples=samples))) == (
        pytest.approx(2 / 6)
    )
    with pytest.raises(UserError, match="3d_normal_smooth: needs normals at samples"):
        REGULARIZERS["3d_normal_smooth"](picture(torch.zeros(1, 3, 1, 1)))


def shell(radius: float, inside: bool, size: int = 64) -> Render:
    """The half of a sphere at distance 3 along -z that rays hit first, or from within what they hit last."""
    y, x = torch.meshgrid(
        *[torch.linspace(0.16, -0.16, size), torch.linspace(-0.16, 0.16, size)], indexing="ij"
    )
    d = torch.nn.functional.normalize(torch.stack([x, y, -torch.ones_like(x)], -1).view(-1, 3), dim=-1)
    along = -3 * d[:, 2]
    root = (radius**2 - 9 + along**2).clamp_min(0)
    hit = root > 0
    t = along + root.sqrt() * (1 if inside else -1)
    normal = (d * t[:, None] - torch.tensor([0.0, 0, -3])) / radius * (-1 if inside else 1)
    ray = hit.nonzero().flatten()
    samples = Samples(ray, t[ray], torch.ones(len(ray)), d[ray])

    def image(values: Tensor) -> Tensor:
        return (values * hit[:, None]).view(1, size, size, -1).permute(0, 3, 1, 2)

    opacity = image(hit[:, None].float())
    return Render(
        opacity.expand(-1, 3, -1, -1), opacity, depth=image(t[:, None]), normal=image(normal), samples=samples
    )


def test_convexity_costs_a_ball_nothing_and_a_bowl_its_curvature() -> None:
    convex = REGULARIZERS["convex"]
    for radius in (0.3, 0.45):
        assert float(convex(shell(radius, inside=False))) == pytest.approx(0.0, abs=1e-6)
        assert float(convex(shell(radius, inside=True))) == pytest.approx(1 / radius, rel=0.03)


def test_convexity_of_nothing_is_zero_and_trains_depth_and_normals() -> None:
    bowl, convex = shell(0.45, inside=True), REGULARIZERS["convex"]
    assert bowl.normal is not None
    bowl.normal.requires_grad_()
    convex(bowl).backward()
    assert bowl.normal.grad is not None and float(bowl.normal.grad.abs().sum()) > 0
    empty = shell(0.01, inside=True)
    assert float(convex(empty)) == 0
    with pytest.raises(UserError, match="lambda_convex: needs rays and normals"):
        convex(picture(torch.zeros(1, 3, 8, 8)))
