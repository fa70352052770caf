"""Losses of reconstruction: closed forms, units, and what is not to be believed."""

import math

import pytest
import torch

from usd.core.errors import UserError
from usd.core.types import Render, Samples
from usd.losses.curvature import curvature
from usd.losses.eikonal import eikonal, eikonal_error, free_surface
from usd.losses.rays import mask_error, normal_error, normal_trust, trusted_mean


def render(gradient: torch.Tensor | None, laplacian: torch.Tensor | None = None) -> Render:
    n = 4
    index = torch.zeros(n, dtype=torch.long)
    samples = Samples(index, torch.zeros(n), torch.ones(n), torch.zeros(n, 3))
    samples = Samples(
        index, samples.t, samples.weight, samples.direction, gradient=gradient, laplacian=laplacian
    )
    return Render(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, 1), samples=samples)


@pytest.mark.parametrize(("length", "expected"), [(1.0, 0.0), (2.0, 1.0), (0.5, 0.25), (0.0, 1.0)])
def test_eikonal_measures_lengths(length: float, expected: float) -> None:
    unit = torch.nn.functional.normalize(torch.randn(4, 3), dim=-1)
    assert eikonal(render(length * unit)).item() == pytest.approx(expected, abs=1e-5)


def test_eikonal_has_a_finite_gradient_at_zero() -> None:
    g = torch.zeros(4, 3, requires_grad=True)
    eikonal_error(g).backward()
    assert g.grad is not None and g.grad.isfinite().all()


def test_a_sphere_costs_twice_its_curvature() -> None:
    assert curvature(render(None, torch.full((4,), 2 / 0.3))).item() == pytest.approx(2 / 0.3)


def test_losses_say_what_they_lack() -> None:
    for loss in (eikonal, curvature):
        with pytest.raises(UserError, match="neus-volume-renderer"):
            loss(render(None))


def test_no_samples_cost_nothing() -> None:
    assert eikonal_error(torch.zeros(0, 3)).item() == 0 and free_surface(torch.zeros(0), 10.0).item() == 0


def test_free_surface_is_one_on_the_surface_and_falls_off() -> None:
    assert free_surface(torch.zeros(3), 10.0).item() == 1
    assert free_surface(torch.tensor([-0.1, 0.1]), 10.0).item() == pytest.approx(math.exp(-1))


def test_mask_error_is_least_at_the_mask_and_bounded() -> None:
    o = torch.tensor([0.0, 0.3, 1.0])
    assert mask_error(o, o)[[0, 2]].max() < 2e-3 and mask_error(1 - o, o).max() < 7
    assert mask_error(torch.tensor([0.3]), o[1:2]) < mask_error(torch.tensor([0.4]), o[1:2])


def test_normals_that_graze_or_face_away_or_are_unknown_are_not_trusted() -> None:
    truth = torch.tensor([[0.0, 0, 1], [0, 0, -1], [1, 0, 0], [0, 0, 0], [0, 0.6, 0.8]])
    trust = normal_trust(truth, torch.tensor([[0.0, 0, -1]]).expand(5, 3))
    assert trust[0] == 1 and (trust[1:4] == 0).all() and 0 < trust[4] < 1
    assert torch.allclose(normal_error(truth[:2], truth[[0, 0]]), torch.tensor([0.0, 2.0]))


def test_the_worst_rays_are_left_out_and_views_are_weighed() -> None:
    error = torch.tensor([1.0, 2.0, 3.0, 100.0], requires_grad=True)
    assert trusted_mean(error, torch.ones(4)).item() == pytest.approx(26.5)
    left = trusted_mean(error, torch.ones(4), 0.25)
    left.backward()
    assert left.item() == pytest.approx(2.0)
    assert error.grad is not None and error.grad.tolist()[3] == 0
    assert trusted_mean(error, torch.tensor([3.0, 1, 0, 0])).item() == pytest.approx(1.25)


def test_rays_without_weight_do_not_decide_what_is_an_outlier() -> None:
    error, weight = torch.tensor([1.0, 2.0, 50.0, 60.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert trusted_mean(error, weight, 0.4).item() == pytest.approx(1.0)
    assert trusted_mean(error[:0], weight[:0], 0.4).item() == 0
