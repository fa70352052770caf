"""Theorems of score distillation, with exact noise predictions."""

import pytest
import torch

from usd.math import diffusion as d
from usd.math import distill

BARS = d.scaled_linear_alphas_cumprod()


def _pictures(count: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 4, 4, generator=rng) for _ in range(count)]


def test_formula_is_the_general_form() -> None:
    noise, cond, ref = _pictures(3)
    weight = torch.tensor([0.3, 0.9]).view(2, 1, 1, 1)
    grad = distill.distillation_gradient(weight, noise, cond, ref, 7.5, 0.4)
    torch.testing.assert_close(
        grad, weight * (7.5 * (cond - ref) + 0.4 * (ref - noise)), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("scale", "lambda_", "needed"),
    [
        (7.5, 0.0, {"cond", "ref"}),
        (7.5, 1.0, {"cond", "ref"}),
        (1.0, 1.0, {"cond"}),
        (0.0, 1.0, {"ref"}),
        (0.0, 0.0, set()),
    ],
)
def test_predictions_without_a_factor_are_not_needed(scale: float, lambda_: float, needed: set[str]) -> None:
    noise, cond, ref = _pictures(3)
    one = torch.ones(2, 1, 1, 1)
    assert distill.predictions_needed(scale, lambda_) == needed
    given = {"cond": cond if "cond" in needed else None, "ref": ref if "ref" in needed else None}
    grad = distill.distillation_gradient(one, noise, given["cond"], given["ref"], scale, lambda_)
    torch.testing.assert_close(grad, scale * (cond - ref) + lambda_ * (ref - noise), atol=1e-5, rtol=1e-5)


def test_a_needed_prediction_that_is_missing_is_refused() -> None:
    noise, cond = _pictures(2)
    with pytest.raises(ValueError, match="factor"):
        distill.distillation_gradient(torch.ones(2, 1, 1, 1), noise, cond, None, 7.5, 0.0)


def test_weights() -> None:
    t = torch.tensor([10, 500])
    abar = BARS[t].view(2, 1, 1, 1)
    torch.testing.assert_close(distill.time_weight("sds", BARS, t), 1 - abar)
    torch.testing.assert_close(distill.time_weight("uniform", BARS, t), torch.ones_like(abar))
    torch.testing.assert_close(distill.time_weight("fantasia3d", BARS, t), abar.sqrt() * (1 - abar))


def test_surrogate_loss_has_the_gradient_over_the_batch_as_derivative() -> None:
    z, grad = _pictures(2)
    z.requires_grad_()
    loss = distill.surrogate_loss(z, grad)
    loss.backward()
    torch.testing.assert_close(z.grad, grad / 2, atol=1e-6, rtol=1e-5)
    assert float(loss.detach()) == pytest.approx(float(0.5 * grad.square().sum() / 2), rel=1e-4)


def test_clipping_limits_every_entry_and_keeps_small_ones() -> None:
    grad = torch.tensor([-3.0, -0.5, 0.2, 9.0]).view(1, 1, 2, 2)
    assert distill.clip_gradient(grad, 1.0).flatten().tolist() == pytest.approx([-1.0, -0.5, 0.2, 1.0])


def _settled(
    lambda_: float, scale: float, prior_std: float = 1.0, mean: float = 0.4, std: float = 0.2
) -> float:
    """Where gradient descent on the formula settles for x0 ~ N(mean, std^2) against N(0, prior_std^2)."""
    rng = torch.Generator().manual_seed(0)
    z = torch.zeros(2048, 1, 2, 2)
    for step in range(500):
        t = d.sample_timesteps(len(z), 20, 980, rng, "cpu")
        noise = d.normal_like(z, rng)
        xt = d.add_noise(z, noise, BARS, t)
        cond = d.gaussian_eps(xt, torch.full_like(z, mean), torch.full((len(z),), std), BARS, t)
        ref = d.gaussian_eps(xt, torch.zeros_like(z), torch.full((len(z),), prior_std), BARS, t)
        weight = distill.time_weight("sds", BARS, t)
        grad = distill.distillation_gradient(weight, noise, cond, ref, scale, lambda_).mean(0, keepdim=True)
        z = z - (0.5 if step < 300 else 0.1) / scale * grad
    return float(z.mean())


def _expected_ratio(lambda_: float, scale: float, std: float = 0.2) -> float:
    """The same in closed form, over the mean: the z at which the gradient vanishes on average, prior N(0, 1)."""
    bars = BARS[20:981].double()
    alpha, variance = bars.sqrt(), 1 - bars
    pull = (variance * variance.sqrt() * alpha / (bars * std**2 + variance)).sum()
    push = (variance * variance.sqrt() * alpha).sum()
    return float(scale * pull / (scale * pull + (lambda_ - scale) * push))


def test_sds_without_exaggeration_settles_on_the_mean() -> None:
    assert _settled(lambda_=1.0, scale=1.0) == pytest.approx(0.4, abs=0.01)


def test_difference_of_scores_settles_further_out() -> None:
    """lambda = 0 over-saturates: about 2.6 times the mean for N(mu, 0.2^2) against N(0, 1)."""
    assert _expected_ratio(0.0, 7.5) == pytest.approx(2.6, abs=0.1)
    assert _settled(0.0, 7.5) / 0.4 == pytest.approx(_expected_ratio(0.0, 7.5), rel=0.03)


def test_lambda_moves_between_the_two() -> None:
    ratios = [_expected_ratio(lambda_, 7.5) for lambda_ in (0.0, 0.2, 0.5, 1.0)]
    assert ratios == sorted(ratios, reverse=True)
    assert _settled(1.0, 7.5) / 0.4 == pytest.approx(ratios[-1], rel=0.03)


def _dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum(dim=(1, 2, 3))


def test_negative_prompts_never_undo_the_positive_one() -> None:
    """Along (cond - ref) nothing changes, whatever the negatives say: even when one of them says the same."""
    cond, ref, other = _pictures(3)
    weights = torch.tensor([[-2.0, -0.5], [-1.5, -9.0]])
    said = distill.perp_neg(cond, ref, torch.stack([other, cond]), weights)
    main = cond - ref
    torch.testing.assert_close(_dots(said - ref, main), _dots(main, main), rtol=1e-4, atol=1e-4)
    only = distill.perp_neg(cond, ref, cond[None], weights[:1])
    torch.testing.assert_close(only, cond, atol=1e-5, rtol=1e-5)


def test_a_negative_prompt_pushes_away_in_its_own_direction() -> None:
    cond, ref, other = _pictures(3)
    weights = torch.tensor([[-1.0, -2.0]])
    pushed = distill.perp_neg(cond, ref, other[None], weights) - cond
    assert (_dots(pushed, other - ref) < 0).all()
    twice = distill.perp_neg(cond, ref, other[None], 2 * weights) - cond
    torch.testing.assert_close(twice, 2 * pushed, atol=1e-4, rtol=1e-4)
    assert torch.equal(distill.perp_neg(cond, ref, other[None], 0 * weights), cond)


def test_a_prompt_that_says_nothing_leaves_no_hole() -> None:
    """cond = ref has no direction to be perpendicular to: everything stays finite."""
    ref, other = _pictures(2)
    assert torch.isfinite(distill.perp_neg(ref, ref, other[None], -torch.ones(1, 2))).all()
