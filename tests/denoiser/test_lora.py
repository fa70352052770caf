"""LoRA on a real tiny UNet: it starts as nothing, survives the file, and is loaded by diffusers itself."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from usd.core.config import parse
from usd.core.errors import UserError
from usd.denoiser import Execution, open_text_denoiser
from usd.denoiser.components import open_components
from usd.denoiser.lora import (
    CARD,
    LAYERS,
    WEIGHTS,
    Card,
    LoraConfig,
    add_lora,
    lora_model,
    read_card,
    write_lora,
)


def read_unet(tiny):
    return open_components(tiny.sd).network("unet")


def merged(tiny, folder, scale=1.0):
    return open_text_denoiser(lora_model(folder, str(tiny.sd), scale), "here", Execution()).files.network(
        "unet"
    )


def said(unet):
    source = torch.Generator().manual_seed(0)
    x, tokens = torch.randn(2, 4, 8, 8, generator=source), torch.randn(2, 10, 16, generator=source)
    with torch.no_grad():
        return unet(x, torch.tensor([10, 700]), encoder_hidden_states=tokens).sample


def with_lora(tiny, trained=True, **options):
    torch.manual_seed(0)
    unet = add_lora(read_unet(tiny), parse(LoraConfig, {"rank": 2, **options}))
    if trained:
        for name, weight in unet.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
    return unet


@pytest.fixture
def folder(tiny, tmp_path):
    place = tmp_path / "lora"
    write_lora(with_lora(tiny), place, Card(base_model=str(tiny.sd), prompt="a red car"))
    return place


def test_at_first_it_changes_nothing(tiny):
    torch.testing.assert_close(said(with_lora(tiny, trained=False)), said(read_unet(tiny)))


def test_it_is_on_every_attention_layer_and_nothing_else_is_trained(tiny):
    unet = with_lora(tiny)
    wanted = {n for n, _ in read_unet(tiny).named_modules() if any(n.endswith(f".{k}") for k in LAYERS)}
    trained = {n.split(".lora_")[0] for n, p in unet.named_parameters() if p.requires_grad}
    assert trained == wanted
    assert any(".attn1." in name for name in wanted)
    assert any(".attn2." in name for name in wanted)


def test_what_was_trained_is_what_is_loaded(tiny, folder):
    trained, loaded = said(with_lora(tiny)), said(merged(tiny, folder))
    assert (trained - said(read_unet(tiny))).abs().max() > 1e-3
    torch.testing.assert_close(loaded, trained, atol=1e-5, rtol=1e-4)


def test_alpha_is_stored(tiny, tmp_path):
    unet = with_lora(tiny, alpha=6)
    write_lora(unet, tmp_path / "strong", Card())
    torch.testing.assert_close(said(merged(tiny, tmp_path / "strong")), said(unet), atol=1e-5, rtol=1e-4)


def test_the_scale_is_linear_in_the_weights(tiny, folder):
    base, key = read_unet(tiny).state_dict(), next(iter(load_file(folder / WEIGHTS)))
    layer = key.removeprefix("unet.").split(".lora")[0] + ".weight"
    once, twice, none = (merged(tiny, folder, s).state_dict()[layer] for s in (1.0, 2.0, 0.0))
    torch.testing.assert_close(twice - base[layer], 2 * (once - base[layer]))
    torch.testing.assert_close(none, base[layer])
    assert (once - base[layer]).abs().max() > 1e-4


def test_diffusers_itself_loads_the_file(tiny, folder):
    unet = read_unet(tiny)
    unet.load_lora_adapter(str(folder), prefix="unet", weight_name=WEIGHTS)
    torch.testing.assert_close(said(unet), said(with_lora(tiny)), atol=1e-5, rtol=1e-4)


def test_a_folder_is_a_model_of_its_own(tiny, folder):
    model = open_text_denoiser(str(folder), "here", Execution())
    plain = open_text_denoiser(lora_model(folder, scale=0.0), "here", Execution())
    xt, t, told = torch.randn(1, 4, 8, 8), torch.tensor([500]), model.embed_text(["a red car"])
    assert (model.eps(xt, t, told) - plain.eps(xt, t, told)).abs().max() > 1e-3
    assert read_card(folder).prompt == "a red car"


def test_the_base_model_may_be_said_beside_a_lora_without_a_card(tiny, folder):
    (folder / CARD).unlink()
    assert read_card(folder) == Card()
    with pytest.raises(UserError, match=r"here: .*lora\.json"):
        open_text_denoiser(lora_model(folder), "here", Execution())
    assert open_text_denoiser(lora_model(folder, str(tiny.sd)), "here", Execution()).latent.channels == 4


def test_a_lora_of_another_model_is_one_line(tiny, folder):
    grown = {key: torch.cat([value, value], 1) for key, value in load_file(folder / WEIGHTS).items()}
    save_file(grown, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"pytorch_lora_weights\.safetensors"):
        merged(tiny, folder)


def test_a_folder_that_cannot_be_written_is_one_line(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_lora(with_lora(tiny), tmp_path / "file" / "lora", Card())
