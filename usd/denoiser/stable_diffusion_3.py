"""Stable Diffusion 3 and 3.5: a rectified flow under two of CLIP's readings of a sentence and T5's."""

import torch
from torch import Tensor

from usd.core.registry import register
from usd.denoiser.flow import FlowDenoiser
from usd.denoiser.pipeline import PromptReader, PromptTokens, Transformer


@register("stable-diffusion-3")
class StableDiffusion3Denoiser(FlowDenoiser):
    """Stable Diffusion 3 and 3.5, medium or large."""

    components = (
        "transformer",
        "vae",
        "text_encoder",
        "text_encoder_2",
        "text_encoder_3",
        "tokenizer",
        "tokenizer_2",
        "tokenizer_3",
        "scheduler",
    )
    pipeline = "StableDiffusion3Pipeline"

    def _read_prompts(self, pipeline: PromptReader, prompts: list[str], device: torch.device) -> PromptTokens:
        """Return the tokens of all three encoders, and CLIP's vectors of the whole sentence."""
        given = {"prompt_2": prompts, "prompt_3": prompts, "device": device}
        found = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, **given)
        tokens, pooled = found[0], found[2]
        assert isinstance(tokens, Tensor) and isinstance(pooled, Tensor)
        return PromptTokens(tokens.float(), pooled=pooled.float())

    def velocity(self, network: Transformer, z: Tensor, level: Tensor, given: PromptTokens) -> Tensor:
        """Return the velocity in z."""
        return network(
            hidden_states=z,
            timestep=1000 * level,
            encoder_hidden_states=given.tokens,
            pooled_projections=given.pooled,
            return_dict=False,
        )[0]
