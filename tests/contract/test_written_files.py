"""What we write is what the original programs and pipelines store and load, name by name and shape by shape."""

import gzip
import json
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.contract.golden import DATA, assert_close, below, golden
from tests.denoiser.published_models import FAMILIES, tiny_model, tokenizer
from tests.denoiser.test_single_file import full_size
from usd.denoiser.components import open_components
from usd.denoiser.layouts import average_name
from usd.denoiser.published import (
    family_of_components,
    state_of,
    training_config,
    write_folder,
    write_single_file,
)

KEYS = {"sd1": "stable-diffusion", "sd2": "stablediffusion", "zero123": "zero123"}
UNET = "model.diffusion_model."


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_holds_the_names_shapes_and_kinds_that_the_original_stores(family: str) -> None:
    """At true size: loading it there is complete, and no size can differ."""
    with gzip.open(DATA / f"published_keys_{KEYS[family]}.json.gz", "rt") as file:
        published = {name: (tuple(shape), dtype) for name, (shape, dtype) in json.load(file).items()}
    model = full_size(family)
    stored = state_of(model, family_of_components(model))
    assert {name: (tuple(x.shape), str(x.dtype)) for name, x in stored.items()} == published


@pytest.mark.parametrize("name", ["zero123_ldm_tiny", "sd1_ldm_tiny", "sd2_v_ldm_tiny"])
def test_the_noise_schedule_is_stored_as_the_original_computes_it(name: str) -> None:
    theirs = {k: x for k, x in below(golden(name), "state_dict/").items() if "." not in k}
    ours = state_of(tiny_model("sd1"), "stable-diffusion-1")
    assert len(theirs) == 12
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, atol=1e-7, rtol=1e-5, msg=key)


@pytest.mark.parametrize("form", ["m.safetensors", "m.ckpt"])
def test_the_average_is_the_network(form: str, tmp_path: Path) -> None:
    """The originals run what lies under ``model_ema.``; half precision keeps its two numbers what they are."""
    path = write_single_file(tiny_model("zero123", dtype=torch.float16), tmp_path / form)
    stored = load_file(path) if form.endswith("s") else torch.load(path)["state_dict"]
    plain = {name: x for name, x in stored.items() if name.startswith(UNET)}
    assert plain and all(torch.equal(stored[average_name(name)], x) for name, x in plain.items())
    assert (stored["model_ema.decay"].item(), stored["model_ema.num_updates"].item()) == (
        pytest.approx(0.9999),
        0,
    )
    assert len([name for name in stored if name.startswith("model_ema.")]) == len(plain) + 2


UNET_PARAMS = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [1, 2, 4],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 768,
    "use_checkpoint": True,
    "legacy": False,
}
UNET_PARAMS_OF = {
    "sd1": {"num_heads": 8},
    "sd2": {"num_head_channels": 64, "use_linear_in_transformer": True, "context_dim": 1024},
    "zero123": {"num_heads": 8, "in_channels": 8},
}
EMBEDDER = {
    "sd1": "FrozenCLIPEmbedder",
    "sd2": "FrozenOpenCLIPEmbedder",
    "zero123": "FrozenCLIPImageEmbedder",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_yaml_beside_it_builds_the_originals_classes(family: str) -> None:
    """The authors' own values; other programs build the model from a YAML file that lies beside a checkpoint."""
    model = full_size(family)
    config = training_config(model, family_of_components(model))["model"]
    params = config["params"]
    assert config["target"] == "ldm.models.diffusion.ddpm.LatentDiffusion"
    unet = params["unet_config"]["params"]
    del unet["image_size"]  # unused there
    assert unet == UNET_PARAMS | UNET_PARAMS_OF[family]
    sizes = params["first_stage_config"]["params"]["ddconfig"]
    assert (sizes["ch"], sizes["ch_mult"], sizes["num_res_blocks"], sizes["z_channels"]) == (
        128,
        [1, 2, 4, 4],
        2,
        4,
    )
    assert params["cond_stage_config"]["target"].endswith(EMBEDDER[family])
    assert params["use_ema"] == (family == "zero123") and params["image_size"] == (
        32 if family == "zero123" else 64
    )
    assert params["parameterization"] == ("v" if family == "sd2" else "eps")


def test_our_own_facts_are_no_arguments_of_the_originals(tmp_path: Path) -> None:
    model = tiny_model("zero123")
    model.configs["camera_projection"]["fourth_number"] = "input-polar"
    said = yaml.safe_load(write_single_file(model, tmp_path / "m.ckpt").with_suffix(".yaml").read_text())
    assert said["usd"] == {"image_size": 8, "fourth_number": "input-polar"}
    assert "fourth_number" not in said["model"]["params"]


# ------------------------------------------------------------------------------------------------------------- folders


def _pipeline(layout: str, monkeypatch: pytest.MonkeyPatch) -> type:
    """A pipeline with the interface of the published ones, its projection in a module of the published name."""
    from diffusers import DiffusionPipeline, ModelMixin
    from diffusers.configuration_utils import ConfigMixin, register_to_config

    class CLIPCameraProjection(ModelMixin, ConfigMixin):
        @register_to_config
        def __init__(self, embedding_dim: int = 768, additional_embeddings: int = 4) -> None:
            super().__init__()
            self.proj = torch.nn.Linear(embedding_dim + additional_embeddings, embedding_dim)

    class CCProjection(ModelMixin, ConfigMixin):
        @register_to_config
        def __init__(self, in_channel: int = 772, out_channel: int = 768) -> None:
            super().__init__()
            self.projection = torch.nn.Linear(in_channel, out_channel)

    class First(DiffusionPipeline):
        _optional_components = ["safety_checker"]

        def __init__(
            self, vae, image_encoder, unet, scheduler, safety_checker, feature_extractor,
            clip_camera_projection, requires_safety_checker: bool = True,
        ) -> None:  # fmt: skip
            super().__init__()
            self.register_modules(vae=vae, image_encoder=image_encoder, unet=unet, scheduler=scheduler)
            self.register_modules(
                feature_extractor=feature_extractor, clip_camera_projection=clip_camera_projection
            )

    class Second(DiffusionPipeline):
        _optional_components = ["safety_checker"]

        def __init__(
            self, vae, image_encoder, unet, scheduler, safety_checker, feature_extractor,
            cc_projection, requires_safety_checker: bool = True,
        ) -> None:  # fmt: skip
            super().__init__()
            self.register_modules(vae=vae, image_encoder=image_encoder, unet=unet, scheduler=scheduler)
            self.register_modules(feature_extractor=feature_extractor, cc_projection=cc_projection)

    module, layer, pipeline = {
        "clip_camera_projection": ("zero123", CLIPCameraProjection, First),
        "cc_projection": ("pipeline_zero1to3", CCProjection, Second),
    }[layout]
    monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    for cls in (layer, ModelMixin):  # the published modules import it, and diffusers looks for it there
        setattr(sys.modules[module], cls.__name__, cls)
    return pipeline


@pytest.mark.parametrize(
    ("layout", "published"),
    [
        ("clip_camera_projection", ["zero123", "CLIPCameraProjection"]),
        ("cc_projection", ["pipeline_zero1to3", "CCProjection"]),
    ],
)
def test_the_index_names_the_classes_of_the_published_pipelines(
    layout: str, published: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = tiny_model("zero123")
    folder = write_folder(truth, tmp_path / "m", layout)
    index = json.loads((folder / "model_index.json").read_text())
    assert index[layout] == published
    for part, (library, name) in ((k, v) for k, v in index.items() if isinstance(v, list) and v[0]):
        if part != layout:
            assert hasattr(__import__(library), name), part
    pipe = _pipeline(layout, monkeypatch).from_pretrained(folder)
    layer = getattr(pipe, layout)
    assert type(layer).__name__ == published[1]
    assert torch.equal(next(iter(layer.parameters())), truth.weights["camera_projection"]["proj.weight"])
    state = pipe.unet.state_dict()
    assert all(torch.equal(state[name], x) for name, x in truth.weights["unet"].items())


def test_diffusers_own_pipeline_opens_a_stable_diffusion_folder(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    raw = write_single_file(tiny_model("sd1"), tmp_path / "m.safetensors")
    tokenizer(tmp_path / "tokenizer")
    pipe = StableDiffusionPipeline.from_pretrained(write_folder(open_components(raw), tmp_path / "folder"))
    assert_close(pipe.unet.conv_in.weight, tiny_model("sd1").weights["unet"]["conv_in.weight"], 0.0)
    assert pipe.tokenizer.eos_token_id == 19
