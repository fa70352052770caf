"""Opacity from distances: what is left of the light is Phi(f), whatever the angle and the step."""

import pytest
import torch

from usd.math.neus import crossing, laplace_density, neus_alpha, ray_slope, unseen_opacity
from usd.math.volume import transmittance

ONE = torch.tensor(1.0)


def plane(cosine: float, step: float, sharpness: float) -> tuple[torch.Tensor, ...]:
    """Distances along a ray that comes at a plane, and the opacities of its steps."""
    t = torch.arange(0.5 * step, 4.0 / abs(cosine), step, dtype=torch.float64)
    distance = 2.0 + cosine * t
    slope = ray_slope(torch.full_like(t, cosine), ONE)
    return distance, neus_alpha(distance, slope, torch.full_like(t, step), torch.tensor(sharpness).double())


@pytest.mark.parametrize("cosine", [-1.0, -0.5, -0.1])
@pytest.mark.parametrize("step", [0.2, 0.01])
def test_the_light_left_is_phi(cosine: float, step: float) -> None:
    distance, alpha = plane(cosine, step, 8.0)
    left = transmittance(alpha)
    begin = distance - 0.5 * step * cosine
    assert torch.allclose(left, torch.sigmoid(8.0 * begin) / torch.sigmoid(8.0 * begin[0]), atol=1e-9)


def test_weights_peak_at_the_surface_at_every_angle() -> None:
    for cosine in (-1.0, -0.3, -0.1):
        distance, alpha = plane(cosine, 0.005, 20.0)
        weights = alpha * transmittance(alpha)
        mean = (weights * distance).sum() / weights.sum()
        assert abs(float(mean)) < 0.002 and abs(float(distance[weights.argmax()])) < 0.01


def test_a_surface_seen_from_behind_is_not_there_and_softly_at_first() -> None:
    cosine = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    assert torch.equal(ray_slope(cosine, ONE), torch.tensor([-1.0, -0.5, 0.0, 0.0, 0.0]))
    assert torch.equal(ray_slope(cosine, 0 * ONE), torch.tensor([-1.0, -0.75, -0.5, -0.25, 0.0]))
    assert torch.equal(neus_alpha(torch.zeros(1), torch.zeros(1), torch.ones(1), ONE), torch.zeros(1))


def test_values_and_gradients_stay_finite_far_from_the_surface() -> None:
    f = torch.tensor([-50.0, -1.0, 0.0, 1.0, 50.0], requires_grad=True)
    s = torch.tensor(1e4, requires_grad=True)
    alpha = neus_alpha(f, -torch.ones(5), torch.full((5,), 0.01), s)
    alpha.sum().backward()
    assert alpha.isfinite().all() and (alpha >= 0).all() and (alpha <= 1).all()
    assert f.grad is not None and f.grad.isfinite().all() and s.grad is not None and s.grad.isfinite()
    assert alpha[0] == 1 and alpha[-1] == 0


@pytest.mark.parametrize("cosine", [-1.0, -0.1])
def test_visibility_from_distances_alone_is_right_for_rays_that_graze(cosine: float) -> None:
    distance, alpha = plane(cosine, 0.01, 20.0)
    guessed = unseen_opacity(distance, torch.zeros(len(distance), dtype=torch.long), torch.tensor(20.0))
    assert (transmittance(guessed) - transmittance(alpha)).abs().max() < 0.06


def test_visibility_knows_where_rays_end() -> None:
    distance = torch.tensor([1.0, -1.0, 1.0, 0.5])
    opacity = unseen_opacity(distance, torch.tensor([0, 0, 1, 1]), torch.tensor(10.0))
    assert opacity[0] == 0 and opacity[1] > 0.99 and opacity[2] == 0 and 0 < opacity[3] < 0.05
    assert len(unseen_opacity(distance[:0], torch.zeros(0, dtype=torch.long), ONE)) == 0


def test_what_a_straight_ray_crosses_adds_up_to_the_whole_layer() -> None:
    f = torch.arange(-100, 101) * 0.01
    share = crossing(f, 0.01, torch.tensor(40.0))
    assert share.sum().item() == pytest.approx(1.0, abs=1e-4)
    assert torch.allclose(share, share.flip(0), atol=1e-6) and share.argmax() == 100


def test_volsdf_density_is_the_sharpness_inside_and_nothing_outside() -> None:
    density = laplace_density(torch.tensor([-5.0, 0.0, 5.0]), torch.tensor(30.0))
    assert torch.allclose(density, torch.tensor([30.0, 15.0, 0.0]), atol=1e-4)


@pytest.mark.parametrize("phase", torch.linspace(0, 1, 11).tolist())
@pytest.mark.parametrize("speed", [1.0, 1.6, 2.5])
def test_what_is_taken_for_hidden_leaves_no_hole(speed: float, phase: float) -> None:
    """A learned distance may fall faster than one walks: then only the step behind the surface meets it."""
    step, sharpness = 0.01, torch.tensor(4000.0)
    distance = speed * (0.2 - step * (torch.arange(60) + phase))
    slope, length = torch.full_like(distance, -1.0), torch.full_like(distance, step)
    alpha = neus_alpha(distance, slope, length, sharpness)
    reached = transmittance(unseen_opacity(distance, torch.zeros(60, dtype=torch.long), sharpness)) > 1e-3
    assert reached.sum() < 25, "and what lies deeper is left out"
    assert transmittance(alpha[reached])[-1] * (1 - alpha[reached][-1]) < 1e-3
