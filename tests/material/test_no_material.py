"""Features as colours."""

import torch

from usd.core.config import parse
from usd.material.no_material import NoMaterial


def test_colours_are_the_activated_features() -> None:
    material = NoMaterial(parse(NoMaterial.Config, {"n_output_dims": 3, "color_activation": "sigmoid"}))
    features = torch.randn(7, 3)
    x = torch.zeros(7, 3)
    assert material.n_features == 3
    assert torch.equal(material.color(features, x, x, None), features.sigmoid())


def test_a_network_between_features_and_colour() -> None:
    config = {"input_feature_dims": 5, "mlp_network_config": {"n_neurons": 8}}
    material = NoMaterial(parse(NoMaterial.Config, config))
    x = torch.zeros(7, 3)
    colors = material.color(torch.randn(7, 5), x, x, None)
    assert colors.shape == (7, 3) and colors.min() >= 0 and colors.max() <= 1
