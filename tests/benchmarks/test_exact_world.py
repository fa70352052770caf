"""Where guidance ends in a world whose scores are exact, and that the criterion decides; the normal world beside it."""

import pytest
import torch

from benchmarks.claims.exact_world import (
    BARS,
    Formula,
    Networks,
    World,
    distilled,
    main,
    mean_gradient,
    posterior_mean,
    sampled,
)
from usd.math.diffusion import add_noise, gaussian_eps
from usd.math.distill import distillation_gradient, time_weight
from usd.math.rectification import error_moments, picture_weight, rectification_gain

WORLD = World.make()
FRONT, LEFT, BACK = 0, 1, 2


def tint(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def networks(seed: int = 0, side: int = LEFT, size: float = 0.05) -> Networks:
    """Networks with random tints; a third of the error of the condition is shared by the own prediction."""
    c, u, b = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size
    return Networks(WORLD, 8, side, c, c * (seed % 3) / 2 + u, b)


def test_every_box_of_the_world_is_another_one_and_the_back_cannot_be_told_from_the_front() -> None:
    objects = WORLD.pictures.flatten(1)
    assert len(torch.unique(objects, dim=0)) == len(objects) == 18
    assert len(WORLD.possible(8, BACK).unique(dim=0)) == 2
    assert len(WORLD.possible(8, LEFT).unique(dim=0)) == 1


def test_posterior_means_are_the_truth_at_little_noise_and_the_mean_of_what_is_possible_at_much() -> None:
    possible = WORLD.possible(8, BACK)
    z, noise = possible[:1], torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    for t, expected in ((10, z), (999, possible.mean(0, keepdim=True))):
        at = torch.tensor([t])
        mean = posterior_mean(add_noise(z, noise, BARS, at), at, possible)
        assert (mean - expected).abs().max() < 0.2
    assert (
        posterior_mean(add_noise(z, noise, BARS, torch.tensor([10])), torch.tensor([10]), possible) - z
    ).abs().max() < 1e-9


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("scale", [1.0, 3.0, 5.0])
def test_sampling_ends_off_the_truth_by_the_guided_error(scale: float, rectified: bool) -> None:
    some = networks(2)
    torch.testing.assert_close(
        sampled(some, scale, rectified), some.limit(scale, 1.0, rectified), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(("scale", "lambda_"), [(1.0, 1.0), (5.0, 1.0), (3.0, 0.5)])
def test_distillation_with_lambda_ends_off_the_truth_by_s_over_lambda_times_what_is_not_shared(
    scale: float, lambda_: float, rectified: bool
) -> None:
    some = networks(1)
    end = distilled(some, Formula(scale, lambda_, rectified), some.truth, 40)
    torch.testing.assert_close(end, some.limit(scale, lambda_, rectified), atol=1e-4, rtol=0)


@pytest.mark.parametrize("rectified", [False, True])
def test_without_the_term_that_removes_noise_a_picture_drifts_on_at_a_constant_rate(rectified: bool) -> None:
    some = networks(1, size=0.01)
    off = some.cond_tint - (some.base_tint if rectified else some.own_tint)
    formula = Formula(4.0, 0.0, rectified)
    for steps in (1, 5):
        moved = distilled(some, formula, some.truth, steps, rate=0.1) - some.truth
        torch.testing.assert_close(
            moved, (steps * 0.1 * 4 * off).view(1, 3, 1, 1).expand_as(moved), atol=1e-6, rtol=0
        )


def test_csd_of_a_network_that_shares_its_error_stays_where_it_is_however_wrong_that_is() -> None:
    shared = Networks(WORLD, 8, LEFT, tint(0.3, -0.1, 0.0), tint(0.3, -0.1, 0.0), tint(0.0, 0.0, 0.0))
    z = shared.truth + 0.05 * torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    assert mean_gradient(z, shared, Formula(5.0, 0.0, rectified=False)).abs().max() < 1e-6
    assert mean_gradient(z, shared, Formula(5.0, 0.0, rectified=True)).abs().max() > 1


def test_an_exact_base_loses_to_a_biased_own_prediction_that_shares_the_error_of_the_condition() -> None:
    bias = tint(0.1, -0.05, -0.05)
    some = Networks(WORLD, 8, LEFT, bias, bias, tint(0.0, 0.0, 0.0))
    size = float(bias.square().mean().sqrt())
    for scale in (3.0, 5.0):
        off = [float((sampled(some, scale, r) - some.truth).square().mean().sqrt()) for r in (False, True)]
        assert off == pytest.approx([size, scale * size], rel=1e-4)


def test_the_criterion_says_of_every_triple_of_networks_which_way_samples_better() -> None:
    t, scale, decided = torch.tensor([60]), 3.0, []
    for seed in range(12):
        some = networks(seed)
        noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).double()
        xt = add_noise(some.truth, noise, BARS, t)
        predictions = [eps(xt, t) for eps in (some.cond(), some.uncond(False), some.uncond(True))]
        moments = error_moments(*(p.flatten() for p in predictions), noise.flatten())
        predicted = float(rectification_gain(moments, scale) * picture_weight(BARS, t)[0])
        plain, rectified = ((sampled(some, scale, r) - some.truth).square().mean() for r in (False, True))
        assert predicted == pytest.approx(float(plain - rectified), abs=1e-6)
        decided.append(predicted > 0)
    assert 2 < sum(decided) < 10  # both signs


def test_a_bias_so_large_that_another_picture_becomes_likelier_ends_the_theory() -> None:
    some = Networks(WORLD, 8, LEFT, tint(0.04, -0.02, -0.02), tint(-0.12, 0.06, 0.06), tint(0.0, 0.0, 0.0))
    near, *far = (
        float((sampled(some, s, False) - some.limit(s, 1.0, False)).abs().max()) for s in (3.0, 7.0, 10.0)
    )
    assert near < 1e-6 and max(far) > 0.5


@pytest.mark.parametrize("lambda_", [0.0, 1.0])
def test_in_a_normal_world_distillation_ends_at_a_mean_weighted_by_precision(lambda_: float) -> None:
    """Gradients are linear there, so that the end is solved for; CSD's and USD's do not depend on the scale."""
    t = torch.tensor([200, 500, 800])
    mean, spread, prior, prior_spread = 1.0, 0.2, 0.4, 1.0
    weight = time_weight("sds", BARS, t)

    def grad(z: float, scale: float) -> float:
        x = add_noise(torch.full((3, 1, 1, 1), z).double(), torch.zeros(3, 1, 1, 1).double(), BARS, t)
        cond = gaussian_eps(x, torch.full_like(x, mean), torch.full((3,), spread).double(), BARS, t)
        ref = gaussian_eps(x, torch.full_like(x, prior), torch.full((3,), prior_spread).double(), BARS, t)
        return float(distillation_gradient(weight, torch.zeros_like(x), cond, ref, scale, lambda_).mean())

    def end(scale: float) -> float:
        return grad(0.0, scale) / (grad(0.0, scale) - grad(1.0, scale))

    kc, ku = (
        float((weight.flatten() * ((1 - BARS[t]) * BARS[t]).sqrt() / (BARS[t] * s**2 + 1 - BARS[t])).mean())
        for s in (spread, prior_spread)
    )
    for scale in (1.0, 3.0, 7.0):
        expected = (scale * kc * mean - (scale - lambda_) * ku * prior) / (
            scale * kc - (scale - lambda_) * ku
        )
        assert end(scale) == pytest.approx(expected, rel=1e-6)
    if lambda_ == 0:
        assert end(2.0) == pytest.approx(end(9.0)) and end(2.0) > mean  # away from the prior
    else:
        assert end(1.0) == pytest.approx(mean)


def test_the_picture_has_a_row_a_story(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--out", str(tmp_path / "world.png")])
    assert (tmp_path / "world.png").stat().st_size > 1000
    assert "rectified, s = 5: 0.566 (0.566)" in capsys.readouterr().out
