"""Latent fields: their channels, and the linear map that shows them as colors."""

import pytest
import torch
from torch import Tensor

from usd.core.config import ConfigError, parse
from usd.core.registry import find
from usd.denoiser import open_text_denoiser
from usd.material import Material
from usd.material.sd_latent_adapter import rgb_from_latents
from usd.toybox.cameras import cameras_at
from usd.toybox.objects import make_toy
from usd.toybox.render import render


def made(name: str, **options: object) -> Material:
    cls = find(Material, name)
    return cls(parse(cls.Config, options, "system.material"))


def colored(material: Material, features: Tensor) -> Tensor:
    x = torch.zeros(len(features), 3)
    return material.color(features, x, x, x)


def test_no_material_gives_latents_as_they_are_and_shows_them_as_colors() -> None:
    material, latents = made("no-material", n_output_dims=4, color_activation="none"), 3 * torch.randn(9, 4)
    assert material.n_features == material.n_channels == 4
    assert torch.equal(colored(material, latents), latents)
    shown = material.bake(latents, torch.zeros(9, 3), torch.zeros(9, 3)).color
    assert shown.shape == (9, 3) and torch.equal(shown, rgb_from_latents(latents))
    with pytest.raises(ConfigError, match="input_feature_dims: is 3; expected at least n_output_dims, 4"):
        made("no-material", n_output_dims=4, input_feature_dims=3)


def test_the_adapter_starts_as_the_linear_map_and_is_trained() -> None:
    for start in ("stable-diffusion", "toybox"):
        material, latents = made("sd-latent-adapter-material", initial_adapter=start), torch.randn(9, 4)
        assert torch.allclose(colored(material, latents), rgb_from_latents(latents, start))
        colored(material, latents).sum().backward()
        assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in material.parameters())
    assert list(made("sd-latent-adapter-material").state_dict()) == ["adapter"]


def test_a_hybrid_has_colors_in_front_and_latents_behind() -> None:
    material, features = made("hybrid-rgb-latent-material", n_output_dims=11), torch.randn(9, 11)
    both = colored(material, features)
    assert material.n_channels == 11 and both.shape == (9, 11)
    assert torch.equal(both[:, :3], features[:, :3].sigmoid()) and torch.equal(both[:, 3:], features[:, 3:])
    assert torch.equal(material.displayed(both), both[:, :3])
    assert made("hybrid-rgb-latent-material", requires_normal=True).needs_normal and not material.needs_normal


def test_the_toybox_map_explains_the_embedded_autoencoder() -> None:
    """At most a quarter of the colors' variance is not linear in the latents of toys that it was not fitted to."""
    toys = [make_toy(seed) for seed in range(5)]
    cameras = cameras_at([10.0, 40.0, 0.0, 25.0, 60.0], [0.0, 90.0, 200.0, 300.0, 45.0], 64)
    picture = render(toys, cameras, torch.arange(5)).over_white()
    with torch.no_grad():
        latents = open_text_denoiser("toybox-sd", "test").encode(picture)
    truth = torch.nn.functional.adaptive_avg_pool2d(picture, latents.shape[2:])
    rgb = rgb_from_latents(latents.permute(0, 2, 3, 1).reshape(-1, 4), "toybox")
    wanted = truth.permute(0, 2, 3, 1).reshape(-1, 3)
    assert float((rgb - wanted).square().mean() / wanted.var(0).mean()) < 0.25
