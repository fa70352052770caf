"""Under which names published checkpoints store the weights of each network.

Ours are those of diffusers and transformers. Single files of Stable Diffusion and Zero-1-to-3 use the names of the
"latent diffusion" training code and, within them, OpenAI's or OpenCLIP's for the CLIP towers. Each function gives one
table ``our name -> StoredTensor``; the same table reads and writes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from usd.denoiser.weights import LazyTensors, texts, whole, whole_numbers

UNET, AUTOENCODER, CLIP_TEXT, CLIP = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
)
AVERAGE = "model_ema."
Form = Literal["same", "pixel", "transposed"]


@dataclass(frozen=True)
class StoredTensor:
    """The place of one of our tensors in a published file: its name there, which third of it, in which form.

    Thirds: q, k and v are stacked. ``pixel``: a linear layer stored as a 1 x 1 convolution. ``transposed``: of a
    matrix.
    """

    name: str
    third: int | None = None
    form: Form = "same"

    def read(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Return our tensor, a view of the stored one."""
        tensor = stored[self.name]
        if self.third is not None:
            tensor = tensor.chunk(3)[self.third]
        if self.form == "pixel" and tensor.dim() == 4:
            tensor = tensor[:, :, 0, 0]
        return tensor.T if self.form == "transposed" else tensor

    def stored_form(self, ours: Tensor) -> Tensor:
        """Return the inverse, but for the stacking."""
        if self.form == "same":
            return ours
        return ours.T if self.form == "transposed" else ours[..., None, None]


Table = dict[str, StoredTensor]


def read_with_our_names(table: Table, stored: Mapping[str, Tensor]) -> LazyTensors:
    """Return the tensors of a checkpoint that a table names, under our names."""
    return LazyTensors({ours: partial(o.read, stored) for ours, o in table.items() if o.name in stored})


def stored_tensors(table: Table, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our tensors under the checkpoint's names: the inverse of ``read_with_our_names``."""
    groups: dict[str, list[tuple[int, Tensor]]] = {}
    for name, origin in table.items():
        groups.setdefault(origin.name, []).append((origin.third or 0, origin.stored_form(ours[name])))
    each = {name: [x for _, x in sorted(group, key=lambda g: g[0])] for name, group in groups.items()}
    return {name: (torch.cat(xs) if len(xs) > 1 else xs[0]).contiguous() for name, xs in each.items()}


def average_name(name: str) -> str:
    """Return the name of the exponential moving average of a weight of the UNet: the same without dots."""
    return AVERAGE + name.removeprefix("model.").replace(".", "")


SYNCDREAMER_CLIP = "clip_image_encoder.model."
SYNCDREAMER_VOLUME = (
    "spatial_volume.",
    "time_embed.",
    f"{UNET}middle_conditions.",
    f"{UNET}output_conditions.",
)


IMAGEDREAM_PREFIXES = {"clip_model.model.": CLIP, "vae_model.": AUTOENCODER}


def with_zero123_names(stored: Mapping[str, Tensor]) -> LazyTensors:
    """Return SyncDreamer's tensors under the names that Zero-1-to-3's files have for those of them that both hold."""
    return with_other_prefixes(stored, {SYNCDREAMER_CLIP: CLIP})


def with_other_prefixes(stored: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> LazyTensors:
    """Return the tensors with ``prefixes`` (theirs: ours) at the heads of their names changed."""

    def renamed(name: str) -> str:
        theirs = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        return prefixes.get(theirs, "") + name.removeprefix(theirs)

    return LazyTensors({renamed(name): partial(stored.__getitem__, name) for name in stored})


def select_tensors(stored: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> LazyTensors:
    """Return the tensors whose names begin with one of ``prefixes``, without the UNet's own prefix."""
    names = [name for name in stored if name.startswith(prefixes)]
    return LazyTensors({name.removeprefix(UNET): partial(stored.__getitem__, name) for name in names})


# ---------------------------------------------------------------------------------------------------------------- UNet

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def unet_table(names: Iterable[str], config: Mapping[str, object]) -> Table:
    """Return the table of a UNet2DConditionModel with these weights: blocks are counted through, whatever the level."""
    modules = unet_modules(config)
    return {name: StoredTensor(UNET + _renamed(name, modules, RESNET)) for name in names}


def unet_modules(config: Mapping[str, object]) -> dict[str, str]:
    """Return the training code's name of each module, by ours."""
    layers, levels = whole(config, "layers_per_block"), len(whole_numbers(config, "block_out_channels"))
    attentive = ["Attn" in kind for kind in texts(config, "up_block_types")]
    modules = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "class_embedding.linear_1": "camera_embed.0",
        "class_embedding.linear_2": "camera_embed.2",
        "image_embed": "image_embed",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    for level in range(levels):
        first = 1 + level * (layers + 1)
        for layer in range(layers):
            modules[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{first + layer}.0"
            modules[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{first + layer}.1"
        modules[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{first + layers}.0.op"
        first = level * (layers + 1)
        for layer in range(layers + 1):
            modules[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{first + layer}.0"
            modules[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{first + layer}.1"
        after = 2 if attentive[level] else 1
        modules[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{first + layers}.{after}.conv"
    return modules


# --------------------------------------------------------------------------------------------------------- autoencoder

ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def autoencoder_table(names: Iterable[str], config: Mapping[str, object]) -> Table:
    """Return the table of an AutoencoderKL: its decoder counts from the finest level, its attention is convolutions."""
    modules = autoencoder_modules(config)
    leaves = {**ATTENTION, "conv_shortcut": "nin_shortcut"}
    table = {}
    for name in names:
        pixel = ".attentions." in name and name.endswith(".weight") and "group_norm" not in name
        table[name] = StoredTensor(
            AUTOENCODER + _renamed(name, modules, leaves), form="pixel" if pixel else "same"
        )
    return table


def autoencoder_modules(config: Mapping[str, object]) -> dict[str, str]:
    """Return the training code's name of each module, by ours."""
    layers, levels = whole(config, "layers_per_block"), len(whole_numbers(config, "block_out_channels"))
    modules = {name: name for name in ("quant_conv", "post_quant_conv")}
    for half in ("encoder", "decoder"):
        modules |= {f"{half}.{name}": f"{half}.{name}" for name in ("conv_in", "conv_out")}
        modules[f"{half}.conv_norm_out"] = f"{half}.norm_out"
        modules[f"{half}.mid_block.attentions.0"] = f"{half}.mid.attn_1"
        modules |= {f"{half}.mid_block.resnets.{i}": f"{half}.mid.block_{i + 1}" for i in (0, 1)}
    for level in range(levels):
        down, up, theirs = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{level}", levels - 1 - level
        modules |= {f"{down}.resnets.{i}": f"encoder.down.{level}.block.{i}" for i in range(layers)}
        modules |= {f"{up}.resnets.{i}": f"decoder.up.{theirs}.block.{i}" for i in range(layers + 1)}
        modules[f"{down}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
        modules[f"{up}.upsamplers.0.conv"] = f"decoder.up.{theirs}.upsample.conv"
    return modules


# ---------------------------------------------------------------------------------------------------------------- CLIP

BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
THIRDS = {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}
TEXT_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
VISION_ENDS = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}


def clip_text_table(names: Iterable[str], inner: str = "text_model.") -> Table:
    """Return the table of a CLIPTextModel in Stable Diffusion 1.x: transformers' names at the time of its release."""
    return {name: StoredTensor(CLIP_TEXT + inner + name.removeprefix("text_model.")) for name in names}


def open_clip_text_table(names: Iterable[str]) -> Table:
    """Return the table of a CLIPTextModel in Stable Diffusion 2.x: OpenCLIP's names, q, k and v stacked."""
    return {name: _clip_tensor(CLIP, name.removeprefix("text_model."), TEXT_ENDS) for name in names}


def clip_vision_table(names: Iterable[str]) -> Table:
    """Return the table of the image encoder in Zero-1-to-3: OpenAI's names, the projection transposed."""
    table = {}
    for name in names:
        if name == "visual_projection.weight":
            table[name] = StoredTensor(f"{CLIP}visual.proj", form="transposed")
        else:
            table[name] = _clip_tensor(f"{CLIP}visual.", name.removeprefix("vision_model."), VISION_ENDS)
    return table


def camera_projection_table() -> Table:
    """Return the table of the layer from picture and pose to a token."""
    return {f"proj.{kind}": StoredTensor(f"cc_projection.{kind}") for kind in ("weight", "bias")}


def _clip_tensor(prefix: str, name: str, ends: Mapping[str, str]) -> StoredTensor:
    if name in ends:
        return StoredTensor(prefix + ends[name])
    number, rest = name.removeprefix("encoder.layers.").split(".", 1)
    module, kind = rest.rsplit(".", 1)
    block = f"{prefix}transformer.resblocks.{number}."
    if module in THIRDS:
        return StoredTensor(f"{block}attn.in_proj_{kind}", THIRDS[module])
    return StoredTensor(f"{block}{BLOCK[module]}.{kind}")


def _renamed(name: str, modules: Mapping[str, str], leaves: Mapping[str, str]) -> str:
    """Return a name with the longest known module at its head replaced, and the layer after it."""
    ends = [i for i, letter in enumerate(name) if letter == "."]
    head = next((name[:end] for end in reversed(ends) if name[:end] in modules), None)
    if head is None:
        raise KeyError(name)
    rest = name[len(head) + 1 :]
    layer = next((leaf for leaf in leaves if rest.startswith(f"{leaf}.")), "")
    return f"{modules[head]}.{leaves.get(layer, layer)}{rest[len(layer) :]}"
