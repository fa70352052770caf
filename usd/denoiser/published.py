"""Writes a model in each form in which such models are published: diffusers folders and single files."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from usd.core.errors import UserError
from usd.denoiser import layouts
from usd.denoiser.components import CLASSES, PROJECTION, PROJECTIONS, ModelComponents
from usd.denoiser.layouts import CLIP, CLIP_TEXT, UNET, stored_tensors
from usd.denoiser.single_file import Family, betas_of, table_of
from usd.denoiser.weights import NetworkConfig, texts, whole, whole_numbers

FILES = {
    "text_encoder": "model",
    "image_encoder": "model",
    "vision_encoder": "model",
    "language_model": "model",
}  # transformers' name; diffusers' is the other
PIPELINES = {PROJECTIONS[0]: "Zero123Pipeline", PROJECTIONS[1]: "Zero1to3StableDiffusionPipeline"}
CLASSES_OF = {  # as the index of each layout names them: the module of its pipeline, and the class
    PROJECTIONS[0]: ("zero123", "CLIPCameraProjection"),
    PROJECTIONS[1]: ("pipeline_zero1to3", "CCProjection"),
}
VOCABULARY, POSITIONS = 49408, 77  # of CLIP's text tower
CONDITIONS: dict[Family, NetworkConfig] = {
    "stable-diffusion-1": {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"},
    "stable-diffusion-2": {
        "target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
        "params": {"freeze": True, "layer": "penultimate"},
    },
    "zero123": {"target": "ldm.modules.encoders.modules.FrozenCLIPImageEmbedder"},
}
CLIP_PICTURE = {
    "feature_extractor_type": "CLIPFeatureExtractor",
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}


def write_folder(
    model: ModelComponents,
    folder: Path,
    layout: str = PROJECTIONS[0],
    pickled: bool = False,
    variant: str = "",
) -> Path:
    """Write a diffusers folder, as ``open_text_denoiser`` and diffusers itself read it; return it.

    ``layout`` names Zero-1-to-3's camera projection (one of ``PROJECTIONS``); ``pickled`` writes ``.bin`` files;
    ``variant`` is a word in their names, such as fp16. Tensors keep their precision. Raises UserError for the
    embedded kind of Zero-1-to-3.
    """
    if model.has(PROJECTION) and "proj.weight" not in model.tensors(PROJECTION):
        raise UserError(f"{model.place}: is of the embedded kind; expected a model of a published layout")
    index: NetworkConfig = {
        "_class_name": "StableDiffusionPipeline",
        "safety_checker": [None, None],
        "requires_safety_checker": False,
    }
    for component in (name for name in CLASSES if model.has(name)):
        stem = FILES.get(component, "diffusion_pytorch_model")
        _write_weights(dict(model.tensors(component)), folder / component, stem, pickled, variant)
        _write_json(folder / component / "config.json", model.config(component))
        index[component] = list(CLASSES[component])
    _write_json(folder / "scheduler" / "scheduler_config.json", model.config("scheduler"))
    index["scheduler"] = ["diffusers", model.config("scheduler").get("_class_name", "DDIMScheduler")]
    if model.has(PROJECTION):
        index |= _write_projection(model, folder, layout, pickled)
    if model.has("vision_encoder"):
        index |= _write_zero123plus(model, folder)
    tokenizer = model.tokenizer()
    if tokenizer is not None and model.has("text_encoder"):
        shutil.copytree(tokenizer, folder / "tokenizer", dirs_exist_ok=True)
        index["tokenizer"] = ["transformers", "CLIPTokenizer"]
    _write_json(folder / "model_index.json", index)
    return folder


def _write_zero123plus(model: ModelComponents, folder: Path) -> NetworkConfig:
    """Write how Zero123++ prepares pictures; return what its index says, with a ramp that rises evenly."""
    sides = {"clip": model.config("vision_encoder")["image_size"], "vae": model.config("vae")["sample_size"]}
    spread = {"clip": CLIP_PICTURE["image_std"], "vae": [0.8] * 3}
    center = {"clip": CLIP_PICTURE["image_mean"], "vae": [0.5] * 3}
    for kind, side in sides.items():
        sizes = {"crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}}
        picture = CLIP_PICTURE | sizes | {"image_mean": center[kind], "image_std": spread[kind]}
        _write_json(folder / f"feature_extractor_{kind}" / "preprocessor_config.json", picture)
    tokens = whole(model.config("text_encoder"), "max_position_embeddings", 77)
    ramp = [i / max(tokens - 1, 1) for i in range(tokens)]
    return {"_class_name": "Zero123PlusPipeline", "ramping_coefficients": ramp}


def write_network(model: ModelComponents, component: str, folder: Path) -> Path:
    """Write one network by itself, as ControlNets and language models are published; return the folder."""
    stem = FILES.get(component, "diffusion_pytorch_model")
    _write_weights(dict(model.tensors(component)), folder, stem, pickled=False)
    _write_json(folder / "config.json", model.config(component))
    if (tokenizer := model.tokenizer()) is not None:
        shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    return folder


def _write_projection(model: ModelComponents, folder: Path, layout: str, pickled: bool) -> NetworkConfig:
    """Write the projection under its layout's names, and CLIP's preprocessing; return what the index says of them."""
    ours = model.tensors(PROJECTION)
    first = layout == PROJECTIONS[0]
    named = ours if first else {name.replace("proj.", "projection.", 1): x for name, x in ours.items()}
    _write_weights(dict(named), folder / layout, "diffusion_pytorch_model", pickled)
    out, wide = ours["proj.weight"].shape
    sizes = (
        {"_class_name": "CLIPCameraProjection", "embedding_dim": wide - 4, "additional_embeddings": 4}
        if first
        else {"_class_name": "CCProjection", "in_channel": wide, "out_channel": out}
    )
    _write_json(folder / layout / "config.json", {**sizes, **model.config(PROJECTION)})
    side = model.config("image_encoder")["image_size"]
    picture = CLIP_PICTURE | {"crop_size": side, "size": {"shortest_edge": side}}
    _write_json(folder / "feature_extractor" / "preprocessor_config.json", picture)
    return {
        "_class_name": PIPELINES[layout],
        layout: list(CLASSES_OF[layout]),
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }


def write_single_file(model: ModelComponents, path: Path, averaged: bool = True, step: int = 0) -> Path:
    """Write a ``.safetensors`` or ``.ckpt`` under the training code's names, and its configuration ``.yaml`` beside it.

    ``averaged`` stores the UNet a second time under ``model_ema.``, the moving average that the original programs run;
    without it those of Zero-1-to-3 would run random weights. A ``.ckpt`` is what Lightning writes, with ``step`` as its
    global step, and holds both copies as one. Raises UserError for components that such files have no names for.
    """
    family = family_of_components(model)
    try:
        stored = state_of(model, family, averaged)
    except KeyError as name:
        raise UserError(f"{model.place}: has {name}, for which single files have no name") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        _save_safetensors(stored, path)
    else:
        around = {"epoch": 0, "global_step": step, "pytorch-lightning_version": "1.4.2"}
        torch.save({**around, "state_dict": stored}, path)
    _write_json(path.with_suffix(".yaml"), training_config(model, family))  # JSON is YAML
    return path


def family_of_components(model: ModelComponents) -> Family:
    """Return the family of a model: Stable Diffusion 2 is known by the linear layers around its UNet's attention."""
    if model.has(PROJECTION):
        return "zero123"
    return "stable-diffusion-2" if model.config("unet").get("use_linear_projection") else "stable-diffusion-1"


def state_of(model: ModelComponents, family: Family, averaged: bool = True) -> dict[str, Tensor]:
    """Return all tensors of a single file by name: everything that the original classes store, and nothing else."""
    stored: dict[str, Tensor] = {}
    for component in (name for name in CLASSES if model.has(name)):
        ours = {name.removeprefix("text_model."): x for name, x in model.tensors(component).items()}
        ours = {name: x for name, x in ours.items() if not name.endswith("position_ids")}
        stored |= stored_tensors(table_of(component, family, list(ours), model.config(component)), ours)
    if family == "zero123":
        stored |= stored_tensors(layouts.camera_projection_table(), model.tensors(PROJECTION))
    stored |= _unread(stored, family) | _schedule(model.config("scheduler"))
    return stored | _average(stored) if averaged else stored


def _average(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the UNet as the original's moving average, and that average's two numbers, at their initial values."""
    average = {layouts.average_name(name): x for name, x in stored.items() if name.startswith(UNET)}
    numbers = {"decay": torch.tensor(0.9999), "num_updates": torch.tensor(0, dtype=torch.int32)}
    return average | {f"{layouts.AVERAGE}{name}": x for name, x in numbers.items()}


def _unread(stored: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Return what the original classes load and never read, at its true size: another is an error to them."""
    if family == "stable-diffusion-1":
        positions = stored[f"{CLIP_TEXT}text_model.embeddings.position_embedding.weight"].shape[0]
        return {f"{CLIP_TEXT}text_model.embeddings.position_ids": torch.arange(positions)[None]}
    left = _unread_text_half(stored) if family == "zero123" else _unread_last_layer(stored)
    scale = next(iter(stored.values())).new_tensor(4.6052)  # log 100, the temperature CLIP was trained to
    return left | {f"{CLIP}logit_scale": scale}


def _unread_text_half(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return zeros for the ends of CLIP's text tower, as wide as the image embedding, which is so in ViT-L/14."""
    projection = stored[f"{CLIP}visual.proj"]
    width = projection.shape[1]
    shapes = {
        "token_embedding.weight": (VOCABULARY, width),
        "positional_embedding": (POSITIONS, width),
        "text_projection": (width, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    return {f"{CLIP}{name}": projection.new_zeros(shape) for name, shape in shapes.items()}


def _unread_last_layer(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return zeros for OpenCLIP's last text layer and projection: Stable Diffusion 2 reads the layer before."""
    blocks = f"{CLIP}transformer.resblocks."
    last = max(int(name[len(blocks) :].split(".")[0]) for name in stored if name.startswith(blocks))
    head = f"{blocks}{last}."
    layer = {name: x for name, x in stored.items() if name.startswith(head)}
    left = {name.replace(head, f"{blocks}{last + 1}."): torch.zeros_like(x) for name, x in layer.items()}
    width = stored[f"{CLIP}ln_final.weight"]
    return left | {f"{CLIP}text_projection": width.new_zeros(len(width), len(width))}


def _schedule(scheduler: Mapping[str, object]) -> dict[str, Tensor]:
    """Return the noise schedule and the posterior q(x_{t-1} | x_t, x_0) as buffers (arXiv 2006.11239, eq. 7)."""
    count, (start, end) = whole(scheduler, "num_train_timesteps"), betas_of(scheduler)
    betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64) ** 2
    bars = (1 - betas).cumprod(0)
    before = torch.cat([bars.new_ones(1), bars[:-1]])
    variance = betas * (1 - before) / (1 - bars)  # 0 at the first step, whose logarithm is therefore clipped
    buffers = {
        "betas": betas,
        "alphas_cumprod": bars,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": bars.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - bars).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - bars).log(),
        "sqrt_recip_alphas_cumprod": bars.rsqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / bars - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp_min(1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / (1 - bars),
        "posterior_mean_coef2": (1 - before) * (1 - betas).sqrt() / (1 - bars),
    }
    return {name: x.float() for name, x in buffers.items()}


def training_config(model: ModelComponents, family: Family) -> NetworkConfig:
    """Return the training configuration as the originals and other programs read it, and our own facts below ``usd``.

    Programs that find a YAML file beside a checkpoint build the model from it, so it names every class and size.
    """
    unet, vae, scheduler = (model.config(component) for component in ("unet", "vae", "scheduler"))
    velocity = scheduler.get("prediction_type") == "v_prediction"
    view = family == "zero123"
    params: NetworkConfig = {
        "linear_start": scheduler["beta_start"],
        "linear_end": scheduler["beta_end"],
        "timesteps": scheduler["num_train_timesteps"],
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "parameterization": "v" if velocity else "eps",
        "first_stage_key": "image_target" if view else "jpg",
        "cond_stage_key": "image_cond" if view else "txt",
        "image_size": unet["sample_size"],
        "channels": vae["latent_channels"],
        "cond_stage_trainable": False,
        "conditioning_key": "hybrid" if view else "crossattn",
        "scale_factor": vae.get("scaling_factor", 0.18215),
        "use_ema": view,
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": _unet_params(unet),
        },
        "first_stage_config": _autoencoder_config(vae),
        "cond_stage_config": CONDITIONS[family],
    }
    known: NetworkConfig = {"image_size": unet["sample_size"]}
    fourth = model.config(PROJECTION).get("fourth_number") if view else None
    return {
        "model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params},
        "usd": known | ({"fourth_number": fourth} if fourth else {}),
    }


def _unet_params(unet: Mapping[str, object]) -> NetworkConfig:
    """Return the training code's options of the UNet, whose attention is named by how much smaller a level is."""
    channels, heads = whole_numbers(unet, "block_out_channels"), unet["attention_head_dim"]
    attentive = [2**level for level, kind in enumerate(texts(unet, "down_block_types")) if "Attn" in kind]
    width = channels[0] // heads[0] if isinstance(heads, list | tuple) else -1
    return {
        "image_size": unet["sample_size"],
        "in_channels": unet["in_channels"],
        "out_channels": unet["out_channels"],
        "model_channels": channels[0],
        "attention_resolutions": attentive,
        "num_res_blocks": unet["layers_per_block"],
        "channel_mult": [count // channels[0] for count in channels],
        **_heads(width, heads),
        "use_spatial_transformer": True,
        **({"use_linear_in_transformer": True} if unet.get("use_linear_projection") else {}),
        "transformer_depth": 1,
        "context_dim": unet["cross_attention_dim"],
        "use_checkpoint": True,
        "legacy": False,
    }


def _heads(width: int, heads: object) -> NetworkConfig:
    """Return the option that says how wide heads are, or else how many."""
    return {"num_head_channels": width} if width > 0 else {"num_heads": heads}


def _autoencoder_config(vae: Mapping[str, object]) -> NetworkConfig:
    """Return the training code's configuration of the autoencoder."""
    channels = whole_numbers(vae, "block_out_channels")
    sizes = {
        "double_z": True,
        "z_channels": vae["latent_channels"],
        "resolution": 256,
        "in_channels": vae["in_channels"],
        "out_ch": vae["out_channels"],
        "ch": channels[0],
        "ch_mult": [count // channels[0] for count in channels],
        "num_res_blocks": vae["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    params = {
        "embed_dim": vae["latent_channels"],
        "ddconfig": sizes,
        "lossconfig": {"target": "torch.nn.Identity"},
    }
    return {"target": "ldm.models.autoencoder.AutoencoderKL", "params": params}


def _write_weights(
    tensors: dict[str, Tensor], folder: Path, stem: str, pickled: bool, variant: str = ""
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{stem}.{variant}" if variant else stem
    if pickled:
        torch.save(
            tensors, folder / f"{name.replace('model', 'pytorch_model') if stem == 'model' else name}.bin"
        )
    else:
        _save_safetensors(tensors, folder / f"{name}.safetensors")


def _save_safetensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    seen: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, x in tensors.items():  # the format has no two names for one tensor
        own[name] = x.clone() if x.data_ptr() in seen else x.contiguous()
        seen.add(x.data_ptr())
    save_file(own, path, metadata={"format": "pt"})


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(content), indent=2))
