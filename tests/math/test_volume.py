import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from usd.math.volume import (
    alpha_from_density,
    from_dense,
    interlevel_loss,
    inverse_cdf,
    outer_weights,
    packed_slots,
    packed_sum,
    packed_transmittance,
    to_dense,
    transmittance,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights_of(alpha):
    return alpha * transmittance(alpha)


def ragged(counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    count = torch.tensor(counts, dtype=torch.long)
    return torch.stack([count.cumsum(0) - count, count], -1), torch.repeat_interleave(
        torch.arange(len(counts)), count
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_weights_and_transmitted_light_sum_to_one(values):
    alpha = torch.tensor(values, dtype=torch.float64)
    through = transmittance(alpha)[-1] * (1 - alpha[-1])
    torch.testing.assert_close((weights_of(alpha).sum() + through).item(), 1.0)


def test_transmittance_starts_at_one_and_never_grows():
    reach = transmittance(torch.rand(5, 30, generator=seeded()))
    assert (reach[:, 0] == 1).all() and (reach.diff(dim=-1) <= 0).all()
    assert transmittance(torch.zeros(4, 0)).shape == (4, 0)


@pytest.mark.parametrize("density", [1e-6, 0.3, 40.0])
def test_splitting_a_stretch_changes_nothing(density):
    """Ten stretches of constant density hide as much as one of ten times the length."""
    whole = alpha_from_density(torch.tensor([density], dtype=torch.float64), torch.tensor([1.0]).double())
    parts = alpha_from_density(torch.full((10,), density).double(), torch.full((10,), 0.1).double())
    torch.testing.assert_close(weights_of(parts).sum(), whole[0])


def test_thin_alpha_is_density_times_length():
    alpha = alpha_from_density(torch.tensor([1e-9]), torch.tensor([0.5]))
    torch.testing.assert_close(alpha, torch.tensor([5e-10]), rtol=1e-5, atol=0)


def test_exponential_law_of_constant_density():
    sigma, n = 2.0, 4000
    t = (torch.arange(n).double() + 0.5) * (20 / n)
    w = weights_of(alpha_from_density(torch.full((n,), sigma).double(), torch.full((n,), 20 / n).double()))
    mean = (w * t).sum()
    assert mean.item() == pytest.approx(1 / sigma, rel=1e-4)
    assert (w * (t - mean).square()).sum().item() == pytest.approx(1 / sigma**2, rel=1e-3)


@pytest.mark.parametrize("counts", [[3, 0, 5, 1], [0, 0], [], [7]])
def test_packed_equals_dense_ray_by_ray(counts):
    packed, ray_index = ragged(counts)
    alpha = torch.rand(len(ray_index), generator=seeded())
    reach = packed_transmittance(alpha, packed, ray_index)
    for ray, (start, count) in enumerate(packed.tolist()):
        own = slice(start, start + count)
        torch.testing.assert_close(reach[own], transmittance(alpha[own]))
        torch.testing.assert_close(packed_sum(alpha, ray_index, len(counts))[ray], alpha[own].sum())
    torch.testing.assert_close(from_dense(to_dense(alpha, packed, ray_index), packed, ray_index), alpha)
    assert packed_slots(packed, ray_index).tolist() == [k for count in counts for k in range(count)]


def test_dense_fill_stands_behind_each_ray():
    packed, ray_index = ragged([1, 3])
    dense = to_dense(torch.tensor([1.0, 2.0, 3.0, 4.0]), packed, ray_index, fill=-1.0)
    assert dense.tolist() == [[1.0, -1.0, -1.0], [2.0, 3.0, 4.0]]


def test_packed_sum_keeps_channels():
    _, ray_index = ragged([2, 0, 1])
    assert packed_sum(torch.ones(3, 4), ray_index, 3).tolist() == [[2.0] * 4, [0.0] * 4, [1.0] * 4]


def test_packed_transmittance_passes_gradcheck():
    packed, ray_index = ragged([3, 0, 4])
    alpha = torch.rand(7, generator=seeded(), dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(lambda a: packed_transmittance(a, packed, ray_index), (alpha,))


def test_gradient_survives_an_opaque_sample():
    alpha = torch.tensor([0.3, 1.0, 0.5], requires_grad=True)
    (g,) = torch.autograd.grad((weights_of(alpha) * torch.tensor([1.0, 2.0, 3.0])).sum(), alpha)
    torch.testing.assert_close(g, torch.tensor([1 - 2.0, 0.7 * (2 - 1.5), 0.0]))


def test_opacity_of_a_gaussian_cloud():
    """A ray through a cloud sigma(t) = exp(-t^2 / 2) hides 1 - exp(-sqrt(2 pi))."""
    t = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    w = weights_of(alpha_from_density(torch.exp(-(t**2) / 2), torch.full_like(t, 16 / 4000)))
    assert w.sum().item() == pytest.approx(1 - math.exp(-math.sqrt(2 * math.pi)), rel=1e-6)


def test_inverse_cdf_puts_a_uniform_number_where_its_share_of_the_weight_ends():
    edges = torch.tensor([[0.0, 1.0, 2.0, 4.0]])
    places = inverse_cdf(edges, torch.tensor([[1.0, 0.0, 3.0]]), torch.tensor([[0.0, 0.125, 0.25, 0.625]]))
    torch.testing.assert_close(places, torch.tensor([[0.0, 0.5, 1.0, 3.0]]), atol=2e-3, rtol=0)


def test_without_weights_places_are_even():
    places = inverse_cdf(torch.linspace(1, 3, 5)[None], torch.zeros(1, 4), torch.tensor([[0.25, 0.5, 0.999]]))
    torch.testing.assert_close(places, torch.tensor([[1.5, 2.0, 2.998]]))


def test_a_coarse_histogram_encloses_its_refinements_and_nothing_else():
    """Splitting intervals, with any shares, costs nothing; weight where the coarse one has none does."""
    coarse_edges, coarse = torch.tensor([[0.0, 1.0, 2.0, 3.0]]), torch.tensor([[0.2, 0.5, 0.0]])
    edges = torch.linspace(0, 3, 13)[None]
    share = torch.rand(3, 4, generator=seeded())
    fine = (coarse[0, :, None] * share / share.sum(1, keepdim=True)).view(1, 12)
    assert interlevel_loss(edges, fine, coarse_edges, coarse) == 0
    assert interlevel_loss(coarse_edges, coarse, coarse_edges, coarse) == 0
    moved = fine.roll(4, -1)
    expected = ((moved - outer_weights(edges, coarse_edges, coarse)).relu() ** 2 / (moved + 1e-7)).sum()
    torch.testing.assert_close(interlevel_loss(edges, moved, coarse_edges, coarse), expected)
    assert expected > 0.05
    across = outer_weights(torch.tensor([[0.5, 1.5]]), coarse_edges, coarse)
    torch.testing.assert_close(across, torch.tensor([[0.7]]))


def test_the_loss_of_a_proposal_trains_the_proposal_alone():
    edges = torch.linspace(0, 1, 5)[None]
    fine, coarse = (torch.rand(1, 4, generator=seeded(s)).requires_grad_() for s in (1, 2))
    (interlevel_loss(edges, fine, edges, coarse) + 0 * fine.sum()).backward()
    assert fine.grad.abs().sum() == 0 and (coarse.grad <= 0).all() and coarse.grad.abs().sum() > 0
