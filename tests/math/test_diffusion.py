"""Theorems of diffusion: inverses, limits, known schedules, exact samplers."""

import pytest
import torch

from usd.math import diffusion as d

BARS = d.scaled_linear_alphas_cumprod()


def _batch(seed: int = 0, batch: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, batch, 3, 5, 4, generator=rng)
    return x0, noise, torch.randint(0, 1000, (batch,), generator=rng)


def test_schedule_is_stable_diffusions() -> None:
    """First and last alphabar as published (0.99915, 0.00466), and all of diffusers' own scheduler."""
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    torch.testing.assert_close(BARS, theirs, rtol=2e-5, atol=1e-7)
    assert BARS[0] == pytest.approx(0.99915, abs=1e-6)
    assert BARS[-1] == pytest.approx(0.00466, abs=1e-5)


def test_linear_schedule_is_ddpms() -> None:
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(beta_schedule="linear").alphas_cumprod
    torch.testing.assert_close(d.linear_alphas_cumprod(), theirs, rtol=2e-5, atol=1e-7)


def test_alpha_and_sigma_lie_on_the_unit_circle() -> None:
    alpha, sigma = d.alpha_sigma(BARS, torch.arange(1000))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))


@pytest.mark.parametrize("seed", range(3))
def test_noising_is_inverted_by_x0_and_by_eps(seed: int) -> None:
    x0, noise, t = _batch(seed)
    xt = d.add_noise(x0, noise, BARS, t)
    torch.testing.assert_close(d.x0_from_eps(xt, noise, BARS, t), x0, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(d.eps_from_x0(xt, x0, BARS, t), noise, atol=1e-3, rtol=1e-3)


def test_v_prediction_and_eps_are_inverse() -> None:
    x0, noise, t = _batch()
    xt = d.add_noise(x0, noise, BARS, t)
    alpha, sigma = d.alpha_sigma(BARS, t)
    torch.testing.assert_close(
        d.eps_from_v(xt, alpha * noise - sigma * x0, BARS, t), noise, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        d.eps_from_v(xt, d.v_from_eps(xt, noise, BARS, t), BARS, t), noise, atol=1e-4, rtol=1e-4
    )


def test_gaussian_noise_prediction_is_the_posterior_mean() -> None:
    """Regression of noise on x_t over a million samples has the slope and intercept of the formula."""
    rng = torch.Generator().manual_seed(0)
    mean, std, t = 0.7, 0.3, torch.tensor([400])
    x0 = mean + std * torch.randn(1, 1, 1000, 1000, generator=rng)
    noise = torch.randn(x0.shape, generator=rng)
    xt = d.add_noise(x0, noise, BARS, t)
    slope = ((xt - xt.mean()) * noise).mean() / xt.var()
    points = torch.tensor([-1.0, 2.0]).view(1, 1, 1, 2)
    said = d.gaussian_eps(points, torch.full_like(points, mean), torch.tensor([std]), BARS, t).flatten()
    assert float((said[1] - said[0]) / 3) == pytest.approx(float(slope), rel=5e-3)
    at_mean = d.gaussian_eps(
        xt.mean().view(1, 1, 1, 1), torch.full((1, 1, 1, 1), mean), torch.tensor([std]), BARS, t
    )
    assert float(at_mean) == pytest.approx(0.0, abs=5e-3)


def test_guidance_scale_interpolates() -> None:
    cond, uncond, _ = _batch()
    torch.testing.assert_close(d.guided_eps(cond, uncond, 0.0), uncond)
    torch.testing.assert_close(d.guided_eps(cond, uncond, 1.0), cond)
    torch.testing.assert_close(d.guided_eps(cond, cond, 7.5), cond)
    torch.testing.assert_close(d.guided_eps(cond, uncond, 3.0) - uncond, 3 * (cond - uncond))


def test_guided_function_calls_only_what_the_scale_needs() -> None:
    calls: list[str] = []

    def say(name: str) -> d.EpsFn:
        return lambda xt, t: (calls.append(name), xt)[1]

    for scale, expected in ((0.0, ["u"]), (1.0, ["c"]), (2.0, ["c", "u"])):
        calls.clear()
        d.guided_fn(say("c"), say("u"), scale)(torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.long))
        assert calls == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.02, 0.98, (20, 980)), (0.0, 1.0, (0, 999)), (0.5, 0.5, (500, 500))]
)
def test_timestep_range(low: float, high: float, expected: tuple[int, int]) -> None:
    assert d.timestep_range(low, high) == expected


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.5), (0.6, 0.5), (0.1, 1.2)])
def test_timestep_range_outside_the_schedule_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="min_step_percent <= max_step_percent"):
        d.timestep_range(low, high)


def test_timesteps_fill_the_range_and_replay() -> None:
    draw = [d.sample_timesteps(5000, 20, 25, torch.Generator().manual_seed(3), "cpu") for _ in range(2)]
    assert torch.equal(*draw)
    assert set(draw[0].tolist()) == set(range(20, 26))


def test_ddim_times_fall_from_the_start() -> None:
    assert d.ddim_timesteps(4) == [999, 749, 499, 249]
    assert d.ddim_timesteps(1, start=10) == [10]
    times = d.ddim_timesteps(50)
    assert len(times) == len(set(times)) == 50 and times == sorted(times, reverse=True) and times[-1] >= 0
    for wrong in (0, 1001):
        with pytest.raises(ValueError, match="sampling steps"):
            d.ddim_timesteps(wrong)


def test_ddim_step_with_the_true_noise_lands_on_the_same_noising() -> None:
    x0, noise, _ = _batch()
    t, after = (torch.full((4,), v) for v in (700, 300))
    moved = d.ddim_step(d.add_noise(x0, noise, BARS, t), noise, BARS[700], BARS[300])
    torch.testing.assert_close(moved, d.add_noise(x0, noise, BARS, after), atol=1e-5, rtol=1e-4)


def _exact(mean: float, std: float) -> d.EpsFn:
    return lambda xt, t: d.gaussian_eps(xt, torch.full_like(xt, mean), torch.full((len(xt),), std), BARS, t)


def test_ddim_samples_the_distribution_it_was_told() -> None:
    noise = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = d.ddim_sample(_exact(0.5, 0.2), noise, d.ddim_timesteps(200), BARS)
    assert float(x.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(x.std()) == pytest.approx(0.2, abs=0.02)


def test_ancestral_sampling_has_the_same_distribution_and_replays() -> None:
    noise = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    twice = [
        d.ddim_sample(
            _exact(0.5, 0.2), noise, d.ddim_timesteps(200), BARS, 1.0, torch.Generator().manual_seed(1)
        )
        for _ in range(2)
    ]
    assert torch.equal(*twice)
    assert float(twice[0].mean()) == pytest.approx(0.5, abs=0.03)
    assert float(twice[0].std()) == pytest.approx(0.2, abs=0.03)


def test_ddim_inversion_is_undone_by_sampling() -> None:
    x0, _, _ = _batch()
    times = d.ddim_timesteps(250)
    noise = d.ddim_invert(_exact(0.1, 0.8), x0, times, BARS)
    torch.testing.assert_close(d.ddim_sample(_exact(0.1, 0.8), noise, times, BARS), x0, atol=0.03, rtol=0.03)


def test_ddim_inversion_is_exact_when_the_noise_does_not_depend_on_x() -> None:
    x0, noise, _ = _batch()
    times = d.ddim_timesteps(10)
    top = d.ddim_invert(lambda xt, t: noise, x0, times, BARS)
    torch.testing.assert_close(top, d.add_noise(x0, noise, BARS, torch.full((4,), 999)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(d.ddim_sample(lambda xt, t: noise, top, times, BARS), x0, atol=1e-4, rtol=1e-4)
