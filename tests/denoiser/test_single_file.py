"""Every published form of a model loads to the very weights that were written; what is wrong with a file is one line."""

import json
import pickle
import shutil
import sys
import types
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.denoiser.published_models import (
    EMBED,
    FAMILIES,
    VISION,
    configs,
    random_like,
    same,
    tiny_model,
    tokenizer,
    unet,
    zero_plain_weights,
)
from usd.core.errors import UserError
from usd.denoiser import open_text_denoiser, open_view_denoiser
from usd.denoiser.components import PROJECTION, PROJECTIONS, MemoryComponents, open_components
from usd.denoiser.latent import LatentDenoiser
from usd.denoiser.layouts import average_name
from usd.denoiser.published import family_of_components, state_of, write_folder, write_single_file
from usd.denoiser.single_file import (
    SingleFile,
    autoencoder_config,
    measure_prediction,
    prediction_type,
    text_config,
    unet_config,
    vision_config,
)
from usd.denoiser.stable_diffusion import StableDiffusionDenoiser
from usd.denoiser.weights import empty_network
from usd.denoiser.zero123 import Zero123Denoiser
from usd.math.camera import orbit_cameras_deg
from usd.math.diffusion import eps_from_v

CPU = torch.device("cpu")
OPEN = {"sd1": open_text_denoiser, "sd2": open_text_denoiser, "zero123": open_view_denoiser}


def _opened(place: Path, family: str) -> LatentDenoiser:
    model = OPEN[family](str(place), "x")
    assert isinstance(model, LatentDenoiser)
    return model


# ------------------------------------------------------------------------------------------------------ the same weights


@pytest.mark.parametrize("form", ["plain.safetensors", "plain.ckpt", "averaged.safetensors", "averaged.ckpt"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_holds_the_same_weights(family: str, form: str, tmp_path: Path) -> None:
    """By the public path. With averages, the weights in the usual place are zeros: none of them may be read."""
    truth = tiny_model(family)
    averaged = "averaged" in form
    place = write_single_file(truth, tmp_path / form, averaged)
    model = _opened(zero_plain_weights(place) if averaged else place, family)
    same(model.files, truth)
    assert model.predicts == ("v_prediction" if family == "sd2" else "epsilon")
    assert (model.latent.height, model.latent.image_size, model.latent.scaling_factor) == (8, 16, 0.2)
    assert model.eps(torch.zeros(1, 4, 8, 8), torch.tensor([9]), model.unconditional(1)).isfinite().all()


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("layout", PROJECTIONS)
def test_both_layouts_of_zero123_hold_the_same_weights(layout: str, pickled: bool, tmp_path: Path) -> None:
    truth = tiny_model("zero123")
    folder = write_folder(truth, tmp_path / "model", layout, pickled)
    model = _opened(folder, "zero123")
    same(model.files, truth)
    assert isinstance(model, Zero123Denoiser)
    layer = model.projection.on(CPU)
    assert torch.equal(layer.proj.weight, truth.weights[PROJECTION]["proj.weight"])
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*.bin")}
    assert names == (
        {f"{part}/diffusion_pytorch_model.bin" for part in ("unet", "vae", layout)}
        | {"image_encoder/pytorch_model.bin"}
        if pickled
        else set()
    )


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_a_folder_is_what_diffusers_itself_loads(family: str, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    truth = tiny_model(family)
    folder = write_folder(truth, tmp_path / "model")
    theirs = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    for part, cls in theirs.items():
        state = cls.from_pretrained(folder / part).state_dict()
        assert all(torch.equal(state[name], value) for name, value in truth.weights[part].items())
    same(open_components(folder), truth)


def test_an_averaged_variant_beside_the_plain_unet_is_the_one_that_is_read(tmp_path: Path) -> None:
    plain, averaged = tiny_model("zero123", seed=0), tiny_model("zero123", seed=1)
    write_folder(averaged, tmp_path / "m", variant="fp16_ema")
    folder = write_folder(plain, tmp_path / "m")
    same(
        open_components(folder),
        MemoryComponents(plain.configs, {**plain.weights, "unet": averaged.weights["unet"]}),
    )


def test_an_old_folder_of_an_autoencoder_is_read(tmp_path: Path) -> None:
    """Until 2023 diffusers called its attention query, key, value, proj_attn; the published folders still do."""
    truth = tiny_model("sd1")
    folder = write_folder(truth, tmp_path / "m")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    stored = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
    for new, former in old.items():
        stored = {name.replace(f".{new}.", f".{former}."): x for name, x in stored.items()}
    assert any(".proj_attn." in name for name in stored)
    save_file(stored, folder / "vae/diffusion_pytorch_model.safetensors")
    same(open_components(folder), truth)


def test_a_part_in_several_files_is_read_from_all(tmp_path: Path) -> None:
    folder = write_folder(tiny_model("sd1"), tmp_path / "m")
    whole = folder / "unet/diffusion_pytorch_model.safetensors"
    stored = list(load_file(whole).items())
    whole.unlink()
    for number, half in enumerate((stored[:50], stored[50:]), 1):
        save_file(dict(half), folder / f"unet/diffusion_pytorch_model-0000{number}-of-00002.safetensors")
    same(open_components(folder), tiny_model("sd1"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_file_of_half_precision_is_read_without_a_copy_in_full(dtype: torch.dtype, tmp_path: Path) -> None:
    truth = tiny_model("sd1", dtype=dtype)
    same(open_components(write_single_file(truth, tmp_path / "half.safetensors")), truth)
    same(open_components(write_folder(truth, tmp_path / "half")), truth)


def test_networks_are_made_of_the_given_tensors_themselves() -> None:
    truth = tiny_model("sd1")
    network = truth.network("unet").state_dict()
    assert all(network[name].data_ptr() == x.data_ptr() for name, x in truth.weights["unet"].items())


# ------------------------------------------------------------------------------------------------- the published names


def _as_stored(family: str) -> tuple[MemoryComponents, dict[str, torch.Tensor]]:
    truth = tiny_model(family)
    return truth, state_of(truth, family_of_components(truth))


@pytest.mark.parametrize("family", FAMILIES)
def test_names_are_those_that_diffusers_converts(family: str) -> None:
    """An independent reader of the same layouts: what we write, it turns into what we began with."""
    from diffusers.loaders import single_file_utils as theirs

    truth, stored = _as_stored(family)
    found = {
        "unet": theirs.convert_ldm_unet_checkpoint(dict(stored), dict(truth.config("unet"))),
        "vae": theirs.convert_ldm_vae_checkpoint(dict(stored), dict(truth.config("vae"))),
    }
    if family == "sd1":
        text = theirs.convert_ldm_clip_checkpoint(dict(stored))
        text.pop("text_model.embeddings.position_ids")  # published files hold it, networks of today do not
        found["text_encoder"] = {name.removeprefix("text_model."): x for name, x in text.items()}
    for part, state in found.items():
        assert set(state) == set(truth.weights[part]), part
        assert all(torch.equal(state[name], x) for name, x in truth.weights[part].items()), part
    averaged = {average_name(n): x for n, x in stored.items() if n.startswith("model.diffusion_model.")}
    both = theirs.convert_ldm_unet_checkpoint(
        {**stored, **averaged}, dict(truth.config("unet")), extract_ema=True
    )
    assert len(averaged) < 100 or all(torch.equal(both[n], x) for n, x in truth.weights["unet"].items())


PUBLISHED_NAMES = {
    "model.diffusion_model.time_embed.2.bias": (1280,),
    "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
    "model.diffusion_model.input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
    "model.diffusion_model.input_blocks.8.1.proj_in.weight": (1280, 1280, 1, 1),
    "model.diffusion_model.input_blocks.11.0.emb_layers.1.weight": (1280, 1280),
    "model.diffusion_model.middle_block.1.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
    "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.output_blocks.11.0.in_layers.2.weight": (320, 640, 3, 3),
    "model.diffusion_model.out.2.weight": (4, 320, 3, 3),
    "first_stage_model.encoder.down.2.block.0.nin_shortcut.weight": (512, 256, 1, 1),
    "first_stage_model.encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
    "first_stage_model.decoder.up.0.block.2.conv2.weight": (128, 128, 3, 3),
    "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
    "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
    "cond_stage_model.transformer.text_model.encoder.layers.11.self_attn.q_proj.weight": (768, 768),
    "alphas_cumprod": (1000,),
}
OPEN_CLIP_NAMES = {
    "cond_stage_model.model.token_embedding.weight": (49408, 1024),
    "cond_stage_model.model.positional_embedding": (77, 1024),
    "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight": (3072, 1024),
    "cond_stage_model.model.transformer.resblocks.23.mlp.c_fc.weight": (4096, 1024),
    "cond_stage_model.model.ln_final.weight": (1024,),
    "model.diffusion_model.input_blocks.1.1.proj_in.weight": (320, 320),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
}
ZERO123_NAMES = {
    "model.diffusion_model.input_blocks.0.0.weight": (320, 8, 3, 3),
    "cond_stage_model.model.visual.class_embedding": (1024,),
    "cond_stage_model.model.visual.conv1.weight": (1024, 3, 14, 14),
    "cond_stage_model.model.visual.positional_embedding": (257, 1024),
    "cond_stage_model.model.visual.ln_pre.weight": (1024,),
    "cond_stage_model.model.visual.transformer.resblocks.23.attn.in_proj_bias": (3072,),
    "cond_stage_model.model.visual.proj": (1024, 768),
    "cc_projection.weight": (768, 772),
    "cc_projection.bias": (768,),
}
FULL_UNET = {
    **unet("sd1"),
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "cross_attention_dim": 768,
}


def _tower(width: int, layers: int) -> dict[str, int]:
    heads, wide = width // 64, 4 * width
    return {
        "hidden_size": width,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


FULL = {
    "sd1": {"text_encoder": _tower(768, 12)},
    "sd2": {"text_encoder": _tower(1024, 23)},
    "zero123": {
        "image_encoder": {**_tower(1024, 24), "image_size": 224, "patch_size": 14, "projection_dim": 768}
    },
}
UNET_OF = {
    "sd1": {},
    "sd2": {
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "zero123": {"in_channels": 8, "sample_size": 32},
}
COUNTS = {
    "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "zero123": {"unet": 859_532_484, "vae": 83_653_863, "image_encoder": 303_966_208},
}


def full_size(family: str) -> MemoryComponents:
    """The true configurations, with weights that have shapes and no memory."""
    from usd.denoiser.components import CLASSES

    said = configs(family)
    said["unet"] = FULL_UNET | UNET_OF[family]
    said["vae"] = said["vae"] | {
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    for part, more in FULL[family].items():
        words = {"vocab_size": 49408, "max_position_embeddings": 77} if part == "text_encoder" else {}
        said[part] = said[part] | words | more
    weights = {part: empty_network(*CLASSES[part], said[part]).state_dict() for part in COUNTS[family]}
    if family == "zero123":
        weights[PROJECTION] = {
            "proj.weight": torch.empty(768, 772, device="meta"),
            "proj.bias": torch.empty(768, device="meta"),
        }
    return MemoryComponents(said, weights)


@pytest.mark.parametrize("family", FAMILIES)
def test_at_full_size_names_shapes_and_counts_are_the_published_ones(family: str) -> None:
    """And the configuration that follows from the shapes alone is the true one."""
    truth = full_size(family)
    stored, place = state_of(truth, family_of_components(truth)), Path("model.ckpt")
    named = {"sd1": PUBLISHED_NAMES, "sd2": OPEN_CLIP_NAMES, "zero123": ZERO123_NAMES}[family]
    assert {name: tuple(stored[name].shape) for name in named} == named
    for part, count in COUNTS[family].items():
        assert sum(x.numel() for x in truth.weights[part].values()) == count, part
    assert len(truth.weights["unet"]) == 686 and len(truth.weights["vae"]) == 248
    found = {"unet": unet_config(stored, {}, place), "vae": autoencoder_config(stored, {}, place)}
    if family == "zero123":
        found["image_encoder"] = vision_config(stored, place)
    else:
        found["text_encoder"] = text_config(stored, family_of_components(truth), place)
    free = {"sample_size", "scaling_factor", "_class_name", "architectures", "model_type"}
    free |= {"bos_token_id", "eos_token_id", "pad_token_id"}
    for part, config in found.items():
        wanted = {key: value for key, value in truth.config(part).items() if key not in free}
        assert {key: value for key, value in config.items() if key not in free} == wanted, part


def test_an_image_tower_under_openais_names_computes_what_openais_does(tmp_path: Path) -> None:
    """Written out with torch's own attention, from the tensors as they are stored."""
    from torch.nn.functional import conv2d, layer_norm, linear, multi_head_attention_forward

    truth, stored = _as_stored("zero123")
    w = {n.removeprefix("cond_stage_model.model.visual."): x for n, x in stored.items()}
    width = w["class_embedding"].shape[0]
    picture = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x = conv2d(picture, w["conv1.weight"], stride=VISION["patch_size"]).flatten(2).transpose(1, 2)
    x = torch.cat([w["class_embedding"].expand(2, 1, -1), x], 1) + w["positional_embedding"]
    x = layer_norm(x, (width,), w["ln_pre.weight"], w["ln_pre.bias"])
    for block in (f"transformer.resblocks.{i}." for i in range(2)):
        y = layer_norm(x, (width,), w[f"{block}ln_1.weight"], w[f"{block}ln_1.bias"]).transpose(0, 1)
        attended, _ = multi_head_attention_forward(
            y, y, y, width, 1, w[f"{block}attn.in_proj_weight"], w[f"{block}attn.in_proj_bias"],
            None, None, False, 0.0, w[f"{block}attn.out_proj.weight"], w[f"{block}attn.out_proj.bias"],
            training=False,
        )  # fmt: skip
        x = x + attended.transpose(0, 1)
        y = layer_norm(x, (width,), w[f"{block}ln_2.weight"], w[f"{block}ln_2.bias"])
        y = linear(y, w[f"{block}mlp.c_fc.weight"], w[f"{block}mlp.c_fc.bias"])
        x = x + linear(
            y * torch.sigmoid(1.702 * y), w[f"{block}mlp.c_proj.weight"], w[f"{block}mlp.c_proj.bias"]
        )
    expected = layer_norm(x[:, 0], (width,), w["ln_post.weight"], w["ln_post.bias"]) @ w["proj"]
    found = open_components(write_single_file(truth, tmp_path / "m.ckpt")).network("image_encoder")
    with torch.no_grad():
        torch.testing.assert_close(found(picture).image_embeds, expected, atol=1e-5, rtol=1e-4)
    assert expected.shape == (2, EMBED)


def test_a_text_tower_under_openclips_names_computes_what_diffusers_converts_it_to(tmp_path: Path) -> None:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    truth, stored = _as_stored("sd2")
    network = open_components(write_single_file(truth, tmp_path / "m.safetensors")).network("text_encoder")
    theirs = convert_open_clip_checkpoint(network, dict(stored))
    blocks = {n.removeprefix("text_model."): x for n, x in theirs.items() if ".layers.2." not in n}
    ours = network.state_dict()
    assert set(ours) <= set(blocks) and all(torch.equal(blocks[name], x) for name, x in ours.items())


# ----------------------------------------------------------------------------------------------- what shapes do not say


def test_stable_zero123_is_told_the_inputs_polar_angle(tmp_path: Path) -> None:
    """By its file's name, by what a folder's file says, and not otherwise."""
    truth = tiny_model("zero123")
    told = MemoryComponents({**truth.configs, PROJECTION: {"fourth_number": "input-polar"}}, truth.weights)
    places = {
        write_single_file(truth, tmp_path / "stable_zero123.ckpt"): True,
        write_single_file(truth, tmp_path / "zero123-xl.ckpt"): False,
        write_folder(told, tmp_path / "converted"): True,
        write_folder(truth, tmp_path / "stable-zero123-diffusers"): True,
        write_folder(truth, tmp_path / "plain"): False,
    }
    reference, target = (
        orbit_cameras_deg(10.0, 0.0, 1.5, 49.1, 16),
        orbit_cameras_deg(30.0, 40.0, 1.9, 49.1, 16),
    )
    layer, rows = truth.weights[PROJECTION], {}
    for place, stable in places.items():
        model = _opened(place, "zero123")
        assert isinstance(model, Zero123Denoiser)
        reading = model.encode_reference(torch.zeros(1, 3, 16, 16), reference)
        last = torch.deg2rad(torch.tensor(80.0)) if stable else torch.tensor(0.4)
        pose = torch.stack([torch.tensor(-20.0).deg2rad(), *(f(torch.tensor(40.0).deg2rad()) for f in (torch.sin, torch.cos)), last])  # fmt: skip
        row = torch.cat([reading.embedding[0], pose]) @ layer["proj.weight"].T + layer["proj.bias"]
        rows[place] = model.embed_view(reading, target).tokens[0, 0]  # type: ignore[attr-defined]
        torch.testing.assert_close(rows[place], row, atol=1e-4, rtol=1e-4)


def test_what_a_unet_predicts_is_read_beside_it_or_from_the_published_step() -> None:
    assert prediction_type("stable-diffusion-2", {"parameterization": "v"}, {}) == "v_prediction"
    assert (
        prediction_type("stable-diffusion-2", {"parameterization": "eps"}, {"global_step": 110000})
        == "epsilon"
    )
    assert prediction_type("stable-diffusion-2", {}, {"global_step": 110000}) == "v_prediction"
    assert prediction_type("stable-diffusion-2", {}, {"global_step": 875000}) == "epsilon"
    assert prediction_type("stable-diffusion-1", {}, {"global_step": 110000}) == "epsilon"
    assert prediction_type("stable-diffusion-2", {}, {}) is None


def test_what_nobody_says_is_measured_on_a_trained_model() -> None:
    """The embedded model was trained to predict velocity; the noise that its velocity means is the other answer."""
    model = open_text_denoiser("toybox-sd", "x")
    assert isinstance(model, LatentDenoiser)
    unet = model.unet.on(CPU)
    width = unet.config.cross_attention_dim

    class Noise(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, encoder_hidden_states: torch.Tensor) -> object:
            v = unet(x, t, encoder_hidden_states).sample
            return types.SimpleNamespace(sample=eps_from_v(x, v, model.alphas_cumprod, t))

    (said, little), (other, most) = (
        measure_prediction(unet, 4, width),
        measure_prediction(Noise(), 4, width),
    )
    assert (said, other) == ("v_prediction", "epsilon")
    assert abs(little) < 0.25 and abs(most - 1) < 0.05


def test_a_file_that_does_not_say_what_it_predicts_is_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_single_file(tiny_model("sd2"), tmp_path / "m.safetensors")
    path.with_suffix(".yaml").unlink()
    assert SingleFile(path).config("unet")["sample_size"] == 96  # random weights return no noise
    assert "does not say what its UNet predicts" in caplog.text


@pytest.mark.parametrize(
    ("family", "side", "beside"),
    [("zero123", 32, 32), ("sd1", 64, 64), ("sd2", 96, 64)],  # as the authors' own YAML files have image_size
)
def test_latents_have_one_size_with_and_without_the_yaml(
    family: str, side: int, beside: int, tmp_path: Path
) -> None:
    """And our own converter's file says what the model really has, 64 for velocity included."""
    model = tiny_model(family)
    model.configs["unet"]["sample_size"] = 64
    path = write_single_file(model, tmp_path / "m.ckpt", step=110000)
    assert SingleFile(path).config("unet")["sample_size"] == 64
    yaml = path.with_suffix(".yaml")
    said = json.loads(yaml.read_text())["model"]
    yaml.unlink()
    alone = SingleFile(path)
    yaml.write_text(json.dumps({"model": said | {"params": said["params"] | {"image_size": beside}}}))
    both = (SingleFile(path).config("unet"), alone.config("unet"))
    assert [unet["sample_size"] for unet in both] == [side, side]
    assert both[0]["upcast_attention"] == both[1]["upcast_attention"] == (family == "sd2")
    assert SingleFile(path).config("vae")["sample_size"] == 2 * side == alone.config("vae")["sample_size"]
    assert SingleFile(path).config("scheduler") == alone.config("scheduler")


def test_a_yaml_of_another_model_is_one_line(tmp_path: Path) -> None:
    """Its heads would be taken. Silent about the prediction, it would turn velocity into noise."""
    path = write_single_file(tiny_model("sd2"), tmp_path / "m.ckpt", step=110000)
    yaml = path.with_suffix(".yaml")
    said = json.loads(yaml.read_text())
    said["model"]["params"].pop("parameterization")
    yaml.write_text(json.dumps(said))
    with pytest.raises(UserError, match=r"predicts velocity, and m.yaml beside it means noise"):
        SingleFile(path).config("scheduler")
    write_single_file(tiny_model("sd2"), path, step=875000)
    yaml.write_text(json.dumps(said))
    assert SingleFile(path).config("scheduler")["prediction_type"] == "epsilon"
    other = write_single_file(tiny_model("zero123"), tmp_path / "other.ckpt").with_suffix(".yaml")
    yaml.write_text(other.read_text())
    with pytest.raises(UserError, match=r"m.yaml: is of another model: in_channels is 8, and m.ckpt has 4"):
        SingleFile(path).config("unet")


def test_another_noise_schedule_is_one_line(tmp_path: Path) -> None:
    path = write_single_file(tiny_model("zero123"), tmp_path / "m.safetensors")
    stored = load_file(path) | {"alphas_cumprod": torch.linspace(1, 0, 1000)}
    save_file(stored, path)
    with pytest.raises(UserError, match=r"m.safetensors: was trained with another noise schedule"):
        _opened(path, "zero123")


def test_without_a_configuration_beside_it_a_file_is_the_published_model(tmp_path: Path) -> None:
    path = write_single_file(tiny_model("zero123"), tmp_path / "m.ckpt")
    path.with_suffix(".yaml").unlink()
    parts = SingleFile(path)
    assert parts.config("unet")["sample_size"] == 32 and parts.config("vae")["scaling_factor"] == 0.18215
    assert parts.config("scheduler")["beta_end"] == 0.012


def test_a_broken_configuration_beside_it_is_one_line(tmp_path: Path) -> None:
    path = write_single_file(tiny_model("zero123"), tmp_path / "m.safetensors")
    for content in ("model: 3", "a: [", "- 1"):
        path.with_suffix(".yaml").write_text(content)
        _one_line(path, r"m.yaml: has no model.params")


# -------------------------------------------------------------------------------------------------------------- prompts


def test_the_empty_prompt_needs_no_vocabulary_and_a_prompt_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_single_file(tiny_model("sd1"), tmp_path / "m.safetensors")
    model = _opened(path, "sd1")
    assert isinstance(model, StableDiffusionDenoiser)
    nothing = model.unconditional(1).tokens
    monkeypatch.setattr("usd.denoiser.load.find_or_fetch", _no_hub)
    with pytest.raises(UserError, match=r"expected the folder 'tokenizer' of 'sd-1.5' beside it"):
        model.embed_text(["red"])
    tokenizer(tmp_path / "tokenizer")
    told = _opened(path, "sd1")
    assert isinstance(told, StableDiffusionDenoiser)
    assert torch.equal(told.embed_text([""]).tokens, nothing)
    assert not torch.equal(told.embed_text(["red"]).tokens, nothing)
    assert told.overflow("red") is None and told.vocabulary() is None
    once = told.fingerprint()
    other = write_single_file(tiny_model("sd1", seed=1), tmp_path / "other.safetensors")
    again = _opened(other, "sd1")
    assert isinstance(again, StableDiffusionDenoiser) and again.fingerprint() != once == told.fingerprint()


def _no_hub(*_: object) -> Path:
    raise UserError("x: cannot be had")


# ---------------------------------------------------------------------------------------------------------- wrong files


def _one_line(path: Path, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        open_view_denoiser(str(path), "system.guidance.zero123_model_name_or_path")
    text = str(caught.value)
    assert "\n" not in text and text.startswith("system.guidance.zero123") and str(path.parent) in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>404</html>", "is a web page"),
        (b"hello, this is no model at all", "is no file of weights"),
        (pickle.dumps([1, 2, 3]), "cannot be read as weights"),
    ],
)
def test_a_foreign_file_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "zero123.ckpt"
    path.write_bytes(content)
    _one_line(path, said)


@pytest.mark.parametrize("name", ["m.safetensors", "m.ckpt"])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_a_truncated_file_is_one_line(name: str, share: float, tmp_path: Path) -> None:
    path = write_single_file(tiny_model("zero123"), tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    _one_line(path, "cannot be read as weights: .*is the download complete")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["conditioner.embedders.0.weight"], "is Stable Diffusion XL in one file; .* such as sdxl"),
        (["double_blocks.0.img_attn.proj.weight"], "is FLUX in one file; give its diffusers folder"),
        (["lora_unet_mid_block.lora_down.weight"], "is a LoRA"),
        (["model.diffusion_model.joint_blocks.0.weight"], "is Stable Diffusion 3"),
        (["down_blocks.0.resnets.0.conv1.weight"], "holds one network of a diffusers folder"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "does not tell"),
        (["something.else"], "tensors of an unknown model, such as something.else"),
    ],
)
def test_another_model_is_named(names: list[str], said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({name: torch.zeros(2) for name in names}, path)
    _one_line(path, said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "model.diffusion_model.middle_block.1.norm.weight",
            "lacks 1 weights of UNet2DConditionModel, such as mid_block",
        ),
        (
            "first_stage_model.encoder.conv_in.bias",
            "lacks 1 weights of AutoencoderKL, such as encoder.conv_in.bias",
        ),
        (
            "cond_stage_model.model.visual.proj",
            "lacks cond_stage_model.model.visual.proj; is the file complete",
        ),
        ("cond_stage_model.model.visual.conv1.weight", "lacks cond_stage_model.model.visual.conv1.weight"),
        ("model.diffusion_model.out.2.weight", "lacks model.diffusion_model.out.2.weight"),
        ("first_stage_model.post_quant_conv.weight", "lacks first_stage_model.post_quant_conv.weight"),
    ],
)
def test_a_file_without_a_weight_says_which(name: str, said: str, tmp_path: Path) -> None:
    path = write_single_file(tiny_model("zero123"), tmp_path / "m.safetensors", averaged=False)
    stored = load_file(path)
    del stored[name]
    save_file(stored, tmp_path / "less.safetensors")
    shutil.copy(path.with_suffix(".yaml"), tmp_path / "less.yaml")
    with pytest.raises(UserError, match=said) as caught:
        _all_networks(tmp_path / "less.safetensors")
    assert "\n" not in str(caught.value) and "less.safetensors" in str(caught.value)


def _all_networks(path: Path) -> None:
    model = _opened(path, "zero123")
    model.unet.on(CPU)
    model.vae.on(CPU)


def test_a_weight_of_another_shape_is_one_line(tmp_path: Path) -> None:
    path = write_folder(tiny_model("zero123"), tmp_path / "m")
    file = path / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"cross_attention_dim": 99}))
    with pytest.raises(UserError, match=r"attn2.to_k.weight is 32 x 24, and its configuration says 32 x 99"):
        open_components(path).network("unet")


def _checkpoint_with(objects: dict, path: Path) -> Path:
    truth = tiny_model("zero123")
    torch.save({"state_dict": state_of(truth, "zero123"), "global_step": 7, **objects}, path)
    return path


def test_a_trainers_objects_are_ignored_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Lightning once wrote them: callbacks named by their class, settings in objects of other libraries."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")

    class ModelCheckpoint:
        def __init__(self) -> None:
            self.best, self.table = 1.0, {"a": [1, 2]}

        def __reduce__(self) -> tuple:
            return (ModelCheckpoint, (), {"best": 1.0})

        def __setstate__(self, _: object) -> None:
            raise AssertionError("run")

    ModelCheckpoint.__module__, ModelCheckpoint.__qualname__ = module.__name__, "ModelCheckpoint"
    module.ModelCheckpoint = ModelCheckpoint  # type: ignore[attr-defined]
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    objects = {
        "callbacks": {ModelCheckpoint: {"best_model_score": torch.ones(1)}},
        "hyper": ModelCheckpoint(),
        "loops": defaultdict(list, epoch=[1]),
    }
    path = _checkpoint_with(objects, tmp_path / "m.ckpt")
    monkeypatch.delitem(sys.modules, module.__name__)
    parts = SingleFile(path)
    assert parts.facts["global_step"] == 7 and parts.family == "zero123"


class _Code:
    def __reduce__(self) -> tuple:
        import os

        return (os.system, ("touch /tmp/usd-was-here",))


def test_a_file_with_code_is_refused_unread(tmp_path: Path) -> None:
    path = _checkpoint_with({"callbacks": _Code()}, tmp_path / "m.ckpt")
    _one_line(path, r"holds objects that are no weights \(posix.system\); refused")
    assert not Path("/tmp/usd-was-here").exists()


def test_the_weights_of_tiny_models_differ_by_seed() -> None:
    """Else the tests above could not fail."""
    a, b = (random_like({"x": torch.empty(4)}, seed)["x"] for seed in (0, 1))
    assert not torch.equal(a, b)
