"""The criterion of rectification: its forms against vectors that are written down, and its closed forms as minima."""

import pytest
import torch

from usd.math.diffusion import scaled_linear_alphas_cumprod
from usd.math.distill import distillation_gradient
from usd.math.rectification import (
    best_own_share,
    crossing_scale,
    error_moments,
    guided_error,
    picture_weight,
    rectification_gain,
)


def errors(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Errors (c, own, base) at 5 noise levels, and the noise."""
    drawn = torch.randn(4, 5, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return tuple(drawn)


def moments(seed: int = 0) -> torch.Tensor:
    c, u, b, noise = errors(seed)
    return error_moments(noise + c, noise + u, noise + b, noise)


@pytest.mark.parametrize("share", [1.0, 0.0, 0.3])
def test_the_guided_error_is_that_of_the_guided_prediction(share: float) -> None:
    c, u, b, noise = errors()
    mixture = noise + share * u + (1 - share) * b
    guided = mixture + 3.0 * (noise + c - mixture)
    expected = (guided - noise).square().mean(-1)
    torch.testing.assert_close(guided_error(moments(), 3.0, share), expected)


def test_with_lambda_it_is_the_error_of_the_distillation_formula() -> None:
    c, u, b, noise = errors()
    ref = noise + 0.3 * u + 0.7 * b
    weight = torch.ones(5, 1, 1, 1)
    shape = (5, 1, 1, 40)
    found = distillation_gradient(
        weight, noise.view(shape), (noise + c).view(shape), ref.view(shape), scale=4.0, lambda_=0.25
    )
    expected = guided_error(moments(), 4.0, 0.3, lambda_=0.25)
    torch.testing.assert_close(found.square().flatten(1).mean(1), expected)


def test_without_lambda_the_scale_decides_nothing() -> None:
    assert crossing_scale(moments()[0], 0.0) is None
    small, large = (rectification_gain(moments(), s, 0.0) for s in (1.0, 9.0))
    torch.testing.assert_close(large, 81 * small)
    torch.testing.assert_close(best_own_share(moments(), 2.0, 0.0), best_own_share(moments(), 7.0, 0.0))


def test_a_larger_own_error_is_better_where_it_is_shared() -> None:
    c = torch.tensor([1.0, 0.0])
    zero = torch.zeros(2)
    shared = error_moments(c, 1.2 * c, 0.1 * c, zero)
    opposite = error_moments(c, -1.2 * c, 0.1 * c, zero)
    assert rectification_gain(shared, 3.0) < 0 < rectification_gain(opposite, 3.0)


def test_the_gain_changes_its_sign_once_and_where_the_closed_form_says() -> None:
    found = [(m, crossing_scale(m)) for m in moments()]
    assert {scale is None for _, scale in found} == {True, False}
    for some, scale in found:
        signs = [bool(rectification_gain(some, 1 + 0.01 * i) > 0) for i in range(1, 2000)]
        changes = [1 + 0.01 * i for i in range(1, 1999) if signs[i] != signs[i - 1]]
        assert len(changes) == (1 if scale is not None and scale < 20 else 0)
        if changes:
            assert changes[0] == pytest.approx(scale, abs=0.02)


@pytest.mark.parametrize("scale", [0.5, 1.5, 3.0, 7.5])
def test_no_other_share_errs_less_than_the_best(scale: float) -> None:
    best = best_own_share(moments(), scale, limit=False)
    least = guided_error(moments(), scale, best)
    for other in (best + 0.05, best - 0.05, torch.zeros(5), torch.ones(5)):
        assert (guided_error(moments(), scale, other.double()) >= least).all()


@pytest.mark.parametrize("scale", [1.5, 5.0])
def test_the_limited_share_is_the_best_between_the_two_ends(scale: float) -> None:
    c, u, b, noise = errors()
    some = torch.cat([moments(), error_moments(noise + c, noise + c + 0.1 * u, noise + b, noise)])
    shares = torch.linspace(0, 1, 101, dtype=torch.float64)
    table = torch.stack([guided_error(some, scale, float(a)) for a in shares])
    found = guided_error(some, scale, best_own_share(some, scale))
    torch.testing.assert_close(found, table.amin(0), atol=2e-2, rtol=1e-2)
    assert (found <= table.amin(0) + 1e-12).all()
    assert ((best_own_share(some, scale) == 0) | (best_own_share(some, scale) == 1)).any()


def test_where_nothing_decides_the_model_keeps_its_own_prediction() -> None:
    c, u, _, noise = errors()
    same = error_moments(noise + c, noise + u, noise + u, noise)
    assert (best_own_share(same, 3.0) == 1).all()
    assert (best_own_share(moments(), 1.0) == 1).all()
    assert best_own_share(torch.zeros(3, 3, dtype=torch.float64), 3.0) == 1


def test_the_weight_turns_errors_of_noise_into_errors_of_clean_pictures() -> None:
    bars = scaled_linear_alphas_cumprod()
    times = torch.tensor([20, 500, 980])
    torch.testing.assert_close(picture_weight(bars, times), (1 - bars[times]) / bars[times])
