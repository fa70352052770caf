"""InstructPix2Pix (arXiv 2211.09800): Stable Diffusion that edits a picture as a sentence says.

The picture's latent, not scaled, lies beside x_t in the UNet. Three predictions make an edit: under sentence and
picture, under the picture alone, and under neither, where the picture's place is zero.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.registry import register
from usd.denoiser import Embedding, ImageTextDenoiser
from usd.denoiser.latent import NetworkInput, UNetConfig
from usd.denoiser.stable_diffusion import StableDiffusionDenoiser


@register("instruct-pix2pix")
class InstructPix2PixDenoiser(StableDiffusionDenoiser[UNetConfig], ImageTextDenoiser[UNetConfig]):
    """Stable Diffusion with a picture to edit. A condition without ``with_image`` is that of no picture."""

    @torch.no_grad()
    def with_image(self, embedding: Embedding, image: Float[Tensor, "B 3 H W"] | None) -> NetworkInput:
        """Return the sentence with pictures to edit, one per row; None is zeros in their place."""
        assert isinstance(embedding, NetworkInput)
        latent = self._no_picture(len(embedding.tokens)) if image is None else self.latent_mode(image)
        return NetworkInput(embedding.tokens, latent)

    @torch.no_grad()
    def eps(self, xt: Float[Tensor, "B c h w"], t: Tensor, embedding: Embedding) -> Float[Tensor, "B c h w"]:
        """Return the noise predicted in x_t under a sentence and a picture, or a sentence alone."""
        assert isinstance(embedding, NetworkInput)
        return super().eps(xt, t, self.with_image(embedding, None) if embedding.latent is None else embedding)

    def _no_picture(self, batch: int) -> Tensor:
        space, like = self.latent, self.alphas_cumprod
        return like.new_zeros(batch, space.channels, space.height, space.width)
