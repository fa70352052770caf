"""Sketch-Shape: what fills the guide and nothing else costs nothing; open guides are refused."""

import math
from pathlib import Path

import pytest
import torch
import trimesh

from tests.geometry.shapes import small
from usd.core.errors import UserError
from usd.geometry import Volumetric
from usd.losses.guide_shape import DELTA, SCALE, SIGMA, GuideShape, read_guide_shape, shape_loss


@pytest.fixture(scope="module")
def ball_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("guide") / "ball.ply"
    trimesh.creation.icosphere(subdivisions=1, radius=3.0).export(file)
    return file


@pytest.fixture(scope="module")
def ball(ball_file: Path) -> GuideShape:
    return read_guide_shape(ball_file, 1.0)


def filled(radius: float) -> Volumetric:
    """A volume that is solid within a radius and empty beyond."""
    volume = small("volume-grid", grid_size=[33, 33, 33], density_bias=0.0, density_activation="relu")
    x = torch.linspace(-1, 1, 33)
    r = torch.stack(torch.meshgrid(x, x, x, indexing="ij")).norm(dim=0)
    with torch.no_grad():
        volume.grid[0, 0] = (1e3 * (radius - r)).clamp(0, 100)
    return volume


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_guide_is_scaled_and_its_distance_is_positive_outside(ball: GuideShape) -> None:
    x = torch.tensor([[0.0, 0, 0], [0.9, 0, 0], [0.0, -0.4, 0]])
    assert torch.allclose(ball.at(x), x.norm(dim=1) - SCALE, atol=0.06)


def test_what_fills_the_guide_costs_least(ball: GuideShape) -> None:
    exact, small_ball, large = (
        float(shape_loss(filled(r), ball, seeded()).detach()) for r in (SCALE, 0.3, 1.2)
    )
    assert exact < 0.03 and exact < small_ball and exact < large


@pytest.mark.parametrize("occupancy", [0.25, 0.5])
def test_an_even_haze_costs_its_doubtful_entropy_weighted_by_the_distance(
    ball: GuideShape, occupancy: float
) -> None:
    """Inside -o ln 0.99 - (1 - o) ln 0.01, outside the other way round."""
    density = -math.log(1 - occupancy) / DELTA
    haze = small("volume-grid", grid_size=[4, 4, 4], density_activation="none", density_bias=density)
    x = 2 * torch.rand(200_000, 3, generator=seeded()) - 1
    weight = 1 - torch.exp(-ball.at(x).square() / (2 * SIGMA**2))
    costs = [-share * math.log(0.99) - (1 - share) * math.log(0.01) for share in (occupancy, 1 - occupancy)]
    expected = torch.where(ball.at(x) < 0, costs[0], costs[1])
    found = float(shape_loss(haze, ball, seeded()).detach())
    assert found == pytest.approx(float((weight * expected).mean()), rel=0.03)


def test_a_guide_with_holes_is_refused_in_one_line(tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(subdivisions=1)
    trimesh.Trimesh(ball.vertices, ball.faces[:-5], process=False).export(tmp_path / "open.ply")
    with pytest.raises(UserError, match=r"system\.guide_shape: .*open\.ply: has holes.*closed mesh"):
        read_guide_shape(tmp_path / "open.ply", 1.0)
    with pytest.raises(UserError, match=r"system\.guide_shape: .*none\.obj"):
        read_guide_shape(tmp_path / "none.obj", 1.0)
