"""The analytic denoiser keeps what its name promises."""

import torch

from usd.core.config import parse
from usd.denoiser import TextDenoiser, ViewDenoiser, open_text_denoiser, open_view_denoiser
from usd.denoiser.gaussian import GaussianDenoiser
from usd.math.camera import orbit_cameras_deg
from usd.math.diffusion import ddim_sample, ddim_timesteps

CAMERA = orbit_cameras_deg(15.0, 90.0, 1.5, 40.0, 8)


def _denoiser(**options: float) -> GaussianDenoiser:
    return GaussianDenoiser(parse(GaussianDenoiser.Config, {"size": 8, **options}))


def test_it_plays_both_roles_by_name() -> None:
    assert isinstance(open_text_denoiser("gaussian", "x"), TextDenoiser)
    assert isinstance(open_view_denoiser("gaussian", "x"), ViewDenoiser)


def test_encode_and_decode_are_inverse() -> None:
    picture = torch.rand(2, 3, 8, 8)
    model = _denoiser()
    torch.testing.assert_close(model.decode(model.encode(picture)), picture)


def test_sampling_a_view_gives_the_reference_picture() -> None:
    """With a vanishing spread every sample is the mean."""
    model = _denoiser(view_std=1e-3)
    picture = torch.rand(1, 3, 8, 8)
    told = model.embed_view(
        model.encode_reference(picture, CAMERA), orbit_cameras_deg([0.0, 20.0], [10.0, 200.0], 1.5, 40.0, 8)
    )
    z = ddim_sample(
        lambda xt, t: model.eps(xt, t, told),
        torch.randn(2, 3, 8, 8),
        ddim_timesteps(100),
        model.alphas_cumprod,
    )
    torch.testing.assert_close(model.decode(z), picture.expand(2, -1, -1, -1), atol=0.01, rtol=0)


def test_expected_views_may_depend_on_the_camera() -> None:
    config = parse(GaussianDenoiser.Config, {"size": 8})
    model = GaussianDenoiser(config, lambda c: c.spherical.azimuth.view(-1, 1, 1, 1).expand(-1, 3, 8, 8))
    told = model.embed_view(
        model.encode_reference(torch.rand(1, 3, 8, 8), CAMERA),
        orbit_cameras_deg(0.0, [0.0, 90.0], 1.5, 40.0, 8),
    )
    torch.testing.assert_close(told.mean[:, 0, 0, 0], torch.tensor([0.0, torch.pi / 2]))


def test_the_empty_prompt_says_nothing() -> None:
    model = _denoiser(text_mean=0.5)
    told, nothing = model.embed_text(["a car", ""]), model.unconditional(1)
    assert float(told.mean[0].mean()) == 0.5
    blank = told.select(torch.tensor([1]))
    assert torch.equal(blank.mean, nothing.mean) and torch.equal(blank.std, nothing.std)
