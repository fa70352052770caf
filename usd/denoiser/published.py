"""Writes a model in each form in which such models are published: diffusers folders and single files."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from usd.core.errors import UserError
from usd.denoiser import layouts
from usd.denoiser.layouts import CLIP, UNET, written
from usd.denoiser.parts import CLASSES, PROJECTION, PROJECTIONS, ModelParts
from usd.denoiser.single_file import Family, table_of
from usd.math.diffusion import scaled_linear_alphas_cumprod

FILES = {"text_encoder": "model", "image_encoder": "model"}  # transformers' name; diffusers' is the other
PIPELINES = {PROJECTIONS[0]: "Zero123Pipeline", PROJECTIONS[1]: "Zero1to3StableDiffusionPipeline"}
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
    model: ModelParts, folder: Path, layout: str = PROJECTIONS[0], pickled: bool = False, variant: str = ""
) -> Path:
    """A diffusers folder, as ``open_denoiser`` and diffusers itself read it.

    ``layout`` names Zero-1-to-3's camera projection (one of ``PROJECTIONS``); ``pickled`` writes ``.bin`` files;
    ``variant`` is a word in their names, such as fp16. Tensors keep their precision. Raises UserError for the
    embedded kind of Zero-1-to-3.
    """
    if model.has(PROJECTION) and "proj.weight" not in model.tensors(PROJECTION):
        raise UserError(f"{model.place}: is of the embedded kind; expected a model of a published layout")
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline"}
    for part in (name for name in CLASSES if model.has(name)):
        stem = FILES.get(part, "diffusion_pytorch_model")
        _write_weights(dict(model.tensors(part)), folder / part, stem, pickled, variant)
        _write_json(folder / part / "config.json", model.config(part))
        index[part] = list(CLASSES[part])
    _write_json(folder / "scheduler" / "scheduler_config.json", model.config("scheduler"))
    index["scheduler"] = ["diffusers", model.config("scheduler").get("_class_name", "DDIMScheduler")]
    if model.has(PROJECTION):
        index |= _write_projection(model, folder, layout, pickled)
    tokenizer = model.tokenizer()
    if tokenizer is not None and model.has("text_encoder"):
        shutil.copytree(tokenizer, folder / "tokenizer", dirs_exist_ok=True)
        index["tokenizer"] = ["transformers", "CLIPTokenizer"]
    _write_json(folder / "model_index.json", index)
    return folder


def _write_projection(model: ModelParts, folder: Path, layout: str, pickled: bool) -> dict[str, Any]:
    """The layer under the names of its layout, and CLIP's preprocessing; what the index says of them."""
    ours = model.tensors(PROJECTION)
    first = layout == PROJECTIONS[0]
    named = ours if first else {name.replace("proj.", "projection.", 1): x for name, x in ours.items()}
    _write_weights(dict(named), folder / layout, "diffusion_pytorch_model", pickled)
    wide = ours["proj.weight"].shape[1]
    sizes = (
        {"_class_name": "CLIPCameraProjection", "embedding_dim": wide - 4, "additional_embeddings": 4}
        if first
        else {"_class_name": "CCProjection"}
    )
    _write_json(folder / layout / "config.json", {**sizes, **model.config(PROJECTION)})
    side = model.config("image_encoder")["image_size"]
    picture = CLIP_PICTURE | {"crop_size": side, "size": {"shortest_edge": side}}
    _write_json(folder / "feature_extractor" / "preprocessor_config.json", picture)
    return {
        "_class_name": PIPELINES[layout],
        layout: ["usd", "CameraProjection"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }


def write_single_file(model: ModelParts, path: Path, averaged: bool = False, step: int = 0) -> Path:
    """A ``.safetensors`` or ``.ckpt`` under the training code's names, and its configuration ``.yaml`` beside it.

    ``averaged`` also stores the UNet as the exponential moving average that training keeps, and *zeros* in its usual
    place: who reads the wrong one notices. A ``.ckpt`` is what Lightning writes, with ``step`` as its global step.
    Raises UserError for a model with parts that such files have no names for.
    """
    family = family_of_parts(model)
    try:
        stored = state_of(model, family)
    except KeyError as name:
        raise UserError(f"{model.place}: has {name}, for which single files have no name") from None
    if averaged:
        unet = [name for name in stored if name.startswith(UNET)]
        stored |= {layouts.averaged_name(name): stored[name] for name in unet}
        stored |= {name: torch.zeros_like(stored[name]) for name in unet}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        _save_safetensors(stored, path)
    else:
        around = {"epoch": 0, "global_step": step, "pytorch-lightning_version": "1.4.2"}
        torch.save({**around, "state_dict": stored}, path)
    path.with_suffix(".yaml").write_text(json.dumps({"model": {"params": training_params(model)}}, indent=2))
    return path


def family_of_parts(model: ModelParts) -> Family:
    """Stable Diffusion 2 is told from 1 by the linear layers around its UNet's attention."""
    if model.has(PROJECTION):
        return "zero123"
    return "stable-diffusion-2" if model.config("unet").get("use_linear_projection") else "stable-diffusion-1"


def state_of(model: ModelParts, family: Family) -> dict[str, Tensor]:
    """All tensors of a single file by name, those that only training used included."""
    stored: dict[str, Tensor] = {}
    for part in (name for name in CLASSES if model.has(name)):
        ours = {name.removeprefix("text_model."): x for name, x in model.tensors(part).items()}
        ours = {name: x for name, x in ours.items() if not name.endswith("position_ids")}
        stored |= written(table_of(part, family, list(ours), model.config(part)), ours)
    if family == "zero123":
        stored |= written(layouts.camera_projection_table(), model.tensors(PROJECTION))
    return stored | _leftovers(stored, family) | _schedule(model.config("scheduler"))


def _leftovers(stored: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """What published files hold and nobody reads: halves of CLIP, and Stable Diffusion 2's last text layer."""
    if family == "stable-diffusion-1":
        return {}
    one = next(iter(stored.values()))
    left = {f"{CLIP}logit_scale": one.new_tensor(4.6052)}
    if family == "zero123":
        width = stored["cc_projection.weight"].shape[0]
        left[f"{CLIP}token_embedding.weight"] = one.new_zeros(2, width)
        left[f"{CLIP}positional_embedding"] = one.new_zeros(2, width)
    else:
        width = stored[f"{CLIP}ln_final.weight"].shape[0]
        blocks = f"{CLIP}transformer.resblocks."
        last = max(int(name[len(blocks) :].split(".")[0]) for name in stored if name.startswith(blocks))
        theirs = {name: x for name, x in stored.items() if name.startswith(f"{blocks}{last}.")}
        left |= {
            name.replace(f"{blocks}{last}.", f"{blocks}{last + 1}."): torch.zeros_like(x)
            for name, x in theirs.items()
        }
    left[f"{CLIP}text_projection"] = one.new_zeros(width, width)
    return left


def _schedule(scheduler: Mapping[str, Any]) -> dict[str, Tensor]:
    """The noise schedule, which the training code stores as buffers."""
    count, ends = int(scheduler["num_train_timesteps"]), (scheduler["beta_start"], scheduler["beta_end"])
    bars = scaled_linear_alphas_cumprod(count, *ends)
    before = torch.cat([bars.new_ones(1), bars[:-1]])
    return {"alphas_cumprod": bars, "alphas_cumprod_prev": before, "betas": 1 - bars / before}


def training_params(model: ModelParts) -> dict[str, Any]:
    """The ``model.params`` of a training configuration that a reader needs."""
    unet, vae, scheduler = (model.config(part) for part in ("unet", "vae", "scheduler"))
    heads = unet["attention_head_dim"]
    width = unet["block_out_channels"][0] // heads[0] if isinstance(heads, list | tuple) else -1
    params = {
        "linear_start": scheduler["beta_start"],
        "linear_end": scheduler["beta_end"],
        "timesteps": scheduler["num_train_timesteps"],
        "image_size": unet["sample_size"],
        "scale_factor": vae.get("scaling_factor", 0.18215),
        "unet_config": {"params": {"num_head_channels": width} if width > 0 else {"num_heads": heads}},
    }
    velocity = scheduler.get("prediction_type") == "v_prediction"
    fourth = model.config(PROJECTION).get("fourth_number") if model.has(PROJECTION) else None
    return (
        params
        | {"parameterization": "v" if velocity else "eps"}
        | ({"fourth_number": fourth} if fourth else {})
    )


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

    save_file({name: x.contiguous() for name, x in tensors.items()}, path, metadata={"format": "pt"})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(content), indent=2))
