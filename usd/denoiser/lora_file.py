"""LoRA files (arXiv 2106.09685) of every common origin, added to the weights of the layers they change.

A layer's weight W becomes W + scale * alpha / rank * up @ down. Files name the layers in one of three ways: diffusers
(``unet.mid_block...lora_A.weight``, formerly ``.lora.down.weight``), peft (``base_model.model...``), and kohya's
scripts (``lora_unet_mid_block_...lora_down.weight``). Without dots and underscores all three spell the same name.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from usd.core.errors import UserError
from usd.denoiser.components import ModelComponents
from usd.denoiser.weights import LazyTensors, NetworkConfig, number, open_checkpoint, read_json

FILES = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
)
ADAPTER = "adapter_config.json"
ROLES = {
    "down": r"[._]lora_A(?:\.\w+)?\.weight|[._]lora[._]down\.weight|\.lora_linear_layer\.down\.weight",
    "up": r"[._]lora_B(?:\.\w+)?\.weight|[._]lora[._]up\.weight|\.lora_linear_layer\.up\.weight",
    "alpha": r"\.alpha",
}
PREFIXES = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "unet.": "unet",
    "text_encoder.": "text_encoder",
}
OTHER_KINDS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "LoCon with a middle layer",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lora_te2": "LoRA for Stable Diffusion XL",
    "text_encoder_2.": "LoRA for Stable Diffusion XL",
    "oft_": "OFT",
    "boft_": "BOFT",
    "ia3_": "IA3",
    "vera_lambda": "VeRA",
    ".diff": "full difference of weights",
    "w_norm": "LyCORIS file with norms",
}
OLD_TEXT_LAYER = re.compile(
    r"(?<=self_attn\.)to_(q|k|v|out)$"
)  # of diffusers until 0.17; now q_proj ... out_proj


@dataclass(frozen=True)
class LowRank:
    """The change of one layer: ``up`` (out, rank) and ``down`` (rank, in), of 1 x 1 or k x k convolutions alike."""

    down: Tensor
    up: Tensor
    alpha: float | None = None  # of the change, alpha / rank; None: 1

    def __call__(self, weight: Tensor, scale: float | int) -> Tensor:
        """Return the weight, changed ``scale`` times, in its own precision."""
        rank = self.down.shape[0]
        strength = scale * (1.0 if self.alpha is None else self.alpha / rank)
        change = (self.up.float().flatten(1) @ self.down.float().flatten(1)).view(weight.shape)
        return (weight.float() + strength * change).to(weight.dtype)

    def fits(self, shape: torch.Size) -> bool:
        """Return whether it changes weights of this shape."""
        inward = self.down[0].numel() == shape[1:].numel()
        return inward and self.up.shape[0] == shape[0] and self.up.flatten(1).shape[1] == self.down.shape[0]


@dataclass(frozen=True)
class LoraFile:
    """The changes in a file by component (``unet``, ``text_encoder``) and by the layer's name without dots."""

    path: Path
    changes: Mapping[str, Mapping[str, LowRank]]


def read_lora(place: Path) -> LoraFile:
    """Return the LoRA of a file, or of a folder of diffusers or peft. Raises UserError for what cannot be added."""
    path = lora_path(place)
    tensors, facts = open_checkpoint(path)
    _refuse_other_kinds(path, tensors)
    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    for name in tensors:
        component, layer, role = _place_of(path, name)
        roles = found.setdefault(component, {}).setdefault(layer, {})
        if role in roles:
            raise UserError(
                f"{path}: holds several changes of one layer ({name}); expected one LoRA: save its adapters apart"
            )
        roles[role] = tensors[name]
    alphas = common_alphas(path, facts)
    return LoraFile(
        path,
        {
            component: {
                layer: _low_rank(path, layer, roles, alphas.get(component)) for layer, roles in layers.items()
            }
            for component, layers in found.items()
        },
    )


def lora_path(place: Path) -> Path:
    """Return the file of LoRA weights that is meant. Raises UserError."""
    if place.is_file():
        return place
    found = next((place / name for name in FILES if (place / name).is_file()), None)
    if found is None:
        raise UserError(f"{place}: holds no LoRA; expected a file or a folder with {FILES[0]} or {FILES[1]}")
    return found


def is_lora_folder(place: Path) -> bool:
    """Return whether a folder holds LoRA weights and no whole model."""
    return any((place / name).is_file() for name in FILES) and not (place / "unet").is_dir()


def common_alphas(path: Path, facts: Mapping[str, object]) -> dict[str, float]:
    """Return alpha by component, where the file or the ``adapter_config.json`` beside it says one for all layers.

    Raises UserError for strengths that differ by rule.
    """
    options: NetworkConfig = {}
    if "lora_adapter_metadata" in facts:  # as diffusers writes it, "unet.lora_alpha"
        options = json.loads(str(facts["lora_adapter_metadata"]))
    elif (path.parent / ADAPTER).is_file() and path.name.startswith("adapter_model"):
        beside = read_json(path.parent / ADAPTER)
        options = {
            f"{component}.{key}": value
            for component in ("unet", "text_encoder")
            for key, value in beside.items()
        }
    odd = [
        key
        for key, value in options.items()
        if re.search(r"(rank|alpha)_pattern$|use_(rslora|dora)$", key) and value
    ]
    if odd:
        raise UserError(
            f"{path}: its strength differs by layer ({odd[0]}), which is not supported; merge it with peft"
        )
    ends = ".lora_alpha"
    return {key.removesuffix(ends): number(options, key, 0.0) for key in options if key.endswith(ends)}


def _place_of(path: Path, name: str) -> tuple[str, str, str]:
    """Return (component, layer without dots, role) of a tensor's name."""
    for role, ending in ROLES.items():
        match = re.search(rf"(?:{ending})$", name)
        if match:
            head = name[: match.start()].removeprefix("base_model.model.")
            prefix = next((p for p in PREFIXES if head.startswith(p)), "")
            head = head.removeprefix(prefix).replace(".processor", "")
            text = head.startswith(("text_model.", "text_model_", "encoder.layers."))
            component = PREFIXES.get(prefix, "text_encoder" if text else "unet")
            if component == "text_encoder":
                head = OLD_TEXT_LAYER.sub(r"\1_proj", head)
            return component, squash(head), role
    raise UserError(
        f"{path}: {name} is no part of a LoRA; expected tensors named lora_A, lora_B, up, down or alpha"
    )


def squash(name: str) -> str:
    """Return a layer's name without dots, underscores and CLIP's outer module, which some libraries leave out."""
    return re.sub(r"[._]", "", name.removeprefix("text_model.").removeprefix("text_model_"))


def _refuse_other_kinds(path: Path, names: Mapping[str, Tensor]) -> None:
    for mark, kind in OTHER_KINDS.items():
        if any(mark in name for name in names):
            article = "an" if kind[0] in "AEIO" else "a"
            raise UserError(f"{path}: is {article} {kind}, which is not supported; expected a plain LoRA")


def _low_rank(path: Path, layer: str, roles: Mapping[str, Tensor], alpha: float | None) -> LowRank:
    if "up" not in roles or "down" not in roles:
        raise UserError(f"{path}: layer {layer} lacks one of its two matrices; is the file complete?")
    own = float(roles["alpha"]) if "alpha" in roles else alpha
    return LowRank(roles["down"], roles["up"], own)


# ---------------------------------------------------------------------------------------------------- added to a model


@dataclass(frozen=True)
class LoraComponents(ModelComponents):
    """A model with a LoRA added ``scale`` times to the weights that it changes."""

    base: ModelComponents
    lora: LoraFile
    scale: float | int = 1.0

    @property
    def place(self) -> Path:  # type: ignore[override]
        """Path of the base model."""
        return self.base.place

    def config(self, component: str) -> NetworkConfig:
        """Return a component's configuration. Raises UserError."""
        return self.base.config(component)

    def has(self, component: str) -> bool:
        """Return whether there is such a component."""
        return self.base.has(component)

    def source(self, component: str) -> Path:
        """Return where a component is stored, for messages."""
        return self.base.source(component)

    def tokenizer(self) -> Path | None:
        """Return the folder of the tokenizer's files, if there is one."""
        return self.base.tokenizer()

    def projection_layout(self) -> str:
        """Return as which of ``PROJECTIONS`` the camera projection is stored."""
        return self.base.projection_layout()

    def tensors(self, component: str) -> Mapping[str, Tensor]:
        """Return the base's weights, changed as they are read. Raises UserError where the LoRA is for another model."""
        weights = self.base.tensors(component)
        changes = self._by_weight(component, weights)
        readers = {name: partial(weights.__getitem__, name) for name in weights}
        changed = {name: partial(self._changed, weights, name, low) for name, low in changes.items()}
        return LazyTensors({**readers, **changed})

    def _changed(self, weights: Mapping[str, Tensor], name: str, low: LowRank) -> Tensor:
        return low(weights[name], self.scale)

    def _by_weight(self, component: str, weights: Mapping[str, Tensor]) -> dict[str, LowRank]:
        """Return the changes under the weights' own names."""
        places = {squash(name.removesuffix(".weight")): name for name in weights if name.endswith(".weight")}
        found = {}
        for layer, low in self.lora.changes.get(component, {}).items():
            name = places.get(layer) or places.get(f"{layer}0")  # an old to_out is now to_out.0
            if name is None:
                raise UserError(f"{self.lora.path}: changes a layer that {self.place} does not have: {layer}")
            if not low.fits(weights[name].shape):
                raise UserError(
                    f"{self.lora.path}: was trained on another model than {self.place}: {name} is "
                    f"{tuple(weights[name].shape)}, its change {low.up.shape[0]} x {low.down[0].numel()}"
                )
            found[name] = low
        return found


def with_lora(base: ModelComponents, place: Path, scale: float | int) -> LoraComponents:
    """Return a model changed by a LoRA. Raises UserError when the LoRA is for another kind of model."""
    lora = read_lora(place)
    foreign = [component for component in lora.changes if not base.has(component)]
    if foreign:
        raise UserError(f"{lora.path}: changes the {foreign[0]}, which {base.place} does not have")
    return LoraComponents(base, lora, scale)
