"""PixArt-Sigma: a transformer under T5's reading of a sentence."""

import torch
from torch import Tensor

from usd.core.registry import register
from usd.denoiser.noise_pipeline import NoiseDenoiser
from usd.denoiser.pipeline import PromptReader, PromptTokens, Transformer


@register("pixart")
class PixArtDenoiser(NoiseDenoiser):
    """PixArt-Sigma, and PixArt-alpha, which is told size and shape of the picture. Its LoRAs are folders of peft."""

    components = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    pipeline = "PixArtSigmaPipeline"

    def _read_prompts(self, pipeline: PromptReader, prompts: list[str], device: torch.device) -> PromptTokens:
        """Return tokens, and which of them are the sentence's."""
        tokens, mask, *_ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, device=device)
        assert isinstance(tokens, Tensor) and isinstance(mask, Tensor)
        return PromptTokens(tokens.float(), mask.float())

    def prediction(self, network: Transformer, xt: Tensor, t: Tensor, given: PromptTokens) -> Tensor:
        """Return the noise predicted in x_t, and the variance behind it."""
        return network(
            hidden_states=xt,
            timestep=t,
            encoder_hidden_states=given.tokens,
            encoder_attention_mask=given.mask,
            added_cond_kwargs=self._sizes(xt),
            return_dict=False,
        )[0]

    def _sizes(self, xt: Tensor) -> dict[str, Tensor | None]:
        """Return the picture's height and width, and their ratio, where the network takes them."""
        config = self.files.config("transformer")
        takes = config.get("use_additional_conditions")
        if takes is None:  # diffusers' rule for configurations that do not say
            takes = config.get("sample_size") == 128
        if not takes:
            return {"resolution": None, "aspect_ratio": None}
        size = float(self.latent.image_size)
        return {
            "resolution": xt.new_tensor([[size, size]]).repeat(len(xt), 1),
            "aspect_ratio": xt.new_ones(len(xt), 1),
        }
