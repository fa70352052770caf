"""Distances of single primitives against closed forms, and what cuts, unions and blends make of them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from usd.toybox.distance import BENT_SAFETY, signed_distance, signed_distance_torch
from usd.toybox.objects import make_toy
from usd.toybox.scene import SUBTRACT, Builder, Paint, Toy, euler_deg, surface_points
from usd.toybox.shapes import SHAPES

GRAY = Paint((0.5, 0.5, 0.5))


def toy_of(builder: Builder) -> Toy:
    """A toy in the builder's own frame, neither centered nor scaled."""
    return Toy(np.stack(builder.rows).astype(np.float32), "a thing", "thing", 0.0, False)


def distances(builder: Builder, points: list[list[float]]) -> list[float]:
    return signed_distance(toy_of(builder), torch.tensor(points, dtype=torch.float32))[0].tolist()


def cloud(count: int = 2000, reach: float = 1.5, seed: int = 0) -> Tensor:
    return (torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * reach


EXACT = {
    "ball": lambda b: b.ball(0.5, (0, 0, 0), GRAY),
    "box": lambda b: b.box((0.3, 0.5, 0.2), (0.1, 0, 0), GRAY, rz=30),
    "rounded box": lambda b: b.box((0.3, 0.2, 0.2), (0, 0, 0), GRAY, rounding=0.1),
    "cylinder": lambda b: b.cylinder(0.3, 0.6, (0, 0.1, 0), GRAY, rx=40),
    "cone": lambda b: b.cone(0.5, 0.2, 0.4, (0, 0, 0.2), GRAY),
    "torus": lambda b: b.torus(0.5, 0.15, (0, 0, 0), GRAY, ry=70),
    "capsule": lambda b: b.capsule(0.2, 0.5, (0, 0, 0), GRAY),
}


@pytest.mark.parametrize(
    ("make", "points", "expected"),
    [
        (EXACT["ball"], [[0, 0, 0], [1, 0, 0], [0, 0.3, 0.4]], [-0.5, 0.5, 0.0]),
        (
            lambda b: b.box((1, 2, 3), (0, 0, 0), GRAY),
            [[0, 0, 0], [2, 0, 0], [2, 3, 0], [2, 3, 4]],
            [-1.0, 1.0, math.sqrt(2), math.sqrt(3)],
        ),
        (EXACT["rounded box"], [[0.4, 0, 0], [0.3 + 0.1 / math.sqrt(2), 0.2 + 0.1 / math.sqrt(2), 0]], [0.0, 0.0]),
        (
            lambda b: b.cylinder(1, 2, (0, 0, 0), GRAY),
            [[0, 0, 0], [2, 0, 0], [0, 0, 3], [4, 0, 6]],
            [-1.0, 1.0, 1.0, 5.0],
        ),
        (
            lambda b: b.cone(1, 0, 1, (0, 0, 0), GRAY),
            [[0, 0, 2], [0, 0, -2], [0, 0, 0]],
            [1.0, 1.0, -1 / math.sqrt(5)],
        ),
        (lambda b: b.torus(2, 0.5, (0, 0, 0), GRAY), [[2, 0, 0], [0, 0, 0], [0, 2, 1]], [-0.5, 1.5, 0.5]),
        (lambda b: b.capsule(0.5, 1, (0, 0, 0), GRAY), [[0, 0, 2], [1, 0, 0.5], [0, 0, 1]], [0.5, 0.5, -0.5]),
        (lambda b: b.rod(0.1, (0, 0, 0), (1, 1, 0), GRAY), [[0.5, 0.5, 0.3], [1, 1, 0], [2, 1, 0]], [0.2, -0.1, 0.9]),
    ],
    ids=["ball", "box", "rounded box", "cylinder", "cone", "torus", "capsule", "rod"],
)  # fmt: skip
def test_a_primitive_has_the_distance_of_the_textbook(make, points, expected) -> None:
    builder = Builder()
    make(builder)
    assert distances(builder, points) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_distance_grows_by_one_a_unit_and_ends_on_the_surface(name: str) -> None:
    """The gradient is the way to the nearest point of the surface, so a step of the distance arrives there."""
    builder = Builder()
    EXACT[name](builder)
    toy, points = toy_of(builder), cloud().double().requires_grad_()
    distance, _ = signed_distance_torch(toy, points)
    (gradient,) = torch.autograd.grad(distance.sum(), points)
    outside = distance.detach() > 1e-2
    assert (gradient[outside].norm(dim=-1) - 1).abs().max() < 1e-6
    landed, _ = signed_distance_torch(toy, (points - distance[:, None] * gradient)[outside])
    assert landed.abs().max() < 1e-5


@pytest.mark.parametrize("radii", [(0.5, 0.4, 0.3), (0.6, 0.2, 0.1)])
def test_an_ellipsoids_distance_is_a_lower_bound_with_the_right_sign(radii) -> None:
    builder, size = Builder(), torch.tensor(radii)
    builder.ellipsoid(radii, (0, 0, 0), GRAY)
    points = cloud(500)
    distance, _ = signed_distance(toy_of(builder), points)
    assert torch.equal(distance > 0, (points / size).norm(dim=-1) > 1)
    direction = torch.nn.functional.normalize(
        torch.randn(20000, 3, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    nearest = torch.cdist(points, direction * size).amin(1)
    outside = distance > 0
    assert (distance[outside] <= nearest[outside] * 1.02 + 5e-3).all()


def test_what_is_cut_away_belongs_to_nobody_and_its_wall_to_the_cutter() -> None:
    builder = Builder()
    builder.box((1, 1, 1), (0, 0, 0), GRAY)
    builder.ball(0.5, (1, 0, 0), GRAY, subtract=1)
    points = torch.tensor([[0.9, 0, 0], [0.45, 0, 0], [0, 0, 0.9]])
    distance, owner = signed_distance(toy_of(builder), points)
    assert distance.tolist() == pytest.approx([0.4, -0.05, -0.1], abs=1e-5)
    assert owner.tolist() == [1, 1, 0]


def test_the_order_of_bodies_and_cuts_counts() -> None:
    """A body that is added after a cut is not cut."""
    parts = {
        "body": lambda b: b.box((1, 1, 1), (0, 0, 0), GRAY),
        "cut": lambda b: b.ball(0.5, (0, 0, 0), GRAY, subtract=1),
    }
    found = []
    for order in (("body", "cut"), ("cut", "body")):
        builder = Builder()
        for part in order:
            parts[part](builder)
        found += distances(builder, [[0, 0, 0]])
    assert found == pytest.approx([0.5, -1.0])


def test_a_blend_adds_a_quarter_of_its_width_where_both_are_equally_near_and_nothing_beyond() -> None:
    width = 0.2
    builder = Builder()
    builder.ball(0.5, (-0.4, 0, 0), GRAY)
    builder.ball(0.5, (0.4, 0, 0), GRAY, blend=width)
    middle, side = [0.0, 0.6, 0.0], [1.5, 0.0, 0.0]
    sharp = math.hypot(0.4, 0.6) - 0.5
    assert distances(builder, [middle, side]) == pytest.approx([sharp - width / 4, 0.6], abs=1e-5)


def test_a_twisted_box_is_the_box_in_turned_slices() -> None:
    twist = 1.3
    builder = Builder()
    builder.box((0.4, 0.2, 0.5), (0, 0, 0), GRAY, twist=twist)
    straight = Builder()
    straight.box((0.4, 0.2, 0.5), (0, 0, 0), GRAY)
    points = cloud(800, 0.7)
    angle = twist * points[:, 2]
    turned = torch.stack([angle.cos() * points[:, 0] - angle.sin() * points[:, 1],
                          angle.sin() * points[:, 0] + angle.cos() * points[:, 1], points[:, 2]], -1)  # fmt: skip
    here, _ = signed_distance(toy_of(builder), turned)
    there, _ = signed_distance(toy_of(straight), points)
    torch.testing.assert_close(here, there * BENT_SAFETY, atol=1e-5, rtol=1e-4)


def test_moving_and_turning_a_toy_moves_its_distance() -> None:
    turn, shift = euler_deg(20, -50, 130), np.array([0.2, -0.3, 0.1])
    toy = make_toy(5, 0.0, "chair")
    rows = toy.primitives.astype(np.float64)
    rows[:, 17:20] = rows[:, 17:20] @ turn.T + shift
    rows[:, 8:17] = (rows[:, 8:17].reshape(-1, 3, 3) @ turn.T).reshape(-1, 9)
    moved = Toy(rows.astype(np.float32), toy.caption, toy.category, toy.yaw, toy.symmetric)
    points = cloud(600, 0.6)
    there = (points.double() @ torch.from_numpy(turn).T + torch.from_numpy(shift)).float()
    torch.testing.assert_close(
        signed_distance(moved, there)[0], signed_distance(toy, points)[0], atol=2e-6, rtol=1e-4
    )


# ------------------------------------------------------------------------------------------------------- the rows


def test_turns_are_about_x_then_y_then_z() -> None:
    assert euler_deg(90, 0, 0) @ [0, 1, 0] == pytest.approx([0, 0, 1])
    assert euler_deg(90, 90, 0) @ [0, 1, 0] == pytest.approx([1, 0, 0])
    assert euler_deg(90, 90, 90) @ [0, 1, 0] == pytest.approx([0, 1, 0])
    turn = euler_deg(12, 34, 56)
    assert turn @ turn.T == pytest.approx(np.eye(3)) and np.linalg.det(turn) == pytest.approx(1)


@pytest.mark.parametrize("category", [*SHAPES, None])
def test_a_primitive_lies_within_its_bound(category: str | None) -> None:
    """Ray marching skips a primitive outside its ball: one that reached farther would lose a part."""
    for seed in range(4):
        toy = make_toy(seed, 1.0, category)
        for row in toy.primitives:
            alone = Toy(row[None].copy(), "", "", 0.0, False)
            alone.primitives[:, 1] = 0
            direction = torch.nn.functional.normalize(
                torch.randn(400, 3, generator=torch.Generator().manual_seed(seed)), dim=-1
            )
            rim = torch.from_numpy(row[17:20]) + direction * float(row[20]) * 1.001
            assert signed_distance(alone, rim)[0].min() > -1e-4


@pytest.mark.parametrize("category", [*SHAPES, None])
def test_rows_hold_rotations_and_colors(category: str | None) -> None:
    for seed in range(4):
        rows = make_toy(seed, 1.0, category).primitives
        turns = rows[:, 8:17].reshape(-1, 3, 3)
        assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3), atol=1e-5)
        assert (np.linalg.det(turns) > 0.99).all()
        assert ((rows[:, 21:27] >= 0) & (rows[:, 21:27] <= 1)).all()
        assert rows[0, 1] != SUBTRACT, "there is something before anything is cut away"


@pytest.mark.parametrize("name", EXACT)
def test_the_points_for_bounds_enclose_a_primitive(name: str) -> None:
    builder = Builder()
    EXACT[name](builder)
    points = torch.from_numpy(surface_points(builder.rows[0])).float()
    low, high = points.amin(0), points.amax(0)
    near = cloud(4000, 1.0)
    solid = near[signed_distance(toy_of(builder), near)[0] < 0]
    assert len(solid) > 20
    assert (solid >= low - 0.02).all() and (solid <= high + 0.02).all()
