"""Marching cubes as theorems: closed, outward, and of the right size and genus, for smooth and for random fields."""

import math

import pytest
import torch

from usd.math import isosurface, mesh
from usd.math.isosurface import marching_cubes, sample_grid, silhouette_level, solid_field

LIKE = torch.zeros(())


def ball(x: torch.Tensor) -> torch.Tensor:
    return 0.6 - x.norm(dim=-1)


def torus(x: torch.Tensor) -> torch.Tensor:
    ring = torch.stack([x[:, :2].norm(dim=-1) - 0.55, x[:, 2]], -1)
    return 0.25 - ring.norm(dim=-1)


@pytest.mark.parametrize("case", range(256))
def test_every_case_is_filled_without_a_diagonal_in_a_face(case: int) -> None:
    loops = isosurface.loops(case)
    edges = [edge for loop in loops for edge in loop]
    crossed = {i for i, (a, b) in enumerate(isosurface.EDGES) if (case >> a & 1) != (case >> b & 1)}
    assert sorted(edges) == sorted(crossed)
    assert len(isosurface.cell_triangles(case)) == sum(len(loop) - 2 for loop in loops)
    chains = {frozenset(pair) for loop in loops for pair in zip(loop, loop[1:] + loop[:1])}
    for a, b, c in isosurface.cell_triangles(case):
        inner = {frozenset(pair) for pair in ((a, b), (b, c), (c, a))} - chains
        assert not any(isosurface._share_a_face(*pair) for pair in inner)


def test_a_sphere_has_its_area_volume_and_euler_number() -> None:
    vertices, faces = marching_cubes(sample_grid(ball, 96, 1.0, LIKE), 0.0, 1.0)
    assert mesh.is_closed(faces) and mesh.euler_number(faces) == 2
    assert float(mesh.volume(vertices, faces)) == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=2e-3)
    assert float(mesh.area(vertices, faces)) == pytest.approx(4 * math.pi * 0.6**2, rel=2e-3)
    assert (vertices.norm(dim=-1) - 0.6).abs().max() < 1e-3


def test_a_torus_has_euler_number_zero() -> None:
    vertices, faces = marching_cubes(sample_grid(torus, 64, 1.0, LIKE), 0.0, 1.0)
    assert mesh.is_closed(faces) and mesh.euler_number(faces) == 0
    assert float(mesh.volume(vertices, faces)) == pytest.approx(2 * math.pi**2 * 0.55 * 0.25**2, rel=1e-2)


@pytest.mark.parametrize("seed", range(8))
def test_any_values_give_a_closed_surface(seed: int) -> None:
    values = torch.randn(9, 11, 12, generator=torch.Generator().manual_seed(seed))
    vertices, faces = marching_cubes(values, 0.2, 1.0)
    assert mesh.is_closed(faces) and float(mesh.volume(vertices, faces)) > 0
    assert vertices.abs().max() <= 1


def test_a_surface_through_the_border_is_closed_on_the_border() -> None:
    vertices, faces = marching_cubes(torch.ones(5, 5, 5), 0.0, 0.8)
    assert mesh.is_closed(faces) and mesh.euler_number(faces) == 2
    assert float(mesh.volume(vertices, faces)) == pytest.approx(1.6**3, rel=1e-5)


def test_vertices_follow_the_axes_of_the_grid() -> None:
    def off_center(x: torch.Tensor) -> torch.Tensor:
        return 0.2 - (x - torch.tensor([0.5, -0.3, 0.1])).norm(dim=-1)

    vertices, _ = marching_cubes(sample_grid(off_center, 48, 1.0, LIKE), 0.0, 1.0)
    assert torch.allclose(
        (vertices.amin(0) + vertices.amax(0)) / 2, torch.tensor([0.5, -0.3, 0.1]), atol=5e-3
    )


def test_nothing_inside_is_an_empty_mesh() -> None:
    vertices, faces = marching_cubes(torch.zeros(8, 8, 8), 1.0, 1.0)
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)


def test_sampling_in_chunks_changes_nothing() -> None:
    whole = sample_grid(ball, 17, 0.7, LIKE, chunk=1 << 20)
    assert torch.equal(whole, sample_grid(ball, 17, 0.7, LIKE, chunk=1))
    assert whole[16, 8, 8] == pytest.approx(0.6 - 0.7, abs=1e-6)


@pytest.mark.parametrize("softness", [0.02, 0.1])
def test_silhouette_level_recovers_the_radius_that_renders_opaque(softness: float) -> None:
    """A ball with a soft rim: the surface's silhouette is where columns of the density reach optical depth ln 2."""
    n, spacing = 96, 2 / 95

    def density(x: torch.Tensor) -> torch.Tensor:
        return 40 * torch.sigmoid((0.5 - x.norm(dim=-1)) / softness)

    values = sample_grid(density, n, 1.0, LIKE)
    opaque = (values.sum(0) * spacing) > math.log(2)
    rendered_radius = math.sqrt(float(opaque.sum()) * spacing**2 / math.pi)
    field = solid_field(values, spacing)
    level = silhouette_level(field, values, spacing)
    assert level is not None
    vertices, _ = marching_cubes(field, level, 1.0)
    assert float(vertices.norm(dim=-1).mean()) == pytest.approx(rendered_radius, abs=0.02)


def test_silhouette_level_of_fog_is_none() -> None:
    fog = torch.full((8, 8, 8), 0.01)
    assert silhouette_level(fog, fog, 0.1) is None


def test_a_solid_field_has_no_cavities_and_keeps_open_hollows() -> None:
    """A hollow shell becomes a ball; a tube, which one can look through, stays a tube."""

    def shell(x: torch.Tensor) -> torch.Tensor:
        return 200.0 * ((x.norm(dim=-1) - 0.6).abs() < 0.06)

    def tube(x: torch.Tensor) -> torch.Tensor:
        return 200.0 * (((x[:, :2].norm(dim=-1) - 0.5).abs() < 0.1) & (x[:, 2].abs() < 0.5))

    euler = []
    for shape in (shell, tube):
        values = sample_grid(shape, 64, 1.0, LIKE)
        euler.append(mesh.euler_number(marching_cubes(solid_field(values, 2 / 63), 0.5, 1.0)[1]))
    assert euler == [2, 0]


def test_noise_inside_and_on_the_surface_is_smoothed_away() -> None:
    noise = torch.rand(64, 64, 64, generator=torch.Generator().manual_seed(0))
    noisy = sample_grid(ball, 64, 1.0, LIKE).gt(0) * 80 * noise
    assert mesh.euler_number(marching_cubes(noisy, 10.0, 1.0)[1]) > 100
    vertices, faces = marching_cubes(solid_field(noisy, 2 / 63), 0.5, 1.0)
    assert mesh.euler_number(faces) == 2
    assert float(mesh.volume(vertices, faces)) == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.05)


def test_hidden_is_what_an_opaque_wall_surrounds() -> None:
    values = torch.zeros(7, 7, 7)
    values[1:6, 1:6, 1:6] = 100.0
    values[3, 3, 3] = 0.0
    inside = isosurface.hidden(values, 1.0)
    assert bool(inside[3, 3, 3]) and int(inside.sum()) == 27


def test_blurring_keeps_constants_and_the_mean() -> None:
    assert torch.allclose(isosurface.binomial_blur(torch.full((4, 5, 6), 0.7)), torch.tensor(0.7))
    spike = torch.zeros(5, 5, 5)
    spike[2, 2, 2] = 1
    blurred = isosurface.binomial_blur(spike)
    assert (
        blurred[2, 2, 2] == 0.125 and blurred[1, 2, 2] == 0.0625 and float(blurred.sum()) == pytest.approx(1)
    )
