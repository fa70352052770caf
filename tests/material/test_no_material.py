"""Features as colors."""

import pytest
import torch

from usd.core.config import ConfigError, parse
from usd.material.no_material import NoMaterial


def test_colors_are_the_activated_features() -> None:
    material = NoMaterial(parse(NoMaterial.Config, {"n_output_dims": 3, "color_activation": "sigmoid"}))
    features = torch.randn(7, 3)
    x = torch.zeros(7, 3)
    assert material.n_features == 3
    assert torch.equal(material.color(features, x, x, None), features.sigmoid())


def test_a_network_between_features_and_color() -> None:
    config = {"input_feature_dims": 5, "mlp_network_config": {"n_neurons": 8}}
    material = NoMaterial(parse(NoMaterial.Config, config))
    x = torch.zeros(7, 3)
    colors = material.color(torch.randn(7, 5), x, x, None)
    assert colors.shape == (7, 3) and colors.min() >= 0 and colors.max() <= 1


def test_without_colors_all_is_gray() -> None:
    """As a published geometry stage has it: ``n_output_dims: 0``."""
    material = NoMaterial(parse(NoMaterial.Config, {"n_output_dims": 0}))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(material.color(x, x, x, None), torch.full((5, 3), 0.5))
    with pytest.raises(ConfigError, match="is not a choice; expected one of 0, 3"):
        parse(NoMaterial.Config, {"n_output_dims": 5}, "system.material")
