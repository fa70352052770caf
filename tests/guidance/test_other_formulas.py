"""NFSD, DDS, SDI, ISM and VSD against closed forms, with exact predictions; and on real networks of tiny size."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.conftest import TinyModels
from usd.core.config import UserError, spec
from usd.core.registry import build
from usd.core.types import Render
from usd.denoiser import StudentStep, open_student, open_view_denoiser
from usd.guidance import Guidance, NoisyLatents
from usd.guidance.scores import Scores
from usd.math import diffusion as d
from usd.math.camera import look_at, orbit_cameras_deg, orthographic_cameras
from usd.math.distill import inverted

REFERENCE = orbit_cameras_deg(15.0, 90.0, 1.5, 40.0, 16)
VIEWS = orbit_cameras_deg([10.0, 40.0], [0.0, 200.0], 1.5, 40.0, 16)
ANALYTIC = dict.fromkeys(("pretrained_model_name_or_path", "zero123_model_name_or_path"), "gaussian")
NAMES = ["csd-guidance", "nfsd-guidance", "dds-guidance", "sdi-guidance", "ism-guidance", "vsd-guidance"]
PICTURE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
SPREAD = 0.2  # of the analytic denoiser around a condition; without one it expects N(0, 1)
BARS = d.scaled_linear_alphas_cumprod()


def exact(name: str, **options: object) -> Any:
    guidance = build(spec("guidance", name, {**ANALYTIC, **options}))
    guidance.set_reference(PICTURE, REFERENCE)
    return guidance


def on_networks(tiny: TinyModels, name: str, **options: object) -> Any:
    models = {
        "pretrained_model_name_or_path": str(tiny.sd),
        "zero123_model_name_or_path": str(tiny.zero123_a),
    }
    guidance = build(spec("guidance", name, {**models, **options}))
    guidance.set_reference(PICTURE, REFERENCE)
    return guidance


def noised(guidance: Guidance, seed: int = 0, picture: torch.Tensor | None = None) -> NoisyLatents:
    shown = 1 - PICTURE if picture is None else picture
    z = guidance.model.encode(shown.expand(2, -1, -1, -1))
    return guidance.noisy_latents(z, 0, torch.Generator().manual_seed(seed))


def gradient(guidance: Guidance, x: NoisyLatents) -> torch.Tensor:
    """The formula of a guidance for ``VIEWS``."""
    return guidance.gradient(x, guidance.source.at(VIEWS, None))


def parts(now: NoisyLatents) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """alpha, sigma, and alpha^2 s^2 + sigma^2."""
    alpha, sigma = d.alpha_sigma(BARS, now.t)
    return alpha, sigma, (alpha * SPREAD) ** 2 + sigma**2


def mean() -> torch.Tensor:
    return PICTURE * 2 - 1


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


# ---------------------------------------------------------------------------------------------------------- inversion


def test_inversion_follows_the_path_of_exact_predictions() -> None:
    """x_t = alpha mu + sqrt(alpha^2 s^2 + sigma^2) (z - mu) / s, every picture at its own t."""
    z, t = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([100, 500, 900])
    mu, std = torch.full_like(z, 0.3), torch.full((3,), 0.5)
    found = inverted(lambda x, at: d.gaussian_eps(x, mu, std, BARS, at), z, t, 150, BARS)
    alpha, sigma = d.alpha_sigma(BARS, t)
    scale = ((alpha * 0.5) ** 2 + sigma**2).sqrt() / 0.5
    close(found, alpha * mu + scale * (z - mu), 0.02)


def test_inversion_to_a_time_is_undone_by_sampling_from_it() -> None:
    z, t = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([400])

    def eps(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return d.gaussian_eps(x, torch.full_like(x, 0.3), torch.full((1,), 0.5), BARS, at)

    there = inverted(eps, z, t, 200, BARS)
    close(d.ddim_sample(eps, there, d.ddim_timesteps(200, 400), BARS), z, 0.02)


# ----------------------------------------------------------------------------------------------------------- formulas


def test_csd_is_usd_without_its_second_model() -> None:
    now = noised(exact("csd-guidance"))
    theirs = gradient(exact("usd-guidance", unconditional="own"), now)
    assert torch.equal(gradient(exact("csd-guidance"), now), theirs)
    assert exact("csd-guidance").source.prior is None


def test_noise_free_distillation_is_csd_plus_what_does_not_belong() -> None:
    """Above the threshold the same prediction for bad pictures cancels; below it the unconditional one is added."""
    above, below = (exact("nfsd-guidance", negative_prompt="", threshold=t) for t in (0, 1000))
    now = noised(above)
    plain = gradient(exact("csd-guidance"), now)
    close(gradient(above, now), plain)
    alpha, sigma, _ = parts(now)
    close(gradient(below, now), plain + now.weight * sigma * now.xt)  # N(0, 1): eps = sigma x_t
    pushed = gradient(exact("nfsd-guidance", negative_prompt="bad", threshold=0), now)
    bad = sigma * (now.xt - alpha * 0.2) / parts(now)[2]  # any sentence means N(0.2, s^2)
    close(pushed, plain + now.weight * (sigma * now.xt - bad))


def test_delta_denoising_knows_no_noise_and_leaves_the_matching_picture_alone() -> None:
    """With s = 1: w sigma alpha (z - y) / (alpha^2 s^2 + sigma^2), whatever noise was drawn."""
    guidance = exact("dds-guidance", guidance_scale=1.0)
    now = noised(guidance)
    alpha, sigma, variance = parts(now)
    close(gradient(guidance, now), now.weight * sigma * alpha * (now.z - mean()) / variance)
    other = replace(now, noise=now.noise + 3, xt=now.xt + 3 * sigma)
    close(gradient(guidance, other), gradient(guidance, now), 1e-3)
    same = noised(guidance, picture=PICTURE)
    close(gradient(exact("dds-guidance", guidance_scale=7.5), same), torch.zeros_like(same.z))


def test_inverted_noise_knows_no_noise_and_vanishes_on_the_mean() -> None:
    """SDI with both scales 1, in the limit of many steps: the exact path puts x_t where its noise is known."""
    guidance = exact("sdi-guidance", guidance_scale=1.0, inversion_scale=1.0, inversion_steps=50)
    now = noised(guidance)
    alpha, sigma, variance = parts(now)
    away, root = now.z - mean(), variance.sqrt()
    expected = away * (sigma / (SPREAD * root) - (root / SPREAD - alpha) / sigma)
    close(gradient(guidance, now), now.weight * expected, 0.08)
    other = replace(now, xt=now.xt + 1, noise=now.noise - 1)
    assert torch.equal(gradient(guidance, other), gradient(guidance, now))
    on_mean = noised(guidance, picture=PICTURE)
    assert float(gradient(guidance, on_mean).abs().max()) < 1e-4


def test_interval_matching_compares_two_points_of_one_path() -> None:
    """The path of N(0, 1) stands still, x_s = z; so x_t = (alpha_t alpha_s + sigma_t sigma_s) z is known."""
    guidance = exact("ism-guidance", guidance_scale=1.0, interval=80, inversion_steps=60)
    now = noised(guidance)
    alpha, sigma, variance = parts(now)
    alpha_s, sigma_s = d.alpha_sigma(BARS, (now.t - 80).clamp_min(0))
    xt = (alpha * alpha_s + sigma * sigma_s) * now.z
    expected = sigma * (xt - alpha * mean()) / variance - sigma_s * now.z
    close(gradient(guidance, now), now.weight * expected, 0.04)
    other = replace(now, xt=now.xt + 1, noise=now.noise - 1)
    assert torch.equal(gradient(guidance, other), gradient(guidance, now))


def descend(guidance: Any, steps: int = 60, rate: float = 0.5) -> torch.Tensor:
    """Latents after gradient descent from gray, through ``Guidance`` itself."""
    rgb, generator = torch.full((1, 3, 32, 32), 0.5), torch.Generator().manual_seed(0)
    for _ in range(steps):
        rgb.requires_grad_()
        guidance(Render(rgb, torch.ones(1, 1, 32, 32)), REFERENCE, 0, generator).loss.backward()
        assert rgb.grad is not None
        rgb = (rgb - rate * rgb.grad).detach()
    return rgb * 2 - 1


@pytest.mark.parametrize("name", ["dds-guidance", "sdi-guidance"])
def test_formulas_without_chance_settle_on_the_expected_picture(name: str) -> None:
    options = {"inversion_scale": 1.0, "inversion_steps": 4} if name == "sdi-guidance" else {}
    assert float((descend(exact(name, guidance_scale=1.0, **options)) - mean()).abs().max()) < 0.02


# ---------------------------------------------------------------------------------------------------------------- VSD


def test_a_student_learns_nothing_from_what_is_not_finite() -> None:
    model: Any = open_view_denoiser("gaussian", "x")
    student, t = open_student(model, 4), torch.tensor([300])
    before = [weight.detach().clone() for weight in student.learned()]
    z = torch.zeros(1, model.latent.channels, model.latent.height, model.latent.width)
    student.learn(z, t, model.unconditional(1), z + torch.nan, StudentStep(0.1))
    assert all(torch.equal(a, b) for a, b in zip(before, student.learned(), strict=True))
    student.learn(z, t, model.unconditional(1), z + 1, StudentStep(0.1))
    assert not all(torch.equal(a, b) for a, b in zip(before, student.learned(), strict=True))


def test_a_student_of_exact_predictions_learns_mean_and_spread_of_what_it_is_shown() -> None:
    model = open_view_denoiser("gaussian", "x")
    student = open_student(model, 4)
    teacher, rng = torch.optim.Adam(student.learned(), lr=0.1), torch.Generator().manual_seed(0)
    for _ in range(100):
        z = 0.6 + 0.3 * torch.randn(8, 3, 32, 32, generator=rng)
        t, noise = d.sample_timesteps(8, 20, 980, rng, "cpu"), d.normal_like(z, rng)
        condition = model.unconditional(8)
        (student(d.add_noise(z, noise, BARS, t), t, condition) - noise).square().mean().backward()
        teacher.step()
        teacher.zero_grad()
    learned_mean, log_std = (weight.detach() for weight in student.learned())
    assert float(learned_mean.mean()) == pytest.approx(0.6, abs=0.05)
    assert float(log_std.exp()) == pytest.approx(0.3, abs=0.05)


def with_student(guidance: Any, now: NoisyLatents, picture: torch.Tensor, std: float) -> Any:
    """The guidance with a student that has learnt N(picture, std^2)."""
    gradient(guidance, now)
    for weight, value in zip(
        guidance.renders.student.learned(), (picture[:1], torch.tensor([std]).log()), strict=True
    ):
        weight.data.copy_(value)
    return guidance


def test_variational_distillation_stops_where_renders_are_distributed_as_the_model_wants() -> None:
    """A student that has learnt N(mu, s^2) itself leaves no pull, wherever the view is; SDS would go to mu."""
    guidance = exact("vsd-guidance", guidance_scale=1.0)
    now = noised(guidance)
    found = gradient(with_student(guidance, now, mean(), SPREAD), now)
    close(found, torch.zeros_like(found), 1e-5)


def test_variational_distillation_with_a_student_that_knows_the_very_view_is_sds() -> None:
    guidance = exact("vsd-guidance", guidance_scale=3.0)
    now = noised(guidance)
    sds = gradient(exact("zero123-guidance", guidance_scale=3.0), now)
    close(gradient(with_student(guidance, now, now.z, 1e-4), now), sds, 1e-3)


def test_a_fresh_lora_changes_nothing_and_then_learns_without_touching_the_model(tiny: TinyModels) -> None:
    guidance = on_networks(tiny, "vsd-guidance", guidance_scale=1.0, lora_lr=1e-2)
    now = noised(guidance)
    first = gradient(guidance, now)
    close(first, torch.zeros_like(first), 1e-5)
    unet = guidance.model.unet.on(torch.device("cpu"))
    weights = {key: value.clone() for key, value in unet.state_dict().items()}
    condition = guidance.source.at(VIEWS, None).condition()
    predicted = [
        guidance.renders.student.learn(now.xt, now.t, condition, now.noise, StudentStep(1e-2))
        for _ in range(8)
    ]
    errors = [float((eps - now.noise).square().mean()) for eps in predicted]
    assert errors[-1] < errors[0]
    assert all(torch.equal(weights[key], value) for key, value in unet.state_dict().items())
    assert float(gradient(guidance, now).abs().max()) > 1e-4


def test_a_student_predicts_noise_where_its_model_predicts_v(tiny: TinyModels) -> None:
    model: Any = open_view_denoiser(str(tiny.zero123_steered), "x")
    condition = model.embed_view(model.encode_reference(PICTURE, REFERENCE), VIEWS)
    z, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([50, 700])
    close(open_student(model, 2)(z, t, condition).detach(), model.eps(z, t, condition), 1e-5)


# ------------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("unconditional", ["own", "prior"])
def test_every_formula_runs_on_networks_and_can_be_rectified(
    tiny: TinyModels, name: str, unconditional: str
) -> None:
    guidance = on_networks(tiny, name, unconditional=unconditional)
    rgb = (1 - PICTURE).expand(2, -1, -1, -1).clone().requires_grad_()
    output = guidance(Render(rgb, torch.ones(2, 1, 32, 32)), VIEWS, 0, torch.Generator().manual_seed(0))
    output.loss.backward()
    assert rgb.grad is not None and float(rgb.grad.abs().sum()) > 0
    assert not list(guidance.parameters())
    assert (guidance.source.prior is None) == (unconditional == "own")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("sdi-guidance", {"guidance_scale": -1.0}, "guidance_scale: -1 is out of range"),
        ("ism-guidance", {"max_step_percent": 1.2}, "max_step_percent: 1.2 is out of range"),
        ("dds-guidance", {"lambda": 1.0}, "lambda: unknown key"),
        ("nfsd-guidance", {"zero123_model_name_or_path": "gaussian"}, "do not share a latent space"),
    ],
)
def test_wrong_options_are_one_line(
    tiny: TinyModels, name: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        on_networks(tiny, name, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------ rectified flow


def test_rfds_weighs_differences_of_noises_as_differences_of_velocities() -> None:
    """eps = z + (1 - s) v, so v - v' = (eps - eps') / (1 - s), with 1 - s = alpha / (alpha + sigma)."""
    now = noised(exact("zero123-guidance", weighting_strategy="flow"))
    alpha, sigma, _ = parts(now)
    close(now.weight, 1 / (alpha / (alpha + sigma)))


def test_rfds_rev_takes_the_predicted_noise_for_the_noise() -> None:
    guidance = exact("rfds-rev-guidance", guidance_scale=1.0)
    now = noised(guidance)
    alpha, sigma, variance = parts(now)
    noise = sigma * (now.xt - alpha * mean()) / variance
    again = sigma * (alpha * now.z + sigma * noise - alpha * mean()) / variance
    close(gradient(guidance, now), now.weight * (again - noise))


def test_the_coupled_noise_is_where_the_flow_carries_the_view() -> None:
    """Of N(mu, s^2) the end of the path is alpha mu + sqrt(alpha^2 s^2 + sigma^2) (z - mu) / s."""
    guidance = exact("ucm-guidance", guidance_scale=1.0, coupling_steps=150)
    now = noised(guidance)
    last = torch.full_like(now.t, 999)
    alpha, sigma = d.alpha_sigma(BARS, last)
    there = alpha * mean() + ((alpha * SPREAD) ** 2 + sigma**2).sqrt() / SPREAD * (now.z - mean())
    noise = (there - alpha * now.z) / sigma
    alpha, sigma, variance = parts(now)
    expected = now.weight * (sigma * (alpha * now.z + sigma * noise - alpha * mean()) / variance - noise)
    found = gradient(guidance, now)
    assert float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())
    warm = gradient(exact("ucm-guidance", guidance_scale=1.0, warm_up_steps=1), now)
    close(warm, gradient(exact("zero123-guidance", guidance_scale=1.0), now))


# -------------------------------------------------------------------------------------------------------------- PFD


def test_pfd_with_one_step_back_is_sdi_weighted_as_clean_pictures():
    options = {"guidance_scale": 3.0, "inversion_scale": -2.0, "inversion_steps": 4}
    pfd = exact("pfd-guidance", sampling_steps=1, weighting_strategy="uniform", **options)
    sdi = exact("sdi-guidance", weighting_strategy="x0", **options)
    now = noised(pfd)
    expected = gradient(sdi, replace(now, weight=noised(sdi).weight))
    torch.testing.assert_close(gradient(pfd, now), expected, atol=2e-4, rtol=1e-3)


def test_pfd_asks_for_nothing_where_the_way_back_is_the_way_there():
    sizes = []
    for steps in (4, 64):
        options = {"inversion_steps": steps, "sampling_steps": steps, "weighting_strategy": "uniform"}
        guidance = exact(
            "pfd-guidance", guidance_scale=1.0, inversion_scale=1.0, max_step_percent=0.5, **options
        )
        sizes.append(float(gradient(guidance, noised(guidance)).abs().mean()))
    assert sizes[1] < 0.35 * sizes[0]


# -------------------------------------------------------------------------------------------------------------- CFD


def test_cfd_is_sds_with_a_noise_that_stays():
    guidance = exact("cfd-guidance", guidance_scale=1.0, t_anneal=False)
    now, later = (noised(guidance, seed) for seed in (0, 1))
    assert torch.equal(now.noise, later.noise) and torch.equal(now.noise[0], now.noise[1])
    alpha, sigma, variance = parts(now)
    close(gradient(guidance, now), now.weight * (sigma * (now.xt - alpha * mean()) / variance - now.noise))
    other = noised(exact("cfd-guidance", noise_seed=1))
    assert not torch.allclose(other.noise, now.noise, atol=0.1)


def test_cfd_without_a_fixed_share_is_sds():
    loose, sds = exact("cfd-guidance", fixed_share=0.0, t_anneal=False), exact("zero123-guidance")
    now = noised(loose)
    assert torch.equal(now.xt, noised(sds).xt)
    close(gradient(loose, now), gradient(sds, now))


def test_down_the_noise_levels_cfd_ends_at_the_models_own_sample_of_its_noise():
    """Steps d(sigma / alpha) (eps - n) are the sampling ODE: of N(mu, s^2) z = mu + sqrt(s^2 + r^2) b - r n at r."""
    guidance = exact("cfd-guidance", guidance_scale=1.0)
    z, noise = torch.randn(2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    mu, std, one = torch.full_like(z, 0.3), torch.tensor([SPREAD]), torch.ones(1, 1, 1, 1)

    def eps(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return d.gaussian_eps(x, mu, std, BARS, at)

    scores = Scores(eps, eps, lambda: None, VIEWS[[0]])
    levels = ((1 - BARS) / BARS).sqrt()
    alpha, sigma = d.alpha_sigma(BARS, torch.tensor([999]))
    began = (alpha * (z - mu) + sigma * noise) / ((alpha * SPREAD) ** 2 + sigma**2).sqrt()
    times = range(999, -1, -3)
    for t, after in itertools.pairwise(times):
        at = torch.tensor([t])
        x = NoisyLatents(z, d.add_noise(z, noise, BARS, at), noise, at, one, 0)
        z = z - (levels[t] - levels[after]) * guidance.gradient(x, scores)
    expected = mu + (SPREAD**2 + levels[0] ** 2).sqrt() * began - levels[0] * noise
    assert float((z - expected).abs().mean()) < 0.04 * SPREAD


def test_views_of_a_surface_share_the_noise_of_cfd():
    """A wall is seen by one camera twice, the second time from a pixel of the latents farther right."""
    guidance = exact("cfd-guidance", noise_cell=0.01)
    size = guidance.model.latent.height
    wall = orthographic_cameras(
        look_at(torch.tensor([[2.0, 0, 0]]), torch.zeros(1, 3)), 1.0, 4 * size, 4 * size
    )
    moved = wall.c2w.clone()
    moved[0, :3, 3] += moved[0, :3, 0] / size
    depth = torch.full((1, 1, 4 * size, 4 * size), 1.5)
    render = Render(torch.rand(1, 3, 4 * size, 4 * size), torch.ones_like(depth), depth=depth)
    z = guidance.model.encode(render.rgb)
    first, second = (
        guidance.noisy_latents(z, 0, torch.Generator().manual_seed(0), (render, replace(wall, c2w=c2w))).noise
        for c2w in (wall.c2w, moved)
    )
    agreement = torch.corrcoef(torch.stack([first[..., 1:].flatten(), second[..., :-1].flatten()]))[0, 1]
    assert agreement > 0.8 and not torch.allclose(first, second, atol=0.5)
    behind = replace(render, opacity=torch.zeros_like(depth))
    screen = guidance.noisy_latents(z, 0, torch.Generator().manual_seed(0), (behind, wall)).noise
    torch.testing.assert_close(screen, noised(guidance).noise[:1])
