import math

import pytest
import torch
from torch.nn.functional import normalize

from usd.math.quaternions import rotation_of_quaternion
from usd.math.spherical_harmonics import colors_of_harmonics, harmonics


def test_the_functions_are_orthonormal() -> None:
    """Over the sphere, by a quadrature that is exact for the products' degree 6."""
    import numpy as np

    z, weight = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(8))
    angle = torch.arange(16, dtype=torch.float64) * (2 * math.pi / 16)
    flat = (1 - z**2).sqrt()[:, None]
    x, y = flat * angle.cos(), flat * angle.sin()
    points = torch.stack([x, y, z[:, None].expand_as(x)], -1).reshape(-1, 3)
    values = harmonics(points, 3)
    product = (values * (weight[:, None] * (2 * math.pi / 16)).expand(-1, 16).reshape(-1, 1)).T @ values
    assert torch.allclose(product, torch.eye(16, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_each_degree_keeps_its_power_when_turned(degree: int) -> None:
    directions = normalize(torch.randn(50, 3, dtype=torch.float64), dim=1)
    turned = directions @ rotation_of_quaternion(torch.tensor([0.4, 0.1, -0.7, 0.2], dtype=torch.float64)).T
    for part in range(degree + 1):
        powers = [
            harmonics(d, degree)[:, part**2 : (part + 1) ** 2].square().sum(1) for d in (directions, turned)
        ]
        assert torch.allclose(powers[0], powers[1])
        assert powers[0].tolist() == pytest.approx([(2 * part + 1) / (4 * math.pi)] * 50)


def test_one_coefficient_is_one_color_from_everywhere() -> None:
    color = torch.tensor([[0.2, -0.3, 3.0]], dtype=torch.float64).expand(5, 1, 3)
    directions = normalize(torch.randn(5, 3, dtype=torch.float64), dim=1)
    expected = (0.5 + color[:, 0] / math.sqrt(4 * math.pi)).clamp_min(0)
    assert torch.allclose(colors_of_harmonics(color, directions), expected)
    padded = torch.cat([color, torch.zeros(5, 15, 3, dtype=torch.float64)], 1)
    assert torch.allclose(colors_of_harmonics(padded, directions), expected)
