"""How models are kept and run: each option changes what it says, and the numbers stay."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.conftest import TinyModels
from tests.fake_device import StrangeTensor, elsewhere
from usd.core.config import spec
from usd.core.errors import UserError
from usd.core.registry import build
from usd.denoiser import Execution, open_text_denoiser
from usd.denoiser.frozen import Frozen
from usd.denoiser.latent import LatentDenoiser, NetworkInput

CPU = torch.device("cpu")


def opened(tiny: TinyModels, **options: object) -> LatentDenoiser:
    model = open_text_denoiser(str(tiny.sd), "x", Execution(**options))  # type: ignore[arg-type]
    assert isinstance(model, LatentDenoiser)
    return model


def question(views: int = 3) -> tuple[torch.Tensor, torch.Tensor, NetworkInput]:
    draw = torch.Generator().manual_seed(0)
    x, tokens = torch.randn(views, 4, 8, 8, generator=draw), torch.randn(views, 10, 16, generator=draw)
    return x, torch.tensor([20, 500, 900])[:views], NetworkInput(tokens)


def pictures(views: int = 3) -> torch.Tensor:
    return torch.rand(views, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def pulled(model: LatentDenoiser) -> torch.Tensor:
    """How pictures would change the sum of their squared latents."""
    x = pictures().requires_grad_()
    model.encode(x).square().sum().backward()
    assert x.grad is not None
    return x.grad


# ------------------------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize(
    ("weights", "on_cpu", "on_cuda"),
    [
        ("auto", torch.float32, torch.float16),
        ("fp32", torch.float32, torch.float32),
        ("bf16", torch.bfloat16, torch.bfloat16),
        ("fp16", torch.float16, torch.float16),
    ],
)
def test_weights_have_the_precision_that_is_asked_for(weights, on_cpu, on_cuda):
    net = Frozen(lambda: torch.nn.Linear(2, 2), weights)
    assert (net.dtype(CPU), net.dtype(torch.device("cuda"))) == (on_cpu, on_cuda)
    assert net.on(CPU).weight.dtype == on_cpu


def test_bf16_halves_the_weights_and_stays_near(tiny: TinyModels):
    full, half = opened(tiny), opened(tiny, weights="bf16")
    x, t, told = question()
    expected, found = full.eps(x, t, told), half.eps(x, t, told)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).norm() / expected.norm() < 0.03
    sizes = [sum(p.nbytes for p in model.unet.on(CPU).parameters()) for model in (full, half)]
    assert sizes[0] == 2 * sizes[1]


def test_half_weights_leave_latents_and_the_autoencoder_in_fp32(tiny: TinyModels):
    model = opened(tiny, weights="bf16")
    assert torch.equal(model.encode(pictures()), opened(tiny).encode(pictures()))
    assert model.vae.on(CPU).dtype == torch.float32 and model.encode(pictures()).dtype == torch.float32


def test_the_autoencoder_in_bf16_has_the_range_that_fp16_lacks(tiny: TinyModels):
    """Activations beyond 65504, as Stable Diffusion's autoencoder has them, are infinite in fp16 only."""
    model, full = opened(tiny, autoencoder="bf16"), opened(tiny)
    for one in (model, full):
        one.vae.on(CPU).encoder.conv_in.weight.data.mul_(1e5)
    seen = model.encode(pictures())
    assert torch.isfinite(seen).all()
    assert (seen - full.encode(pictures())).norm() < 0.1 * full.encode(pictures()).norm()
    vae = full.vae.on(CPU).half()
    assert not torch.isfinite(vae.encode(pictures().half() * 2 - 1).latent_dist.mode()).all()
    for one in (model, full):
        one.vae.drop()


def test_half_precision_weights_false_means_fp32_unless_weights_are_named():
    assert Execution().single(False).weights == "fp32" and Execution().single(True).weights == "auto"
    assert Execution(weights="bf16").single(False).weights == "bf16"


def test_autocast_does_not_reach_the_models(tiny: TinyModels):
    model, (x, t, told) = opened(tiny), question()
    expected, seen = model.eps(x, t, told), model.encode(pictures())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.eps(x, t, told), expected) and torch.equal(model.encode(pictures()), seen)


# --------------------------------------------------------------------------------------------------------------- memory


def test_views_at_once_limits_what_a_network_is_given(tiny: TinyModels):
    model, (x, t, told) = opened(tiny, views_at_once=2), question()
    given: list[int] = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, args: given.append(len(args[0])) if module is model.unet.on(CPU) else None
    )
    found = model.eps(x, t, told)
    hook.remove()
    assert given == [2, 1]
    torch.testing.assert_close(found, opened(tiny).eps(x, t, told))
    torch.testing.assert_close(model.encode(pictures()), opened(tiny).encode(pictures()))
    torch.testing.assert_close(model.decode(x), opened(tiny).decode(x))


def test_recompute_keeps_less_for_the_backward_pass_and_the_same_gradient(tiny: TinyModels):
    def kept(model: LatentDenoiser) -> int:
        sizes: dict[int, int] = {}

        def keep(x: torch.Tensor) -> torch.Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        weights = {p.untyped_storage().data_ptr() for p in model.vae.on(CPU).parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            model.encode(pictures().requires_grad_())
        return sum(size for place, size in sizes.items() if place not in weights)

    usual, less = opened(tiny), opened(tiny, recompute=True)
    torch.testing.assert_close(pulled(less), pulled(usual))
    assert kept(less) < 0.5 * kept(usual)


def test_offloaded_weights_visit_the_device_for_each_use_only(
    tiny: TinyModels, monkeypatch: pytest.MonkeyPatch
):
    usual, model, (x, t, told) = opened(tiny), opened(tiny, offload="unused"), question()
    expected, pull = usual.eps(x, t, told), pulled(usual)
    with elsewhere(monkeypatch) as device:
        model.to(device)
        found = model.eps(x.to(device), t.to(device), told.map(lambda _, tensor: tensor.to(device)))
        picture = pictures().to(device).requires_grad_()
        model.encode(picture).square().sum().backward()
        for network in (model.unet, model.vae):
            kept = network._network
            assert kept is not None and not any(isinstance(p, StrangeTensor) for p in kept.parameters())
        with model.unet.use(device) as unet:
            assert all(isinstance(p, StrangeTensor) for p in unet.parameters())
        torch.testing.assert_close(found.cpu(), expected)
        torch.testing.assert_close(picture.grad.cpu(), pull)  # type: ignore[union-attr]
        model.to("cpu")


# ---------------------------------------------------------------------------------------------------------------- speed


def test_channels_last_changes_the_layout_only(tiny: TinyModels):
    model, (x, t, told) = opened(tiny, channels_last=True), question()
    weight = model.unet.on(CPU).conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    torch.testing.assert_close(model.eps(x, t, told), opened(tiny).eps(x, t, told), rtol=1e-4, atol=1e-5)


def test_compiling_is_asked_of_torch_once_and_used_for_every_call(
    tiny: TinyModels, monkeypatch: pytest.MonkeyPatch
):
    asked: list[object] = []
    calls: list[int] = []

    def compiled(function: Callable[..., object], mode: str) -> Callable[..., object]:
        asked.append(mode)

        def called(*args: object, **more: object) -> object:
            calls.append(1)
            return function(*args, **more)

        return called

    monkeypatch.setattr(torch, "compile", compiled)
    model, (x, t, told) = opened(tiny, compile="reduce-overhead"), question()
    found = [model.eps(x, t, told) for _ in range(2)]
    assert asked == ["reduce-overhead"] and len(calls) == 2
    assert torch.equal(found[1], opened(tiny).eps(x, t, told))


@pytest.mark.slow
def test_a_compiled_unet_gives_the_same(tiny: TinyModels, monkeypatch: pytest.MonkeyPatch):
    """Traced as for a GPU, and run as it was traced."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model, (x, t, told) = opened(tiny, compile="default"), question()
    torch.testing.assert_close(model.eps(x, t, told), opened(tiny).eps(x, t, told))


# ------------------------------------------------------------------------------------------------------------- guidance


def test_a_guidance_hands_its_options_to_every_model(tiny: TinyModels):
    options = {
        "zero123_model_name_or_path": str(tiny.zero123_a),
        "pretrained_model_name_or_path": str(tiny.sd),
        "models": {"weights": "bf16", "views_at_once": 1},
    }
    guidance = build(spec("guidance", "usd-guidance", options))
    assert (
        guidance.model.execution
        == guidance.source.prior.execution
        == Execution(weights="bf16", views_at_once=1)
    )
    single = build(
        spec("guidance", "usd-guidance", {**options, "models": {}, "half_precision_weights": False})
    )
    assert single.model.execution == replace(Execution(), weights="fp32")


def test_a_misspelt_option_is_named():
    with pytest.raises(UserError, match=r"models\.offlod"):
        spec("guidance", "usd-guidance", {"models": {"offlod": "unused"}})
