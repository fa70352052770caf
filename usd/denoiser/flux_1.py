"""FLUX.1: a rectified flow under T5's reading of a sentence and CLIP's vector of it."""

import torch
from torch import Tensor

from usd.core.errors import UserError
from usd.core.registry import register
from usd.denoiser.flow import FlowDenoiser, pack, unpack
from usd.denoiser.pipeline import PromptReader, PromptTokens, Transformer


@register("flux-1")
class Flux1Denoiser(FlowDenoiser):
    """FLUX.1 and what was made of it. "dev" takes its guidance as a number and has no unconditional prediction."""

    components = (
        "transformer",
        "vae",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "scheduler",
    )
    pipeline = "FluxPipeline"
    guidance = 3.5  # what a guidance-distilled model is asked for

    @property
    def is_distilled(self) -> bool:
        """True where the network takes its guidance as a number."""
        return bool(self.files.config("transformer").get("guidance_embeds"))

    def _read_prompts(self, pipeline: PromptReader, prompts: list[str], device: torch.device) -> PromptTokens:
        """Return T5's tokens and CLIP's vector."""
        tokens, pooled, _ = pipeline.encode_prompt(prompts, prompt_2=prompts, device=device)
        assert isinstance(tokens, Tensor) and isinstance(pooled, Tensor)
        return PromptTokens(tokens.float(), pooled=pooled.float())

    def velocity(self, network: Transformer, z: Tensor, level: Tensor, given: PromptTokens) -> Tensor:
        """Return the velocity in z."""
        height, width = z.shape[2:]
        rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], -1).view(-1, 3)
        guidance = torch.full_like(level, self.guidance) if self.is_distilled else None
        found = network(
            hidden_states=pack(z),
            timestep=level.to(z),
            guidance=guidance,
            pooled_projections=given.pooled,
            encoder_hidden_states=given.tokens,
            txt_ids=z.new_zeros(given.tokens.shape[1], 3),
            img_ids=places.to(z),
            return_dict=False,
        )
        return unpack(found[0], height, width)

    def require_guidance(self) -> None:
        """Raise ``UserError`` where the guidance was distilled into the network."""
        if self.is_distilled:
            raise UserError(
                f"'{self.name}' was distilled of its guidance and has no unconditional prediction, which this formula "
                "needs; expected a model that was not, such as flux-2-klein-base"
            )
