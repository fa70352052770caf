"""LoRA (arXiv 2106.09685): low-rank changes of a UNet's attention layers, in the files that diffusers reads.

A folder with ``pytorch_lora_weights.safetensors`` is a model wherever Stable Diffusion's folder is one, if a
``lora.json`` beside it names the base model. What others trained has none; then the base model is said beside it.
Loaded weights are added to those of the layers they change, so that a prediction costs what it did.
"""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from usd.core.config import option, parse
from usd.core.errors import UserError
from usd.denoiser import Running, open_denoiser
from usd.denoiser.frozen import Frozen
from usd.denoiser.latent import LatentDenoiser, compiled
from usd.denoiser.load import load_network, read_json, readable
from usd.denoiser.stable_diffusion import StableDiffusionDenoiser

WEIGHTS = "pytorch_lora_weights.safetensors"
CARD = "lora.json"
LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
"""Of every attention, self and cross: queries, keys, values and what leaves it."""


@dataclass(frozen=True)
class LoraConfig:
    """The shape of the change: W + alpha / rank B A, with A (rank, in) and B (out, rank)."""

    rank: int = option(4, "rank of the change of each layer", ge=1)
    alpha: float | None = option(None, "the change is multiplied by alpha / rank; null: by 1", gt=0)
    dropout: float = option(
        0.0, "share of a layer's inputs that the change does not see in training", ge=0, lt=1
    )


@dataclass(frozen=True)
class Card:
    """``lora.json``: what a LoRA was trained on, and the sentences that call it up."""

    base_model: str | None = option(None, "alias, folder or hub id of the model that it changes")
    prompt: str | None = option(None, "the sentence for the object as in the input picture")
    object_prompt: str | None = option(None, "the sentence for the object")
    class_prompt: str | None = option(None, "the sentence for anything of its kind")


# --------------------------------------------------------------------------------------------------------- training


def add_lora(unet: Any, config: LoraConfig) -> Any:
    """The UNet with a LoRA on every attention layer, which alone is trained; at first it changes nothing.

    A is drawn from torch's global generator.
    """
    from peft import LoraConfig as PeftConfig

    unet.requires_grad_(False)
    alpha = config.rank if config.alpha is None else config.alpha
    unet.add_adapter(
        PeftConfig(
            r=config.rank,
            lora_alpha=alpha,
            lora_dropout=config.dropout,
            init_lora_weights="gaussian",
            target_modules=list(LAYERS),
        )
    )
    return unet


def write_lora(unet: Any, folder: Path, card: Card) -> list[Path]:
    """Stores the LoRA of a UNet as diffusers and peft users load it, and the card. Raises ``UserError``."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    tensors = {
        key: value.detach().cpu().contiguous() for key, value in get_peft_model_state_dict(unet).items()
    }
    metadata = {key: _plain(value) for key, value in unet.peft_config["default"].to_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        Loader.save_lora_weights(
            folder,
            unet_lora_layers=convert_state_dict_to_diffusers(tensors),
            unet_lora_adapter_metadata=metadata,
        )
        (folder / CARD).write_text(json.dumps(asdict(card), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return [folder / WEIGHTS, folder / CARD]


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value


# ---------------------------------------------------------------------------------------------------------- loading


def is_lora(folder: Path) -> bool:
    """Whether a folder holds LoRA weights and no whole model."""
    return (folder / WEIGHTS).is_file() and not (folder / "unet").is_dir()


def read_card(folder: Path) -> Card:
    """The card of a LoRA's folder; an empty one where there is none."""
    path = folder / CARD
    if not path.is_file():
        return Card()
    known = read_json(path)
    return parse(Card, {key: known[key] for key in asdict(Card()) if key in known}, str(path))


def merged(unet: Any, folder: Path, scale: float) -> Any:
    """The UNet with the weights in ``folder`` added ``scale`` times. Raises ``UserError`` where they do not fit."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    with readable(folder, "LoRA weights for this model"):
        tensors, alphas, metadata = Loader.lora_state_dict(
            folder, weight_name=WEIGHTS, local_files_only=True, return_lora_metadata=True
        )
        if not any(key.startswith("unet.") for key in tensors):
            raise UserError(
                f"{folder / WEIGHTS}: changes no UNet; expected a LoRA of Stable Diffusion's UNet"
            )
        Loader.load_lora_into_unet(tensors, alphas, unet, metadata=metadata)
        unet.fuse_lora(lora_scale=scale)
        unet.unload_lora()
    return unet


class LoraDenoiser(StableDiffusionDenoiser):
    """Stable Diffusion with a LoRA added to its UNet."""

    @dataclass(frozen=True)
    class Config(LatentDenoiser.Config):
        lora: Path = option(help="folder with the LoRA's weights")
        scale: float = option(1.0, "how often they are added; 0 is the base model")

    def __init__(self, config: Config, name: str = "") -> None:
        super().__init__(config, name)
        folder, lora, scale, running = self.folder, config.lora, config.scale, config.running
        self.unet = Frozen(
            lambda: merged(load_network("diffusers", "UNet2DConditionModel", folder / "unet"), lora, scale),
            running.weights,
            running,
            partial(compiled, mode=running.compile),
        )


def open_lora(
    folder: Path, where: str, running: Running, base: str | None = None, scale: float = 1.0
) -> LoraDenoiser:
    """The model of a LoRA's folder. ``base`` is needed where no card names it. Raises ``UserError``."""
    name = base or read_card(folder).base_model
    if not is_lora(folder):
        raise UserError(f"{where}: {folder} holds no {WEIGHTS}; expected the folder of a LoRA")
    if name is None:
        raise UserError(
            f"{where}: {folder} has no {CARD} that names the base model; expected its name beside it"
        )
    model = open_denoiser(name, "text", where, running)
    if not isinstance(model, StableDiffusionDenoiser):
        raise UserError(f"{where}: '{name}' has no UNet to be changed; expected a Stable Diffusion model")
    config = LoraDenoiser.Config(folder=str(model.folder), running=running, lora=folder, scale=scale)
    return LoraDenoiser(config, name=f"{name} + {folder.name}")
