import pytest
import torch

from usd.kernels.occupancy import (
    Occupancy,
    cell_index,
    is_occupied,
    occupied_everywhere,
    step_size,
    update,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ball(x: torch.Tensor) -> torch.Tensor:
    return (x.norm(dim=-1) < 0.5).float()


def learned(n: int = 20, resolution: int = 16) -> Occupancy:
    grid = occupied_everywhere(resolution, 1.0)
    for step in range(n):
        grid = update(grid, ball, seeded(step), every_cell=step < n // 2)
    return grid


def test_learns_a_ball_and_forgets_the_rest():
    grid = learned()
    x = 2 * torch.rand(20000, 3, generator=seeded(99)) - 1
    cell = 2 / 16 * 3**0.5
    inside, outside = x.norm(dim=-1) < 0.5, x.norm(dim=-1) > 0.5 + cell
    assert is_occupied(grid, x)[inside].float().mean() > 0.99
    assert not is_occupied(grid, x)[outside].any()
    assert 0.05 < grid.fraction < 0.2  # a ball of radius 0.5 fills 0.065 of the cube


def test_follows_a_change():
    """The ball moves: its old place is forgotten, the new one found."""
    away = torch.tensor([1.2, 0.0, 0.0])
    grid = update(occupied_everywhere(16, 2.0), lambda x: ball(x - away), seeded(), every_cell=True)
    assert is_occupied(grid, away[None]).all() and not is_occupied(grid, -away[None]).any()
    for step in range(20):
        grid = update(grid, lambda x: ball(x + away), seeded(step), every_cell=True, decay=0.7)
    assert is_occupied(grid, -away[None]).all() and not is_occupied(grid, away[None]).any()


def test_is_a_pure_function_of_its_inputs():
    start = learned()
    before = start.value.clone()
    a, b, c = (update(start, ball, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(a.value, b.value) and torch.equal(a.binary, b.binary)
    assert not torch.equal(a.value, c.value)
    assert torch.equal(start.value, before)


def test_two_tensors_are_all_its_state():
    """A grid restored from its tensors continues bit by bit."""
    whole = learned(12)
    half = learned(12)
    half = Occupancy(half.value.clone(), half.binary.clone(), half.radius)
    for step in range(5):
        whole, half = (update(g, ball, seeded(step)) for g in (whole, half))
    assert torch.equal(whole.value, half.value) and torch.equal(whole.binary, half.binary)


def test_visited_points_lie_in_their_cells():
    grid, seen = occupied_everywhere(6, 1.5), []

    def record(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.ones(len(x))

    update(grid, record, seeded(), every_cell=True)
    i, j, k = cell_index(grid, seen[0]).unbind(-1)
    assert torch.equal((i * 6 + j) * 6 + k, torch.arange(216))
    assert seen[0].abs().max() <= 1.5


def test_value_is_a_decaying_maximum():
    grid = Occupancy(torch.full((2, 2, 2), 0.5), torch.ones(2, 2, 2, dtype=torch.bool), 1.0)
    low = update(grid, lambda x: torch.full((len(x),), 0.1), seeded(), every_cell=True, decay=0.9)
    high = update(grid, lambda x: torch.full((len(x),), 0.7), seeded(), every_cell=True, decay=0.9)
    torch.testing.assert_close(low.value, torch.full((2, 2, 2), 0.45))
    torch.testing.assert_close(high.value, torch.full((2, 2, 2), 0.7))


def test_a_cell_visited_twice_decays_once():
    grid = Occupancy(torch.full((2, 2, 2), 0.5), torch.ones(2, 2, 2, dtype=torch.bool), 1.0)
    after = update(grid, lambda x: torch.zeros(len(x)), seeded(), decay=0.9)
    assert set(after.value.flatten().mul(100).round().tolist()) == {45.0, 50.0}


def test_an_empty_grid_can_be_asked_and_updated():
    grid = Occupancy(torch.zeros(4, 4, 4), torch.zeros(4, 4, 4, dtype=torch.bool), 1.0)
    assert not is_occupied(grid, torch.zeros(3, 3)).any()
    assert is_occupied(grid, torch.zeros(0, 3)).shape == (0,)
    assert update(grid, lambda x: torch.ones(len(x)), seeded()).fraction > 0
    assert update(grid, lambda x: torch.zeros(len(x)), seeded()).fraction == 0


def test_points_outside_ask_the_nearest_cell():
    grid = occupied_everywhere(4, 1.0)
    grid.binary[3, 0, 3] = False
    assert not is_occupied(grid, torch.tensor([[9.0, -9.0, 9.0]])).any()


def test_steps_cross_the_diagonal():
    assert step_size(0.5, 100) * 100 == pytest.approx(3**0.5)
