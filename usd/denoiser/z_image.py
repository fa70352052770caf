"""Z-Image: a rectified flow under a language model's reading of a sentence."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from usd.core.errors import UserError
from usd.core.registry import register
from usd.denoiser.flow import FlowDenoiser
from usd.denoiser.pipeline import PromptReader, PromptTokens, Transformer


@register("z-image")
class ZImageDenoiser(FlowDenoiser):
    """Z-Image, undistilled: its Turbo has no unconditional prediction."""

    components = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    pipeline = "ZImagePipeline"

    def _read_prompts(self, pipeline: PromptReader, prompts: list[str], device: torch.device) -> PromptTokens:
        """Return sentences of as many tokens as each has, padded to the longest."""
        found = pipeline.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)[0]
        assert isinstance(found, list)
        tokens = pad_sequence([each.float() for each in found], batch_first=True)
        mask = pad_sequence([each.new_ones(len(each)).float() for each in found], batch_first=True)
        return PromptTokens(tokens, mask)

    def velocity(self, network: Transformer, z: Tensor, level: Tensor, given: PromptTokens) -> Tensor:
        """Return the velocity in z: the network counts levels from the picture, and predicts picture less noise."""
        assert given.mask is not None
        sentences = [tokens[mask > 0] for tokens, mask in zip(given.tokens, given.mask)]
        pictures = list(z.unsqueeze(2).unbind(0))
        (found,) = network.__call__(x=pictures, t=1 - level, cap_feats=sentences, return_dict=False)
        return -torch.stack(list(found)).squeeze(2)

    def require_guidance(self) -> None:
        """Raise ``UserError`` for the Turbo."""
        if "turbo" in self.name.lower():
            raise UserError(
                f"'{self.name}' was distilled of its guidance and has no unconditional prediction; "
                "expected Z-Image itself"
            )
