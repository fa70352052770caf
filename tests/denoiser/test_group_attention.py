"""Attention across views: nothing at first, nothing between groups, and the same in whatever order the views stand."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from usd.core.errors import UserError
from usd.denoiser.group_attention import (
    GroupAttention,
    GroupAttentionConfig,
    across,
    learned_weights,
    load_group_attention,
    place_group_attention,
    read_group_attention,
    view_rays,
    write_group_attention,
)
from usd.math.camera import Cameras, orbit_cameras_deg
from usd.system.pretraining.diffusion_training import make_unet

VIEWS = 3
CONFIG = GroupAttentionConfig(hidden=8)


def _unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return make_unet((64, 64), 4, 8, 16).eval()


@pytest.fixture(scope="module")
def layers() -> list[GroupAttention]:
    """Layers that do something: their last weights are random, not zero."""
    found = place_group_attention(_unet(), CONFIG)
    torch.manual_seed(1)
    for weight in learned_weights(found).values():
        torch.nn.init.normal_(weight, std=0.1)
    return found


@pytest.fixture(scope="module")
def rays() -> torch.Tensor:
    reference = orbit_cameras_deg(15.0, 90.0, 1.5, 40.0, 8)
    target = orbit_cameras_deg(10.0, [0.0, 70.0, 200.0, 20.0, 90.0, 300.0], 1.5, 40.0, 8)
    return view_rays(target, _repeat(reference, 6), 4)


def _repeat(camera: Cameras, count: int) -> Cameras:
    return camera[torch.zeros(count, dtype=torch.long)]


@torch.no_grad()
def test_new_layers_change_nothing_and_only_the_middle_and_the_way_up_have_them(rays) -> None:
    unet, plain = _unet(), _unet()
    found = place_group_attention(unet, CONFIG)
    assert len(found) == 1 + 2
    x, t, tokens = torch.randn(6, 4, 8, 8), torch.full((6,), 500), torch.randn(6, 2, 16)
    expected = plain(x, t, encoder_hidden_states=tokens).sample
    with across(found, rays, torch.ones(6), VIEWS):
        torch.testing.assert_close(unet(x, t, encoder_hidden_states=tokens).sample, expected)


@torch.no_grad()
def test_a_view_reads_those_of_its_group_and_no_others(layers, rays) -> None:
    x = torch.randn(6, 16, 64)
    changed = x.clone()
    changed[1] += 1.0
    with across(layers, rays, torch.ones(6), VIEWS):
        difference = (layers[0](x) - layers[0](changed)).abs().amax((1, 2))
    assert bool((difference[:3] > 1e-3).all()) and bool((difference[3:] == 0).all())
    with across(layers, rays, torch.tensor([0.0, 0, 0, 1, 1, 1]), VIEWS):
        some = layers[0](x)
    torch.testing.assert_close(some[:3], layers[0](x)[:3])  # outside `across` each view is by itself
    assert float((some[3:] - layers[0](x)[3:]).abs().max()) > 1e-3


@torch.no_grad()
def test_the_order_of_a_groups_views_means_nothing(layers, rays) -> None:
    x, order = torch.randn(6, 16, 64), torch.tensor([2, 0, 1, 5, 3, 4])
    with across(layers, rays, torch.ones(6), VIEWS):
        straight = layers[0](x)
    with across(layers, rays[order], torch.ones(6), VIEWS):
        torch.testing.assert_close(layers[0](x[order]), straight[order], atol=1e-5, rtol=1e-5)


def test_rays_that_meet_are_told_by_a_product_and_turn_with_the_reference() -> None:
    """Direction times moment, both ways round, is 0 where two lines meet; all middle pixels look at the origin."""
    cameras = orbit_cameras_deg([10.0, 40.0], [30.0, 160.0], 1.5, 40.0, 9)
    reference = orbit_cameras_deg(15.0, 90.0, 1.5, 40.0, 9)
    found = view_rays(cameras, _repeat(reference, 2), 9)
    (d0, m0), (d1, m1) = (ray[:, 4, 4].split(3) for ray in found)
    assert abs(float(d0 @ m1 + d1 @ m0)) < 1e-5 and float(m0.norm()) < 1e-5
    turn = torch.tensor([0.7, 0.7])
    turned = view_rays(cameras.turned(turn), _repeat(reference, 2).turned(turn), 9)
    torch.testing.assert_close(turned, found, atol=1e-5, rtol=0)


def test_layers_come_back_from_their_folder_and_others_are_refused(layers, tmp_path) -> None:
    write_group_attention(layers, CONFIG, tmp_path)
    assert read_group_attention(tmp_path) == CONFIG
    again = place_group_attention(_unet(), CONFIG)
    load_group_attention(again, tmp_path)
    kept, wanted = learned_weights(again), learned_weights(layers)
    assert kept.keys() == wanted.keys() and not any("own" in name for name in kept)
    for name, weight in wanted.items():
        torch.testing.assert_close(kept[name], weight.half().float())
    with pytest.raises(UserError, match="attention across views"):
        load_group_attention(again[:1], tmp_path)
