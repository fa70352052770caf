"""The contraction of space: its closed form, its inverse, and steps along rays."""

import torch

from usd.math.contraction import contract, contracted_step, distance_along, expand, place_along


def points(spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(256, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_inside_nothing_changes_and_outside_a_distance_n_becomes_two_less_its_inverse() -> None:
    near, far = torch.tensor([[0.3, 0.0, -0.4]]), torch.tensor([[0.0, 8.0, 0.0]])
    assert torch.allclose(contract(near, 1.0), near) and torch.allclose(contract(near, 0.5), near / 0.5)
    assert torch.allclose(contract(far, 2.0), torch.tensor([[0.0, 1.75, 0.0]]))


def test_all_of_space_comes_to_the_ball_of_radius_two_and_back() -> None:
    x = points()
    y = contract(x, 1.5)
    assert y.norm(dim=-1).max() < 2 and torch.allclose(expand(y, 1.5), x)
    assert torch.allclose(
        contract(1.5 * x / x.norm(dim=-1, keepdim=True), 1.5).norm(dim=-1), torch.ones(256).double()
    )


def test_places_along_a_ray_from_the_middle_are_even_in_contracted_space() -> None:
    s = torch.linspace(0, 0.95, 20)
    t = distance_along(s, torch.ones(20), 1.0)
    ray = torch.stack([t, torch.zeros(20), torch.zeros(20)], -1)
    assert torch.allclose(contract(ray, 1.0)[:, 0], 1 + s, atol=1e-5)
    assert torch.allclose(place_along(t, torch.ones(20), 1.0), s, atol=1e-5)
    # The step that the occupancy grid reckons with is the derivative of the distance.
    length = contracted_step(contract(ray, 1.0), 1.0, 1e-3)
    ahead = distance_along(s + 1e-3, torch.ones(20), 1.0) - t
    assert torch.allclose(length, ahead, rtol=0.05)
