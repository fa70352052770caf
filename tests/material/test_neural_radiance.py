"""Colors by direction."""

import torch

from usd.core.config import parse
from usd.material.neural_radiance import NeuralRadiance


def test_colors_change_with_the_direction_and_with_the_normal_only_where_asked() -> None:
    torch.manual_seed(0)
    x, n = torch.randn(5, 8), torch.nn.functional.normalize(torch.randn(5, 3), dim=-1)
    for told in (False, True):
        material = NeuralRadiance(parse(NeuralRadiance.Config, {"use_normal": told}))
        assert material.needs_normal is told and material.n_features == 8
        one = material.color(x, x[:, :3], n, n)
        assert one.shape == (5, 3) and (one > 0).all() and (one < 1).all()
        assert not torch.allclose(one, material.color(x, x[:, :3], -n, n))
        assert torch.allclose(one, material.color(x, x[:, :3], n, -n)) is not told
