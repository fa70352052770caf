"""Attention of diffusers' UNets, as training on a CPU wants it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


def plain_attention(unet: "UNet2DConditionModel") -> "UNet2DConditionModel":
    """Write attention out: on a CPU the fused form is several times slower backwards."""
    from diffusers.models.attention_processor import AttnProcessor

    unet.set_attn_processor(AttnProcessor())
    return unet
