"""SANA: a rectified flow on latents of 32 pixels a side, under Gemma's reading of a sentence."""

import torch
from torch import Tensor

from usd.core.registry import register
from usd.denoiser.flow import FlowDenoiser
from usd.denoiser.pipeline import PromptReader, PromptTokens, Transformer
from usd.denoiser.weights import number, whole_numbers


@register("sana")
class SanaDenoiser(FlowDenoiser):
    """SANA, any size of it but Sprint, which is distilled."""

    components = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    pipeline = "SanaPipeline"
    patch = 1

    @property
    def shrink(self) -> int:
        """Pixels a side of a latent."""
        return 2 ** (len(whole_numbers(self.files.config("vae"), "encoder_block_out_channels")) - 1)

    def _read_prompts(self, pipeline: PromptReader, prompts: list[str], device: torch.device) -> PromptTokens:
        """Return tokens, and which of them are the sentence's. No instruction is put before it."""
        tokens, mask, *_ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, device=device)
        assert isinstance(tokens, Tensor) and isinstance(mask, Tensor)
        return PromptTokens(tokens.float(), mask.float())

    def velocity(self, network: Transformer, z: Tensor, level: Tensor, given: PromptTokens) -> Tensor:
        """Return the velocity in z; a variance that the network predicts beside it is dropped."""
        scale = number(self.files.config("transformer"), "timestep_scale", 1.0)
        found = network(
            hidden_states=z,
            timestep=1000 * level * scale,
            encoder_hidden_states=given.tokens,
            encoder_attention_mask=given.mask,
            return_dict=False,
        )
        return found[0][:, : z.shape[1]]
