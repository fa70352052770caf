"""The tetrahedral grid fills its cube; what is marched through it is closed, outward, and differentiable."""

import math

import pytest
import torch

from usd.math import mesh, tetrahedra
from usd.math.tetrahedra import (
    FREEDOM,
    bounded_shift,
    cells_for,
    grid_shift,
    grid_surface,
    marching_tetrahedra,
    tetrahedral_grid,
    volumes,
)

INNER = 1 / 12  # volume of an inner tetrahedron, in cubes


def sphere(x: torch.Tensor) -> torch.Tensor:
    return x.norm(dim=-1) - 0.6


def torus(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x[:, :2].norm(dim=-1) - 0.55, x[:, 2]], -1).norm(dim=-1) - 0.25


def random_shift(grid: tetrahedra.TetrahedralGrid, seed: int = 0) -> torch.Tensor:
    return grid_shift(grid, torch.randn(grid.points.shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("cells", [1, 2, 5])
def test_tetrahedra_fill_the_cube_without_overlap(cells: int) -> None:
    grid = tetrahedral_grid(cells)
    size = volumes(grid.points, grid.tetrahedra) * cells**3
    assert torch.allclose(size, torch.tensor(INNER), atol=1e-5)
    assert float(size.sum()) == pytest.approx(cells**3, rel=1e-4)
    assert len(grid.points) == (cells + 1) ** 3 + cells**3 and len(grid.tetrahedra) == 12 * cells**3


def test_tetrahedra_share_whole_faces_and_bound_the_cube_with_the_rest() -> None:
    grid = tetrahedral_grid(3)
    faces = torch.cat([grid.tetrahedra[:, [i for i in range(4) if i != c]] for c in range(4)]).sort(1).values
    each, count = torch.unique(faces, dim=0, return_counts=True)
    assert int(count.max()) == 2
    assert bool(grid.border[each[count == 1]].all())
    area = mesh.area(grid.points, each[count == 1])
    assert float(area) == pytest.approx(6.0, rel=1e-5)


def test_a_resolution_means_as_many_points_as_in_the_published_grids() -> None:
    published = {64: 36_562, 128: 277_410}
    for resolution, n in published.items():
        cells = cells_for(resolution)
        assert (cells + 1) ** 3 + cells**3 == pytest.approx(n, rel=0.1)


@pytest.mark.parametrize("case", range(16))
def test_every_case_turns_outward(case: int) -> None:
    corner = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    inside = torch.tensor([bool(case >> c & 1) for c in range(4)])
    vertices, faces, _ = marching_tetrahedra(
        corner, torch.where(inside, -1.0, 1.0), torch.tensor([[0, 1, 2, 3]])
    )
    assert len(faces) == (0, 1, 2, 1, 0)[int(inside.sum())]
    for normal, (a, _, _) in zip(mesh.face_cross(vertices, faces), faces.tolist()):
        assert bool(((corner[~inside] - vertices[a]) @ normal >= -1e-6).all())
        assert bool(((corner[inside] - vertices[a]) @ normal <= 1e-6).all())


@pytest.mark.parametrize(("field", "euler"), [(sphere, 2), (torus, 0)])
@pytest.mark.parametrize("moved", [False, True])
def test_surfaces_are_closed_outward_and_of_the_right_genus(field, euler: int, moved: bool) -> None:
    grid = tetrahedral_grid(20)
    points = (grid.points + (random_shift(grid) if moved else 0)) * 2 - 1
    vertices, faces = grid_surface(grid, points, field(points))
    assert mesh.is_closed(faces) and mesh.euler_number(faces) == euler
    exact = 4 / 3 * math.pi * 0.6**3 if euler else 2 * math.pi**2 * 0.55 * 0.25**2
    assert float(mesh.volume(vertices, faces)) == pytest.approx(exact, rel=0.03)
    assert float(field(vertices).abs().max()) < 0.1**2


def test_vertices_lie_where_a_linear_distance_is_zero() -> None:
    grid = tetrahedral_grid(6)
    normal = torch.nn.functional.normalize(torch.tensor([1.0, -2.0, 0.5]), dim=0)
    vertices, faces, _ = marching_tetrahedra(grid.points, (grid.points - 0.47) @ normal, grid.tetrahedra)
    assert len(faces) > 0 and float(((vertices - 0.47) @ normal).abs().max()) < 1e-6
    turned = mesh.face_cross(vertices, faces)
    assert torch.allclose(torch.nn.functional.normalize(turned, dim=-1), normal.expand_as(turned), atol=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_any_distances_give_a_closed_surface_that_never_leaves_the_cube(seed: int) -> None:
    grid = tetrahedral_grid(5)
    distance = torch.randn(len(grid.points), generator=torch.Generator().manual_seed(seed))
    vertices, faces = grid_surface(grid, grid.points + random_shift(grid), distance)
    assert mesh.is_closed(faces) and float(mesh.volume(vertices, faces)) > 0
    assert float(vertices.min()) >= 0 and float(vertices.max()) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_few_tetrahedra_hold_the_whole_surface(seed: int) -> None:
    grid = tetrahedral_grid(7)
    centre = torch.rand(3, generator=torch.Generator().manual_seed(seed)) * 0.2 + 0.4
    distance = (grid.points - centre).norm(dim=-1) - 0.3
    all_vertices, all_faces, _ = marching_tetrahedra(grid.points, distance, grid.tetrahedra)
    vertices, faces = grid_surface(grid, grid.points, distance)
    assert torch.equal(all_vertices, vertices) and all_faces.shape == faces.shape
    assert mesh.is_closed(faces)
    assert len(tetrahedra.near_surface(grid, distance < 0)) < len(grid.tetrahedra) / 2


def test_no_tetrahedron_turns_over_however_far_points_want_to_move() -> None:
    grid = tetrahedral_grid(6)
    for seed in range(5):
        moved = grid.points + 10 * random_shift(grid, seed) / 10
        assert float(volumes(moved, grid.tetrahedra).min()) > 0
    far = bounded_shift(torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) * 100, 0.2)
    assert torch.allclose(far.norm(dim=-1), torch.tensor(0.2), atol=1e-5)
    near = torch.full((1, 3), 1e-4)
    assert torch.allclose(bounded_shift(near, 0.2), near, rtol=1e-4)
    assert FREEDOM == 0.25


def test_gradients_of_vertices_agree_with_finite_differences() -> None:
    grid = tetrahedral_grid(4)
    points = grid.points.double()
    distance = (points - 0.5).norm(dim=-1) - 0.31
    used = (distance.abs() < 0.2).nonzero()[:, 0]
    near = tetrahedra.near_surface(grid, distance < 0)

    def vertices(moved: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return marching_tetrahedra(
            points.index_copy(0, used, moved), distance.index_copy(0, used, values), near
        )[0]

    inputs = points[used].requires_grad_(), distance[used].requires_grad_()
    assert torch.autograd.gradcheck(vertices, inputs, eps=1e-7, atol=1e-5)


def test_growing_a_sphere_moves_its_vertices_outward_alike() -> None:
    """d vertex / d (shift of all distances) is minus the normal, to first order in the grid's fineness."""
    grid = tetrahedral_grid(16)
    points = grid.points * 2 - 1
    grown = torch.zeros((), requires_grad=True)
    vertices, _ = grid_surface(grid, points, sphere(points) - grown)
    (slope,) = torch.autograd.grad(vertices.norm(dim=-1).mean(), grown)
    assert float(slope) == pytest.approx(1.0, abs=0.02)


def test_nothing_inside_is_an_empty_mesh() -> None:
    grid = tetrahedral_grid(3)
    vertices, faces = grid_surface(grid, grid.points, torch.ones(len(grid.points)))
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)


def test_equal_and_tiny_distances_give_finite_vertices_and_gradients() -> None:
    grid = tetrahedral_grid(3)
    distance = torch.zeros(len(grid.points))
    distance[len(grid.points) - 1] = distance[70] = -1e-30
    distance.requires_grad_()
    vertices, _ = grid_surface(grid, grid.points, distance)
    vertices.sum().backward()
    assert len(vertices) > 0 and bool(vertices.isfinite().all())
    assert distance.grad is not None and bool(distance.grad.isfinite().all())


def cut_of(grid: tetrahedra.TetrahedralGrid, distance: torch.Tensor) -> torch.Tensor:
    return tetrahedra.sign_changes(tetrahedra.grid_cut(grid, grid.points, distance)[2] * grid.cells)


def test_the_ends_of_a_cut_differ_in_sign_and_say_where_it_is() -> None:
    grid = tetrahedral_grid(8)
    distance = (grid.points - 0.5).norm(dim=-1) - 0.3
    vertices, faces, ends = tetrahedra.grid_cut(grid, grid.points, distance)
    assert len(ends) == len(vertices) and bool((ends.prod(-1) < 0).all()) and mesh.euler_number(faces) == 2
    slack = ((vertices - 0.5).norm(dim=-1) - 0.3).abs()
    assert bool((slack <= ends.abs().amax(-1)).all())


def test_sign_changes_are_punished_by_their_number_and_pull_ends_together() -> None:
    grid = tetrahedral_grid(8)
    ball = ((grid.points - 0.5).norm(dim=-1) - 0.3).requires_grad_()
    cut_of(grid, ball).backward()
    assert ball.grad is not None
    crossing = ball.grad != 0
    assert bool((ball.grad[crossing & (ball < 0)] < 0).all() | (ball.grad[crossing & (ball < 0)] > 0).all())
    assert float(cut_of(grid, torch.ones_like(ball))) == 0
    lonely = torch.ones(len(grid.points))
    lonely[-30] = -0.01
    lonely.requires_grad_()
    cut_of(grid, lonely).backward()
    assert lonely.grad is not None and int(lonely.grad.argmin()) == len(lonely) - 30
