"""The unconditional prediction of a picture model: its own, its base's, and a mixture that changes with the noise."""

from typing import Any

import pytest
import torch

from usd.core.config import ConfigError, parse, spec
from usd.core.registry import build
from usd.core.unread import unread_options
from usd.denoiser.gaussian import GaussianDenoiser
from usd.guidance.picture_scores import PictureOptions
from usd.guidance.usd import UsdGuidance
from usd.math.camera import orbit_cameras_deg
from usd.math.rectification import mixed_fn

VIEWS = orbit_cameras_deg([10.0, 40.0], [0.0, 200.0], 1.5, 40.0, 16)
STEPPED = [0, 1.0, 1.0, 600, 0.0, 700]


def guided(**options: object) -> Any:
    """Guidance on two analytic models: the picture model expects gray pictures of spread 1, its base spread 0.3."""
    models = dict.fromkeys(("pretrained_model_name_or_path", "zero123_model_name_or_path"), "gaussian")
    guidance: Any = build(spec("guidance", "usd-guidance", {**models, **options}))
    source = guidance.source
    if source.prior is not None:
        source.prior = GaussianDenoiser(parse(GaussianDenoiser.Config, {"std": 0.3}, "base"))
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    guidance.set_reference(picture, orbit_cameras_deg(15.0, 90.0, 1.5, 40.0, 16))
    return guidance


def uncond(xt: torch.Tensor, t: torch.Tensor, **options: object) -> torch.Tensor:
    return guided(**options).source.at(VIEWS, None).uncond(xt, t)


@pytest.mark.parametrize(("time", "share"), [(100, 1.0), (650, 0.5), (900, 0.0)])
def test_mixed_is_the_own_prediction_at_little_noise_and_the_bases_at_much(time: int, share: float) -> None:
    xt = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    t = torch.full((2,), time)
    own, base = (uncond(xt, t, unconditional=name) for name in ("own", "prior"))
    assert (own - base).abs().max() > 1e-2 or time == 900
    found = uncond(xt, t, unconditional="mixed", own_share=STEPPED)
    torch.testing.assert_close(found, share * own + (1 - share) * base)


def test_the_gradient_follows_the_mixture() -> None:
    guidance = guided(unconditional="mixed", own_share=0.25, guidance_scale=3.0)
    z = torch.zeros(2, 3, 32, 32)
    x = guidance.noisy_latents(z, 0, torch.Generator().manual_seed(0))
    scores = guidance.source.at(VIEWS, None)
    own, base = (uncond(x.xt, x.t, unconditional=name) for name in ("own", "prior"))
    expected = x.weight * 3.0 * (scores.cond(x.xt, x.t) - 0.25 * own - 0.75 * base)
    torch.testing.assert_close(guidance.gradient(x, scores), expected, atol=1e-5, rtol=1e-4)


def test_a_prediction_without_a_share_is_not_evaluated() -> None:
    def never(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        raise AssertionError("evaluated")

    x, t = torch.ones(1, 1, 1, 1), torch.tensor([5])
    assert mixed_fn(torch.add, never, lambda t: torch.ones(1))(x, t) == 6
    assert mixed_fn(never, torch.add, lambda t: torch.zeros(1))(x, t) == 6


def test_what_the_viewer_calls_biased_is_the_own_prediction_also_beside_a_mixture() -> None:
    xt, t = torch.ones(2, 3, 32, 32), torch.tensor([900, 900])
    biased = guided(unconditional="mixed", own_share=0.0).source.biased_at(VIEWS, None)
    torch.testing.assert_close(biased.uncond(xt, t), uncond(xt, t, unconditional="own"))
    assert guided(unconditional="own").source.biased_at(VIEWS, None) is None


def test_a_share_outside_its_range_is_refused_and_one_that_nothing_reads_is_noted() -> None:
    with pytest.raises(ConfigError, match="own_share"):
        parse(UsdGuidance.Config, {"own_share": 1.5}, "system.guidance")
    given = {"own_share": 0.5, "unconditional": "prior"}
    notes = list(unread_options(parse(PictureOptions, given, "g"), given, at="system.guidance."))
    assert notes == ["note: system.guidance.own_share: is not read where unconditional is prior"]
