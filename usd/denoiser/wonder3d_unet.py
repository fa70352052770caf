"""Wonder3D's UNet (arXiv 2310.15008, section 4.2): Stable Diffusion's, whose views and whose domains read each other.

Rows are (group, domain, view). In every transformer block the six views of a domain attend to each other, and then the
normals and the colors of each view do. Modules have the names under which the published checkpoint stores them.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.denoiser.view_attention import (
    attend_across_views,
    attention_sizes,
    join_views,
    split_views,
    transformer_blocks,
)
from usd.denoiser.weights import NetworkConfig, empty_network, texts, whole

DOMAINS = 2
PLAIN_KINDS = {
    "CrossAttnDownBlockMV2D": "CrossAttnDownBlock2D",
    "CrossAttnUpBlockMV2D": "CrossAttnUpBlock2D",
    "UNetMidBlockMV2DCrossAttn": "UNetMidBlock2DCrossAttn",
}
"""diffusers' blocks of the same weights, without what the transformer blocks add."""
PUBLISHED = {
    "multiview_attention": True,
    "cd_attention_mid": True,
    "cd_attention_last": False,
    "sparse_mv_attention": False,
    "mvcd_attention": False,
}
"""The one combination of these keys that was published."""


class UNetMV2DConditionModel:
    """The maker of the network that config.json calls so."""

    @staticmethod
    def from_config(config: Mapping[str, object]) -> torch.nn.Module:
        """Return the network with weights of its own. Raises ``UserError`` for attention that was not published."""
        for key, expected in PUBLISHED.items():
            if config.get(key, expected) is not expected:
                raise UserError(f"{key} is {config[key]}; expected {expected}, as Wonder3D was published")
        unet = empty_network("diffusers", "UNet2DConditionModel", plain_config(config))
        views = whole(config, "num_views", 6)
        for blocks, i in transformer_blocks(unet):
            blocks[i] = CrossDomainBlock(blocks[i], views)
        return unet


def plain_config(config: Mapping[str, object]) -> NetworkConfig:
    """Return the configuration of the UNet of diffusers that has the same weights but for the cross-domain ones."""
    ours = {
        key: value for key, value in config.items() if key not in (*PUBLISHED, "num_views", "_class_name")
    }
    for key in ("down_block_types", "up_block_types"):
        ours[key] = [PLAIN_KINDS.get(kind, kind) for kind in texts(config, key)]
    middle = str(config.get("mid_block_type", "UNetMidBlock2DCrossAttn"))
    ours["mid_block_type"] = PLAIN_KINDS.get(middle, middle)
    return {key: value for key, value in ours.items() if not key.startswith("_")}


class CrossDomainBlock(torch.nn.Module):
    """A transformer block of diffusers with attention across views, and between the domains of a view."""

    norm1: torch.nn.Module
    attn1: torch.nn.Module
    norm2: torch.nn.Module
    attn2: torch.nn.Module
    norm3: torch.nn.Module
    ff: torch.nn.Module

    def __init__(self, block: torch.nn.Module, views: int) -> None:
        super().__init__()
        for name in ("norm1", "attn1", "norm2", "attn2", "norm3", "ff"):
            self.add_module(name, block.get_submodule(name))
        attend_across_views(self.attn1, views)
        width, inner, heads = attention_sizes(self.attn1)
        self.attn_joint_mid = type(self.attn1)(query_dim=width, heads=heads, dim_head=inner // heads)
        self.norm_joint_mid = torch.nn.LayerNorm(width)
        self.views = views

    def forward(
        self, x: Float[Tensor, "R N C"], encoder_hidden_states: Tensor | None = None, **_others: object
    ) -> Float[Tensor, "R N C"]:
        """Return the features after all four layers; ``encoder_hidden_states`` are the condition's tokens."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.across_domains(self.norm_joint_mid(x))
        x = x + self.attn2(self.norm2(x), encoder_hidden_states=encoder_hidden_states)
        return x + self.ff(self.norm3(x))

    def across_domains(self, x: Float[Tensor, "R N C"]) -> Float[Tensor, "R N C"]:
        """Return what each row reads from itself and from its view in the other domain."""
        grouped = x.unflatten(0, (-1, DOMAINS, self.views)).transpose(1, 2)
        read = split_views(self.attn_joint_mid(join_views(grouped.flatten(0, 2), DOMAINS)), DOMAINS)
        return read.unflatten(0, (-1, self.views, DOMAINS)).transpose(1, 2).flatten(0, 2)
