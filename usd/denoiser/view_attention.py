"""Attention of views that are denoised together: each reads the tokens of all views of its group."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


def transformer_blocks(unet: torch.nn.Module) -> Iterator[tuple[torch.nn.ModuleList, int]]:
    """Yield each transformer block of one of diffusers' UNets: the list that holds it, and its number there."""
    for name, module in unet.named_modules():
        if name.endswith("transformer_blocks") and isinstance(module, torch.nn.ModuleList):
            yield from ((module, i) for i in range(len(module)))


@runtime_checkable
class AttentionLayer(Protocol):
    """The parts of an attention layer of diffusers that say its sizes."""

    heads: int
    to_q: torch.nn.Linear


def attention_sizes(attention: torch.nn.Module) -> tuple[int, int, int]:
    """Return the width of an attention's input, that of its queries, and the number of its heads."""
    assert isinstance(attention, AttentionLayer)
    return attention.to_q.in_features, attention.to_q.out_features, attention.heads


def attend_across_views(attention: torch.nn.Module, views: int) -> None:
    """Have every ``views`` adjacent rows of a self-attention's input be one sequence: all tokens read all."""

    def join(_module: torch.nn.Module, inputs: tuple[object, ...]) -> tuple[object, ...]:
        x, *rest = inputs
        assert isinstance(x, Tensor)
        return (join_views(x, views), *rest)

    def part(_module: torch.nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return split_views(output, views)

    attention.register_forward_pre_hook(join)
    attention.register_forward_hook(part)


def join_views(x: Float[Tensor, "R N C"], views: int) -> Float[Tensor, "G M C"]:
    """Return the tokens of every ``views`` adjacent rows one after the other."""
    return x.unflatten(0, (-1, views)).flatten(1, 2)


def split_views(x: Float[Tensor, "G M C"], views: int) -> Float[Tensor, "R N C"]:
    """Return the tokens of each view in a row of its own: the inverse of ``join_views``."""
    return x.unflatten(1, (views, -1)).flatten(0, 1)


class ReferenceUNet(torch.nn.Module):
    """A UNet of diffusers whose self-attention also reads what it made of a reference (arXiv 2310.15110, section 2.2).

    The reference goes through first, and the input of each self-attention is kept; then x goes through, and its queries
    find those tokens beside its own.
    """

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self._kept: dict[torch.nn.Module, Tensor] = {}
        self._writes = False
        for blocks, i in transformer_blocks(unet):
            attention = blocks[i].get_submodule("attn1")
            attention.register_forward_pre_hook(self._keep_or_add, with_kwargs=True)

    def _keep_or_add(
        self, attention: torch.nn.Module, inputs: tuple[object, ...], options: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        x = inputs[0]
        assert isinstance(x, Tensor)
        if self._writes:
            self._kept[attention] = x
            return inputs, options
        return inputs, options | {"encoder_hidden_states": torch.cat([x, self._kept.pop(attention)], 1)}

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor, reference: Tensor) -> Tensor:
        """Return the prediction in x, given references at the same t, a row for each of x."""
        try:
            self._writes = True
            self.unet(reference, t, encoder_hidden_states=tokens)
            self._writes = False
            return self.unet(x, t, encoder_hidden_states=tokens).sample
        finally:
            self._kept = {}
