"""Single files of Stable Diffusion 1.x and 2.x, Zero-1-to-3 and SyncDreamer, as their authors' code wrote them.

Such a file has weights and no configuration. Sizes follow from the shapes of the weights. What shapes do not say
(heads, the latents' side, noise or velocity prediction) is read from the training configuration ``<same name>.yaml``
beside the file if there is one, and is that of the published models otherwise. Averaged weights are preferred where
there are any.
"""

import logging
import math
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from usd.core.errors import UserError
from usd.denoiser import layouts
from usd.denoiser.components import (
    CLASSES,
    PROJECTION,
    PROJECTIONS,
    VIEW_GROUP_VOLUME,
    ModelComponents,
    network_class,
)
from usd.denoiser.layouts import AUTOENCODER, CLIP, CLIP_TEXT, UNET, StoredTensor, Table
from usd.denoiser.networks import UNet as UNetNetwork
from usd.denoiser.weights import (
    NetworkConfig,
    build,
    empty_network,
    nested,
    number,
    open_checkpoint,
    whole,
    whole_numbers,
)
from usd.math.diffusion import scaled_linear_alphas_cumprod

LOG = logging.getLogger(__name__)
Family = Literal["stable-diffusion-1", "stable-diffusion-2", "zero123"]
SYNCDREAMER_MARK = "spatial_volume.target_encoder.init_conv.weight"
HEAD_WIDTH = 64  # of every CLIP tower, and of Stable Diffusion 2's UNet
OPEN_HEAD_WIDTH = 80  # of OpenCLIP's ViT-H/14, its picture's tower
OURS = "usd"
HEADS = 8  # of Stable Diffusion 1's UNet and of Zero-1-to-3's
PREDICTION_AT_STEP = {875000: "epsilon", 110000: "v_prediction"}  # published Stable Diffusion 2 checkpoints
PREDICTIONS = ("epsilon", "v_prediction")
STABLE = re.compile(r"stable[-_ ]?zero", re.IGNORECASE)  # Stable-Zero123, by name
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


CAMERA_EMBEDDING = f"{UNET}camera_embed.0.weight"
IMAGEDREAM_MARK = f"{UNET}image_embed.latents"
GROUP_LATENTS = 32
"""Side of the latents of models of view groups, whose base is Stable Diffusion 2 all the same."""


class SingleFile(ModelComponents):
    """One file as components. Raises UserError at once when it is none of the three families."""

    def __init__(self, place: Path, averaged: bool = True) -> None:
        self.place = place
        self.stored, self.facts = open_checkpoint(place)
        self.is_syncdreamer = SYNCDREAMER_MARK in self.stored
        if self.is_syncdreamer:
            self.stored = layouts.with_zero123_names(self.stored)
        self.is_imagedream = IMAGEDREAM_MARK in self.stored
        if self.is_imagedream:
            self.stored = layouts.with_other_prefixes(self.stored, layouts.IMAGEDREAM_PREFIXES)
        self.family = family_of(self.stored, place)
        self.training = training_config(place)
        self.averaged = averaged and _has_average(self.stored)

    def has(self, component: str) -> bool:
        """Return whether there is such a component."""
        encoders = (
            ("image_encoder", PROJECTION) if self.family == "zero123" else ("text_encoder", "tokenizer")
        )
        more = (VIEW_GROUP_VOLUME,) if self.is_syncdreamer else ()
        more = ("image_encoder",) if self.is_imagedream else more
        return component in ("unet", "vae", "scheduler", *encoders, *more)

    def config(self, component: str) -> NetworkConfig:
        """Return a component's configuration. Raises UserError."""
        return self._configs[component]

    def tensors(self, component: str) -> Mapping[str, Tensor]:
        """Return a component's weights, read when asked for. Raises UserError."""
        if component == VIEW_GROUP_VOLUME:
            return layouts.select_tensors(self.stored, layouts.SYNCDREAMER_VOLUME)
        return layouts.read_with_our_names(self._table(component), self.stored)

    def tokenizer(self) -> Path | None:
        """Return a folder ``tokenizer`` beside the file, if there is one."""
        folder = self.place.parent / "tokenizer"
        return folder if folder.is_dir() else None

    def projection_layout(self) -> str:
        """Return as which of ``PROJECTIONS`` the camera projection is stored."""
        return PROJECTIONS[1]  # the training code's own name

    @cached_property
    def _shapes(self) -> dict[str, NetworkConfig]:
        """The configurations that follow from the shapes of the weights."""
        encoder = (
            {"image_encoder": vision_config(self.stored, self.place)}
            if self.family == "zero123"
            else {"text_encoder": text_config(self.stored, self.family, self.place)}
        )
        if self.is_imagedream:
            encoder["image_encoder"] = open_vision_config(self.stored, self.place)
        unet = unet_config(self.stored, self.training, self.place)
        check_sizes(self.training, unet, self.place)
        return {"unet": unet, "vae": autoencoder_config(self.stored, self.training, self.place), **encoder}

    @cached_property
    def _configs(self) -> dict[str, NetworkConfig]:
        prediction = prediction_type(self.family, self.training, self.facts)
        if prediction is None:  # models that are given cameras were trained from the one that predicts noise
            prediction = "epsilon" if CAMERA_EMBEDDING in self.stored else self._measure_prediction()
        check_prediction(prediction, self.family, self.training, self.place)
        velocity = prediction == "v_prediction"
        side = _image_size(self.family, velocity, self.training)
        if CAMERA_EMBEDDING in self.stored:
            side = min(side, GROUP_LATENTS)
        unet = self._shapes["unet"] | {"sample_size": side, "upcast_attention": velocity}
        vae = self._shapes["vae"]
        vae = vae | {"sample_size": side * 2 ** (len(whole_numbers(vae, "block_out_channels")) - 1)}
        scheduler = SCHEDULER | _betas(self.training) | {"prediction_type": prediction}
        check_schedule(scheduler, self.stored, self.place)
        configs = self._shapes | {"unet": unet, "vae": vae, "scheduler": scheduler}
        return configs | (
            {PROJECTION: _pose_convention(self.place, self.training)} if self.family == "zero123" else {}
        )

    def _measure_prediction(self) -> str:
        """Return what the UNet predicts, measured on it: no file of weights says so."""
        config = self._shapes["unet"]
        unet = build(*CLASSES["unet"], config, self.tensors("unet"), self.place).float()
        assert isinstance(unet, UNetNetwork)
        channels, width = whole(config, "in_channels"), whole(config, "cross_attention_dim")
        found, share = measure_prediction(unet, channels, width)
        LOG.warning(
            "%s does not say what its UNet predicts; by its answer to pure noise (%.2f of it): %s. If that is wrong, "
            "put its training configuration beside it as %s",
            self.place, share, found, self.place.with_suffix(".yaml").name,
        )  # fmt: skip
        return found

    def _table(self, component: str) -> Table:
        if component == PROJECTION:
            return layouts.camera_projection_table()
        config = self._shapes[component]
        names = list(empty_network(*network_class(component, config), config).state_dict())
        table = table_of(component, self.family, names, config)
        if component == "text_encoder" and not any(o.name in self.stored for o in table.values()):
            table = layouts.clip_text_table(names, inner="")
        if component == "unet" and self.averaged:
            return {ours: self._averaged(origin) for ours, origin in table.items()}
        return table

    def _averaged(self, origin: StoredTensor) -> StoredTensor:
        name = layouts.average_name(origin.name)
        return StoredTensor(name) if name in self.stored else origin


def table_of(component: str, family: Family, names: list[str], config: Mapping[str, object]) -> Table:
    """Return where a family's single files keep the weights ``names`` of a component."""
    if component == "unet":
        return layouts.unet_table(names, config)
    if component == "vae":
        return layouts.autoencoder_table(names, config)
    if component == "image_encoder":
        return layouts.clip_vision_table(names)
    one = family == "stable-diffusion-1"
    return layouts.clip_text_table(names) if one else layouts.open_clip_text_table(names)


def family_of(stored: Mapping[str, Tensor], place: Path) -> Family:
    """Return the family of a file. Raises UserError for an unknown one, saying what it seems to be."""
    if f"{UNET}input_blocks.0.0.weight" not in stored:
        raise UserError(f"{place}: {_stranger(stored)}; expected Stable Diffusion 1.x, 2.x or Zero-1-to-3")
    if "cc_projection.weight" in stored:
        return "zero123"
    if any(name.startswith(CLIP_TEXT) for name in stored):
        return "stable-diffusion-1"
    if f"{CLIP}token_embedding.weight" in stored:
        return "stable-diffusion-2"
    raise UserError(
        f"{place}: {_stranger(stored)}; expected the text encoder of Stable Diffusion 1.x or 2.x, "
        "or the camera projection of Zero-1-to-3"
    )


def _stranger(stored: Mapping[str, Tensor]) -> str:
    folder = "in one file; give its diffusers folder, or an alias such as"
    marks = {
        "conditioner.embedders.": f"is Stable Diffusion XL {folder} sdxl",
        "model.diffusion_model.joint_blocks.": f"is Stable Diffusion 3 {folder} sd-3.5-medium",
        "double_blocks.": f"is FLUX {folder} flux-2-klein-base",
        "model.diffusion_model.double_blocks.": f"is FLUX {folder} flux-2-klein-base",
        "lora_": "is a LoRA, which changes a model: give 'MODEL + it'",
        "base_model.model.": "is a LoRA, which changes a model: give 'MODEL + it'",
        "unet.": "is a LoRA, which changes a model: give 'MODEL + it'",
        "down_blocks.": "holds one network of a diffusers folder; give the folder",
        "model.diffusion_model.": "holds a UNet whose condition it does not tell",
    }
    found = (kind for mark, kind in marks.items() if any(name.startswith(mark) for name in stored))
    first = next(iter(stored))
    return next(found, f"holds {len(stored)} tensors of an unknown model, such as {first}")


def _has_average(stored: Mapping[str, Tensor]) -> bool:
    return layouts.average_name(f"{UNET}input_blocks.0.0.weight") in stored


# ------------------------------------------------------------------------------------------------------ configurations


def training_config(place: Path) -> NetworkConfig:
    """Return ``model.params`` of the YAML file of the same name beside the weights; {} without one. Raises UserError.

    What our own converter writes below ``usd`` is the entry ``OURS``.
    """
    path = place.with_suffix(".yaml")
    if not path.is_file():
        return {}
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException):
        content = None
    whole_file = {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}
    params = nested(whole_file, "model", "params")
    if not params:
        raise UserError(f"{path}: has no model.params; expected the training configuration of {place.name}")
    ours = nested(whole_file, "usd")
    return params | ({OURS: ours} if ours else {})


def unet_config(stored: Mapping[str, Tensor], training: Mapping[str, object], place: Path) -> NetworkConfig:
    """Return the configuration of UNet2DConditionModel, without ``sample_size``, by the shapes of its weights."""
    levels = _levels(stored, place)
    attentive = [f"{UNET}input_blocks.{first}.1.norm.weight" in stored for first, _ in levels]
    channels = [
        _shape(stored, f"{UNET}input_blocks.{first}.0.out_layers.3.weight", place)[0] for first, _ in levels
    ]
    inner = next(
        (n for n in stored if n.startswith(UNET) and n.endswith("transformer_blocks.0.attn2.to_k.weight")),
        None,
    )
    if inner is None:
        raise UserError(f"{place}: its UNet has no cross attention; expected Stable Diffusion or Zero-1-to-3")
    linear = len(_shape(stored, f"{inner.split('.transformer_blocks')[0]}.proj_in.weight", place)) == 2
    cameras: NetworkConfig = {}
    if CAMERA_EMBEDDING in stored:  # diffusers' layers of the same form, for other labels
        numbers = _shape(stored, CAMERA_EMBEDDING, place)[1]
        cameras = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": numbers}
    if IMAGEDREAM_MARK in stored:
        cameras |= {
            "_class_name": "ImageDreamUNet",
            "image_tokens": _shape(stored, IMAGEDREAM_MARK, place)[1],
            "image_embedding_dim": _shape(stored, f"{UNET}image_embed.proj_in.weight", place)[1],
        }
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": _shape(stored, f"{UNET}input_blocks.0.0.weight", place)[1],
        "out_channels": _shape(stored, f"{UNET}out.2.weight", place)[0],
        "block_out_channels": channels,
        "layers_per_block": levels[0][1],
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attentive],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attentive)],
        "cross_attention_dim": _shape(stored, inner, place)[1],
        "attention_head_dim": _heads(channels, linear, training),  # heads, under diffusers' misleading name
        "use_linear_projection": linear,
        **cameras,
    }


def check_sizes(training: Mapping[str, object], unet: Mapping[str, object], place: Path) -> None:
    """Raise UserError where the configuration beside the weights is of another model, whose heads would be wrong."""
    channels = whole_numbers(unet, "block_out_channels")
    weights = {
        "in_channels": unet["in_channels"],
        "out_channels": unet["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [count // channels[0] for count in channels],
        "num_res_blocks": unet["layers_per_block"],
        "context_dim": unet["cross_attention_dim"],
    }
    params = nested(training, "unet_config", "params")
    other = next((name for name, found in weights.items() if params.get(name, found) != found), None)
    if other is not None:
        raise UserError(
            f"{place.with_suffix('.yaml')}: is of another model: {other} is {params[other]}, and {place.name} has "
            f"{weights[other]}; expected the training configuration of {place.name}, or none"
        )


def _levels(stored: Mapping[str, Tensor], place: Path) -> list[tuple[int, int]]:
    """Return (first block, number of residual blocks) of each level: levels end at a downsampling block."""
    levels, first, block = [], 1, 1
    while f"{UNET}input_blocks.{block}.0.in_layers.0.weight" in stored:
        block += 1
        if f"{UNET}input_blocks.{block}.0.op.weight" in stored:
            levels.append((first, block - first))
            first = block = block + 1
    if first == block:
        raise UserError(f"{place}: its UNet ends after block {block}; is the file complete?")
    return [*levels, (first, block - first)]


def _heads(channels: list[int], linear: bool, training: Mapping[str, object]) -> int | list[int]:
    params = nested(training, "unet_config", "params")
    heads, width = whole(params, "num_heads", -1), whole(params, "num_head_channels", -1)
    if heads > 0:
        return heads
    if width <= 0 and not linear:
        return HEADS
    return [max(count // (width if width > 0 else HEAD_WIDTH), 1) for count in channels]


def autoencoder_config(
    stored: Mapping[str, Tensor], training: Mapping[str, object], place: Path
) -> NetworkConfig:
    """Return the configuration of AutoencoderKL, without ``sample_size``, by the shapes of its weights."""
    levels = _count(stored, f"{AUTOENCODER}encoder.down.NUMBER.block.0.conv1.weight", place)
    layers = _count(stored, f"{AUTOENCODER}encoder.down.0.block.NUMBER.conv1.weight", place)
    channels = [
        _shape(stored, f"{AUTOENCODER}encoder.down.{i}.block.0.conv1.weight", place)[0] for i in range(levels)
    ]
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": _shape(stored, f"{AUTOENCODER}encoder.conv_in.weight", place)[1],
        "out_channels": _shape(stored, f"{AUTOENCODER}decoder.conv_out.weight", place)[0],
        "latent_channels": _shape(stored, f"{AUTOENCODER}post_quant_conv.weight", place)[0],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": number(training, "scale_factor", 0.18215),
    }


def text_config(stored: Mapping[str, Tensor], family: Family, place: Path) -> NetworkConfig:
    """Return the configuration of CLIPTextModel, without the last layer that Stable Diffusion 2 does not read."""
    one = family == "stable-diffusion-1"
    if one:
        inner = "text_model." if f"{CLIP_TEXT}text_model.final_layer_norm.weight" in stored else ""
        ends = [f"{CLIP_TEXT}{inner}embeddings.{kind}_embedding.weight" for kind in ("token", "position")]
        layer, wide = f"{CLIP_TEXT}{inner}encoder.layers", "mlp.fc1.weight"
    else:
        ends = [f"{CLIP}token_embedding.weight", f"{CLIP}positional_embedding"]
        layer, wide = f"{CLIP}transformer.resblocks", "mlp.c_fc.weight"
    words, positions = (_shape(stored, name, place) for name in ends)
    layers = _count(stored, f"{layer}.NUMBER.{wide}", place)
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": words[0],
        "hidden_size": words[1],
        "max_position_embeddings": positions[0],
        "num_hidden_layers": layers if one else layers - 1,
        "num_attention_heads": max(words[1] // HEAD_WIDTH, 1),
        "intermediate_size": _shape(stored, f"{layer}.0.{wide}", place)[0],
        "hidden_act": "quick_gelu" if one else "gelu",
        "bos_token_id": words[0] - 2,
        "eos_token_id": words[0] - 1,
        "pad_token_id": words[0] - 1 if one else 0,
    }


def vision_config(stored: Mapping[str, Tensor], place: Path) -> NetworkConfig:
    """Return the configuration of CLIPVisionModelWithProjection by the shapes of its weights."""
    tower = f"{CLIP}visual."
    names = [f"{tower}{name}" for name in ("conv1.weight", "positional_embedding", "proj")]
    patches, positions, out = (_shape(stored, name, place) for name in names)
    wide = f"{tower}transformer.resblocks.0.mlp.c_fc.weight"
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_size": patches[0],
        "patch_size": patches[-1],
        "image_size": math.isqrt(positions[0] - 1) * patches[-1],
        "num_hidden_layers": _count(stored, f"{tower}transformer.resblocks.NUMBER.ln_1.weight", place),
        "num_attention_heads": max(patches[0] // HEAD_WIDTH, 1),
        "intermediate_size": _shape(stored, wide, place)[0],
        "projection_dim": out[1],
        "hidden_act": "quick_gelu",
    }


def open_vision_config(stored: Mapping[str, Tensor], place: Path) -> NetworkConfig:
    """Return the configuration of OpenCLIP's large tower, without its last layer, which ImageDream does not read."""
    config = vision_config(stored, place)
    heads = max(whole(config, "hidden_size") // OPEN_HEAD_WIDTH, 1)
    layers = whole(config, "num_hidden_layers") - 1
    return config | {"num_attention_heads": heads, "num_hidden_layers": layers, "hidden_act": "gelu"}


def prediction_type(
    family: Family, training: Mapping[str, object], facts: Mapping[str, object]
) -> str | None:
    """Return what is predicted, by the training configuration, else by the published checkpoint's step; None: unknown.

    A configuration that does not say it means noise to its authors, but easily lies beside the wrong file: with and
    without it the file itself is asked (``check_prediction``).
    """
    if "parameterization" in training:
        return "v_prediction" if training["parameterization"] == "v" else "epsilon"
    if family != "stable-diffusion-2":
        return "epsilon"
    return PREDICTION_AT_STEP.get(int(str(facts.get("global_step", 0))))


def check_prediction(prediction: str, family: Family, training: Mapping[str, object], place: Path) -> None:
    """Raise UserError where a configuration means noise by its silence and the file says velocity."""
    means_noise = bool(training) and "parameterization" not in training
    if family == "stable-diffusion-2" and means_noise and prediction == "v_prediction":
        raise UserError(
            f"{place}: predicts velocity, and {place.with_suffix('.yaml').name} beside it means noise, since it has no "
            "model.params.parameterization; expected `parameterization: v` there (or `eps`, if it was trained so)"
        )


@torch.no_grad()
def measure_prediction(unet: UNetNetwork, channels: int, width: int, side: int = 16) -> tuple[str, float]:
    """Return what a UNet predicts, and which share of pure noise is in its answer to it.

    At the last t nearly all of x_t is noise. What predicts noise returns it (share 1); the velocity there is nearly
    -x0, of which noise tells nothing (share 0).
    """
    source = torch.Generator("cpu").manual_seed(0)
    x = torch.randn(4, channels, side, side, generator=source, device="cpu")
    tokens = torch.zeros(4, 77, width, device="cpu")
    out = unet(x, torch.full((4,), 999, device="cpu"), encoder_hidden_states=tokens).sample
    noise = x[:, : out.shape[1]]
    share = float((out * noise).sum() / noise.square().sum())
    return ("epsilon" if share > 0.5 else "v_prediction"), share


def check_schedule(scheduler: Mapping[str, object], stored: Mapping[str, Tensor], place: Path) -> None:
    """Raise UserError where the file stores another noise schedule than the one that is about to be used."""
    if "alphas_cumprod" not in stored:
        return
    ours = scaled_linear_alphas_cumprod(whole(scheduler, "num_train_timesteps"), *betas_of(scheduler))
    theirs = stored["alphas_cumprod"].float()
    if theirs.shape != ours.shape or not torch.allclose(theirs, ours, atol=5e-3):
        raise UserError(
            f"{place}: was trained with another noise schedule (its alphas_cumprod); expected Stable Diffusion's, "
            f"or its training configuration beside it as {place.with_suffix('.yaml').name}"
        )


def _image_size(family: Family, velocity: bool, training: Mapping[str, object]) -> int:
    """Return the side of the latents.

    Stable Diffusion 2's authors wrote ``image_size: 64`` for their 768 px model too, whose sampler
    is told the size. diffusers knows it by its prediction and takes 96; so do we, whether or not that YAML is there.
    """
    ours = nested(training, OURS)
    if "image_size" in ours:
        return whole(ours, "image_size")
    large = family == "stable-diffusion-2" and velocity
    side = whole(training, "image_size", 32 if family == "zero123" else 64)
    return 96 if large and side == 64 else side


def betas_of(scheduler: Mapping[str, object]) -> tuple[float, float]:
    """Return the first and the last beta of a scheduler's configuration."""
    return number(scheduler, "beta_start", 0.00085), number(scheduler, "beta_end", 0.012)


def _betas(training: Mapping[str, object]) -> NetworkConfig:
    ours = {"linear_start": "beta_start", "linear_end": "beta_end", "timesteps": "num_train_timesteps"}
    return {ours[name]: training[name] for name in ours if name in training}


def _pose_convention(place: Path, training: Mapping[str, object]) -> NetworkConfig:
    """Return the convention of the pose's last number: Stable-Zero123 is known by its file's name only."""
    ours = {**training, **nested(training, OURS)}  # before 0.2 it stood among the parameters
    if "fourth_number" in ours:
        return {"fourth_number": ours["fourth_number"]}
    return {"fourth_number": "input-polar"} if STABLE.search(place.name) else {}


def _count(stored: Mapping[str, Tensor], pattern: str, place: Path) -> int:
    """Return how many there are of a numbered thing. Raises UserError when there is none."""
    form = re.compile(re.escape(pattern).replace("NUMBER", r"(\d+)"))
    found = {int(match[1]) for name in stored if (match := form.fullmatch(name))}
    if not found:
        raise UserError(f"{place}: lacks {pattern.replace('NUMBER', '0')}; is the file complete?")
    return max(found) + 1


def _shape(stored: Mapping[str, Tensor], name: str, place: Path) -> tuple[int, ...]:
    """Return the shape of a weight. Raises UserError when it is not there."""
    if name not in stored:
        raise UserError(f"{place}: lacks {name}; is the file complete?")
    return tuple(stored[name].shape)
