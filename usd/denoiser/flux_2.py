"""FLUX.2 klein: a rectified flow under a language model's reading of a sentence, and reference pictures beside it."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.core.registry import register
from usd.denoiser import Embedding, ImageTextDenoiser
from usd.denoiser.flow import FlowDenoiser
from usd.denoiser.pipeline import PictureCoder, PipelineConfig, PromptReader, PromptTokens, Transformer
from usd.denoiser.weights import number, read_json, whole

REFERENCE_TIME = 10  # of the first reference picture, where the picture that is made is at 0


@register("flux-2")
class Flux2Denoiser(FlowDenoiser[PipelineConfig], ImageTextDenoiser[PipelineConfig]):
    """FLUX.2 klein, base: the distilled one has no unconditional prediction.

    Its latents are patches of 2 x 2 of the autoencoder's, each channel less its mean and over its deviation.
    """

    components = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    pipeline = "Flux2KleinPipeline"
    patch = 1

    @property
    def shrink(self) -> int:
        """Pixels a side of a patch."""
        return 2 * super().shrink

    @property
    def channels(self) -> int:
        """Channels of a patch."""
        return 4 * whole(self.files.config("vae"), "latent_channels")

    def _encode(self, vae: PictureCoder, picture: Tensor) -> Tensor:
        """Return normalized patches of the autoencoder's latents."""
        patches = torch.nn.functional.pixel_unshuffle(super()._encode(vae, picture), 2)
        mean, deviation = self._statistics(vae)
        return (patches - mean) / deviation

    def _decode(self, vae: PictureCoder, latent: Tensor) -> Tensor:
        """Undo ``_encode``."""
        mean, deviation = self._statistics(vae)
        return super()._decode(vae, torch.nn.functional.pixel_shuffle(latent * deviation + mean, 2))

    def _statistics(self, vae: PictureCoder) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of each channel of the patches, as the autoencoder's last layer keeps them."""
        assert isinstance(vae, torch.nn.Module)
        mean, variance = (vae.get_buffer(f"bn.running_{name}") for name in ("mean", "var"))
        least = number(self.files.config("vae"), "batch_norm_eps", 1e-4)
        return mean.view(1, -1, 1, 1), (variance + least).sqrt().view(1, -1, 1, 1)

    def normalized(self, latent: Tensor) -> Tensor:
        """Return the patches as they are."""
        return latent

    def raw(self, z: Tensor) -> Tensor:
        """Return the patches as they are."""
        return z

    def _read_prompts(self, pipeline: PromptReader, prompts: list[str], device: torch.device) -> PromptTokens:
        """Return the states of three layers of the language model side by side."""
        tokens = pipeline.encode_prompt(prompts, device=device)[0]
        assert isinstance(tokens, Tensor)
        return PromptTokens(tokens.float())

    def with_image(self, embedding: Embedding, image: Float[Tensor, "B 3 H W"] | None) -> PromptTokens:
        """Return the condition with reference pictures, one a row; None: without."""
        assert isinstance(embedding, PromptTokens)
        return dataclasses.replace(embedding, picture=None if image is None else self.encode(image))

    def velocity(self, network: Transformer, z: Tensor, level: Tensor, given: PromptTokens) -> Tensor:
        """Return the velocity in z; tokens of a reference picture follow those of the picture that is made."""
        pictures = [z] if given.picture is None else [z, given.picture]
        places = [_places(len(z), x.shape[2:], REFERENCE_TIME * i) for i, x in enumerate(pictures)]
        words = _places(len(z), (1, 1), 0).repeat(1, given.tokens.shape[1], 1)
        words[..., 3] = torch.arange(given.tokens.shape[1])
        found = network(
            hidden_states=torch.cat([x.flatten(2).transpose(1, 2) for x in pictures], 1),
            timestep=level.to(z),
            guidance=None,
            encoder_hidden_states=given.tokens,
            txt_ids=words.to(z.device),
            img_ids=torch.cat(places, 1).to(z.device),
            return_dict=False,
        )[0]
        return found[:, : z[0, 0].numel()].transpose(1, 2).reshape(z.shape)

    def require_guidance(self) -> None:
        """Raise ``UserError`` where the model says that it was distilled."""
        index = self.folder / "model_index.json"
        if index.is_file() and read_json(index).get("is_distilled"):
            raise UserError(
                f"'{self.name}' was distilled of its guidance and has no unconditional prediction; expected its base"
            )


def _places(count: int, shape: "tuple[int, int] | torch.Size", time: int) -> Tensor:
    """Return (time, row, column, 0) of the tokens of ``count`` pictures (B N 4)."""
    height, width = shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([torch.full_like(rows, time), rows, columns, torch.zeros_like(rows)], -1)
    return places.view(1, -1, 4).repeat(count, 1, 1)
