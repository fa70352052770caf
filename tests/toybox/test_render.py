"""Pictures of toys against closed forms, and the distance kernel against its twin in torch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from usd.evaluation.metrics import mask_iou
from usd.math import mesh as mesh_math
from usd.math.camera import (
    Spherical,
    orbit_cameras,
    orbit_cameras_deg,
    orthographic_cameras,
    pinhole_cameras,
)
from usd.toybox.distance import signed_distance, signed_distance_torch
from usd.toybox.mesh import sharp_toy_mesh, toy_mesh
from usd.toybox.objects import make_toy
from usd.toybox.render import Light, render
from usd.toybox.scene import RADIUS, Builder, Paint, Toy

FLAT = Light(diffuse=0.0, ambient=1.0, sky=0.0)


def ball(color: tuple[float, float, float] = (0.8, 0.4, 0.2)) -> Toy:
    builder = Builder()
    builder.ball(1.0, (0, 0, 0), Paint(color))
    return Toy(builder.finish(0.0), "a ball", "ball", 0.0, True)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("uncaptioned_share", [0.0, 1.0])
def test_kernel_and_twin_agree(seed: int, uncaptioned_share: float) -> None:
    toy = make_toy(seed, uncaptioned_share)
    points = (torch.rand(4000, 3, generator=torch.Generator().manual_seed(seed)) - 0.5) * 1.3
    kernel, owner = signed_distance(toy, points)
    twin, twin_owner = signed_distance_torch(toy, points)
    torch.testing.assert_close(kernel, twin, atol=2e-6, rtol=1e-4)
    assert (owner == twin_owner).float().mean() > 0.995


def test_the_distance_of_a_ball_is_exact() -> None:
    points = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    distance, _ = signed_distance(ball(), points)
    torch.testing.assert_close(distance, points.norm(dim=-1) - RADIUS, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_a_step_of_the_distance_never_crosses_the_surface(seed: int) -> None:
    toy, source = make_toy(seed, 0.5), torch.Generator().manual_seed(seed)
    points = (torch.rand(3000, 3, generator=source) - 0.5) * 1.4
    distance, _ = signed_distance(toy, points)
    outside = distance > 1e-3
    direction = torch.nn.functional.normalize(torch.randn(3000, 3, generator=source), dim=-1)
    after, _ = signed_distance(toy, points + direction * distance[:, None] * 0.999)
    crossed = (after[outside] < -2e-3).float().mean()
    assert crossed < 2e-3


def test_a_ball_looks_like_a_disc() -> None:
    cameras = orbit_cameras_deg(20.0, [0.0, 130.0], 1.5, 50.0, 96)
    pictures = render([ball()], cameras, lights=[FLAT])
    origins, directions = cameras.rays()
    nearest = torch.linalg.cross(origins, directions).norm(dim=-1)
    pixel = 2 * math.tan(math.radians(25)) / 96 * 1.5
    assert pictures.alpha[nearest < RADIUS - pixel].min() == 1
    assert pictures.alpha[nearest > RADIUS + pixel].max() == 0
    area = pictures.alpha.sum(dim=(1, 2))
    angle = math.asin(RADIUS / 1.5)
    expected = math.pi * (math.tan(angle) / math.tan(math.radians(25)) * 48) ** 2
    assert area.sub(expected).abs().max() < 0.01 * expected
    inside = nearest < RADIUS * 0.9
    torch.testing.assert_close(
        pictures.rgb[inside], torch.tensor([0.8, 0.4, 0.2]).expand(int(inside.sum()), 3)
    )
    hit = origins + pictures.depth[..., None] * directions
    torch.testing.assert_close(
        hit[inside].norm(dim=-1), torch.full_like(hit[inside][:, 0], RADIUS), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(pictures.normal[inside], hit[inside] / RADIUS, atol=1e-2, rtol=0)


def test_light_is_fixed_to_the_world() -> None:
    """The color of a surface point does not depend on where it is seen from."""
    toy = make_toy(1, 0.0, "owl")
    cameras = orbit_cameras_deg(15.0, [90.0, 100.0], 1.5, 40.0, 128)
    pictures = render([toy], cameras, edge_rays=1)
    origins, directions = cameras.rays()
    seen = pictures.alpha[0] == 1
    points = (origins[0] + pictures.depth[0][..., None] * directions[0])[seen]
    where, _ = cameras[[1]].project(points)
    x, y = where[0].floor().long().unbind(-1)
    other_depth = pictures.depth[1][y, x]
    distance = (points - cameras.position[1]).norm(dim=-1)
    visible = (other_depth - distance).abs() < 3e-3
    change = (pictures.rgb[1][y, x] - pictures.rgb[0][seen]).abs().amax(-1)[visible]
    assert visible.float().mean() > 0.5
    assert change.median() < 0.01


def test_many_toys_in_one_launch_are_the_same_as_one_by_one() -> None:
    toys = [make_toy(seed) for seed in range(3)]
    cameras = orbit_cameras_deg(10.0, [0.0, 120.0, 240.0], 1.5, 40.0, 32)
    together = render(toys, cameras, torch.tensor([2, 0, 1]))
    for view, toy in enumerate((2, 0, 1)):
        alone = render([toys[toy]], cameras[[view]])
        assert torch.equal(alone.rgb[0], together.rgb[view])
        assert torch.equal(alone.alpha[0], together.alpha[view])


def test_the_mesh_of_a_ball() -> None:
    mesh = toy_mesh(ball(), resolution=48)
    assert mesh_math.is_closed(mesh.faces)
    assert mesh_math.euler_number(mesh.faces) == 2
    volume = mesh_math.volume(mesh.vertices, mesh.faces)
    assert abs(float(volume) - 4 / 3 * math.pi * RADIUS**3) < 0.01 * float(volume)
    torch.testing.assert_close(
        mesh.vertices.norm(dim=-1), torch.full((len(mesh.vertices),), RADIUS), atol=1e-4, rtol=0
    )


def test_a_sharp_mesh_reaches_into_the_corners_of_a_box() -> None:
    """Marching cubes cuts corners off; moved vertices find the box's volume and leave its flat sides flat."""
    builder = Builder()
    builder.box((1.0, 0.8, 0.6), (0, 0, 0), Paint((0.8, 0.4, 0.2)))
    box = Toy(builder.finish(0.3), "a box", "box", 0.3, True)
    exact = 8 * float(np.prod(box.primitives[0, 4:7]))
    cut, sharp = toy_mesh(box, resolution=33), sharp_toy_mesh(box, resolution=33)
    assert torch.equal(cut.faces, sharp.faces) and mesh_math.is_closed(sharp.faces)
    missing = [1 - float(mesh_math.volume(m.vertices, m.faces)) / exact for m in (cut, sharp)]
    assert missing[0] > 0.004 and abs(missing[1]) < 0.2 * missing[0]
    assert float(signed_distance(box, sharp.vertices)[0].abs().max()) < 1e-3


def test_orthographic_pictures_are_the_limit_of_far_pinholes():
    toy, far, span = make_toy(1_000_003), 60.0, 1.1
    place = Spherical(torch.tensor([0.3]), torch.tensor([1.0]), torch.tensor([far]))
    pinhole = orbit_cameras(place, 2 * math.atan(0.5 * span / far), 48, 40)
    near = orbit_cameras(replace(place, distance=torch.tensor([1.5])), 0.1, 48, 40)
    parallel = render([toy], orthographic_cameras(near.c2w, span, 48, 40))
    distant = render([toy], pinhole)
    assert mask_iou(parallel.alpha[:, None], distant.alpha[:, None]).item() > 0.97
    assert (parallel.over_white() - distant.over_white()).abs().mean() < 0.01
    seen = (parallel.alpha == 1) & (distant.alpha == 1)
    assert (parallel.depth[seen] + far - 1.5 - distant.depth[seen]).abs().median() < 0.01


def test_a_camera_with_its_principal_point_elsewhere_takes_a_part_of_the_picture():
    toy = ball()
    whole = orbit_cameras_deg(20.0, [30.0], 2.0, 60.0, 48)
    focal = float(whole.focal_px[0])
    part = pinhole_cameras(whole.c2w, torch.tensor([[focal, focal, 24 - 1.0, 24 - 14.0]]), 20, 30)
    cut, full = render([toy], part, edge_rays=1), render([toy], whole, edge_rays=1)
    assert torch.allclose(cut.depth, full.depth[:, 14:34, 1:31], atol=1e-5)
    assert 0.2 < float(cut.alpha.mean()) < 0.9
