"""Guidances compute their formula, with as few network calls as it takes, and name what is not finite."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.conftest import TinyModels
from usd.core.config import UserError, spec
from usd.core.registry import build
from usd.core.types import Render
from usd.denoiser import open_text_denoiser, open_view_denoiser
from usd.guidance import Guidance, NoisyLatents
from usd.math.camera import orbit_cameras_deg
from usd.math.diffusion import add_noise
from usd.math.distill import distillation_gradient, perp_neg

REFERENCE = orbit_cameras_deg(15.0, 90.0, 1.5, 40.0, 16)
VIEWS = orbit_cameras_deg([10.0, 40.0], [0.0, 200.0], 1.5, 40.0, 16)
ANALYTIC = dict.fromkeys(("pretrained_model_name_or_path", "zero123_model_name_or_path"), "gaussian")
PICTURE = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(5))


def _rgb(size: int = 16) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(6))


def _render(rgb: torch.Tensor) -> Render:
    return Render(rgb, torch.ones(len(rgb), 1, *rgb.shape[2:]))


def _picture_guidance(tiny: TinyModels, name: str = "usd-guidance", **options: object) -> Any:
    models = {
        "pretrained_model_name_or_path": str(tiny.sd),
        "zero123_model_name_or_path": str(tiny.zero123_a),
    }
    guidance = build(spec("guidance", name, {**models, **options}))
    guidance.set_reference(PICTURE, REFERENCE)
    return guidance


def _text_guidance(tiny: TinyModels, name: str, **options: object) -> Any:
    model = {"pretrained_model_name_or_path": str(tiny.sd)}
    prompts = build(
        spec(
            "prompt_processor",
            "stable-diffusion-prompt-processor",
            {**model, "prompt": "a red car", "use_cache": False},
        )
    )
    return build(spec("guidance", name, {**model, **options}), prompts=prompts)


def _perp_neg_guidance(tiny: TinyModels, **options: object) -> Any:
    model = {"pretrained_model_name_or_path": str(tiny.sd)}
    words = {**model, "prompt": "a red car", "use_perp_neg": True, "use_cache": False}
    prompts = build(spec("prompt_processor", "stable-diffusion-prompt-processor", words))
    return build(spec("guidance", "stable-diffusion-guidance", {**model, **options}), prompts=prompts)


def _noised(guidance: Guidance, step: int = 0) -> NoisyLatents:
    return guidance.noisy_latents(guidance.model.encode(_rgb()), step, torch.Generator().manual_seed(0))


def gradient(guidance: Guidance, x: NoisyLatents) -> torch.Tensor:
    """The formula of a guidance for ``VIEWS``."""
    return guidance.gradient(x, guidance.source.at(VIEWS, None))


@pytest.fixture
def calls(tiny: TinyModels, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each UNet was run, by the width of its input: 8 channels Zero-1-to-3, 4 Stable Diffusion."""
    from diffusers import UNet2DConditionModel

    counts = {"zero123": 0, "sd": 0}
    forward = UNet2DConditionModel.forward

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        counts["zero123" if self.config.in_channels == 8 else "sd"] += 1
        return forward(self, *args, **options)

    monkeypatch.setattr(UNet2DConditionModel, "forward", counted)
    return counts


@pytest.mark.parametrize(
    ("name", "options", "zero123", "sd"),
    [
        ("usd-guidance", {}, 1, 1),
        ("usd-guidance", {"lambda_": 0.5}, 1, 1),
        ("usd-guidance", {"guidance_scale": 1.0, "lambda_": 1.0}, 1, 0),
        ("usd-guidance", {"unconditional": "own"}, 2, 0),
        ("zero123-guidance", {}, 2, 0),
        ("reference-view-guidance", {}, 0, 1),
    ],
)
def test_only_needed_predictions_of_a_picture_are_computed(
    tiny: TinyModels, calls: dict[str, int], name: str, options: dict[str, object], zero123: int, sd: int
) -> None:
    guidance = _picture_guidance(tiny, name, **options)
    guidance(_render(_rgb()), VIEWS, 0, torch.Generator().manual_seed(0))
    assert calls == {"zero123": zero123, "sd": sd}


@pytest.mark.parametrize(
    ("name", "options", "sd"),
    [
        ("stable-diffusion-guidance", {}, 2),
        ("usd-text-to-3D_guidance", {}, 2),
        ("stable-diffusion-guidance", {"guidance_scale": 1.0}, 1),
    ],
)
def test_only_needed_predictions_of_a_sentence_are_computed(
    tiny: TinyModels, calls: dict[str, int], name: str, options: dict[str, object], sd: int
) -> None:
    _text_guidance(tiny, name, **options)(_render(_rgb()), VIEWS, 0, torch.Generator().manual_seed(0))
    assert calls == {"zero123": 0, "sd": sd}


def test_perp_neg_runs_the_network_for_the_words_the_empty_prompt_and_two_negatives(
    tiny: TinyModels, calls: dict[str, int]
) -> None:
    _perp_neg_guidance(tiny)(_render(_rgb()), VIEWS, 0, torch.Generator().manual_seed(0))
    assert calls == {"zero123": 0, "sd": 4}


def test_perp_neg_is_its_formula_on_the_models_predictions(tiny: TinyModels) -> None:
    guidance = _perp_neg_guidance(tiny, guidance_scale=3.0, lambda_=0.0)
    noised, prompts = _noised(guidance), guidance.source.prompts(VIEWS)
    model = open_text_denoiser(str(tiny.sd), "x")
    cond, ref, *others = (
        model.eps(noised.xt, noised.t, words) for words in (prompts.cond, prompts.uncond, *prompts.negatives)
    )
    expected = 3 * noised.weight * (perp_neg(cond, ref, torch.stack(others), prompts.weights) - ref)
    torch.testing.assert_close(gradient(guidance, noised), expected, atol=1e-5, rtol=1e-4)


def test_usd_is_the_difference_of_the_two_models_scores(tiny: TinyModels) -> None:
    """w (1 - alphabar) 7.5 (eps_phi(z_t, c, p) - eps_psi(z_t, '')), from the denoisers by hand."""
    guidance = _picture_guidance(tiny)
    view, prior = open_view_denoiser(str(tiny.zero123_a), "x"), open_text_denoiser(str(tiny.sd), "x")
    noised = _noised(guidance)
    cond = view.eps(noised.xt, noised.t, view.embed_view(view.encode_reference(PICTURE, REFERENCE), VIEWS))  # type: ignore[attr-defined]
    ref = prior.eps(noised.xt, noised.t, prior.embed_text(["", ""]))  # type: ignore[attr-defined]
    weight = 1 - view.alphas_cumprod[noised.t].view(-1, 1, 1, 1)
    torch.testing.assert_close(gradient(guidance, noised), weight * 7.5 * (cond - ref), atol=1e-5, rtol=1e-4)


def test_zero123_guidance_is_sds_with_its_own_unconditional(tiny: TinyModels) -> None:
    guidance = _picture_guidance(tiny, "zero123-guidance", guidance_scale=3.0)
    view = open_view_denoiser(str(tiny.zero123_a), "x")
    noised = _noised(guidance)
    cond = view.eps(noised.xt, noised.t, view.embed_view(view.encode_reference(PICTURE, REFERENCE), VIEWS))  # type: ignore[attr-defined]
    ref = view.eps(noised.xt, noised.t, view.unconditional(2))
    expected = distillation_gradient(noised.weight, noised.noise, cond, ref, 3.0, 1.0)
    torch.testing.assert_close(gradient(guidance, noised), expected, atol=1e-5, rtol=1e-4)


def test_text_formula_compares_the_prompt_with_none(tiny: TinyModels) -> None:
    guidance = _text_guidance(tiny, "stable-diffusion-guidance", lambda_=0.3, guidance_scale=20.0)
    model = open_text_denoiser(str(tiny.sd), "x")
    noised = _noised(guidance)
    given = model.embed_text(["a red car, front view", "a red car, back view"])  # type: ignore[attr-defined]
    cond, ref = (model.eps(noised.xt, noised.t, e) for e in (given, model.unconditional(2)))
    expected = distillation_gradient(noised.weight, noised.noise, cond, ref, 20.0, 0.3)
    torch.testing.assert_close(gradient(guidance, noised), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["usd-guidance", "reference-view-guidance", "vsd-guidance"])
def test_a_negative_prompt_takes_the_place_of_the_empty_one(tiny: TinyModels, name: str) -> None:
    """In every formula with another model's unconditional prediction."""
    models = {
        "pretrained_model_name_or_path": str(tiny.sd),
        "zero123_model_name_or_path": str(tiny.zero123_a),
    }
    options = models if name == "reference-view-guidance" else {**models, "unconditional": "prior"}
    said = {"prompt": "", "negative_prompt": "a red car", "use_cache": False}
    words = build(spec("prompt_processor", "stable-diffusion-prompt-processor", said))
    model: Any = open_text_denoiser(str(tiny.sd), "x")
    tokens = {}
    for key, prompts in (("words", words), ("nothing", None)):
        guidance: Any = build(spec("guidance", name, options), prompts=prompts)
        guidance.set_reference(PICTURE, REFERENCE)
        eps, given = guidance.source.prior.eps, []
        guidance.source.prior.eps = lambda xt, t, e, eps=eps, given=given: (
            given.append(e.tokens),
            eps(xt, t, e),
        )[1]
        gradient(guidance, _noised(guidance))
        del guidance.source.prior.eps
        tokens[key] = given
    assert tokens["words"] and all(
        torch.equal(x, model.embed_text(["a red car"] * len(x)).tokens) for x in tokens["words"]
    )
    assert tokens["nothing"] and all(
        torch.equal(x, model.embed_text([""] * len(x)).tokens) for x in tokens["nothing"]
    )


def test_a_negative_prompt_that_nothing_would_hear_is_refused(tiny: TinyModels) -> None:
    words = build(spec("prompt_processor", "stable-diffusion-prompt-processor", {"negative_prompt": "bad"}))
    with pytest.raises(
        UserError, match=r"system.prompt_processor.negative_prompt: .* expected none, or .* prior"
    ):
        build(spec("guidance", "zero123-guidance", ANALYTIC), prompts=words)


def test_the_reference_term_is_computed_in_the_latents_of_either_autoencoder(tiny: TinyModels) -> None:
    published, cheap = (
        _picture_guidance(tiny, "reference-view-guidance", latents=x) for x in ("prior", "view")
    )
    assert _picture_guidance(tiny, "reference-view-guidance").config.latents == "prior"
    assert published.model is published.source.prior
    assert cheap.model is open_view_denoiser(str(tiny.zero123_a), "x")


def test_the_reference_term_vanishes_on_the_picture_itself(tiny: TinyModels) -> None:
    guidance = _picture_guidance(tiny, "reference-view-guidance")
    same = guidance(_render(PICTURE), REFERENCE, 0, torch.Generator().manual_seed(0))
    other = guidance(_render(1 - PICTURE), REFERENCE, 0, torch.Generator().manual_seed(0))
    assert float(same.loss) == 0 and float(other.loss) > 0


def test_the_reference_term_pulls_towards_the_picture() -> None:
    """With exact scores of N(0, s^2) the gradient is a positive multiple of (z - z_ref)."""
    guidance = build(spec("guidance", "reference-view-guidance", ANALYTIC))
    guidance.set_reference(PICTURE, REFERENCE)
    z, ref = guidance.model.encode(_rgb(32)), guidance.model.encode(PICTURE)
    noised = guidance.noisy_latents(z, 0, torch.Generator().manual_seed(0))
    alpha = guidance.model.alphas_cumprod[noised.t].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    torch.testing.assert_close(gradient(guidance, noised), sigma**3 * alpha * (z - ref), atol=1e-4, rtol=1e-3)


def test_gradient_reaches_the_picture_and_nothing_else(tiny: TinyModels) -> None:
    guidance = _picture_guidance(tiny)
    rgb = _rgb(40).requires_grad_()
    output = guidance(_render(rgb), VIEWS, 0, torch.Generator().manual_seed(0))
    output.loss.backward()
    assert rgb.grad is not None and float(rgb.grad.abs().sum()) > 0
    assert not list(guidance.parameters())


def test_networks_that_only_read_the_condition_are_freed(tiny: TinyModels) -> None:
    guidance = _picture_guidance(tiny)
    guidance(_render(_rgb()), VIEWS, 0, torch.Generator().manual_seed(0))
    assert guidance.model.unet.loaded and guidance.source.prior.unet.loaded and guidance.model.vae.loaded
    assert not guidance.model.image_encoder.loaded and not guidance.source.prior.text_encoder.loaded
    assert not guidance.source.prior.vae.loaded


def test_the_loss_replays_from_the_generator(tiny: TinyModels) -> None:
    guidance = _picture_guidance(tiny)
    first, again, other = (
        float(guidance(_render(_rgb()), VIEWS, 0, torch.Generator().manual_seed(s)).loss) for s in (1, 1, 2)
    )
    assert first == again != other


def test_no_weights_of_the_models_enter_a_checkpoint(tiny: TinyModels) -> None:
    holder = torch.nn.Module()
    holder.guidance = _picture_guidance(tiny)
    holder.guidance(_render(_rgb()), VIEWS, 0, torch.Generator().manual_seed(0))
    assert holder.state_dict() == {}
    holder.load_state_dict({}, strict=True)


def test_figures_and_range_follow_the_schedule(tiny: TinyModels) -> None:
    guidance = _picture_guidance(tiny, max_step_percent=[5000, 0.98, 0.5, 5001])
    for step, high in ((0, 980), (5000, 980), (5001, 500), (9999, 500)):
        assert guidance.range(step) == (20, high)
    figures = guidance(_render(_rgb()), VIEWS, 6000, torch.Generator().manual_seed(0)).figures
    assert (figures["min_step"], figures["max_step"]) == (20, 500)
    assert 20 <= figures["t"] <= 500 and figures["guidance_grad_norm"] > 0


def test_the_logged_norm_is_the_losses_own(tiny: TinyModels) -> None:
    """The loss is half the squared gradient: its figure must not be mistaken for the norm over the weights."""
    one = VIEWS[[0]]
    output = _picture_guidance(tiny)(_render(_rgb()[:1]), one, 0, torch.Generator().manual_seed(0))
    assert float(output.loss) == pytest.approx(
        0.5 * float(output.figures["guidance_grad_norm"]) ** 2, rel=1e-3
    )


def test_clipping_follows_its_schedule(tiny: TinyModels) -> None:
    free, clipped = _picture_guidance(tiny), _picture_guidance(tiny, grad_clip=[0, 1e-3, 1e3, 10])
    norms = [
        g(_render(_rgb()), VIEWS, step, torch.Generator().manual_seed(0)).figures["guidance_grad_norm"]
        for g, step in ((free, 0), (clipped, 0), (clipped, 10))
    ]
    assert norms[0] == norms[2] > norms[1]
    assert norms[1] <= 1e-3 * (4 * 8 * 8) ** 0.5 + 1e-9


def test_a_range_upside_down_is_one_line(tiny: TinyModels) -> None:
    guidance = _picture_guidance(tiny, min_step_percent=0.6, max_step_percent=[0, 0.98, 0.5, 100])
    with pytest.raises(UserError, match=r"system.guidance: at step 100: timestep range \[0.6, 0.5\]"):
        guidance(_render(_rgb()), VIEWS, 100, torch.Generator().manual_seed(0))


def _spoil_picture(guidance: Any, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    rgb = _rgb()
    rgb[0, 0, 0, 0] = float("nan")
    return rgb


def _spoil_network(guidance: Any, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    eps = guidance.model.eps
    monkeypatch.setattr(guidance.model, "eps", lambda *given: eps(*given) / 0)
    return _rgb()


@pytest.mark.parametrize(
    ("spoil", "named"),
    [(_spoil_picture, "the rendered picture"), (_spoil_network, "the conditional prediction")],
)
def test_what_is_not_finite_is_named_and_the_loss_is_not_finite_either(
    spoil: Callable[..., torch.Tensor], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    guidance = build(spec("guidance", "usd-guidance", {**ANALYTIC, "grad_clip": 1.0}))
    guidance.set_reference(PICTURE, REFERENCE)
    output = guidance(_render(spoil(guidance, monkeypatch)), VIEWS, 7, torch.Generator().manual_seed(0))
    assert re.fullmatch(rf"{named} has \d+ of \d+ values not finite \(UsdGuidance\)", output.trouble)
    assert not torch.isfinite(output.loss) and not output.figures


def test_models_without_a_common_latent_space_are_refused(tiny: TinyModels) -> None:
    options = {"pretrained_model_name_or_path": str(tiny.sd), "zero123_model_name_or_path": "gaussian"}
    with pytest.raises(
        UserError, match=r"system.guidance.pretrained_model_name_or_path: the two models do not share"
    ):
        build(spec("guidance", "usd-guidance", options))


def test_a_sentence_guidance_without_prompts_is_refused(tiny: TinyModels) -> None:
    with pytest.raises(UserError, match=r"system.prompt_processor_type: required"):
        build(spec("guidance", "stable-diffusion-guidance", {"pretrained_model_name_or_path": str(tiny.sd)}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_stp_percent": 0.5}, "max_stp_percent: unknown key. Did you mean 'max_step_percent'"),
        ({"guidance_scale": -1.0}, "guidance_scale: -1 is out of range"),
        ({"max_step_percent": 1.5}, "max_step_percent: 1.5 is out of range"),
        ({"weighting_strategy": "sdss"}, "Did you mean 'sds'"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as caught:
        spec("guidance", "usd-guidance", options)
    assert said in str(caught.value)


def test_defaults_are_the_published_values() -> None:
    usd, text = (spec("guidance", name).config for name in ("usd-guidance", "usd-text-to-3D_guidance"))
    assert (usd.guidance_scale, usd.lambda_, usd.weighting_strategy) == (7.5, 0.0, "sds")
    assert (text.guidance_scale, text.lambda_) == (7.5, 0.0)


@pytest.mark.parametrize("name", ["usd-guidance", "zero123-guidance"])
def test_distillation_with_exact_scores_settles_as_the_formula_says(name: str) -> None:
    """From a random picture to the expected view, through ``Guidance`` itself: SDS (s = 1) on the mean, USD (7.5) further out."""
    scale = 7.5 if name == "usd-guidance" else 1.0
    guidance = build(spec("guidance", name, {**ANALYTIC, "guidance_scale": scale}))
    grey = torch.full((1, 3, 32, 32), 0.6)
    guidance.set_reference(grey, REFERENCE)
    rgb = torch.full((1, 3, 32, 32), 0.5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        rgb.requires_grad_()
        guidance(_render(rgb), REFERENCE, 0, generator).loss.backward()
        assert rgb.grad is not None
        rgb = (rgb - 0.15 / scale * rgb.grad).detach()
    level = float((rgb * 2 - 1).mean()) / 0.2
    assert level == pytest.approx(2.6 if name == "usd-guidance" else 1.0, rel=0.15)


def test_add_noise_is_what_the_network_sees(tiny: TinyModels) -> None:
    guidance = _picture_guidance(tiny)
    noised = _noised(guidance)
    again = add_noise(noised.z, noised.noise, guidance.model.alphas_cumprod, noised.t)
    assert torch.equal(noised.xt, again) and not noised.z.requires_grad
