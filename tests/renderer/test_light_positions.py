"""Lamps that came with the cameras light the pictures of every renderer, each view by its own."""

from dataclasses import replace

import pytest
import torch
from scenes import Ball, background

from tests.renderer.test_neus_volume import BallDistance
from tests.renderer.test_rasterizer import ball
from usd.core.config import parse
from usd.core.registry import find
from usd.math.camera import Cameras, orbit_cameras_deg
from usd.renderer import Renderer

SCENES = {
    "nerf-volume-renderer": lambda: Ball(200.0),
    "neus-volume-renderer": BallDistance,
    "nvdiff-rasterizer": ball,
}


def lit(name: str) -> Renderer:
    """A renderer of a ball that shows shading alone."""
    material = find("material", "diffuse-with-point-light-material")
    options = {"ambient_only_steps": 0, "diffuse_prob": 1.0, "textureless_prob": 1.0}
    shading = material(parse(material.Config, options, "system.material"))
    shading.update(1, torch.Generator().manual_seed(0))
    cls = find("renderer", name)
    known = {"radius": 0.6} if "volume" in name else {}
    return cls(parse(cls.Config, known, "system.renderer"), SCENES[name](), shading, background())


def pictures(renderer: Renderer, cameras: Cameras) -> torch.Tensor:
    with torch.no_grad():
        return renderer.train().render(cameras, generator=torch.Generator().manual_seed(1)).rgb[:, 0]


@pytest.mark.parametrize("name", SCENES)
def test_each_view_is_lit_by_its_own_lamp(name):
    """Two equal cameras at +x, whose right is +y: a lamp to the left lights the left half, and lamps can be swapped."""
    cameras = orbit_cameras_deg(0.0, [0.0, 0.0], 1.5, 40.0, 24)
    lamps = torch.tensor([[0.5, -5.0, 0.0], [0.5, 5.0, 0.0]])
    renderer = lit(name)
    left, right = pictures(renderer, replace(cameras, light_positions=lamps))
    inside = slice(9, 15)
    halves = [picture[inside, 6:18].unflatten(1, (2, 6)).mean((0, 2)) for picture in (left, right)]
    assert halves[0][0] > 1.5 * halves[0][1] and halves[1][1] > 1.5 * halves[1][0]
    assert (left - right.flip(1))[inside, 6:18].abs().mean() < 0.03, "mirror images"
    swapped = pictures(renderer, replace(cameras, light_positions=lamps.flip(0)))
    assert (swapped[0] - right).abs().mean() < 0.03 and (swapped[1] - left).abs().mean() < 0.03
