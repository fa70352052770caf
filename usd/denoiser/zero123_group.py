"""The embedded Zero-1-to-3 with attention across views: six views of a picture at once, which agree."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.registry import register
from usd.denoiser import EncodedReference, GroupConventions, ViewGroupDenoiser
from usd.denoiser.components import ModelComponents
from usd.denoiser.frozen import Frozen
from usd.denoiser.group_attention import (
    GROUP_ATTENTION,
    across,
    group_layers,
    load_group_attention,
    place_group_attention,
    read_group_attention,
    view_rays,
)
from usd.denoiser.latent import NetworkInput, compile_network
from usd.denoiser.networks import UNet
from usd.denoiser.zero123 import Zero123Denoiser, Zero123Reference
from usd.math.camera import Cameras
from usd.math.view_groups import TOYBOX_VIEWS

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


@dataclass(frozen=True)
class GroupInput(NetworkInput):
    """Zero-1-to-3's condition, the rays of each view, its group's size, and whether it reads the others: 1, or 0."""

    rays: Float[Tensor, "B 6 r r"] | None = None
    views: Float[Tensor, "B"] | None = None
    share: Float[Tensor, "B"] | None = None


@register("zero123-group")
class Zero123GroupDenoiser(Zero123Denoiser, ViewGroupDenoiser["Zero123Denoiser.Config"]):
    """A Zero-1-to-3 folder with ``group_attention``. What is embedded together is a group, from whatever cameras.

    Its unconditional prediction is that of the model for single views.
    """

    components = (*Zero123Denoiser.components, GROUP_ATTENTION)
    group = "toybox"
    group_size = TOYBOX_VIEWS
    conventions = GroupConventions(
        fraction=None, fovy_deg=39.6, steps=8, scale=1.5, noise_share=0.0, start=0.7, expected_share=0.5
    )

    def __init__(self, config: Zero123Denoiser.Config, name: str = "") -> None:
        super().__init__(config, name)
        files, place, execution = self.files, self.folder / GROUP_ATTENTION, config.execution
        self.unet: Frozen[UNet] = Frozen(
            lambda: load_group_unet(files, place),
            execution.weights,
            execution,
            partial(compile_network, mode=execution.compile),
        )

    @torch.no_grad()
    def embed_view(self, reference: EncodedReference, cameras: Cameras) -> GroupInput:
        """Return the condition of one group of views, from any cameras."""
        assert isinstance(reference, Zero123Reference)
        single = super().embed_view(reference, cameras)
        device, count = reference.latent.device, len(cameras)
        source = reference.cameras.to(device)
        theirs = source[torch.zeros(count, dtype=torch.long, device=device)]
        rays = view_rays(cameras.to(device), theirs, self.latent.height // 2)
        ones = torch.ones_like(rays[:, 0, 0, 0])
        return GroupInput(single.tokens, single.latent, single.time, rays, count * ones, ones)

    @torch.no_grad()
    def unconditional(self, batch: int) -> GroupInput:
        """Return what the model for single views takes for nothing; the views do not know of each other."""
        single = super().unconditional(batch)
        side = self.latent.height // 2
        nothing = single.tokens.new_zeros(batch, 6, side, side)
        zeros = nothing[:, 0, 0, 0]
        return GroupInput(single.tokens, single.latent, single.time, nothing, zeros + 1, zeros)

    @override
    def _ranges(self, count: int, group: int = 1) -> list[tuple[int, int]]:
        """Return one range of all rows: views that read each other go through the network together."""
        return [(0, count)]

    @override
    def _run(self, unet: UNet, x: Tensor, t: Tensor, condition: NetworkInput) -> Tensor:
        """Return the UNet's output for whole groups."""
        assert isinstance(condition, GroupInput) and isinstance(unet, torch.nn.Module)
        if condition.rays is None or condition.views is None or condition.share is None:
            return super()._run(unet, x, t, condition)
        views = int(condition.views.max())
        with across(group_layers(unet), condition.rays, condition.share, views):
            return super()._run(unet, x, t, condition)


def load_group_unet(files: ModelComponents, place: Path) -> torch.nn.Module:
    """Return the UNet for single views with the layers across views that a folder holds. Raises ``UserError``."""
    unet = files.network("unet")
    layers = place_group_attention(cast("UNet2DConditionModel", unet), read_group_attention(place))
    load_group_attention(layers, place)
    return unet
