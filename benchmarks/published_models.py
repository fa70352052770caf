"""The published models' true configurations with random weights, in every layout in which they are published.

What is true of the published files and can be known without them is checked on these: names, shapes, numbers of
parameters, sizes. Weights are drawn so that signals keep their size on the way through a network: a prediction means
nothing, but is finite in half precision too.
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.syncdreamer_file import CONDITIONS, volume_shapes, write_syncdreamer
from usd.denoiser.architectures import ARCHITECTURES, Architecture, count_parameters
from usd.denoiser.components import PROJECTION, PROJECTIONS, open_components
from usd.denoiser.published import write_folder, write_single_file
from usd.denoiser.rehearsal import RandomComponents
from usd.denoiser.single_file import Family
from usd.denoiser.weights import whole_numbers

Layout = Literal["folder", "folder-b", "safetensors", "ckpt"]

VOCABULARY = 49408
PROJECTION_PARAMETERS = (768 + 4) * 768 + 768
VOLUME, DEPTH_ATTENTION = "feature volume", "depth attention"
"""What SyncDreamer adds to Zero-1-to-3: networks of its own, and layers behind the UNet's blocks."""


@dataclass(frozen=True)
class Published:
    """A model: the configuration of each network, and the number of parameters that its authors' files hold."""

    name: str
    family: Family
    configs: Mapping[str, Mapping[str, Any]]
    parameters: Mapping[str, int]
    layouts: tuple[Layout, ...]
    adds_volume: bool = False

    @property
    def channels(self) -> list[int]:
        """Channels of the UNet's levels."""
        return whole_numbers(self.configs["unet"], "block_out_channels")


SD_1 = Published(
    "sd-1.5",
    "stable-diffusion-1",
    ARCHITECTURES["stable-diffusion-1"].configs,
    {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    ("folder", "safetensors", "ckpt"),
)
SD_2 = Published(
    "sd-2.1-base",
    "stable-diffusion-2",
    ARCHITECTURES["stable-diffusion-2-base"].configs,
    {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    ("folder", "safetensors"),
)
ZERO123 = Published(
    "zero123-xl",
    "zero123",
    ARCHITECTURES["zero123"].configs,
    {
        "unet": 859_532_484,
        "vae": 83_653_863,
        "image_encoder": 303_966_208,
        PROJECTION: PROJECTION_PARAMETERS,
    },
    ("folder", "folder-b", "ckpt"),
)
SYNCDREAMER = Published(
    "syncdreamer",
    "zero123",
    ARCHITECTURES["zero123"].configs,
    {**ZERO123.parameters, VOLUME: 48_699_136, DEPTH_ATTENTION: 57_321_472},
    ("ckpt",),
    adds_volume=True,
)
MODELS = {model.name: model for model in (SD_1, SD_2, ZERO123, SYNCDREAMER)}
VIEW_GROUPS: Mapping[str, Mapping[str, int]] = {
    "wonder3d": {"unet": 910_785_284, "image_encoder": 303_966_208},
    "zero123plus": {
        "unet": 865_910_724,
        "vae": 83_653_863,
        "text_encoder": 340_387_840,
        "vision_encoder": 632_076_800,
    },
}
"""Models of view groups, by architecture: numbers of parameters in their authors' files."""


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
    if model.adds_volume:
        del narrow["unet"]["layers_per_block"]  # the published depth attention stands behind as many blocks
    configs = {part: {**config, **narrow[part]} for part, config in model.configs.items()}
    counts = {part: count_parameters(part, config) for part, config in configs.items()}
    small = replace(model, configs=configs, parameters={**model.parameters, **counts})
    if not model.adds_volume:
        return small
    shapes = volume_shapes(small.channels).items()
    depth = sum(math.prod(shape) for name, shape in shapes if name.startswith(CONDITIONS))
    return replace(small, parameters={**small.parameters, DEPTH_ATTENTION: depth})


def parameters_of(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# ------------------------------------------------------------------------------------------------------------- writing


def write(model: Published, folder: Path, layout: Layout) -> Path:
    """The model with random fp16 weights in ``folder``; returns what a user would name as the model.

    All other layouts are made of the plain folder, which is written first where it is missing.
    """
    plain = folder / "folder"
    if not (plain / "model_index.json").is_file():
        words = write_tokenizer(folder / "tokenizer", "!" if model.family == "stable-diffusion-2" else None)
        write_folder(RandomComponents(model.name, Architecture(model.family, model.configs), words), plain)
    if layout == "folder":
        return plain
    parts = open_components(plain)
    if layout == "folder-b":
        return write_folder(parts, folder / layout, PROJECTIONS[1], pickled=True)
    path = folder / layout / f"{model.name}.{layout}"
    if model.adds_volume:
        return write_syncdreamer(parts, path)
    file = write_single_file(parts, path, averaged=False, step=875000)
    if parts.has("text_encoder"):
        shutil.copytree(folder / "tokenizer", file.parent / "tokenizer", dirs_exist_ok=True)
    return file


def write_tokenizer(folder: Path, pad: str | None) -> Path:
    """CLIP's tokenizer in form and size, with byte pairs of no meaning: 49408 pieces, the same first and last ones."""
    letters = [chr(i) for i in (*range(33, 127), *range(161, 173), *range(174, 256))]
    units = letters + [chr(256 + i) for i in range(256 - len(letters))]
    pairs = [(a, b) for a in units for b in units][: VOCABULARY - 2 - 2 * len(units)]
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
