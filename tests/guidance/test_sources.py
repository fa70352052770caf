"""Every formula takes its scores from a sentence, a picture, or both; closed forms with exact predictions."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.conftest import TinyModels
from tests.fake_device import elsewhere
from usd.core.config import ConfigError, spec
from usd.core.registry import build, find
from usd.core.types import Render
from usd.denoiser import open_text_denoiser
from usd.guidance import Guidance, NoisyLatents
from usd.guidance.scores import NotFiniteError, checks_at_once, predictor, require_finite, with_scores
from usd.guidance.text_scores import TextOptions
from usd.guidance.usd import UsdGuidance
from usd.math import diffusion as d
from usd.math.camera import orbit_cameras_deg
from usd.math.distill import denoised, image_gradient, inverted

REFERENCE = orbit_cameras_deg(15.0, 90.0, 1.5, 40.0, 16)
VIEWS = orbit_cameras_deg([10.0, 40.0], [0.0, 200.0], 1.5, 40.0, 16)
BARS = d.scaled_linear_alphas_cumprod()
PICTURE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
TEXT_MEAN, SPREAD = 0.2, 0.2  # of the analytic denoiser under any sentence; without one it expects N(0, 1)
FORMULAS = ["csd", "nfsd", "dds", "sdi", "ism", "sjc", "vsd", "unified"]


def prompts(model: str = "gaussian", **options: object) -> Any:
    given = {"pretrained_model_name_or_path": model, "prompt": "a red car", "use_cache": False, **options}
    return build(spec("prompt_processor", "stable-diffusion-prompt-processor", given))


def from_text(name: str, **options: object) -> Any:
    given = {"pretrained_model_name_or_path": "gaussian", **options}
    guidance = build(spec("guidance", name, given), prompts=prompts())
    guidance.set_reference(PICTURE, REFERENCE)
    return guidance


def from_picture(name: str, words: Any = None, **options: object) -> Any:
    models = dict.fromkeys(("pretrained_model_name_or_path", "zero123_model_name_or_path"), "gaussian")
    guidance = build(spec("guidance", name, {**models, **options}), prompts=words)
    guidance.set_reference(PICTURE, REFERENCE)
    return guidance


def noisy(guidance: Guidance, step: int = 0) -> NoisyLatents:
    z = guidance.model.encode((1 - PICTURE).expand(2, -1, -1, -1))
    return guidance.noisy_latents(z, step, torch.Generator().manual_seed(0))


def gradient(guidance: Any, x: NoisyLatents) -> torch.Tensor:
    return guidance.gradient(x, guidance.source.at(VIEWS, None))


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def eps_text(x: NoisyLatents) -> torch.Tensor:
    """The exact prediction under a sentence: x0 ~ N(TEXT_MEAN, SPREAD^2)."""
    alpha, sigma = d.alpha_sigma(BARS, x.t)
    return sigma * (x.xt - alpha * TEXT_MEAN) / ((alpha * SPREAD) ** 2 + sigma**2)


def eps_uncond(x: NoisyLatents) -> torch.Tensor:
    return d.alpha_sigma(BARS, x.t)[1] * x.xt


# --------------------------------------------------------------------------------------------------------- sentences


def test_csd_from_a_sentence_is_the_difference_of_its_scores() -> None:
    guidance = from_text("stable-diffusion-csd-guidance", guidance_scale=3.0)
    x = noisy(guidance)
    close(gradient(guidance, x), x.weight * 3 * (eps_text(x) - eps_uncond(x)))


def test_nfsd_from_a_sentence_takes_its_bad_pictures_from_the_same_model() -> None:
    guidance = from_text("stable-diffusion-nfsd-guidance", guidance_scale=3.0, threshold=0)
    x = noisy(guidance)
    assert guidance.critic is guidance.model
    close(gradient(guidance, x), x.weight * (eps_uncond(x) - eps_text(x) + 3 * (eps_text(x) - eps_uncond(x))))


def test_dds_compares_two_sentences_on_two_pictures() -> None:
    """With s = 1 and a source sentence: w sigma alpha (z - y) / (alpha^2 s^2 + sigma^2), whatever the noise."""
    guidance = from_text("stable-diffusion-dds-guidance", guidance_scale=1.0, source_prompt="a blue car")
    x, (alpha, sigma) = noisy(guidance), d.alpha_sigma(BARS, noisy(guidance).t)
    expected = sigma * alpha * (x.z - (PICTURE * 2 - 1)) / ((alpha * SPREAD) ** 2 + sigma**2)
    close(gradient(guidance, x), x.weight * expected)


def test_sdi_and_ism_from_a_sentence_are_what_they_are_from_a_picture_of_its_mean() -> None:
    flat = torch.full_like(PICTURE, TEXT_MEAN / 2 + 0.5)
    for name, options in (("sdi", {"inversion_steps": 3}), ("ism", {})):
        text: Any = from_text(
            f"stable-diffusion-{name}-guidance",
            **options,
            **({"inversion_eta": 0.0, "inversion_spacing": "view"} if name == "sdi" else {}),
        )
        picture = from_picture(f"{name}-guidance", **options)
        picture.set_reference(flat, REFERENCE)
        x = noisy(text)
        close(gradient(text, x), gradient(picture, x))


def test_sdi_as_published_remaps_the_noise_of_a_level_beyond() -> None:
    """For N(0, 1) the path stands still, x = z at all levels: n = (1 - alpha') / sigma' z, t' drawn from [t, t + T/n)."""
    guidance: Any = from_text(
        "stable-diffusion-sdi-guidance", inversion_eta=0.0, inversion_steps=50, guidance_scale=0.0,
        inversion_scale=0.0, weighting_strategy="x0",
    )  # fmt: skip
    x = noisy(guidance)
    beyond = torch.rand(1, generator=torch.Generator().manual_seed(7))
    made = gradient(guidance, replace(x, generator=torch.Generator().manual_seed(7)))
    further = (x.t + (beyond * 20).long()).clamp_max(999)
    (alpha, sigma), (a, s) = d.alpha_sigma(BARS, x.t), d.alpha_sigma(BARS, further)
    noise = (1 - a) / s * x.z
    xt = alpha * x.z + sigma * noise
    close(made, sigma / alpha * (sigma * xt - noise), 0.05)
    close(made, x.z - (xt - sigma * (sigma * xt)) / alpha, 0.05)  # the same, said of clean pictures


def test_steps_of_a_stride_arrive_each_at_its_own_level() -> None:
    """As many steps as the farthest takes; whoever is there stays, and short ways are the same as alone."""
    z, t = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 130, 900])
    asked: list[list[int]] = []

    def eps(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        asked.append(at.tolist())
        return 0.3 * x

    together = inverted(eps, z, t, 1, BARS, stride=100)
    assert len(asked) == 9 and asked[:3] == [[0, 0, 0], [0, 100, 100], [0, 130, 200]]
    close(together[1:2], inverted(eps, z[1:2], t[1:2], 1, BARS, stride=100), 1e-5)
    close(together[:1], inverted(eps, z[:1], t[:1], 1, BARS, stride=100), 1e-5)


def test_inversion_noise_is_drawn_from_the_step() -> None:
    guidance = from_text("stable-diffusion-sdi-guidance")
    same, again = (gradient(guidance, noisy(guidance)) for _ in range(2))
    assert torch.equal(same, again) and guidance.config.inversion_eta == 0.3
    assert not torch.equal(
        same, gradient(from_text("stable-diffusion-sdi-guidance", inversion_eta=0), noisy(guidance))
    )


def test_inversion_with_noise_keeps_the_spread_that_the_model_expects() -> None:
    """For N(0, 1), where the path stands still, steps of noise add their own variance and nothing else."""
    z, t = torch.zeros(1, 1, 64, 64), torch.tensor([500])
    found = inverted(lambda x, at: torch.zeros_like(x), z, t, 1, BARS, 1.0, torch.Generator().manual_seed(0))
    low, high = float(BARS[0]), float(BARS[500])
    assert float(found.std()) == pytest.approx(((1 - low) / (1 - high) * (1 - high / low)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("source", ["sentence", "picture"])
def test_sjc_is_sds_in_other_coordinates(source: str) -> None:
    """With its variance reduced it subtracts the noise; without, the noise stays in: on average the same."""
    make: Any = from_text if source == "sentence" else from_picture
    prefix = "stable-diffusion-" if source == "sentence" else ""
    sds = make(
        "stable-diffusion-guidance" if prefix else "zero123-guidance",
        guidance_scale=5.0,
        weighting_strategy="uniform",
    )
    steady, rough = (
        make(f"{prefix}sjc-guidance", guidance_scale=5.0, var_red=reduce) for reduce in (True, False)
    )
    x = noisy(steady)
    assert float(x.weight.min()) == 1
    close(gradient(steady, x), gradient(sds, x), 1e-3)
    close(gradient(rough, x), gradient(sds, x) + x.noise, 1e-3)


@pytest.mark.parametrize("name", FORMULAS)
def test_every_formula_runs_on_a_text_model(tiny: TinyModels, name: str) -> None:
    model = {"pretrained_model_name_or_path": str(tiny.sd)}
    chosen = spec("guidance", f"stable-diffusion-{name}-guidance", model)
    guidance: Any = build(chosen, prompts=prompts(str(tiny.sd)))
    guidance.set_reference(PICTURE, REFERENCE)
    rgb = (1 - PICTURE).expand(2, -1, -1, -1).clone().requires_grad_()
    for step in range(2):
        output = guidance(
            Render(rgb, torch.ones(2, 1, 32, 32)), VIEWS, step, torch.Generator().manual_seed(step)
        )
    output.loss.backward()
    assert rgb.grad is not None and float(rgb.grad.abs().sum()) > 0 and not list(guidance.parameters())


def test_another_models_unconditional_prediction_serves_a_sentence_too(tiny: TinyModels) -> None:
    other: dict[str, object] = {"unconditional_model_name_or_path": "gaussian"}
    assert from_text("stable-diffusion-guidance", **other).source.prior is not None
    with pytest.raises(Exception, match="unconditional_model_name_or_path: the two models do not share"):
        from_text("stable-diffusion-guidance", unconditional_model_name_or_path=str(tiny.sd))


# ---------------------------------------------------------------------------------------- both, and the interface


def test_a_sentence_beside_the_picture_adds_what_it_changes() -> None:
    guidance = from_picture("csd-guidance", prompts(), guidance_scale=2.0, prompt_scale=0.5)
    alone = from_picture("csd-guidance", guidance_scale=2.0)
    x = noisy(guidance)
    close(gradient(guidance, x), gradient(alone, x) + x.weight * 2 * 0.5 * (eps_text(x) - eps_uncond(x)))
    assert guidance.config.wants_prompts and not alone.config.wants_prompts
    with pytest.raises(ConfigError, match=r"system.guidance.prompt_scale: needs a prompt"):
        from_picture("csd-guidance", prompt_scale=0.5)


def test_a_formula_keeps_its_own_options_when_its_scores_come_from_elsewhere() -> None:
    text = with_scores(TextOptions, UsdGuidance).Config
    names = set(vars(text)["__dataclass_fields__"])
    assert {"lambda_", "unconditional_model_name_or_path"} <= names
    assert not names & {"image_path", "unconditional", "zero123_model_name_or_path"}
    wanted = {
        name: find(Guidance, name).Config().wants_picture
        for name in ("sdi-guidance", "stable-diffusion-sdi-guidance")
    }  # type: ignore[attr-defined]
    assert wanted == {"sdi-guidance": True, "stable-diffusion-sdi-guidance": False}


def test_a_predictor_computes_the_same_question_once() -> None:
    guidance, asked = from_text("stable-diffusion-guidance"), []
    eps = guidance.model.eps
    guidance.model.eps = lambda *question: (asked.append(1), eps(*question))[1]
    predict, x = predictor(guidance.model, guidance.model.unconditional(2), "x"), noisy(guidance)
    assert torch.equal(predict(x.xt, x.t), predict(x.xt, x.t)) and len(asked) == 1
    predict(x.z, x.t)
    assert len(asked) == 2
    del guidance.model.eps


# ---------------------------------------------------------------------------------------------- pictures as well


@pytest.mark.parametrize("name", ["zero123-guidance", "vsd-guidance"])
def test_the_image_term_pulls_the_render_as_the_gradient_pulls_latents(name: str) -> None:
    """Where latents are pixels, both losses say the same: x = (z + 1) / 2, so the picture's gradient is half."""
    options = {"use_img_loss": True, "guidance_scale": 1.0, "min_step_percent": 0.1, "max_step_percent": 0.3}
    guidance = from_picture(name, **options)
    rgb = (0.4 + 0.2 * (1 - PICTURE)).requires_grad_()
    output = guidance(Render(rgb, torch.ones(1, 1, 32, 32)), REFERENCE, 0, torch.Generator().manual_seed(0))
    by_latents, by_picture = (
        torch.autograd.grad(loss, rgb)[0] for loss in (output.loss, output.losses["img"])
    )
    inside = (by_picture - by_latents / 4).abs() < 1e-4
    assert float(inside.float().mean()) > 0.9  # elsewhere the decoded picture met black or white
    assert guidance.from_latents(rgb.detach(), REFERENCE, 0, None).losses == {}
    assert from_picture("zero123-guidance")(Render(rgb, rgb[:, :1]), REFERENCE, 0, None).losses == {}


def test_the_gradient_of_pictures_is_that_of_latents_in_other_words() -> None:
    x = noisy(from_text("stable-diffusion-guidance"))
    eps, weight = eps_text(x), torch.full((2, 1, 1, 1), 0.3)
    close(
        image_gradient(x.z, d.x0_from_eps(x.xt, eps, BARS, x.t), weight, BARS, x.t),
        weight * (eps - x.noise),
        1e-3,
    )


@pytest.mark.parametrize(("key", "half"), [("sqrt_anneal", 0.5), ("t_anneal", 0.75)])
def test_an_annealed_time_falls_from_the_largest_to_the_smallest(key: str, half: float) -> None:
    options = {key: True, "trainer_max_steps": 400, "min_step_percent": 0.2, "max_step_percent": 0.8}
    guidance = from_text("stable-diffusion-guidance", **options)
    assert [guidance.range(step) for step in (0, 400, 900)] == [(800, 800), (200, 200), (200, 200)]
    at = 200 + round(600 * half)
    assert guidance.range(100) == (at, at) and noisy(guidance, 100).t.tolist() == [at, at]


def test_denoising_undoes_inversion_at_every_pictures_own_time() -> None:
    z, t = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([200, 700])

    def eps(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return d.gaussian_eps(x, torch.full_like(x, 0.3), torch.full((2,), 0.5), BARS, at)

    close(denoised(eps, inverted(eps, z, t, 200, BARS), t, 200, BARS), z, 0.02)


# --------------------------------------------------------------------------------------------------- VSD from a sentence


def vsd(tiny: TinyModels, **options: object) -> Any:
    given = {"pretrained_model_name_or_path": str(tiny.sd), "lora_rank": 2, **options}
    chosen = spec("guidance", "stable-diffusion-vsd-guidance", given)
    return build(chosen, prompts=prompts(str(tiny.sd)))


@pytest.mark.parametrize(("kind", "numbers"), [("extrinsics", 16), ("mvp", 16), ("spherical", 4)])
def test_a_lora_that_knows_the_camera_starts_as_the_model_and_learns_views_apart(
    tiny: TinyModels, kind: str, numbers: int
) -> None:
    guidance = vsd(tiny, guidance_scale=1.0, camera_condition_type=kind, lora_lr=0.05)
    x = guidance.noisy_latents(
        torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        0,
        torch.Generator().manual_seed(1),
    )
    first = gradient(guidance, x)
    close(first, torch.zeros_like(first), 1e-5)
    network = guidance.renders.opened().network
    assert network.class_embedding[0].in_features == numbers
    for _ in range(3):
        gradient(guidance, x)
    condition = guidance.source.at(VIEWS, None).condition()
    student = guidance.renders.student
    here, there = (
        student(x.xt, x.t, student.with_camera(condition, torch.full((2, numbers), value)))
        for value in (0.0, 2.0)
    )
    assert float((here - there).abs().max()) > 1e-4


def test_the_lora_may_change_another_model_that_predicts_v(tiny: TinyModels) -> None:
    guidance = vsd(tiny, pretrained_model_name_or_path_lora=str(tiny.sd_v), guidance_scale=1.0)
    assert guidance.renders.base is not guidance.model and guidance.renders.base.predicts == "v_prediction"
    x = noisy_on(guidance)
    other, t = guidance.renders.base, x.t
    condition = guidance.source.at(VIEWS, None).condition()
    close(
        gradient(guidance, x),
        x.weight * (guidance.model.eps(x.xt, t, condition) - other.eps(x.xt, t, condition)),
        1e-4,
    )


def test_vsd_with_all_it_has_runs_on_another_device(
    tiny: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a base of its own, cameras, guidance by them, and the image term."""
    own = {"pretrained_model_name_or_path_lora": str(tiny.sd_v), "guidance_scale_lora": 2.0}
    with elsewhere(monkeypatch) as device:
        guidance = vsd(tiny, use_img_loss=True, camera_condition_type="mvp", **own).to(device)
        rgb = (1 - PICTURE).expand(2, -1, -1, -1).clone().to(device).requires_grad_()
        shown = Render(rgb, torch.ones(2, 1, 32, 32, device=device))
        output = guidance(shown, VIEWS.to(device), 0, torch.Generator().manual_seed(0))
        (output.loss + output.losses["img"]).backward()
        assert not output.trouble and rgb.grad is not None and rgb.grad.device == device


def noisy_on(guidance: Any) -> NoisyLatents:
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return guidance.noisy_latents(z, 0, torch.Generator().manual_seed(1))


def test_a_lora_without_weight_learns_nothing_and_its_guidance_is_by_the_camera(tiny: TinyModels) -> None:
    frozen = vsd(tiny, lambda_lora=0.0, lora_cfg_training=False, guidance_scale_lora=3.0)
    x = noisy_on(frozen)
    frozen.renders.opened().network.class_embedding[2].bias.data.fill_(0.5)
    before = [weight.detach().clone() for weight in frozen.renders.student.learned()]
    strong = gradient(frozen, x)
    weak = vsd(tiny, lambda_lora=0.0, guidance_scale_lora=1.0)
    weak.renders.opened().network.class_embedding[2].bias.data.fill_(0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, frozen.renders.student.learned(), strict=True))
    close(strong, gradient(weak, x), 1e-4)  # a bias alone says the same of every camera


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_value_of_many_that_is_not_finite_is_found_whatever_the_precision(bad):
    values = torch.full((4, 5), torch.finfo(torch.float32).max)
    with checks_at_once():
        require_finite(values, "the largest there are")
        require_finite(values[:0], "none")
    values[2, 3] = bad

    def check_two() -> None:
        with checks_at_once():
            require_finite(values, "the first")
            require_finite(torch.zeros(2, dtype=torch.float64), "others")

    with pytest.raises(NotFiniteError, match="the first has 1 of 20 values"):
        check_two()


def test_checks_at_once_name_the_first_tensor_that_is_not_finite():
    good, bad = torch.ones(3), torch.tensor([1.0, torch.nan, torch.inf])
    reached = []

    def check_all() -> None:
        with checks_at_once():
            for tensor, name in ((good, "the first"), (bad, "the second"), (bad * 2, "the third")):
                reached.append(require_finite(tensor, name))

    with pytest.raises(NotFiniteError, match="the second has 2 of 3 values not finite"):
        check_all()
    assert len(reached) == 3
    with pytest.raises(NotFiniteError, match="alone"):
        require_finite(bad, "alone")


def test_an_embedding_serves_several_batches_of_its_views_at_once(tiny: TinyModels) -> None:
    model = open_text_denoiser(str(tiny.sd), "x")
    eps = predictor(model, model.embed_text(["a", "b"]), "unconditional")
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    t = torch.tensor([100, 700])
    both = eps(torch.cat([x, y]), t.repeat(2))
    torch.testing.assert_close(both, torch.cat([eps(x, t), eps(y, t)]), rtol=1e-4, atol=1e-5)
