"""Training the reader of elevations: its targets, its weights, and one step of it."""

import math

import pytest
import torch

from usd.core.config import parse
from usd.data.toybox import ToyViews
from usd.system.pretraining.elevation_training import (
    HIGH,
    LOW,
    RIM,
    ElevationSystem,
    bell,
    mirror_and_recolor,
    rarity_weights,
    rim_views,
)
from usd.toybox.cameras import cameras_at


def test_a_bell_is_a_distribution_around_the_true_height():
    heights = torch.linspace(math.radians(-35), math.radians(85), 25)
    truth = torch.tensor([-10.0, 33.0]).deg2rad()
    shares = bell(truth, heights, math.radians(4.0))
    torch.testing.assert_close(shares.sum(1), torch.ones(2))
    torch.testing.assert_close(shares @ heights, truth, atol=1e-3, rtol=0)


def test_weights_undo_how_usual_a_height_is():
    usual, rare, absent = rarity_weights(torch.tensor([15.0, 50.0, 70.0]).deg2rad()).tolist()
    assert usual < 0.6 < rare < absent <= 2.0


def test_rim_views_are_what_the_shards_lack_and_repeat():
    pictures, elevation = rim_views(6, 16, torch.Generator().manual_seed(3))
    again, _ = rim_views(6, 16, torch.Generator().manual_seed(3))
    torch.testing.assert_close(pictures, again)
    assert pictures.shape == (6, 3, 16, 16)
    degrees = elevation.rad2deg()
    (low, dip), (rise, high) = RIM
    assert bool(((degrees >= low) & (degrees <= dip) | (degrees >= rise) & (degrees <= high)).all())
    assert (low, high) == (LOW, HIGH)


def test_variations_keep_pictures_apart_from_mirror_and_colours():
    pictures = torch.rand(8, 3, 4, 4)
    made = mirror_and_recolor(pictures, torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.flatten(1).sort().values, pictures.flatten(1).sort().values)
    torch.testing.assert_close(made.mean((1, 3)), pictures.mean((1, 3)))  # what stands in which row


@pytest.mark.parametrize("rim", [0, 2])
def test_a_step_pulls_the_distribution_towards_the_truth(rim):
    torch.manual_seed(0)
    options = {"reader": {"picture": 16, "width": 8}, "rim_toys": rim, "bf16": False}
    system = ElevationSystem(parse(ElevationSystem.Config, options))
    cameras = cameras_at([0.0, 20.0, 40.0, 60.0], [90.0] * 4, 16)
    views = ToyViews(torch.rand(4, 3, 16, 16), None, ["a"] * 4, torch.zeros(4), torch.ones(4).bool(), cameras)
    optimizer = torch.optim.Adam(system.network.parameters(), 1e-2)
    losses = []
    for _ in range(8):
        loss = system.compute(views, 0, torch.Generator().manual_seed(0))["heights"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
