"""Qwen-Image: a rectified flow under a language model's reading of a sentence."""

from typing import ClassVar

import torch
from torch import Tensor

from usd.core.registry import register
from usd.denoiser.flow import FlowDenoiser, pack, unpack
from usd.denoiser.pipeline import PictureCoder, PromptReader, PromptTokens, Transformer
from usd.denoiser.weights import whole


@register("qwen-image")
class QwenImageDenoiser(FlowDenoiser):
    """Qwen-Image. Its autoencoder is one of videos, of which a picture is one frame."""

    components: ClassVar[tuple[str, ...]] = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    pipeline = "QwenImagePipeline"

    @property
    def shrink(self) -> int:
        """Pixels a side of a latent."""
        steps = self.files.config("vae").get("temperal_downsample", (0, 0, 0))
        assert isinstance(steps, list | tuple)
        return int(2 ** len(steps))

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return whole(self.files.config("vae"), "z_dim")

    def _statistics(self, like: Tensor) -> list[Tensor]:
        """Return mean and deviation of each channel of the autoencoder's latents."""
        vae = self.files.config("vae")
        found = [torch.tensor(vae[name]) for name in ("latents_mean", "latents_std")]
        return [each.to(like).view(1, -1, 1, 1) for each in found]

    def normalized(self, latent: Tensor) -> Tensor:
        """Return a latent less its mean, over its deviation."""
        mean, deviation = self._statistics(latent)
        return (latent - mean) / deviation

    def raw(self, z: Tensor) -> Tensor:
        """Undo ``normalized``."""
        mean, deviation = self._statistics(z)
        return z * deviation + mean

    def _encode(self, vae: PictureCoder, picture: Tensor) -> Tensor:
        """Return the latents of videos of one frame."""
        return super()._encode(vae, picture.unsqueeze(2)).squeeze(2)

    def _decode(self, vae: PictureCoder, latent: Tensor) -> Tensor:
        """Return the frames."""
        return super()._decode(vae, latent.unsqueeze(2)).squeeze(2)

    def _read_prompts(self, pipeline: PromptReader, prompts: list[str], device: torch.device) -> PromptTokens:
        """Return tokens, and which are the sentence's."""
        return self._tokens_of(pipeline.encode_prompt(prompts, device=device))

    def _tokens_of(self, encoded: tuple[object, ...]) -> PromptTokens:
        """Return what a pipeline encoded; without a mask every token is meant."""
        tokens, mask = encoded
        assert isinstance(tokens, Tensor)
        whole_row = tokens.new_ones(tokens.shape[:2]) if mask is None else mask
        assert isinstance(whole_row, Tensor)
        return PromptTokens(tokens.float(), whole_row.float())

    def velocity(self, network: Transformer, z: Tensor, level: Tensor, given: PromptTokens) -> Tensor:
        """Return the velocity in z; tokens of a reference picture follow those of the picture that is made."""
        pictures = [z] if given.picture is None else [z, given.picture]
        assert given.mask is not None
        found = network(
            hidden_states=torch.cat([pack(x) for x in pictures], 1),
            timestep=level.to(z),
            encoder_hidden_states=given.tokens,
            encoder_hidden_states_mask=given.mask > 0,
            img_shapes=[[(1, x.shape[2] // 2, x.shape[3] // 2) for x in pictures]] * len(z),
            return_dict=False,
        )
        height, width = z.shape[2:]
        return unpack(found[0][:, : height * width // 4], height, width)
