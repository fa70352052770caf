"""LoRA (arXiv 2106.09685) on a UNet's attention layers: training it with peft, and the folder it is kept in.

The folder holds ``pytorch_lora_weights.safetensors``, as diffusers writes and reads it, and ``lora.json``, our card:
the model that was trained and the sentence that calls up what it learnt. With a card the folder is a model wherever
Stable Diffusion's folder is one; ``usd.denoiser.lora_file`` adds the weights.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from usd.core.config import option, parse
from usd.core.errors import UserError
from usd.denoiser.networks import Adaptable, Adapted
from usd.denoiser.weights import read_json

WEIGHTS = "pytorch_lora_weights.safetensors"
CARD = "lora.json"
LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
"""Of every attention, self and cross: queries, keys, values and what leaves it."""


@dataclass(frozen=True)
class LoraConfig:
    """The shape of the change: W + alpha / rank B A, with A (rank, in) and B (out, rank)."""

    rank: int = option(4, "rank of the change of each layer", ge=1, le=4096)
    alpha: int | None = option(
        None, "strength of the change, which is multiplied by alpha / rank; null: by 1", ge=1, le=65536
    )
    dropout: float = option(
        0.0, "share of a layer's inputs that the change does not see in training", ge=0, lt=1
    )


@dataclass(frozen=True)
class Card:
    """``lora.json``: what a LoRA was trained on, and the sentence that calls it up."""

    base_model: str | None = option(None, "alias, folder or hub id of the model that the LoRA changes")
    prompt: str | None = option(None, "sentence for the object, as clear as in the input picture")


def add_lora(unet: object, config: LoraConfig) -> torch.nn.Module:
    """Return the UNet with a LoRA on every attention layer, which alone is trained; at first it changes nothing.

    A is drawn from torch's global generator.
    """
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    assert isinstance(unet, torch.nn.Module)
    unet.requires_grad_(False)
    options = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha or config.rank,
        lora_dropout=config.dropout,
        init_lora_weights="gaussian",
        target_modules=list(LAYERS),
    )
    if isinstance(unet, Adaptable):
        unet.add_adapter(options)
    else:  # a network of diffusers that has no way of its own
        inject_adapter_in_model(options, unet)
    return unet


def write_lora(unet: torch.nn.Module, folder: Path, card: Card) -> list[Path]:
    """Store the LoRA of a UNet as diffusers and peft users load it, and the card. Raises ``UserError``."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    tensors = {
        key: value.detach().cpu().contiguous() for key, value in get_peft_model_state_dict(unet).items()
    }
    metadata = {key: _plain(value) for key, value in _peft_options(unet).items()}
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


def _peft_options(unet: torch.nn.Module) -> dict[str, object]:
    """Return the options of a UNet's LoRA as peft keeps them."""
    assert isinstance(unet, Adapted)
    return unet.peft_config["default"].to_dict()


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set) else value


def read_card(folder: Path) -> Card:
    """Return the card of a LoRA's folder; an empty one where there is none."""
    path = folder / CARD
    if not path.is_file():
        return Card()
    known = read_json(path)
    return parse(Card, {key: known[key] for key in asdict(Card()) if key in known}, str(path))


def lora_model(folder: Path, base: str | None = None, scale: float = 1.0) -> str:
    """Return the name by which ``open_text_denoiser`` opens a model with ``scale`` times the LoRA in ``folder``.

    ``base`` is needed where no card names it.
    """
    base = base or read_card(folder).base_model
    return str(folder) if base is None else f"{base} + {folder} x {scale:g}"
