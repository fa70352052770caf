"""Stable Diffusion XL: a UNet under two of CLIP's readings of a sentence, and the size that its picture would have."""

from typing import ClassVar

import torch
from torch import Tensor

from usd.core.registry import register
from usd.denoiser.noise_pipeline import NoiseDenoiser
from usd.denoiser.pipeline import PromptReader, PromptTokens, Transformer
from usd.denoiser.weights import read_json


@register("stable-diffusion-xl")
class StableDiffusionXlDenoiser(NoiseDenoiser):
    """Stable Diffusion XL. Its autoencoder overflows in half floats; here it runs in fp32 or bf16, which do not.

    The network is told a picture of ``models.image_size``, whole: original and target size, no crop.
    """

    components: ClassVar[tuple[str, ...]] = (
        "unet",
        "vae",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "scheduler",
    )
    pipeline = "StableDiffusionXLPipeline"
    network_name = "unet"
    patch = 1

    def _read_prompts(self, pipeline: PromptReader, prompts: list[str], device: torch.device) -> PromptTokens:
        """Return both encoders' tokens side by side, and the second one's vector."""
        found = pipeline.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
        tokens, pooled = found[0], found[2]
        assert isinstance(tokens, Tensor) and isinstance(pooled, Tensor)
        kept = self._kept(prompts).to(device)
        return PromptTokens(tokens.float() * kept[:, None, None], pooled=pooled.float() * kept[:, None])

    def _kept(self, prompts: list[str]) -> Tensor:
        """Return 0 for empty prompts of a model that was trained on zeros in their place, else 1."""
        index = self.folder / "model_index.json"
        zeros = bool(read_json(index).get("force_zeros_for_empty_prompt")) if index.is_file() else False
        return torch.tensor([float(bool(prompt) or not zeros) for prompt in prompts])

    def prediction(self, network: Transformer, xt: Tensor, t: Tensor, given: PromptTokens) -> Tensor:
        """Return the noise predicted in x_t."""
        size = self.latent.image_size
        sizes = xt.new_tensor([size, size, 0, 0, size, size]).repeat(len(xt), 1)
        return network(
            sample=xt,
            timestep=t,
            encoder_hidden_states=given.tokens,
            added_cond_kwargs={"text_embeds": given.pooled, "time_ids": sizes},
            return_dict=False,
        )[0]
