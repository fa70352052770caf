"""Tiny models of the three published families, in memory, and everything that a test needs to compare them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from usd.denoiser.components import CLASSES, PROJECTION, MemoryComponents, ModelComponents
from usd.denoiser.weights import empty_network

FAMILIES = ("sd1", "sd2", "zero123")
WIDTH, EMBED = 64, 24  # of a CLIP tower: one head; of the image embedding
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}


def unet(family: str) -> dict[str, Any]:
    linear = family == "sd2"
    return {
        "sample_size": 8,
        "in_channels": 8 if family == "zero123" else 4,
        "out_channels": 4,
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "cross_attention_dim": EMBED if family == "zero123" else WIDTH,
        "attention_head_dim": [2, 4] if linear else 8,
        "use_linear_projection": linear,
    }


VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [32, 32],
    "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "sample_size": 16,
    "scaling_factor": 0.2,
}
TOWER = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1}


def text(family: str) -> dict[str, Any]:
    act = "quick_gelu" if family == "sd1" else "gelu"
    ends = {"bos_token_id": 18, "eos_token_id": 19, "pad_token_id": 19 if family == "sd1" else 0}
    return {**TOWER, "vocab_size": 20, "max_position_embeddings": 9, "hidden_act": act, **ends}


VISION = {**TOWER, "image_size": 16, "patch_size": 8, "projection_dim": EMBED, "hidden_act": "quick_gelu"}


def configs(family: str) -> dict[str, dict[str, Any]]:
    told = (
        {"image_encoder": VISION, PROJECTION: {}} if family == "zero123" else {"text_encoder": text(family)}
    )
    said = SCHEDULER | ({"prediction_type": "v_prediction"} if family == "sd2" else {})
    return {"unet": unet(family), "vae": VAE, "scheduler": said, **told}


def random_like(
    shapes: Mapping[str, Tensor], seed: int, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {k: (torch.randn(x.shape, generator=source) * 0.1).to(dtype) for k, x in shapes.items()}


def tiny_model(family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> MemoryComponents:
    """A model with random weights."""
    said, weights = configs(family), {}
    for part in (name for name in CLASSES if name in said):
        weights[part] = random_like(empty_network(*CLASSES[part], said[part]).state_dict(), seed, dtype)
    if family == "zero123":
        shapes = {"proj.weight": torch.empty(EMBED, EMBED + 4), "proj.bias": torch.empty(EMBED)}
        weights[PROJECTION] = random_like(shapes, seed, dtype)
    return MemoryComponents(said, weights)


def zero_plain_weights(place: Path) -> Path:
    """Put zeros in the UNet's usual place of a single file, so that reading it instead of the average shows."""
    from safetensors.torch import load_file, save_file

    pickled = place.suffix == ".ckpt"
    content = torch.load(place) if pickled else {"state_dict": load_file(place)}
    state = content["state_dict"]
    plain = [name for name in state if name.startswith("model.diffusion_model.")]
    state |= {name: torch.zeros_like(state[name]) for name in plain}
    torch.save(content, place) if pickled else save_file(state, place)
    return place


def tokenizer(place: Path) -> Path:
    """A folder as published, with CLIP's two special words and one real one."""
    import json

    place.mkdir(parents=True)
    words = [*"abcdefghijklmnop", "red</w>", "!", "<|startoftext|>", "<|endoftext|>"]
    (place / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": words[18], "eos_token": words[19], "unk_token": words[19], "pad_token": words[19]}
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **special}))
    return place


def same(found: ModelComponents, truth: MemoryComponents) -> None:
    """Every tensor of every part, bit by bit, as networks of the libraries hold them."""
    for part, weights in truth.weights.items():
        ours = dict(found.tensors(part)) if part == PROJECTION else found.network(part).state_dict()
        assert set(ours) == set(weights), part
        for name, value in weights.items():
            assert ours[name].dtype == value.dtype and torch.equal(ours[name], value), (part, name)
