"""LoRA files of every common origin change the same layers by the same numbers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.denoiser.published_models import tiny_model
from usd.core.errors import UserError
from usd.denoiser import open_text_denoiser, open_view_denoiser
from usd.denoiser.components import MemoryComponents
from usd.denoiser.latent import LatentDenoiser
from usd.denoiser.lora_file import LowRank, read_lora, squash, with_lora
from usd.denoiser.published import write_folder, write_single_file

RANK = 2
UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
LAYERS = {  # of the UNet: a linear layer with and without a bias, and convolutions of 1 x 1 and 3 x 3
    f"{UNET}.to_q": "linear",
    f"{UNET}.to_out.0": "linear",
    "down_blocks.0.attentions.0.proj_in": "conv",
    "mid_block.resnets.0.conv1": "conv",
}
WORDS = "encoder.layers.0.self_attn.q_proj"


def _matrices(model: MemoryComponents) -> dict[str, tuple[Tensor, Tensor]]:
    """(down, up) for each of ``LAYERS``, convolutions as kohya stores them, and for one layer of the text encoder."""
    source, found = torch.Generator().manual_seed(3), {}
    weights = model.weights["unet"] | {f"text.{k}": x for k, x in model.weights["text_encoder"].items()}
    for layer in (*LAYERS, f"text.{WORDS}"):
        shape = weights[f"{layer}.weight"].shape
        up = (shape[0], RANK, *([1, 1] if len(shape) == 4 else []))
        down = torch.randn(RANK, *shape[1:], generator=source)
        found[layer] = (down, torch.randn(up, generator=source))
    return found


def _diffusers(layer: str, new: bool) -> tuple[str, str]:
    head = f"text_encoder.text_model.{layer[5:]}" if layer.startswith("text.") else f"unet.{layer}"
    return (f"{head}.lora_A.weight", f"{head}.lora_B.weight") if new else (f"{head}.lora.down.weight", f"{head}.lora.up.weight")  # fmt: skip


def _stored(model: MemoryComponents, spelling: str, alpha: float) -> dict[str, Tensor]:
    """One LoRA under the names of one origin. Where a name has no place for alpha, it is in the matrices."""
    tensors: dict[str, Tensor] = {}
    for layer, (down, up) in _matrices(model).items():
        words = layer.startswith("text.")
        if spelling in ("kohya", "kohya 1"):
            number = "1" if spelling == "kohya 1" else ""
            head = f"lora_te{number}_text_model.{layer[5:]}" if words else f"lora_unet_{layer}"
            head = head.replace(".", "_")
            tensors |= {f"{head}.lora_down.weight": down, f"{head}.lora_up.weight": up}
            tensors[f"{head}.alpha"] = torch.tensor(alpha)
            continue
        names = _diffusers(layer, spelling not in ("old", "oldest"))
        if spelling == "oldest" and words:  # diffusers until 0.17
            names = tuple(name.replace("q_proj.lora.", "to_q_lora.") for name in names)
        if spelling == "named adapter":
            names = tuple(name.replace(".weight", ".mine.weight") for name in names)
        if spelling == "linear layers" and words:  # diffusers 0.18 to 0.20
            names = tuple(
                f"{name[:-14]}.lora_linear_layer.{end}.weight"
                for name, end in zip(names, ("down", "up"), strict=True)
            )
        if spelling == "unprefixed":
            names = tuple(
                name.removeprefix("text_encoder.text_model.").removeprefix("unet.") for name in names
            )
        if spelling == "processors" and ".attn1." in layer and not words:
            place, short = layer.rsplit(".attn1.", 1)
            head = f"{place}.attn1.processor.{short.removesuffix('.0')}_lora"
            names = (f"{head}.down.weight", f"{head}.up.weight")
        tensors |= dict(zip(names, (down, up * (alpha / RANK)), strict=True))
    return tensors


@pytest.fixture
def model() -> MemoryComponents:
    return tiny_model("sd1")


@pytest.mark.parametrize(
    "spelling",
    [
        "diffusers",
        "old",
        "oldest",
        "linear layers",
        "unprefixed",
        "named adapter",
        "kohya",
        "kohya 1",
        "processors",
    ],
)
def test_every_spelling_means_the_same_change(spelling: str, model: MemoryComponents, tmp_path: Path) -> None:
    """W + scale alpha / rank up @ down on the layers named, and nothing else."""
    path = tmp_path / "l.safetensors"
    save_file(_stored(model, spelling, alpha=6.0), path)
    changed, scale = with_lora(model, path, 0.5), 0.5 * 6.0 / RANK
    wanted = {f"{layer}.weight": pair for layer, pair in _matrices(model).items()}
    for part, prefix in (("unet", ""), ("text_encoder", "text.")):
        tensors = changed.tensors(part)
        for name, before in model.weights[part].items():
            if prefix + name not in wanted:
                assert tensors[name] is before
                continue
            down, up = wanted[prefix + name]
            change = torch.einsum("or...,r...->o...", up.flatten(1), down.flatten(1)).view(before.shape)
            torch.testing.assert_close(tensors[name], before + scale * change, atol=1e-5, rtol=1e-4)
    assert changed.network("unet") is not None


def test_peft_and_diffusers_agree_on_a_file_that_peft_wrote(model: MemoryComponents, tmp_path: Path) -> None:
    """Their own loading and merging of a file with an alpha in its metadata; and peft's own folder."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader
    from peft import LoraConfig, get_peft_model_state_dict

    unet = model.network("unet")
    unet.add_adapter(LoraConfig(r=3, lora_alpha=12, target_modules=["to_q", "to_out.0", "ff.net.2"]))  # type: ignore[operator]
    for name, weight in unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    state = {name: x.detach() for name, x in get_peft_model_state_dict(unet).items()}
    said = unet.peft_config["default"].to_dict()  # type: ignore[union-attr]
    said = {key: sorted(value) if isinstance(value, set) else value for key, value in said.items()}
    Loader.save_lora_weights(tmp_path / "d", unet_lora_layers=state, unet_lora_adapter_metadata=said)
    (tmp_path / "p").mkdir()
    save_file(
        {f"base_model.model.{name}": x for name, x in state.items()}, tmp_path / "p/adapter_model.safetensors"
    )
    (tmp_path / "p/adapter_config.json").write_text(json.dumps({"r": 3, "lora_alpha": 12}))
    unet.fuse_lora(lora_scale=0.7)  # type: ignore[operator]
    unet.unload_lora()  # type: ignore[operator]
    theirs = unet.state_dict()
    for place in ("d", "p"):
        ours = with_lora(tiny_model("sd1"), tmp_path / place, 0.7).network("unet").state_dict()
        assert set(ours) == set(theirs)
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], atol=1e-6, rtol=1e-6)
    assert any(not torch.equal(theirs[name], x) for name, x in tiny_model("sd1").weights["unet"].items())


def test_a_name_adds_a_lora_to_any_model(tmp_path: Path) -> None:
    """``model + file x scale`` for a single file and a folder; the prediction changes, twice the scale changes it more."""
    model = tiny_model("zero123")
    files = [write_single_file(model, tmp_path / "m.ckpt"), write_folder(model, tmp_path / "folder")]
    sd = tiny_model("sd1")
    stored = {n: x for n, x in _stored(sd, "kohya", 1.0).items() if n.startswith("lora_unet")}
    save_file(stored, tmp_path / "l.safetensors")
    said = {}
    for file in files:
        for end in ("", f" + {tmp_path}/l.safetensors", f" + {tmp_path}/l.safetensors x 0.5"):
            opened = open_view_denoiser(f"{file}{end}", "x")
            assert isinstance(opened, LatentDenoiser)
            noise = torch.ones(1, 4, 8, 8)
            said.setdefault(end, []).append(opened.eps(noise, torch.tensor([50]), opened.unconditional(1)))
    for one, other in said.values():
        assert torch.equal(one, other)
    plain, full, half = (each[0] for each in said.values())
    assert float((full - plain).abs().max()) > float((half - plain).abs().max()) > 1e-4
    assert open_view_denoiser(f"{files[0]} + {tmp_path}/l.safetensors", "x").name.endswith("l.safetensors")


def test_a_folder_with_a_card_is_a_model(tmp_path: Path) -> None:
    base = write_single_file(tiny_model("sd1"), tmp_path / "m.safetensors")
    place = tmp_path / "lora"
    place.mkdir()
    save_file(_stored(tiny_model("sd1"), "diffusers", 1.0), place / "pytorch_lora_weights.safetensors")
    with pytest.raises(UserError, match=r"is a LoRA and does not say of which model; expected 'MODEL \+ "):
        open_text_denoiser(str(place), "x")
    (place / "lora.json").write_text(json.dumps({"base_model": str(base), "prompt": "a chair"}))
    opened = open_text_denoiser(str(place), "x")
    assert isinstance(opened, LatentDenoiser) and opened.config.lora_file == str(place)


def test_a_change_keeps_the_weights_precision() -> None:
    low = LowRank(torch.ones(1, 4), torch.ones(3, 1), alpha=2.0)
    changed = low(torch.zeros(3, 4, dtype=torch.float16), 0.25)
    assert changed.dtype == torch.float16 and torch.equal(changed, torch.full((3, 4), 0.5).half())


def test_names_of_one_layer_are_one() -> None:
    assert squash("text_model.encoder.layers.0") == squash("text_model_encoder_layers_0") == "encoderlayers0"


def _refused(tmp_path: Path, tensors: dict[str, Tensor], said: str, base: str = "sd1") -> None:
    path = tmp_path / "bad.safetensors"
    save_file(tensors, path)
    with pytest.raises(UserError, match=said) as caught:
        with_lora(tiny_model(base), path, 1.0).network("unet")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lora_unet_mid_block.hada_w1_a", "is a LoHa"),
        ("lora_unet_mid_block.lokr_w1", "is a LoKr"),
        ("lora_unet_mid_block.dora_scale", "is a DoRA"),
        ("lora_te2_text_model.lora_down.weight", "is a LoRA for Stable Diffusion XL"),
        (f"unet.{UNET}.to_q.lora_magnitude_vector", "is a DoRA"),
        (f"unet.{UNET}.to_q.oft_blocks", "is an OFT"),
        ("lora_unet_mid_block_resnets_0_conv1.diff", "is a full difference of weights"),
        ("first_stage_model.conv.weight", "is no part of a LoRA"),
        (f"unet.{UNET}.to_q.lora_A.weight", "lacks one of its two matrices"),
    ],
)
def test_what_is_no_plain_lora_is_one_line(name: str, said: str, tmp_path: Path) -> None:
    _refused(tmp_path, {name: torch.zeros(2, 2)}, said)


def test_the_oldest_names_reach_every_projection_of_the_text_encoder(tmp_path: Path) -> None:
    """to_q, to_k, to_v and to_out of diffusers until 0.17 are q, k, v and out of the same attention."""
    model, source = tiny_model("sd1"), torch.Generator().manual_seed(0)
    stored, expected = {}, dict(model.weights["text_encoder"])
    for number, name in enumerate(("q", "k", "v", "out")):
        up, down = (torch.randn(shape, generator=source) for shape in ((64, RANK), (RANK, 64)))
        layer = f"encoder.layers.{number % 2}.self_attn"
        head = f"text_encoder.text_model.{layer}.to_{name}_lora"
        stored |= {f"{head}.down.weight": down, f"{head}.up.weight": up}
        weight = f"{layer}.{name}_proj.weight"
        expected[weight] = expected[weight] + 0.5 * up @ down
    save_file(stored, tmp_path / "old.safetensors")
    found = with_lora(model, tmp_path / "old.safetensors", 0.5).tensors("text_encoder")
    for weight, value in expected.items():
        torch.testing.assert_close(found[weight], value, atol=1e-5, rtol=1e-5)


def test_two_adapters_in_one_file_are_not_silently_one(tmp_path: Path) -> None:
    names = [f"unet.{UNET}.to_q.lora_{side}.{adapter}.weight" for adapter in "ab" for side in "AB"]
    _refused(tmp_path, {name: torch.zeros(2, 2) for name in names}, "holds several changes of one layer")


def test_a_lora_of_another_model_is_one_line(tmp_path: Path, model: MemoryComponents) -> None:
    tensors = _stored(model, "diffusers", 1.0)
    _refused(tmp_path, tensors, "changes the text_encoder, which memory does not have", base="zero123")
    wide = {n: torch.cat([x, x], 1) if "lora_A" in n else x for n, x in tensors.items()}
    _refused(tmp_path, wide, "was trained on another model than memory")
    moved = {n.replace("down_blocks.0", "down_blocks.7"): x for n, x in tensors.items()}
    _refused(tmp_path, moved, "changes a layer that memory does not have: downblocks7")


def test_strengths_by_rule_are_refused_and_a_missing_file_is_one_line(
    tmp_path: Path, model: MemoryComponents
) -> None:
    save_file(_stored(model, "diffusers", 1.0), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 4, "use_rslora": True}))
    with pytest.raises(UserError, match=r"its strength differs by layer \(unet.use_rslora\)"):
        read_lora(tmp_path)
    with pytest.raises(UserError, match="holds no LoRA"):
        read_lora(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"there is no LoRA 'nowhere.safetensors'"):
        open_text_denoiser("toybox-sd + nowhere.safetensors", "x")
