"""Sampling draws from the distribution the model describes, plain and rectified."""

import pytest
import torch

from tests.conftest import TinyModels
from usd.core.config import UserError, parse
from usd.denoiser import GroupConventions, open_text_denoiser, open_view_denoiser
from usd.denoiser.gaussian import GaussianDenoiser
from usd.denoiser.sample import Sampler, sample_text, sample_views
from usd.math.camera import orbit_cameras_deg

REFERENCE = orbit_cameras_deg(15.0, 90.0, 1.5, 40.0, 8)
VIEWS = orbit_cameras_deg(0.0, [0.0, 90.0, 180.0], 1.5, 40.0, 8)


def _gaussian(**options: float) -> GaussianDenoiser:
    return GaussianDenoiser(parse(GaussianDenoiser.Config, {"size": 16, **options}))


def test_views_show_the_reference_when_the_model_says_so() -> None:
    model, picture = (
        _gaussian(view_std=1e-3),
        torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
    )
    made = sample_views(
        model,
        model.encode_reference(picture, REFERENCE),
        VIEWS,
        Sampler(50, scale=1.0),
        torch.Generator().manual_seed(0),
    )
    torch.testing.assert_close(made, picture.expand(3, -1, -1, -1), atol=0.02, rtol=0)


def test_a_biased_unconditional_prediction_is_rectified() -> None:
    """Of equal spreads, guidance makes the mean mu_u + s (mu_c - mu_u): with mu_c = 0 only a neutral prior keeps it."""
    grey = torch.full((1, 3, 16, 16), 0.5)
    model, prior = _gaussian(mean=-0.2, std=0.2), _gaussian(std=0.2)
    reading = model.encode_reference(grey, REFERENCE)
    plain, rectified = (
        sample_views(model, reading, VIEWS, Sampler(50, scale=3.0), torch.Generator().manual_seed(0), p)
        for p in (None, prior)
    )
    assert float(rectified.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(plain.mean()) == pytest.approx(0.7, abs=0.03)


def test_a_share_of_the_expected_views_moves_every_sample_that_far_towards_them() -> None:
    """Of N(mu, s^2) what comes out is N(mu, ((1 - share) s)^2), from noise and from the expected views alike."""
    model, grey = _gaussian(view_std=0.3), torch.full((1, 3, 16, 16), 0.5)
    reading = model.encode_reference(grey, REFERENCE)
    for start in (1.0, 0.7):
        alone, halfway, whole = (
            sample_views(
                model, reading, VIEWS, Sampler(10, 1.0, 0.0, start, share), torch.Generator().manual_seed(0)
            )
            for share in (0.0, 0.5, 1.0)
        )
        torch.testing.assert_close(halfway - 0.5, (alone - 0.5) / 2, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(whole, grey.expand(3, -1, -1, -1))
        assert float(alone.std()) > 0.05


def test_what_starts_low_stays_near_the_expected_views() -> None:
    """From a noise level with nearly no noise the expected views come back, from a high one the model's own."""
    model, grey = _gaussian(view_std=0.3), torch.full((1, 3, 16, 16), 0.5)
    reading = model.encode_reference(grey, REFERENCE)
    low, high = (
        sample_views(model, reading, VIEWS, Sampler(20, 1.0, start=start), torch.Generator().manual_seed(0))
        for start in (0.001, 0.9)
    )
    assert float((low - 0.5).std()) < 0.2 * float((high - 0.5).std())


def test_a_model_that_expects_nothing_says_so_and_one_with_a_volume_expects_its_latents(
    tiny: TinyModels,
) -> None:
    plain, volume = (open_view_denoiser(str(place), "x") for place in (tiny.zero123_a, tiny.zero123_volume))
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="expected a model with a view volume, or --start 1"):
        sample_views(plain, plain.encode_reference(picture, REFERENCE), VIEWS, Sampler(2, start=0.5), None)
    reading = volume.encode_reference(picture, REFERENCE)
    expected = volume.expected_latents(reading, VIEWS)
    shown = volume.embed_view(reading, VIEWS).latent  # the reference's latent, then what the volume shows
    channels = volume.latent.channels
    torch.testing.assert_close(expected, shown[:, channels : 2 * channels])
    made = sample_views(volume, reading, VIEWS, Sampler(1, expected_share=1.0), None)
    torch.testing.assert_close(made, volume.decode(expected))


def test_conventions_of_a_group_become_a_sampler() -> None:
    given = GroupConventions(steps=8, scale=1.5, noise_share=0.0, start=0.7, expected_share=0.5)
    assert Sampler.of(given) == Sampler(8, 1.5, 0.0, 0.7, 0.5)
    assert Sampler.of(GroupConventions()) == Sampler(50, 2.0, 1.0)


def test_sentences_are_sampled_and_replay() -> None:
    model = _gaussian(text_mean=0.6)
    made, again = (
        sample_text(model, ["a car", ""], Sampler(50, scale=1.0), torch.Generator().manual_seed(0))
        for _ in range(2)
    )
    assert torch.equal(made, again)
    assert float(made[0].mean()) == pytest.approx(0.8, abs=0.03)


def test_real_networks_sample_too(tiny: TinyModels) -> None:
    view, prior = (
        open_view_denoiser(str(tiny.zero123_steered), "x"),
        open_text_denoiser(str(tiny.sd), "x"),
    )
    reading = view.encode_reference(torch.rand(1, 3, 16, 16), REFERENCE)  # type: ignore[attr-defined]
    made = sample_views(view, reading, VIEWS, Sampler(3), torch.Generator().manual_seed(0), prior)  # type: ignore[arg-type]
    assert made.shape == (3, 3, 16, 16) and float(made.min()) >= 0 and float(made.max()) <= 1
    assert sample_text(prior, ["a red car"], Sampler(2), None).shape == (1, 3, 16, 16)  # type: ignore[arg-type]


def test_models_without_a_common_latent_space_are_refused(tiny: TinyModels) -> None:
    model, prior = _gaussian(), open_text_denoiser(str(tiny.sd), "x")
    reading = model.encode_reference(torch.rand(1, 3, 16, 16), REFERENCE)
    with pytest.raises(UserError, match="do not share a latent space"):
        sample_views(model, reading, VIEWS, Sampler(2), None, prior)  # type: ignore[arg-type]
