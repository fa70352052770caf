"""Attention across the views of a group: what a UNet for single views needs to make views that agree.

Beside the self-attention of a block stands an attention of each view's pixels to those of all views of its group
(MVDream, arXiv 2308.16512), which also reads each pixel's ray. It starts from the block's own weights with nothing
coming out, so that the network computes at first what it did. Only these layers learn, and only they are stored.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from usd.core.config import option, parse
from usd.denoiser.view_attention import join_views, split_views, transformer_blocks
from usd.denoiser.view_volume import face_reference
from usd.denoiser.weights import load_tensors, read_json, readable
from usd.math.camera import Cameras

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention

GROUP_ATTENTION = "group_attention"  # its place in a Zero-1-to-3 folder


@dataclass(frozen=True)
class GroupAttentionConfig:
    """Shape of the layers across views."""

    hidden: int = option(64, "width of the hidden layer that reads a pixel's ray", ge=1, le=8192)


class GroupAttention(nn.Module):
    """A block's self-attention, and one across the views of a group beside it.

    ``across`` sets the rays (B 6 h w), the share (B) of each row, and how many rows are a group.
    """

    rays: Tensor | None = None
    share: Tensor | None = None
    views: int = 1

    def __init__(self, own: "Attention", hidden: int) -> None:
        super().__init__()
        self.own, self.heads = own, own.heads
        width, inner = own.to_q.in_features, own.to_q.out_features
        places = nn.Linear(hidden, width)
        self.places = nn.Sequential(nn.Linear(6, hidden), nn.SiLU(), places)
        self.query, self.key, self.value = (copy.deepcopy(x) for x in (own.to_q, own.to_k, own.to_v))
        self.out = nn.Linear(inner, width)
        for last in (places, self.out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, hidden_states: Float[Tensor, "B N C"], **rest: object) -> Float[Tensor, "B N C"]:
        """Return the self-attention plus what the views of a group tell each other."""
        alone: Tensor = self.own(hidden_states, **rest)
        if self.rays is None or self.share is None:
            return alone
        return alone + self.share.to(alone)[:, None, None] * self.read_group(hidden_states, self.rays)

    def read_group(self, x: Float[Tensor, "B N C"], rays: Float[Tensor, "B 6 h w"]) -> Float[Tensor, "B N C"]:
        """Return what every pixel reads from the pixels of all views of its group."""
        side = round(x.shape[1] ** 0.5)
        place = self.places(adaptive_avg_pool2d(rays, side).flatten(2).transpose(1, 2).to(x))
        # places say where to look, not what is seen there
        q, k, v = self.query(x + place), self.key(x + place), self.value(x)
        q, k, v = (self._group(y) for y in (q, k, v))
        weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
        read = (weights @ v).transpose(1, 2).flatten(2)
        return split_views(self.out(read), self.views)

    def _group(self, y: Tensor) -> Tensor:
        """Return rows of single views (B N C) as groups with heads (G, heads, V N, C / heads)."""
        return join_views(y, self.views).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def learned(self) -> dict[str, Tensor]:
        """Return the weights of the attention across views, by name."""
        return {name: x for name, x in self.state_dict().items() if not name.startswith("own.")}


def place_group_attention(unet: "UNet2DConditionModel", config: GroupAttentionConfig) -> list[GroupAttention]:
    """Add layers across views to a UNet's middle and upper blocks, where layout is decided; return them.

    Outside ``across`` the UNet computes what it did.
    """
    from diffusers.models.attention_processor import Attention

    for part in (unet.mid_block, unet.up_blocks):
        for blocks, index in transformer_blocks(part):
            own = blocks[index].attn1
            assert isinstance(own, Attention)
            blocks[index].attn1 = GroupAttention(own, config.hidden)
    return group_layers(unet)


def group_layers(unet: nn.Module) -> list[GroupAttention]:
    """Return a UNet's layers across views, in the order in which they are stored: the middle's, then those upwards."""
    parts = [unet.get_submodule(name) for name in ("mid_block", "up_blocks")]
    return [layer for part in parts for layer in part.modules() if isinstance(layer, GroupAttention)]


@contextmanager
def across(
    layers: Sequence[GroupAttention], rays: Float[Tensor, "B 6 r r"], share: Float[Tensor, "B"], views: int
) -> Iterator[None]:
    """Have a UNet's rows be groups of so many views with these rays; rows whose share is 0 stay single views."""
    for layer in layers:
        layer.rays, layer.share, layer.views = rays, share, views
    try:
        yield
    finally:
        for layer in layers:
            layer.rays = layer.share = None


def learned_weights(layers: Sequence[GroupAttention]) -> dict[str, Tensor]:
    """Return the weights of layers across views, by name."""
    return {f"{i}.{name}": x for i, layer in enumerate(layers) for name, x in layer.learned().items()}


def view_rays(target: Cameras, reference: Cameras, side: int) -> Float[Tensor, "B 6 s s"]:
    """Return direction and moment of the rays of ``side`` by ``side`` pixels, turned so that the reference is in front.

    Two rays meet where the products of the one's direction with the other's moment cancel (Plücker).
    """
    origins, directions = face_reference(target, reference).resize(side, side).rays()
    moments = torch.linalg.cross(origins.expand_as(directions), directions)
    return torch.cat([directions, moments], -1).permute(0, 3, 1, 2)


def write_group_attention(
    layers: Sequence[GroupAttention], config: GroupAttentionConfig, place: Path
) -> None:
    """Store layers across views as ``load_group_attention`` reads them, in float16."""
    place.mkdir(parents=True, exist_ok=True)
    weights = {name: x.detach().to(torch.float16).contiguous() for name, x in learned_weights(layers).items()}
    save_file(weights, place / "diffusion_pytorch_model.safetensors")
    config_text = json.dumps({"_class_name": "GroupAttention", **asdict(config)}, indent=2)
    (place / "config.json").write_text(config_text + "\n")


def read_group_attention(place: Path) -> GroupAttentionConfig:
    """Return the shape of the layers stored in a folder. Raises UserError."""
    config = read_json(place / "config.json")
    ours = {field.name: config[field.name] for field in fields(GroupAttentionConfig) if field.name in config}
    return parse(GroupAttentionConfig, ours, str(place / "config.json"))


@torch.no_grad()
def load_group_attention(layers: Sequence[GroupAttention], place: Path) -> None:
    """Read layers across views from a folder. Raises UserError where it holds others."""
    with readable(place, "attention across views"):
        kept, wanted = load_tensors(place), learned_weights(layers)
        if kept.keys() != wanted.keys():
            raise KeyError(f"{len(kept)} tensors, not the {len(wanted)} of {len(layers)} layers")
        for name, x in wanted.items():
            x.copy_(kept[name])
