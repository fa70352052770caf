"""``view-group-system``: the embedded Zero-1-to-3 learns to make the views of a group together.

The network for single views stays as it is; what learns is attention across views beside its self-attention. Without a
condition the group is single views again, so nothing needs to be dropped in training.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.config import ConfigError, option
from usd.core.registry import register
from usd.data.toybox import ViewPairs
from usd.denoiser.group_attention import (
    GROUP_ATTENTION,
    GroupAttentionConfig,
    across,
    group_layers,
    load_group_attention,
    place_group_attention,
    view_rays,
    write_group_attention,
)
from usd.math.camera import Cameras
from usd.system.pretraining.diffusion_training import draw_timesteps, error_by_noise, noise_and_target
from usd.system.pretraining.novel_view import Condition, NovelView, NovelViewSystem


@dataclass(frozen=True)
class GroupCondition(Condition):
    """The condition of whole groups of targets, with the rays of their pixels."""

    rays: Float[Tensor, "B 6 r r"]


class JointNovelView(NovelView):
    """Zero-1-to-3's UNet and projection, as they are, and attention across views, which learns."""

    def __init__(self, single: NovelView, config: GroupAttentionConfig, views: int) -> None:
        super().__init__(single.unet.requires_grad_(False), single.projection.requires_grad_(False))
        self.views, self.config = views, config
        for layer in place_group_attention(self.unet, config):
            layer.requires_grad_(True).own.requires_grad_(False)

    def forward(
        self,
        xt: Tensor,
        t: Tensor,
        condition: Condition,
        keep_tokens: Tensor | None = None,
        keep_beside: Tensor | None = None,
    ) -> Tensor:
        """Return the v of x_t; where the tokens are dropped, the views of a group do not know of each other."""
        assert isinstance(condition, GroupCondition)
        share = torch.ones(len(xt), device=xt.device) if keep_tokens is None else keep_tokens
        with across(group_layers(self.unet), condition.rays, share, self.views):
            return super().forward(xt, t, condition, keep_tokens, keep_beside)


@register("view-group-system")
class ViewGroupSystem(NovelViewSystem):
    """Training of attention across views, by default of ``load/toybox/zero123``."""

    @dataclass(frozen=True)
    class Config(NovelViewSystem.Config):
        """Options of the training: the model to start from, and the shape of the layers across views."""

        start_from: str = option("load/toybox/zero123", "Zero-1-to-3 folder to go on from", path=True)
        views: int = option(6, "views that are made together: targets_per_reference of the data", ge=1, le=64)
        draws: int = option(1, "noise levels at which each group of a batch is seen", ge=1, le=64)
        attention: GroupAttentionConfig = option({}, "shape of the layers across views")
        attention_from: str | None = option(None, "folder of layers across views to go on from", path=True)

        def __post_init__(self) -> None:
            """Refuse samples without a condition, from which these layers learn nothing."""
            if self.drop_all + self.drop_tokens + self.drop_beside > 0:
                raise ConfigError("system.drop_*: attention across views needs its condition; expected 0")

    config: Config

    @override
    def build_network(self) -> NovelView:
        """Build the network for single views with layers across views, which alone learn."""
        network = JointNovelView(super().build_network(), self.config.attention, self.config.views)
        if self.config.attention_from is not None:
            load_group_attention(group_layers(network.unet), Path(self.config.attention_from))
        return network

    @override
    def condition(
        self,
        pictures: Float[Tensor, "R 3 H W"],
        latents: Float[Tensor, "R c h w"],
        reference: Cameras,
        target: Cameras,
    ) -> Condition:
        """Return the condition of R groups of targets."""
        single = super().condition(pictures, latents, reference, target)
        rows = torch.arange(len(reference), device=target.device)
        theirs = reference[rows.repeat_interleave(len(target) // len(reference))]
        return GroupCondition(**vars(single), rays=view_rays(target, theirs, latents.shape[-1] // 2))

    @override
    def compute(self, batch: ViewPairs, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the squared error of v, with one time for all views of a group."""
        reference, x0, latents = batch.reference, batch.target.latents, batch.reference.latents
        assert x0 is not None and latents is not None and reference.pictures is not None
        condition = self.condition(reference.pictures, latents, reference.cameras, batch.target.cameras)
        rows = torch.arange(len(x0), device=self.device).repeat(self.config.draws)
        x0, condition = x0[rows], GroupCondition(*(value[rows] for value in vars(condition).values()))
        groups = len(x0) // self.config.views
        t = draw_timesteps(groups, self.config.high_noise_share, generator, self.device)
        t = t.repeat_interleave(self.config.views)
        xt, v = noise_and_target(x0, t, generator)
        with self.autocast():
            output = self.network(xt, t, condition)
        error = (output.float() - v).square().mean(dim=(1, 2, 3))
        self.figures.update(error_by_noise(error.detach(), t))
        return {"v": error.mean()}

    @override
    def publish(self, folder: Path) -> None:
        """Write the layers across views; the rest of the model is where the training started from."""
        assert isinstance(self.average, JointNovelView)
        write_group_attention(group_layers(self.average.unet), self.average.config, folder / GROUP_ATTENTION)
