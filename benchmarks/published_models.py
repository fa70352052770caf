"""The published models' true configurations with random weights, in every layout in which they are published.

What is true of the published files and can be known without them is checked on these: names, shapes, numbers of
parameters, sizes. Weights are drawn so that signals keep their size on the way through a network: a prediction means
nothing, but is finite in half precision too.
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from usd.core.random import generator
from usd.denoiser.components import CLASSES, PROJECTION, PROJECTIONS, ModelComponents, open_components
from usd.denoiser.published import write_folder, write_single_file
from usd.denoiser.single_file import SCHEDULER, Family
from usd.denoiser.weights import Lazy, empty_network

Layout = Literal["folder", "folder-b", "safetensors", "ckpt"]

UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
}
HEADS_1 = {"cross_attention_dim": 768, "attention_head_dim": 8}
HEADS_2 = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
VAE = {
    "sample_size": 512,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
TEXT = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407}
TEXT_1 = TEXT | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "pad_token_id": 1,
}
TEXT_2 = TEXT | {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
PROJECTION_PARAMETERS = (768 + 4) * 768 + 768


@dataclass(frozen=True)
class Published:
    """A model: the configuration of each network, and the number of parameters that its authors' files hold."""

    name: str
    family: Family
    configs: Mapping[str, Mapping[str, Any]]
    parameters: Mapping[str, int]
    layouts: tuple[Layout, ...]


SD_1 = Published(
    "sd-1.5",
    "stable-diffusion-1",
    {"unet": UNET | HEADS_1, "vae": VAE, "text_encoder": TEXT_1},
    {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    ("folder", "safetensors", "ckpt"),
)
SD_2 = Published(
    "sd-2.1-base",
    "stable-diffusion-2",
    {"unet": UNET | HEADS_2, "vae": VAE, "text_encoder": TEXT_2},
    {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    ("folder", "safetensors"),
)
ZERO123 = Published(
    "zero123-xl",
    "zero123",
    {
        "unet": UNET | HEADS_1 | {"sample_size": 32, "in_channels": 8},
        "vae": VAE | {"sample_size": 256},
        "image_encoder": VISION,
    },
    {
        "unet": 859_532_484,
        "vae": 83_653_863,
        "image_encoder": 303_966_208,
        PROJECTION: PROJECTION_PARAMETERS,
    },
    ("folder", "folder-b", "ckpt"),
)
MODELS = {model.name: model for model in (SD_1, SD_2, ZERO123)}


def shrunk(model: Published) -> Published:
    """The same with a sixty-fourth of the weights or less, and its own numbers of parameters: to try the commands."""
    narrow = {
        "unet": {"block_out_channels": [64, 64, 128, 128], "layers_per_block": 1},
        "vae": {"block_out_channels": [32, 32, 64, 64], "layers_per_block": 1},
        "text_encoder": {"intermediate_size": 64, "num_hidden_layers": 2},
        "image_encoder": {"intermediate_size": 64, "num_hidden_layers": 2},
    }
    if model.family == "stable-diffusion-2":
        narrow["unet"]["attention_head_dim"] = [1, 1, 2, 2]
    configs = {part: {**config, **narrow[part]} for part, config in model.configs.items()}
    counts = {part: parameters_of(empty_network(*CLASSES[part], config)) for part, config in configs.items()}
    return Published(model.name, model.family, configs, {**model.parameters, **counts}, model.layouts)


def parameters_of(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# ------------------------------------------------------------------------------------------------------------- writing


class RandomParts(ModelComponents):
    """A model of random numbers: the same for the same seed, each tensor made when asked for."""

    def __init__(self, model: Published, tokenizer: Path, seed: int = 0) -> None:
        self.place = Path(f"random {model.name}")
        self.model, self.seed, self.words = model, seed, tokenizer

    def has(self, part: str) -> bool:
        return part in self.model.parameters or part == "scheduler"

    def config(self, part: str) -> dict[str, Any]:
        if part == "scheduler":
            return SCHEDULER | {"prediction_type": "epsilon"}
        return {} if part == PROJECTION else dict(self.model.configs[part])

    def tensors(self, part: str) -> Mapping[str, Tensor]:
        shapes = self._shapes(part)
        readers = {name: partial(self._random, part, name, shape) for name, shape in shapes.items()}
        return Lazy(readers)

    def tokenizer(self) -> Path | None:
        return None if self.has(PROJECTION) else self.words

    def _shapes(self, part: str) -> dict[str, tuple[int, ...]]:
        if part == PROJECTION:
            return {"proj.weight": (768, 772), "proj.bias": (768,)}
        network = empty_network(*CLASSES[part], self.config(part))
        prefix = "text_model." if part == "text_encoder" else ""
        named = {name: tuple(weight.shape) for name, weight in network.named_parameters()}
        return {prefix + name.removeprefix(prefix): shape for name, shape in named.items()}

    def _random(self, part: str, name: str, shape: tuple[int, ...]) -> Tensor:
        """Ones for scales, zeros for offsets, else normal numbers divided by the root of the inputs. fp16."""
        if len(shape) == 1:
            return torch.full(shape, float(name.endswith("weight")), dtype=torch.float16)
        source = generator("cpu", self.seed, self.model.name, part, name)
        return torch.randn(shape, generator=source).mul_(math.prod(shape[1:]) ** -0.5).half()


def write(model: Published, folder: Path, layout: Layout) -> Path:
    """The model with random fp16 weights in ``folder``; returns what a user would name as the model.

    All other layouts are made of the plain folder, which is written first where it is missing.
    """
    plain = folder / "folder"
    if not (plain / "model_index.json").is_file():
        words = write_tokenizer(folder / "tokenizer", "!" if model.family == "stable-diffusion-2" else None)
        write_folder(RandomParts(model, words), plain)
    if layout == "folder":
        return plain
    parts = open_components(plain)
    if layout == "folder-b":
        return write_folder(parts, folder / layout, PROJECTIONS[1], pickled=True)
    file = write_single_file(parts, folder / layout / f"{model.name}.{layout}", averaged=False, step=875000)
    if parts.has("text_encoder"):
        shutil.copytree(folder / "tokenizer", file.parent / "tokenizer", dirs_exist_ok=True)
    return file


def write_tokenizer(folder: Path, pad: str | None) -> Path:
    """CLIP's tokenizer in form and size, with byte pairs of no meaning: 49408 pieces, the same first and last ones."""
    letters = [chr(i) for i in (*range(33, 127), *range(161, 173), *range(174, 256))]
    units = letters + [chr(256 + i) for i in range(256 - len(letters))]
    pairs = [(a, b) for a in units for b in units][: TEXT["vocab_size"] - 2 - 2 * len(units)]
    pieces = [*units, *(f"{unit}</w>" for unit in units), *(a + b for a, b in pairs)]
    first, last = "<|startoftext|>", "<|endoftext|>"
    special = {"bos_token": first, "eos_token": last, "unk_token": last, "pad_token": pad or last}
    write_json(folder / "vocab.json", {piece: i for i, piece in enumerate([*pieces, first, last])})
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special},
    )
    merges = "\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in pairs)])
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    return folder


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
