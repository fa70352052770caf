"""ImageDream's UNet (arXiv 2312.02201): MVDream's, which also attends to tokens made of a picture's patches.

Modules have the names of diffusers' UNet and, where that has none, those under which the published file stores them.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from usd.denoiser.view_attention import attention_sizes, transformer_blocks
from usd.denoiser.weights import empty_network, whole

DEPTH, HEADS, HEAD_WIDTH = 4, 12, 64
"""Of the network from patches to tokens."""
OWN = ("image_tokens", "image_embedding_dim", "_class_name")


class ImageDreamUNet:
    """The maker of the network that our configuration calls so."""

    @staticmethod
    def from_config(config: Mapping[str, object]) -> torch.nn.Module:
        """Return diffusers' UNet, with a resampler and image attention of its own in every transformer block."""
        plain = {key: value for key, value in config.items() if key not in OWN}
        unet = empty_network("diffusers", "UNet2DConditionModel", plain)
        width, tokens = whole(config, "cross_attention_dim"), whole(config, "image_tokens", 16)
        unet.add_module("image_embed", Resampler(whole(config, "image_embedding_dim"), width, tokens))
        for blocks, i in transformer_blocks(unet):
            add_image_attention(blocks[i].get_submodule("attn2"), width, tokens)
        return unet


def add_image_attention(attention: torch.nn.Module, width: int, tokens: int) -> None:
    """Have a cross attention of diffusers read the last ``tokens`` tokens by keys and values of their own."""
    _, inner, _ = attention_sizes(attention)
    attention.add_module("to_k_ip", torch.nn.Linear(width, inner, bias=False))
    attention.add_module("to_v_ip", torch.nn.Linear(width, inner, bias=False))
    set_processor = getattr(attention, "set_processor")  # noqa: B009 - nn.Module's type does not know it
    set_processor(ImageAttention(tokens))


class ImageAttention:
    """diffusers' form of an attention: what is read from words plus what is read from image tokens."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def __call__(
        self,
        attention: torch.nn.Module,
        hidden_states: Float[Tensor, "R N C"],
        encoder_hidden_states: Float[Tensor, "R T W"],
        attention_mask: Tensor | None = None,  # noqa: ARG002 - as diffusers passes it
        **_others: object,
    ) -> Float[Tensor, "R N C"]:
        """Return what each query reads."""
        words, image = encoder_hidden_states.tensor_split([-self.tokens], dim=1)
        _, _, heads = attention_sizes(attention)

        def each(layer: str, x: Tensor) -> Tensor:
            return attention.get_submodule(layer)(x).unflatten(-1, (heads, -1)).transpose(1, 2)

        q = each("to_q", hidden_states)
        read = scaled_dot_product_attention(q, each("to_k", words), each("to_v", words))
        read = read + scaled_dot_product_attention(q, each("to_k_ip", image), each("to_v_ip", image))
        return attention.get_submodule("to_out.0")(read.transpose(1, 2).flatten(2))


class Resampler(torch.nn.Module):
    """Learned queries that read the patches of a picture: as many tokens as there are queries."""

    def __init__(self, inward: int, width: int, tokens: int) -> None:
        super().__init__()
        self.latents = torch.nn.Parameter(torch.zeros(1, tokens, width))
        self.proj_in, self.proj_out = torch.nn.Linear(inward, width), torch.nn.Linear(width, width)
        self.norm_out = torch.nn.LayerNorm(width)
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleList([PatchAttention(width), _feed_forward(width)]) for _ in range(DEPTH)
        )

    def forward(self, patches: Float[Tensor, "B P E"]) -> Float[Tensor, "B K W"]:
        """Return the tokens of each picture."""
        x, tokens = self.proj_in(patches), self.latents.expand(len(patches), -1, -1)
        for layer in self.layers:
            attention, feed_forward = layer.children()
            tokens = tokens + attention(x, tokens)
            tokens = tokens + feed_forward(tokens)
        return self.norm_out(self.proj_out(tokens))


class PatchAttention(torch.nn.Module):
    """Attention of tokens to patches and to themselves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = HEADS * HEAD_WIDTH
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.to_q = torch.nn.Linear(width, inner, bias=False)
        self.to_kv = torch.nn.Linear(width, 2 * inner, bias=False)
        self.to_out = torch.nn.Linear(inner, width, bias=False)

    def forward(self, x: Float[Tensor, "B P W"], tokens: Float[Tensor, "B K W"]) -> Float[Tensor, "B K W"]:
        """Return what each token reads."""
        own = self.norm2(tokens)
        keys, values = self.to_kv(torch.cat([self.norm1(x), own], 1)).chunk(2, -1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.to_q(own), keys, values))
        return self.to_out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _feed_forward(width: int) -> torch.nn.Sequential:
    inner = 4 * width
    return torch.nn.Sequential(
        torch.nn.LayerNorm(width),
        torch.nn.Linear(width, inner, bias=False),
        torch.nn.GELU(),
        torch.nn.Linear(inner, width, bias=False),
    )
